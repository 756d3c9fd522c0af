"""The peak memory of a training with and without recording, in states.

    python -m benchmarks.memory [--megabytes 300] [--rounds 3]

A recipe with a large state and short steps (benchmarks/recipes/wide.py), so that it is always ahead of its recording,
in processes that take turns. Memory is the peak of the training process' own (pages of files that are mapped are the
kernel's to take back); its self-checks replay in another process, which is left out.
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


def measure(megabytes: int, rounds: int, folder: Path) -> Result:
    """One row: both peaks, and how many states lie between them."""
    write_key(folder / "key", PrivateKey.generate(), None)
    peaks: dict[int, list[int]] = {0: [], EVERY: []}
    for number in range(rounds):
        for every in (0, EVERY):
            here = folder / f"{every}-{number}"
            seen = run(here, str(RECIPE), every, STEPS, "--megabytes", str(megabytes))
            peaks[every].append(seen["peak_bytes"])
            print(every, seen, file=sys.stderr, flush=True)
    states = list((folder / f"{EVERY}-0" / "runs" / "wide" / "checkpoints").iterdir())
    state = max(path.stat().st_size for path in states)
    off, on = (statistics.median(peaks[every]) for every in (0, EVERY))
    return {"state_bytes": state, "off": off, "on": on, "states": (on - off) / state}


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
