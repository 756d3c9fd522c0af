"""Tiles: a tree that is read from them proves what the whole list of leaves proves."""

from __future__ import annotations

import pytest

from polchain.core.merkle import Frontier, leaf_hash, prove_consistency, prove_inclusion, root
from polchain.core.tiles import WIDTH, Edge, TileTree
from polchain.errors import FormatError, UsageError

SIZE = 2 * WIDTH**2 + 3 * WIDTH + 5
HASHES = [leaf_hash(number.to_bytes(4, "little")) for number in range(SIZE)]
SIZES = (1, 2, 63, 64, 65, 128, 4095, 4096, 4097, 4160, SIZE - 6, SIZE)


class Shelf:
    """Tiles as they were last written."""

    def __init__(self, size: int) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.edge = Edge()
        for leaf in HASHES[:size]:
            for level, number, hashes in self.edge.append(leaf):
                self.tiles[level, number] = hashes

    def read(self, level: int, number: int) -> bytes | None:
        return self.tiles.get((level, number))


SHELF = Shelf(SIZE)


def tree(size: int, shelf: Shelf = SHELF) -> TileTree:
    return TileTree(size, shelf.read, lambda start, end: HASHES[start:end])


@pytest.mark.parametrize("size", SIZES)
def test_a_tree_of_tiles_proves_what_its_leaves_prove(size: int) -> None:
    found = tree(size)
    for index in {0, 1, size // 2, size - 2, size - 1, *range(0, size, 601)}:
        if 0 <= index < size:
            assert found.prove_inclusion(index) == prove_inclusion(HASHES[:size], index), f"leaf {index} of {size}"
    for old in {0, 1, size // 3, size - 1, size, *range(0, size, 997)}:
        assert found.prove_consistency(old) == prove_consistency(HASHES[:size], old), f"from {old} to {size}"


@pytest.mark.parametrize("size", SIZES)
def test_a_writer_goes_on_from_the_tiles(size: int) -> None:
    shelf = Shelf(size)
    edge = Edge.read(size, shelf.read, HASHES[size - size % WIDTH : size])
    assert edge.frontier().root() == root(HASHES[:size])
    assert edge.levels == shelf.edge.levels
    more = Frontier()
    for leaf in HASHES[:size]:
        more.append(leaf)
    for number in range(70):
        more.append(leaf_hash(bytes([number])))
        edge.append(leaf_hash(bytes([number])))
    assert edge.frontier().root() == more.root()


def test_a_proof_of_a_million_reads_few_tiles() -> None:
    read: list[tuple[int, int]] = []

    def count(level: int, number: int) -> bytes:
        read.append((level, number))
        return bytes(32 * WIDTH)

    found = TileTree(10**6, count, lambda start, end: [bytes(32)] * (end - start))
    proof = found.prove_inclusion(123_456)
    assert 32 * len(proof) <= 1000
    assert len(read) <= 6


@pytest.mark.parametrize("damage", [None, b"", bytes(31), bytes(32 * 62)], ids=["gone", "empty", "odd", "short"])
def test_a_damaged_tile_is_named(damage: bytes | None) -> None:
    shelf = Shelf(200)
    broken = TileTree(200, lambda *_: damage, lambda start, end: HASHES[start:end])
    with pytest.raises(FormatError, match="tile"):
        broken.prove_inclusion(0)
    with pytest.raises(FormatError, match="tile"):
        Edge.read(64 * 63, lambda *_: damage, [])
    with pytest.raises(FormatError, match="last leaves"):
        Edge.read(200, shelf.read, HASHES[:3])
    with pytest.raises(UsageError, match="cannot be proved"):
        tree(200, shelf).prove_inclusion(200)
    with pytest.raises(UsageError, match="complete subtrees"):
        Frontier.of(3, [bytes(32)])
