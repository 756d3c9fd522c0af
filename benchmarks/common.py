"""What every benchmark shares: where results lie, what they were measured on, and the tables made from them.

A result is one JSON file of a module: {"module", "machine", "rows": [...]}. Figures are medians of interleaved rounds;
peers are measured in the same run, so that a ratio holds where the times do not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"

Result = dict[str, Any]


def machine() -> Result:
    """What this was measured on."""
    import numpy as np

    source, target = np.ones(1 << 28, dtype=np.uint8), np.empty(1 << 28, dtype=np.uint8)
    copies = rounds(5, {"copy": lambda: np.copyto(target, source)})["copy"]
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "copy_gb_per_s": round(source.nbytes / statistics.median(copies) / 1e9, 2),
        "load_before": round(os.getloadavg()[0], 1),
    }


def write(name: str, rows: Any, about: Result) -> None:
    """Keep a module's results."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"module": name, "machine": about, "rows": rows}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def read(name: str) -> Result | None:
    """A module's results; None where it has not run."""
    with suppress(FileNotFoundError):
        return dict(json.loads((RESULTS / f"{name}.json").read_text()))
    return None


def rounds(count: int, tasks: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each task in each round; the tasks take turns, the first of a round is another each time."""
    names = list(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(count):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begun = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def in_child(module: str, *words: str) -> Result:
    """Run `python -m MODULE WORDS` and read the JSON object that it prints; with the peak of its memory, in bytes.

    The peak is of the process and its children together (proportional set size), looked at twenty times a second.
    """
    process = subprocess.Popen([sys.executable, "-m", module, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peaks = [0]
    watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
    watcher.start()
    out, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{module} {' '.join(words)} ended with {process.returncode}")
    return {**json.loads(out.splitlines()[-1]), "peak_bytes": peaks[0]}


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    while process.poll() is None:
        peaks[0] = max(peaks[0], sum(_memory(pid) for pid in _family(process.pid)))
        time.sleep(0.05)


def _family(pid: int) -> Iterable[int]:
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _memory(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.machine()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the columns after the first are figures."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float, digits: int = 3) -> str:
    """A figure as people read it: three digits that count, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def size(count: float) -> str:
    """Bytes."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= unit:
            return f"{number(count / unit)} {name}"
    return f"{count:.0f} B"


def told(about: Result) -> str:
    """One line on what a table was measured on."""
    return (
        f"{about['cpu']}, {about['cores']} cores, Python {about['python']}; one thread copies "
        f"{about['copy_gb_per_s']} GB/s of memory; load before: {about['load_before']}."
    )
