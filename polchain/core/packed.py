"""A log's entries in little memory: 257 bytes for a checkpoint entry, which as objects takes over a thousand.

    prev, chain, batches    32 bytes each          step                 u64
    roots                   4 times 32             l2, linf, loss       doubles
                                                   what is there        one byte of flags

Entries of other kinds are few, and kept as they are. What is read is made again, equal to what was put in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, NamedTuple, TypeVar, overload

from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, Entry, Update
from polchain.core.rows import GROUPS

__all__ = ["EntryList", "Lazy", "Outline"]

T = TypeVar("T")

ROW: Final = struct.Struct(f"<32s32s32s{'32s' * len(GROUPS)}Q3dB")
BATCHES, UPDATE, LOSS, CHECKPOINT, SHA256 = 1, 2, 4, 8, 16


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made when they are read, each from a number."""

    __slots__ = ("_make", "_numbers")

    def __init__(self, numbers: Sequence[int], make: Callable[[int], T]) -> None:
        self._numbers = numbers
        self._make = make

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Lazy[T]: ...

    def __getitem__(self, index: int | slice) -> T | Lazy[T]:
        if isinstance(index, slice):
            return Lazy(self._numbers[index], self._make)
        return self._make(self._numbers[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, self._numbers)


class Outline(NamedTuple):
    """A checkpoint entry without objects: its step, roots by `GROUPS`, chain, batches and whether it has an update."""

    step: int
    roots: Sequence[bytes]
    chain: bytes
    batches: tuple[str, bytes] | None
    updated: bool


class EntryList(Sequence[Entry]):
    """The entries of a log, in order. It only grows."""

    __slots__ = ("_rows", "others")

    def __init__(self) -> None:
        self._rows = bytearray()
        self.others: dict[int, Entry] = {}
        """The entries that are no checkpoints, by number."""

    def append(self, entry: Entry) -> None:
        """Add an entry after the last one."""
        if not isinstance(entry, CheckpointEntry):
            self.others[len(self)] = entry
            self._rows += ROW.pack(entry.prev.value, *[b""] * (2 + len(GROUPS)), 0, 0.0, 0.0, 0.0, 0)
            return
        flags, batches, update, loss = CHECKPOINT, entry.batches, entry.update, entry.loss
        if batches is not None:
            flags |= BATCHES | (SHA256 if batches.algorithm == "sha256" else 0)
        flags |= (UPDATE if update is not None else 0) | (LOSS if loss is not None else 0)
        self._rows += ROW.pack(
            entry.prev.value,
            entry.chain.value,
            batches.value if batches is not None else b"",
            *[entry.roots[group].value for group in GROUPS],
            entry.step,
            update.l2 if update is not None else 0.0,
            update.linf if update is not None else 0.0,
            loss if loss is not None else 0.0,
            flags,
        )

    def __len__(self) -> int:
        return len(self._rows) // ROW.size

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> Lazy[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | Lazy[Entry]:
        if isinstance(index, slice):
            return Lazy(range(len(self))[index], self._at)
        return self._at(range(len(self))[index])

    def __iter__(self) -> Iterator[Entry]:
        return map(self._at, range(len(self)))

    def prev(self, number: int) -> bytes:
        """The root that an entry carries, of the tree before it."""
        return bytes(self._rows[number * ROW.size : number * ROW.size + 32])

    def outline(self, number: int) -> Outline | None:
        """What checking needs of a checkpoint entry, several times as quickly as the whole; None for other kinds."""
        if number in self.others:
            return None
        _, chain, batches, *roots, step, _, _, _, flags = ROW.unpack_from(self._rows, number * ROW.size)
        algorithm = "sha256" if flags & SHA256 else "blake3"
        return Outline(step, roots, chain, (algorithm, batches) if flags & BATCHES else None, bool(flags & UPDATE))

    def checkpoint(self, number: int) -> CheckpointEntry:
        """An entry that is a checkpoint."""
        entry = self._at(number)
        assert isinstance(entry, CheckpointEntry)
        return entry

    def _at(self, number: int) -> Entry:
        if number in self.others:
            return self.others[number]
        prev, chain, batches, *roots, step, l2, linf, loss, flags = ROW.unpack_from(self._rows, number * ROW.size)
        return CheckpointEntry(
            Digest("sha256", prev),
            step,
            {group: Digest("sha256", value) for group, value in zip(GROUPS, roots, strict=True)},
            Digest("sha256", chain),
            Digest("sha256" if flags & SHA256 else "blake3", batches) if flags & BATCHES else None,
            Update(l2, linf) if flags & UPDATE else None,
            loss if flags & LOSS else None,
        )
