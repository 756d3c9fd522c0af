"""Packed entries are the entries that were put in."""

from __future__ import annotations

import tracemalloc

import pytest

from polchain.core.digest import Digest, sha256
from polchain.core.entries import CheckpointEntry, Entry, Final, KeyChange, Update
from polchain.core.keys import PrivateKey
from polchain.core.manifest import state_digest, state_of_roots
from polchain.core.packed import EntryList, Lazy
from polchain.core.rows import GROUPS

ROOTS = {group: sha256(group.encode()) for group in GROUPS}


def checkpoint(step: int, **more: object) -> CheckpointEntry:
    return CheckpointEntry(sha256(bytes([step % 251])), step, ROOTS, sha256(b"chain"), **more)  # type: ignore[arg-type]


ENTRIES: list[Entry] = [
    checkpoint(0),
    checkpoint(1, batches=Digest("blake3", bytes(32)), update=Update(1e-300, 0.1), loss=-0.0),
    checkpoint(2**40, batches=sha256(b"odd"), loss=2.0**1023),
    KeyChange(sha256(b"x"), "rotate", PrivateKey.generate().public),
    checkpoint(9, update=Update(0.0, 5e-324)),
    Final(sha256(b"y"), 9, ROOTS, sha256(b"chain")),
]


def test_what_was_packed_is_read() -> None:
    packed = EntryList()
    for entry in ENTRIES:
        packed.append(entry)
    assert [repr(entry) for entry in packed] == [repr(entry) for entry in ENTRIES]
    assert len(packed) == len(ENTRIES)
    assert packed[-1] == ENTRIES[-1]
    assert list(packed[1:3]) == ENTRIES[1:3]
    assert list(packed.others) == [3, 5]
    assert [packed.prev(number) for number in range(6)] == [entry.prev.value for entry in ENTRIES]
    with pytest.raises(IndexError):
        packed[6]
    assert packed.outline(3) is None
    second = packed.outline(1)
    assert second is not None
    assert (second.step, second.batches, second.updated) == (1, ("blake3", bytes(32)), True)
    assert state_of_roots(second.roots) == state_digest(ROOTS)
    assert second.chain == sha256(b"chain").value


def test_many_entries_take_little_memory() -> None:
    entry = checkpoint(7, batches=Digest("blake3", bytes(32)), update=Update(1.0, 1.0), loss=1.0)
    tracemalloc.start()
    packed = EntryList()
    for _ in range(2000):
        packed.append(entry)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / 2000 < 320, "bytes an entry"


def test_a_lazy_sequence_makes_what_is_asked_for() -> None:
    made: list[int] = []

    def double(number: int) -> int:
        made.append(number)
        return 2 * number

    numbers = Lazy(range(10), double)
    assert (numbers[-1], numbers[2:4][1], len(numbers[5:])) == (18, 6, 5)
    assert made == [9, 3]
    assert list(numbers) == list(range(0, 20, 2))
