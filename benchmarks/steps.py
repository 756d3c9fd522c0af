"""Steps per second with and without recording; replay against training.

    python -m benchmarks.steps [--steps 300] [--rounds 3]

Both examples as they are, in processes that take turns: not recorded (`enabled=False`), and recorded every 100, 50 and
10 steps. Counted are the steps after the first twenty; recording includes the self-check, which replays segments in a
process beside the training. `end` is what comes after the last step: the last commits, the last self-check.

Of the runs that were recorded every 50 steps (k = 50) the claim is verified, one segment at a time: replayed steps
against the same steps of the training that was not recorded, the start of each segment apart.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Result, machine, write
from polchain.core.note import PrivateKey
from polchain.storage.keyfile import write_key

DATA = ROOT / "examples" / "data"
EXAMPLES = {"ResNet-20": "resnet_digits.py", "GPT": "gpt_shakespeare.py"}
RUNS = {"ResNet-20": "resnet-digits", "GPT": "gpt-shakespeare"}
EVERY = (100, 50, 10)
WARM = 20
REPLAYED = 50


def drive(script: str, every: int, steps: int) -> None:
    """In a process of its own: run an example, and say when its steps were taken."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import polchain

    marks: list[float] = []
    register_optimizer_step_post_hook(lambda *_: marks.append(time.perf_counter()))
    if not every:
        polchain.record, polchain.train = (
            partial(polchain.record, enabled=False),
            partial(polchain.train, enabled=False),
        )
    sys.argv = [script, "--steps", str(steps), "--every", str(every or steps)]
    out, sys.stdout = sys.stdout, sys.stderr
    runpy.run_path(script, run_name="__main__")
    ended = time.perf_counter()
    sys.stdout = out
    assert len(marks) == steps, f"{len(marks)} steps of {steps}"
    seconds = marks[-1] - marks[WARM - 1]
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    print(json.dumps({"step": seconds / (steps - WARM), "end": ended - marks[-1], "peak_bytes": int(peak) * 1024}))


def run(folder: Path, script: str, every: int, steps: int) -> Result:
    """Run an example in a new process."""
    folder.mkdir()
    environment = {
        **os.environ,
        "POLCHAIN_KEY_FILE": str(folder.parent / "key"),
        "POLCHAIN_DATA": str(DATA),
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    }
    command = [sys.executable, "-m", "benchmarks.steps", "--drive", str(ROOT / "examples" / script), str(every)]
    done = subprocess.run(
        [*command, "--steps", str(steps)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
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


def measure(steps: int, rounds: int, folder: Path) -> list[Result]:
    """A row for each example."""
    key = PrivateKey.generate()
    write_key(folder / "key", key, None)
    found = []
    for name, script in EXAMPLES.items():
        seen: dict[int, list[Result]] = {every: [] for every in (0, *EVERY)}
        for number in range(rounds):
            for every in (0, *EVERY) if number % 2 == 0 else (*EVERY[::-1], 0):
                here = folder / f"{RUNS[name]}-{every}-{number}"
                seen[every].append(run(here, script, every, steps))
                print(name, every, seen[every][-1], file=sys.stderr, flush=True)
        row: Result = {"example": name, "steps": steps, "off": _middle(seen[0], "step"), "every": {}}
        row["off_peak"] = _middle(seen[0], "peak_bytes")
        for every in EVERY:
            ratio = [b["step"] / a["step"] for a, b in zip(seen[every], seen[0], strict=True)]
            row["every"][str(every)] = {
                "step": _middle(seen[every], "step"),
                "rate": statistics.median(ratio),
                "end": _middle(seen[every], "end"),
                "peak_bytes": _middle(seen[every], "peak_bytes"),
            }
        run_folder = folder / f"{RUNS[name]}-{REPLAYED}-0" / "runs" / RUNS[name]
        row["replay"] = replay(run_folder, key)
        found.append(row)
    return found


def _middle(items: list[Result], name: str) -> Any:
    return statistics.median(item[name] for item in items)


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.drive[0], int(options.drive[1]), options.steps)
        return
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(options.steps, options.rounds, Path(name))
    write("steps", rows, about)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
