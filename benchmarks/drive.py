"""Run an example in a process of its own, and say when its steps were taken and what memory they took.

    python -m benchmarks.drive -- SCRIPT SCHEDULE STEPS [ARGS]

`SCHEDULE` is JSON: 0 where nothing is recorded (`enabled=False`), the steps between commits, or an interval schedule,
which stands in for what the example asks for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Result

DATA = ROOT / "examples" / "data"
EXAMPLES = {"ResNet-20": "resnet_digits.py", "GPT": "gpt_shakespeare.py"}
RUNS = {"ResNet-20": "resnet-digits", "GPT": "gpt-shakespeare"}

Schedule = int | list[tuple[int, int]]


def run(
    folder: Path, script: str, every: Schedule, steps: int, *more: str, variables: Mapping[str, str] | None = None
) -> Result:
    """Run an example, or another recipe that takes their options, in a new process; with these variables, if any.

    Returns:
        `spans`, seconds of each step but the first; `beside`, the numbers of those beside a self-check or after one
        that was waited for; `behind`, seconds from each commit until its entry was durable; `checks`, how many, and
        `check_seconds`, what they took in the thread that records; `waited`, seconds for which the training stood at
        its commits until that thread was ready; `end`, seconds after the last step, with whatever it waited for its
        last commit; `peak_bytes`.
    """
    folder.mkdir()
    environment = {
        **os.environ,
        "POLCHAIN_KEY_FILE": str(folder.parent / "key"),
        "POLCHAIN_DATA": str(DATA),
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        **(variables or {}),
    }
    example = [str(ROOT / "examples" / script), json.dumps(every), str(steps), *more]
    command = [sys.executable, "-m", "benchmarks.drive", "--", *example]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def drive(script: str, every: Schedule, steps: int, more: list[str]) -> Result:
    """In the new process; see `run`."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from polchain.core.entries import CheckpointEntry
    from polchain.prover.scribe import Scribe
    from polchain.prover.selfcheck import SelfCheck
    from polchain.storage.ledger import Ledger

    marks: list[float] = []
    checks: list[tuple[float, float]] = []
    check_one = SelfCheck._check

    def watched(self: SelfCheck, *arguments: Any) -> None:
        begun = time.perf_counter()
        check_one(self, *arguments)
        checks.append((begun, time.perf_counter()))

    SelfCheck._check = watched  # type: ignore[method-assign]
    behind: list[float] = []
    append = Ledger.append

    def appended(self: Ledger, entry: Any, *arguments: Any) -> Any:
        found = append(self, entry, *arguments)
        if isinstance(entry, CheckpointEntry):
            behind.append(time.perf_counter() - copied[len(behind)])
        return found

    copied: list[float] = []
    waits: list[float] = []
    copy = Scribe.copy

    def copied_one(self: Scribe, *arguments: Any) -> None:
        copied.append(time.perf_counter())
        before = self.line.held.seconds
        copy(self, *arguments)
        waits.append(self.line.held.seconds - before)

    Ledger.append, Scribe.copy = appended, copied_one  # type: ignore[method-assign]
    peaks = [0]
    threading.Thread(target=_watch, args=(peaks, 0.05 if steps > 100 else 0.004), daemon=True).start()
    register_optimizer_step_post_hook(lambda *_: marks.append(time.perf_counter()))
    _schedule(every)
    first = every if isinstance(every, int) and every else steps
    sys.argv = [script, "--steps", str(steps), "--every", str(first), *more]
    out, sys.stdout = sys.stdout, sys.stderr
    runpy.run_path(script, run_name="__main__")
    ended = time.perf_counter()
    sys.stdout = out
    assert len(marks) == steps, f"{len(marks)} steps of {steps}"
    spans = list(pairwise(marks))
    return {
        "spans": [after - before for before, after in spans],
        "beside": [
            number
            for number, (before, after) in enumerate(spans)
            if any(begun < after and before < done for begun, done in checks)
        ],
        "behind": behind,
        "checks": len(checks),
        "check_seconds": sum(done - begun for begun, done in checks),
        "waited": sum(waits),
        "end": ended - marks[-1],
        "peak_bytes": peaks[0],
    }


def _schedule(every: Schedule) -> None:
    """Have the example recorded by this schedule, whichever way it asks to be recorded."""
    import polchain

    record, train = polchain.record, polchain.train

    def recorded(path: Any, **asked: Any) -> Any:
        if isinstance(every, list):
            asked["every"] = every
        return record(path, **asked, enabled=every != 0)

    def trained(recipe: Any, path: Any) -> Any:
        if isinstance(every, list):
            recipe.every = every
        return train(recipe, path, enabled=every != 0)

    polchain.record, polchain.train = recorded, trained  # type: ignore[assignment]


def _watch(peaks: list[int], pause: float) -> None:
    """The most memory of this process' own: pages of files that are mapped are the kernel's to take back."""
    while True:
        kinds = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peaks[0] = max(peaks[0], sum(1024 * int(kinds[kind].split()[0]) for kind in ("RssAnon", "RssShmem")))
        time.sleep(pause)


def main() -> None:
    """In the new process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script")
    parser.add_argument("schedule", type=json.loads)
    parser.add_argument("steps", type=int)
    parser.add_argument("more", nargs="*")
    options = parser.parse_args()
    print(json.dumps(drive(options.script, options.schedule, options.steps, options.more)))


if __name__ == "__main__":
    main()
