"""Samples that are held rather than read: what an opening discloses of a dataset that the verifier does not have.

The recipe's own `data` is not called then. Its place takes a dataset of the committed length, in which only the samples
of the job are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polchain.core.samples import pack_samples, unpack_samples
from polchain.errors import MissingFileError
from polchain.training.dataset import SAMPLE_LIMIT, decode_sample

__all__ = ["Held", "HeldDataset"]


@dataclass(frozen=True, slots=True)
class Held:
    """Disclosed samples.

    Attributes:
        count: how many samples the dataset has.
        encodings: those that are there, by index.
    """

    count: int
    encodings: Mapping[int, bytes | memoryview]

    def pack(self, indices: Sequence[int]) -> bytes:
        """Those of these samples that are there, for a job."""
        return b"".join(pack_samples({index: self.encodings[index] for index in indices if index in self.encodings}))

    def has(self, batches: Sequence[Sequence[int]]) -> bool:
        """Whether every sample of these batches is there."""
        return all(index in self.encodings for batch in batches for index in batch)


class HeldDataset:
    """A dataset of which some samples are there (see `dataset.MapDataset`)."""

    def __init__(self, count: int, packed: bytes | bytearray | memoryview) -> None:
        self._count = count
        self._samples = unpack_samples(memoryview(packed), most=count, limit=SAMPLE_LIMIT)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Any:
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(index)
        if place not in self._samples:
            raise MissingFileError(f"sample {place} is not disclosed, and the data is not at hand")
        return decode_sample(bytes(self._samples[place]))
