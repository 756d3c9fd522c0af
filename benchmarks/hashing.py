"""The manifest of 1 GiB, beside what else hashes as much: b3sum, model-signing, SHA-256, and a plain copy.

    python -m benchmarks.hashing [--gib 1]

Whoever reads a file reads one that is cached. b3sum is looked for in PATH; model-signing is of the `bench` extra. Where
one is not there, its row says so.

    polchain         rows of 256 equal tensors in memory, hashed, and the roots over them
    from a file      the same from a checkpoint file: mapped, its header compared, each tensor compared with its row
    b3sum            the tool, with as many threads, of that file; its start included
    blake3           the Python package's `update_mmap`, which polchain hashes with
    model-signing    a folder with that file, its fastest setting (BLAKE3, all threads)
    SHA-256          hashlib, one thread, in memory
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from benchmarks.common import Result, machine, rounds, write
from polchain.core.claim import checkpoint_name
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import TensorRow
from polchain.storage.checkpoints import CheckpointStore, read_tensors
from polchain.training.snapshot import hash_rows

ROUNDS = 7
TENSORS = {"256 tensors": 256, "one tensor": 1, "40,000 tensors": 40_000}


def manifest_of(buffers: dict[str, memoryview]) -> Manifest:
    """What a commit makes of tensors."""
    digests = hash_rows(buffers)
    rows = [TensorRow(name, "parameter", "U8", (len(data),), digests[name]) for name, data in buffers.items()]
    found = Manifest.of(rows)
    found.roots()
    return found


def cut(data: memoryview, count: int) -> dict[str, memoryview]:
    """The bytes as so many tensors."""
    step = len(data) // count
    return {f"model/layer.{i:05}.weight": data[i * step : (i + 1) * step] for i in range(count)}


def measure(size: int, folder: Path) -> list[Result]:
    """A row for each of them; the tasks take turns."""
    data = memoryview(np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)).cast("B")
    buffers = cut(data, 256)
    manifest = manifest_of(buffers)
    state = CheckpointStore(folder).put(Snapshot(manifest, buffers))
    file = folder / checkpoint_name(state)
    threads = str(len(os.sched_getaffinity(0)))
    target = np.empty(size, dtype=np.uint8)
    tasks: dict[str, Callable[[], Any]] = {
        f"polchain, {name}": partial(manifest_of, cut(data, count)) for name, count in TENSORS.items()
    }
    tasks["polchain, from a file"] = lambda: read_tensors(file, manifest)
    tasks["blake3, update_mmap"] = lambda: blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(file).digest()
    tasks["SHA-256, one thread"] = lambda: hashlib.sha256(data).digest()
    tasks["copy of memory, one thread"] = lambda: np.copyto(target, np.asarray(data))
    notes = {}
    b3sum = shutil.which("b3sum")
    if b3sum is not None:
        run = [b3sum, "--num-threads", threads, str(file)]
        tasks["b3sum"] = lambda: subprocess.run(run, check=True, capture_output=True)
        said = subprocess.run([b3sum, "--version"], check=True, capture_output=True, text=True).stdout
        notes["b3sum"] = said.strip()
    if find_spec("model_signing") is not None:
        from model_signing import hashing

        config = hashing.Config().use_file_serialization(hashing_algorithm="blake3")
        tasks["model-signing"] = lambda: config.hash(file.parent)
        notes["model-signing"] = f"model-signing {_version('model-signing')}"
    seconds = rounds(ROUNDS, tasks)
    base = seconds.get("b3sum", seconds["blake3, update_mmap"])
    found = []
    for name, times in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(times, base, strict=True))
        sha = statistics.median(b / a for a, b in zip(times, seconds["SHA-256, one thread"], strict=True))
        rate = size / statistics.median(times) / 1e9
        found.append({"what": name, "gb_per_s": rate, "of_b3sum": ratio, "of_sha256": sha, "note": notes.get(name, "")})
    missing = [name for name in ("b3sum", "model-signing") if name not in seconds]
    return [*found, *({"what": name, "note": "not there"} for name in missing)]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0)
    options = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(int(options.gib * 2**30) // 40_000 * 40_000, Path(name))
    write("hashing", rows, about)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
