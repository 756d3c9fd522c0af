"""Every random bit of a run, from its 32-byte seed.

    key(purpose, n, ...) = BLAKE3(key = seed, tag <purpose> + n as u64 little-endian + ...)

    init                   the generators when `record` is entered: initial weights
    order, epoch           one XOF of 8 bytes a sample; the epoch's order is the stable argsort of those u64 keys
    step, step             the generators before each step, seeded after the batch is in hand: dropout
    augment, step, place   the generator of one sample's augmentation, whatever worker runs it

So a segment replays from its opening checkpoint alone, no generator state is stored, and nobody has anything to choose.
Batches are consecutive pieces of the epoch's order; a tail shorter than the batch is dropped.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from polchain.core.digest import Digest, blake3, blake3_keyed, blake3_of, tag
from polchain.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["BatchOrder", "batch_digest", "derive_key", "generator", "run_seed", "seed_everything"]


def run_seed(value: bytes, genesis_leaf: bytes, source: str) -> bytes:
    """The run's seed, from what its `start` entry says.

    Args:
        value: 32 bytes: the prover's, the beacon's block hash, or the task's seed.
        genesis_leaf: the leaf hash of the run's genesis, which binds the seed to this prover's key.
        source: `prover`, `beacon` or `task`; a task's seed is used as it is and is bound to nobody.
    """
    if source == "task":
        return value
    return blake3_keyed(value, tag("seed") + genesis_leaf)


def derive_key(seed: bytes, purpose: str, *numbers: int) -> bytes:
    """32 bytes for one purpose; `numbers` are non-negative and below 2**64."""
    return blake3_keyed(seed, tag(purpose) + struct.pack(f"<{len(numbers)}Q", *numbers))


def seed_everything(key: bytes) -> None:
    """Seed torch's CPU and initialised CUDA generators, `random`, and numpy's legacy state.

    numpy loads its generators when they are first used, by which time they would be unseeded: they are loaded here.
    The generators themselves are seeded: `torch.manual_seed` also formats a stack, at a hundred times the cost.
    """
    import torch

    number = int.from_bytes(key[:8], "little")
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        for device in torch.cuda.default_generators:
            device.manual_seed(number)
    random.seed(number)
    np.random.seed(np.frombuffer(key[8:24], dtype="<u4"))


def generator(key: bytes) -> torch.Generator:
    """A CPU generator of its own, for one sample's augmentation."""
    import torch

    made = torch.Generator()
    made.manual_seed(int.from_bytes(key[:8], "little"))
    return made


class BatchOrder:
    """Which samples each step of a run uses. Knows no torch: integrity recomputes it.

    Args:
        seed: the run's seed.
        samples: how many samples the dataset has.
        batch_size: samples in a step.
    """

    def __init__(self, seed: bytes, samples: int, batch_size: int) -> None:
        if samples < batch_size:
            raise UsageError(
                f"the dataset has {samples} samples, less than one batch of {batch_size}",
                hint="use a smaller batch_size",
            )
        self.seed = seed
        self.samples = samples
        self.batch_size = batch_size
        self.steps_per_epoch = samples // batch_size
        # Replaced as one: several threads may ask.
        self._kept: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = -1, np.empty(0, dtype=np.int64)

    def indices(self, step: int) -> list[int]:
        """The dataset indices of a step, in order."""
        return [int(index) for index in self._piece(step)]

    def digest(self, first: int, last: int) -> Digest:
        """What `batch_digest` gives for the steps from `first` to `last`, `last` excluded, in little memory."""
        return blake3_of(self._piece(step).astype("<u8").tobytes() for step in range(first, last))

    def _piece(self, step: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        epoch, place = divmod(step, self.steps_per_epoch)
        kept, order = self._kept
        if epoch != kept:
            stream = blake3_keyed(self.seed, tag("order") + struct.pack("<Q", epoch), 8 * self.samples)
            order = np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")
            self._kept = epoch, order
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def batches(self, first: int, last: int) -> Iterator[list[int]]:
        """The indices of each step from `first` to `last`, `last` excluded."""
        return (self.indices(step) for step in range(first, last))


def batch_digest(batches: Sequence[Sequence[int]]) -> Digest:
    """BLAKE3 of the indices of some steps in a row, each as u64 little-endian."""
    flat = [index for batch in batches for index in batch]
    return blake3(struct.pack(f"<{len(flat)}Q", *flat))
