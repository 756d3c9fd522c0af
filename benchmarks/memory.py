"""The peak memory of a training with and without recording, in states.

    python -m benchmarks.memory [--megabytes 300] [--rounds 5]

A recipe with a large state and short steps (benchmarks/recipes/wide.py), so that it is always ahead of its recording,
in processes that take turns; and the same with a small state, which shows what the program itself takes. Memory is the
peak of the training process' own (pages of files that are mapped are the kernel's to take back); its self-checks replay
in another process, which is left out.

Where glibc's heap holds the training's tensors, what is put between them by others scatters them. So all is measured
twice: with the heap as it is, and with whatever is larger than 64 KiB in pages of its own. The first scatters from one
run to the next, by more than what the recording takes besides its copies; so its standard error is told as well.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, Result, machine, write
from benchmarks.drive import run
from polchain.core.keys import PrivateKey
from polchain.storage.keyfile import write_key

RECIPE = ROOT / "benchmarks" / "recipes" / "wide.py"
STEPS, EVERY = 24, 2
SMALL = 40  # megabytes: a tensor of it is larger than what sums and digests are made from at a time
HEAPS = {"as it is": {}, "apart": {"MALLOC_MMAP_THRESHOLD_": "65536"}}  # bytes


def measure(heap: str, megabytes: int, rounds: int, folder: Path) -> Result:
    """One row: both peaks, and how many states lie between them, the program apart."""
    row, small = (peaks_of(heap, size, rounds, folder / f"{heap}-{size}") for size in (megabytes, SMALL))
    more = row["state_bytes"] - small["state_bytes"]
    return {
        "heap": heap,
        **row,
        "small": small,
        "program": small["more"] - 2 * small["state_bytes"],
        "states": (row["more"] - small["more"]) / more,
        "error": math.hypot(row["error"], small["error"]) / more,
    }


def peaks_of(heap: str, megabytes: int, rounds: int, folder: Path) -> Result:
    """Peaks with and without recording, and by how many bytes they differ in the rounds, with its standard error."""
    folder.mkdir()
    write_key(folder / "key", PrivateKey.generate(), None)
    peaks: dict[int, list[int]] = {0: [], EVERY: []}
    for number in range(rounds):
        for every in (0, EVERY):
            here = folder / f"{every}-{number}"
            size = ("--megabytes", str(megabytes))
            seen = run(here, str(RECIPE), every, STEPS, *size, variables=HEAPS[heap])
            peaks[every].append(seen["peak_bytes"])
            print(heap, megabytes, every, seen["peak_bytes"], file=sys.stderr, flush=True)
            kept = here / "runs" / "wide" / "checkpoints"
            if every:
                state = max(path.stat().st_size for path in kept.iterdir())
                shutil.rmtree(kept)
    off, on = (statistics.median(peaks[every]) for every in (0, EVERY))
    more = [recorded - plain for recorded, plain in zip(peaks[EVERY], peaks[0], strict=True)]
    error = statistics.stdev(more) / math.sqrt(rounds)
    return {"state_bytes": state, "off": off, "on": on, "more": statistics.fmean(more), "error": error}


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        rows = [measure(heap, options.megabytes, options.rounds, Path(name)) for heap in HEAPS]
    write("memory", rows, about)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
