"""Steps per second with and without recording; replay against training.

    python -m benchmarks.steps [--steps 1000] [--rounds 3] [--only GPT]

Both examples as they are, in processes that take turns: not recorded (`enabled=False`), and recorded every 100 and
every 10 steps. Counted are the steps after the first twenty: all of them, and those of them apart during which no
self-check replayed segments in its process beside the training, which halves a training that uses every core. `end` is
what comes after the last step: the last commits, the last self-check.

Of each run that was recorded every 100 steps the claim is verified in its turn, one segment at a time: replayed steps
against those of the training that was not recorded, the start of each segment apart.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Result, machine, read, write
from polchain.core.keys import PrivateKey
from polchain.storage.keyfile import write_key

DATA = ROOT / "examples" / "data"
EXAMPLES = {"ResNet-20": "resnet_digits.py", "GPT": "gpt_shakespeare.py"}
RUNS = {"ResNet-20": "resnet-digits", "GPT": "gpt-shakespeare"}
EVERY = (100, 10)
COUNTED = ("step_all", "checks", "check_seconds", "end", "peak_bytes")
WARM = 20  # or half of a shorter run
REPLAYED = 100


def drive(script: str, every: int, steps: int, more: Sequence[str]) -> None:
    """In a process of its own: run an example, and say when its steps were taken."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import polchain
    from polchain.prover.selfcheck import SelfCheck

    marks: list[float] = []
    checks: list[tuple[float, float]] = []
    replay_one = SelfCheck._check

    def watched(self: SelfCheck, *arguments: Any) -> None:
        begun = time.perf_counter()
        replay_one(self, *arguments)
        checks.append((begun, time.perf_counter()))

    SelfCheck._check = watched  # type: ignore[method-assign]
    peaks = [0]
    threading.Thread(target=_watch, args=(peaks, 0.05 if steps > 100 else 0.004), daemon=True).start()
    register_optimizer_step_post_hook(lambda *_: marks.append(time.perf_counter()))
    if not every:
        polchain.record, polchain.train = (
            partial(polchain.record, enabled=False),
            partial(polchain.train, enabled=False),
        )
    sys.argv = [script, "--steps", str(steps), "--every", str(every or steps), *more]
    out, sys.stdout = sys.stdout, sys.stderr
    runpy.run_path(script, run_name="__main__")
    ended = time.perf_counter()
    sys.stdout = out
    assert len(marks) == steps, f"{len(marks)} steps of {steps}"
    warm = min(WARM, steps // 2)
    spans = list(pairwise(marks))
    free = [
        number
        for number, (before, after) in enumerate(spans)
        if number >= warm - 1 and not any(begun < after and before < done for begun, done in checks)
    ]
    found = {
        "spans": [after - before for before, after in spans],
        "free": free,
        "step_all": (marks[-1] - marks[warm - 1]) / (steps - warm),
        "checks": len(checks),
        "check_seconds": sum(done - begun for begun, done in checks),
        "end": ended - marks[-1],
        "peak_bytes": peaks[0],
    }
    print(json.dumps(found))


def _watch(peaks: list[int], pause: float) -> None:
    """The most memory of this process' own: pages of files that are mapped are the kernel's to take back."""
    while True:
        kinds = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peaks[0] = max(peaks[0], sum(1024 * int(kinds[kind].split()[0]) for kind in ("RssAnon", "RssShmem")))
        time.sleep(pause)


def run(
    folder: Path, script: str, every: int, steps: int, *more: str, variables: Mapping[str, str] | None = None
) -> Result:
    """Run an example, or another recipe that takes their options, in a new process; with these variables, if any."""
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
    command = [sys.executable, "-m", "benchmarks.steps", "--drive", str(ROOT / "examples" / script), str(every)]
    command += ["--steps", str(steps), "--", *more]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def replay(run_folder: Path, key: PrivateKey) -> Result:
    """Verify a run, and say how long its steps took; in this process, which has loaded no torch."""
    from polchain.prover.export import export
    from polchain.verifier.policy import Policy
    from polchain.verifier.verify import verify

    claim = run_folder.with_name("claim")
    recipe = export(run_folder, claim).recipe
    assert recipe is not None
    policy = Policy(keys=frozenset({key.public}), recipes=frozenset({recipe}))
    verdict = verify(claim, policy, jobs=1, data=DATA)
    done = [item for item in verdict.reproductions if item.pick is not None]
    steps = [(item.seconds - item.start) / item.pick.segment.steps for item in done if item.pick is not None]
    return {
        "verdict": verdict.outcome.value,
        "segments": len(done),
        "step": statistics.median(steps),
        "start": statistics.median(item.start for item in done),
    }


def measure(steps: int, rounds: int, folder: Path, only: str = "") -> list[Result]:
    """A row for each example, or for those whose name begins so."""
    key = PrivateKey.generate()
    write_key(folder / "key", key, None)
    found = []
    for name, script in EXAMPLES.items():
        if not name.startswith(only):
            continue
        seen: dict[int, list[Result]] = {every: [] for every in (0, *EVERY)}
        replays = []
        for number in range(rounds):
            for every in (0, *EVERY) if number % 2 == 0 else (*EVERY[::-1], 0):
                here = folder / f"{RUNS[name]}-{every}-{number}"
                seen[every].append(run(here, script, every, steps))
                shown = {key: seen[every][-1][key] for key in COUNTED}
                print(name, every, _mean(seen[every][-1], seen[every][-1]["free"]), shown, file=sys.stderr, flush=True)
                if every == REPLAYED:
                    replays.append(replay(here / "runs" / RUNS[name], key))
                    print(name, replays[-1], file=sys.stderr, flush=True)
        row: Result = {"example": name, "steps": steps, "off": _middle(seen[0], "step_all"), "every": {}}
        row["off_peak"] = _middle(seen[0], "peak_bytes")
        for every in EVERY:
            row["every"][str(every)] = {
                "rate": statistics.median(_rate(a, b) for a, b in zip(seen[every], seen[0], strict=True)),
                "rate_all": statistics.median(
                    b["step_all"] / a["step_all"] for a, b in zip(seen[every], seen[0], strict=True)
                ),
                "step": statistics.median(_mean(one, one["free"]) for one in seen[every]),
                "free": statistics.median(len(one["free"]) for one in seen[every]),
                **{name: _middle(seen[every], name) for name in COUNTED},
            }
        row["replay"] = {
            "verdict": ", ".join(sorted({one["verdict"] for one in replays})),
            **{what: _middle(replays, what) for what in ("segments", "step", "start")},
        }
        found.append(row)
    return found


def _mean(one: Result, steps: Sequence[int]) -> float:
    return statistics.fmean(one["spans"][number] for number in steps) if steps else math.nan


def _rate(recorded: Result, off: Result) -> float:
    """Of the steps a second without recording, over the same steps: early ones take longer than late ones."""
    return _mean(off, recorded["free"]) / _mean(recorded, recorded["free"])


def _middle(items: list[Result], name: str) -> Any:
    return statistics.median(item[name] for item in items)


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="examples whose name begins so; the rows of others stay as they are")
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("more", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.drive[0], int(options.drive[1]), options.steps, options.more)
        return
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(options.steps, options.rounds, Path(name), options.only)
    old = read("steps") if options.only else None
    kept = {row["example"]: row for row in (*(old["rows"] if old is not None else ()), *rows)}
    rows = [kept[name] for name in EXAMPLES if name in kept]
    write("steps", rows, about)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
