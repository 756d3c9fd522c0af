"""The commit of a real training state: how long the training thread is held, and until it is durable, beside others.

    python -m benchmarks.commit [--width 1024]

The state is that of a small transformer under AdamW after three steps: parameters and two moments of each. Everything
is written to the same folder and synced before it counts as durable; the tasks take turns.

    polchain                   looked at (is it finite?), copied: held; then hashed, written, synced, appended, signed
    a plain copy               every tensor cloned
    torch.save, safetensors    the state written on the training thread, and synced
    DCP async                  torch.distributed.checkpoint.async_save, one process
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from benchmarks.common import Result, machine, write
from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, chain_base, extend_chain
from polchain.core.genesis import Genesis
from polchain.core.keys import PrivateKey
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger
from polchain.training import snapshot as snapshots
from polchain.training.finite import first_not_finite
from polchain.training.state import TrainingState

ROUNDS = 7

Held = tuple[float, float]
"""Seconds that the training thread is held, and until it is durable."""


def make_state(width: int) -> TrainingState:
    """A transformer and its optimizer, after three steps."""
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True)
    model = nn.Sequential(nn.Embedding(256, width), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        model(torch.randint(256, (2, 16))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return TrainingState(model, {"": optimizer}, {}, {})


class Polchain:
    """Commits as the recorder makes them, into a run of its own."""

    def __init__(self, state: TrainingState, folder: Path) -> None:
        self.state, self.store = state, CheckpointStore(folder)
        key = PrivateKey.generate()
        self.ledger = Ledger.create(folder, Genesis(run_id=bytes(16), key=key.public), key)
        self.chain = chain_base(self.ledger.genesis)
        self.room = snapshots.Room() if hasattr(snapshots, "Room") else None

    def commit(self) -> Held:
        """Copy, then the rest. Before there was a copy apart, the thread is held for all of it."""
        begun = time.perf_counter()
        if self.room is not None:
            assert first_not_finite(self.state.model) is None  # as the session sees to first
            copied = snapshots.copy_state(self.state, self.room)
            held = time.perf_counter() - begun
            taken = copied.snapshot()
        else:
            taken, held = snapshots.take(self.state), 0.0
        digest = self.store.put(taken)
        self.chain = extend_chain(self.chain, digest).value
        self.ledger.append(
            CheckpointEntry(self.ledger.root, self.ledger.size, taken.manifest.roots(), Digest("sha256", self.chain))
        )
        ended = time.perf_counter() - begun
        return held or ended, ended


def measure(width: int, folder: Path) -> list[Result]:
    """A row for each."""
    state = make_state(width)
    tensors = {name: tensor for name, (_, tensor) in state.capture().tensors.items()}
    size = sum(tensor.nbytes for tensor in tensors.values())
    numbers = itertools.count()
    polchain = Polchain(state, folder / "run")
    everything = {"model": state.model.state_dict(), "optimizer": state.optimizers[""].state_dict()}

    def at(name: str) -> Path:
        return folder / f"{name}-{next(numbers)}"

    def copy() -> Held:
        seconds = _timed(lambda: [tensor.clone() for tensor in tensors.values()])
        return seconds, seconds

    def save(write_to: Callable[[Path], object]) -> Held:
        path = at("file")

        def whole() -> None:
            write_to(path)
            with path.open("rb") as file:
                os.fsync(file.fileno())

        seconds = _timed(whole)
        path.unlink()
        return seconds, seconds

    def asynchronous() -> Held:
        path, begun = at("dcp"), time.perf_counter()
        future: Any = dcp.async_save(everything, checkpoint_id=path, no_dist=True)
        held = time.perf_counter() - begun
        future.result()
        ended = time.perf_counter() - begun
        shutil.rmtree(path)
        return held, ended

    def change() -> None:
        # Another state each time: the same one is kept once.
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter.add_(1e-3)

    def polchains() -> Held:
        found = polchain.commit()
        for kept in (folder / "run" / "checkpoints").iterdir():
            kept.unlink()
        return found

    tasks: dict[str, Callable[[], Held]] = {
        "a plain copy": copy,
        "polchain": polchains,
        "torch.save": lambda: save(lambda path: torch.save(everything, path)),
        "safetensors": lambda: save(lambda path: safetensors.torch.save_file(tensors, path)),
        "DCP async": asynchronous,
    }
    found: dict[str, list[Held]] = {name: [] for name in tasks}
    names = list(tasks)
    for number in range(-1, ROUNDS):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            change()
            seconds = tasks[name]()
            if number >= 0:  # the first round is not counted: threads start, files are made
                found[name].append(seconds)
    return [
        {
            "what": name,
            "state_bytes": size,
            "tensors": len(tensors),
            "held": statistics.median(held for held, _ in times),
            "durable": statistics.median(ended for _, ended in times),
            "of_copy": statistics.median(a[0] / b[0] for a, b in zip(times, found["a plain copy"], strict=True)),
        }
        for name, times in found.items()
    ]


def _timed(task: Callable[[], object]) -> float:
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(options.width, Path(name))
    write("commit", rows, about)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
