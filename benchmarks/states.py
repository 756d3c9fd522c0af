"""A state of 2 GiB, in 40,000 tensors and in a single one: kept durably, read back and checked.

python -m benchmarks.states [--gib 2]

rows       hashed, and the roots over them          get        rows parsed, the file mapped, every byte compared
put        written, synced, renamed                 rows file  bytes of the manifest
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.common import Result, in_child, machine, write
from benchmarks.hashing import cut, manifest_of
from polchain.core.claim import manifest_name
from polchain.core.manifest import Snapshot
from polchain.storage.checkpoints import CheckpointStore

COUNTS = (40_000, 1)


def child(count: int, size: int, folder: Path) -> Result:
    """One state, in this process."""
    data = memoryview(np.random.default_rng(1).integers(0, 256, size // count * count, dtype=np.uint8)).cast("B")
    buffers = cut(data, count)
    store = CheckpointStore(folder)
    marks = [time.perf_counter()]
    manifest = manifest_of(buffers)
    marks.append(time.perf_counter())
    state = store.put(Snapshot(manifest, buffers))
    marks.append(time.perf_counter())
    store.get(state)
    marks.append(time.perf_counter())
    rows, put, get = (b - a for a, b in pairwise(marks))
    return {"rows": rows, "put": put, "get": get, "rows_file": (folder / manifest_name(state)).stat().st_size}


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = int(options.gib * 2**30)
    if options.child:
        print(json.dumps(child(int(options.child[0]), size, Path(options.child[1]))))
        return
    about, found = machine(), []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as name:
            words = ("--gib", str(options.gib), "--child", str(count), name)
            found.append({"tensors": count, "bytes": size, **in_child("benchmarks.states", *words)})
        print(found[-1], file=sys.stderr, flush=True)
    write("states", found, about)


if __name__ == "__main__":
    main()
