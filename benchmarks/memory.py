"""The peak memory of a training with and without recording, in states.

    python -m benchmarks.memory [--megabytes 300] [--rounds 3]

A recipe with a large state and short steps (benchmarks/recipes/wide.py), so that it is always ahead of its recording,
in processes that take turns; and the same with a small state, which shows what the program itself takes. Memory is the
peak of the training process' own (pages of files that are mapped are the kernel's to take back); its self-checks replay
in another process, which is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, Result, machine, write
from benchmarks.steps import run
from polchain.core.keys import PrivateKey
from polchain.storage.keyfile import write_key

RECIPE = ROOT / "benchmarks" / "recipes" / "wide.py"
STEPS, EVERY = 24, 2
SMALL = 1  # megabyte


def measure(megabytes: int, rounds: int, folder: Path) -> Result:
    """One row: both peaks, and how many states lie between them, the program apart."""
    row, small = (peaks_of(size, rounds, folder / str(size)) for size in (megabytes, SMALL))
    program = small["on"] - small["off"] - 2 * small["state_bytes"]
    states = (row["on"] - row["off"] - program) / row["state_bytes"]
    return {**row, "small": small, "program": program, "states": states}


def peaks_of(megabytes: int, rounds: int, folder: Path) -> Result:
    """Peaks with and without recording."""
    folder.mkdir()
    write_key(folder / "key", PrivateKey.generate(), None)
    peaks: dict[int, list[int]] = {0: [], EVERY: []}
    for number in range(rounds):
        for every in (0, EVERY):
            here = folder / f"{every}-{number}"
            seen = run(here, str(RECIPE), every, STEPS, "--megabytes", str(megabytes))
            peaks[every].append(seen["peak_bytes"])
            print(every, seen["peak_bytes"], file=sys.stderr, flush=True)
    states = list((folder / f"{EVERY}-0" / "runs" / "wide" / "checkpoints").iterdir())
    state = max(path.stat().st_size for path in states)
    off, on = (statistics.median(peaks[every]) for every in (0, EVERY))
    return {"state_bytes": state, "off": off, "on": on}


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        row = measure(options.megabytes, options.rounds, Path(name))
    write("memory", [row], about)
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
