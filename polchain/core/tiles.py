r"""Tiles: the inner hashes of a growing tree, kept so that a proof need not hash every leaf again.

    level 2   [ .................... ]      the roots of the tiles of level 1, 64 in a row
    level 1   [ 64 ][ 64 ][ 64 ][ 12 ]      the roots of the tiles of level 0; the last one may be partial
    level 0   [ 64 leaf hashes ] ...        only complete ones: the leaves after them are hashed again

Tile n of level L holds hashes n*64 to n*64+63 of that level, each the root of a complete subtree of 64^L leaves. Every
64th leaf completes a tile, whose root goes on to the level above; so a million leaves take 16,000 tiles, 33 MB.

Nothing here is evidence: whoever reads tiles compares the root that they give with one that was signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from polchain.core.merkle import Frontier, Hash, consistency_path, inclusion_path, node_hash, root
from polchain.errors import FormatError

__all__ = ["WIDTH", "Edge", "Tile", "TileTree"]

HEIGHT: Final = 6
WIDTH: Final = 1 << HEIGHT

Tile: TypeAlias = tuple[int, int, bytes]
"""Level, number, hashes."""


class Edge:
    """Where a tree grows: at each level the hashes since its last complete tile."""

    __slots__ = ("levels", "size")

    def __init__(self) -> None:
        self.size = 0
        self.levels: list[list[Hash]] = [[]]

    @classmethod
    def read(cls, size: int, read: Callable[[int, int], bytes | None], leaves: Sequence[Hash]) -> Edge:
        """The edge of a tree of `size` leaves, of which `leaves` come after the last complete tile of level 0.

        Raises:
            FormatError: a tile is not there, or not as long as the tree makes it.
        """
        edge = cls()
        edge.size = size
        edge.levels = [list(leaves)]
        if len(leaves) != size % WIDTH:
            raise FormatError("the tree's last leaves are not all there")
        level, count = 1, size // WIDTH
        while count:
            held = count % WIDTH
            edge.levels.append(_hashes(read(level, count // WIDTH), held) if held else [])
            level, count = level + 1, count // WIDTH
        return edge

    def append(self, leaf_hash: Hash) -> list[Tile]:
        """Add one leaf; returns the tiles that changed."""
        changed: list[Tile] = []
        self.size += 1
        node, count, level = leaf_hash, self.size, 0
        while True:
            if level == len(self.levels):
                self.levels.append([])
            row = self.levels[level]
            row.append(node)
            full = len(row) == WIDTH
            if full or level:
                changed.append((level, (count - 1) // WIDTH, b"".join(row)))
            if not full:
                return changed
            node = root(row)
            self.levels[level] = []
            level, count = level + 1, count // WIDTH

    def frontier(self) -> Frontier:
        """The same leaves as a frontier, which gives their root."""
        subtrees: list[Hash] = []
        for row in reversed(self.levels):
            at = 0
            for height in reversed(range(HEIGHT)):
                if len(row) >> height & 1:
                    subtrees.append(root(row[at : at + (1 << height)]))
                    at += 1 << height
        return Frontier.of(self.size, subtrees)

    def copy(self) -> Edge:
        """An independent edge of the same leaves."""
        other = Edge()
        other.size = self.size
        other.levels = [row.copy() for row in self.levels]
        return other


class TileTree:
    """A tree whose inner hashes are read from tiles."""

    def __init__(
        self, size: int, read: Callable[[int, int], bytes | None], leaves: Callable[[int, int], Sequence[Hash]]
    ) -> None:
        """A tree.

        Args:
            size: how many leaves it has.
            read: a tile's hashes, by level and number; None where it is not there.
            leaves: the hashes of the leaves from one number up to another, which no tile has.
        """
        self.size = size
        self._read = read
        self._leaves = leaves
        self._kept: dict[tuple[int, int], list[Hash]] = {}

    def prove_inclusion(self, index: int) -> list[Hash]:
        """What `merkle.prove_inclusion` gives.

        Raises:
            UsageError: no such leaf.
            FormatError: a tile is not there, or damaged.
        """
        return [self.subtree(start, end) for start, end in inclusion_path(index, self.size)]

    def prove_consistency(self, old_size: int) -> list[Hash]:
        """What `merkle.prove_consistency` gives.

        Raises:
            UsageError: the old tree is larger.
            FormatError: a tile is not there, or damaged.
        """
        return [self.subtree(start, end) for start, end in consistency_path(old_size, self.size)]

    def subtree(self, start: int, end: int) -> Hash:
        """The root of the leaves from `start` up to `end`; `start` is a multiple of the next power of two."""
        found: list[Hash] = []
        while start < end:
            height = (end - start).bit_length() - 1
            found.append(self._node(height, start >> height))
            start += 1 << height
        return _fold(found)

    def _node(self, height: int, number: int) -> Hash:
        """The root of the complete subtree of 2^height leaves that is the `number`-th of its height."""
        level, within = divmod(height, HEIGHT)
        first = number << within
        row = self._row(level, first // WIDTH)
        at = first % WIDTH
        return root(row[at : at + (1 << within)])

    def _row(self, level: int, number: int) -> list[Hash]:
        key = level, number
        if key not in self._kept:
            held = min(WIDTH, (self.size >> (HEIGHT * level)) - number * WIDTH)
            if level == 0 and held < WIDTH:
                self._kept[key] = list(self._leaves(number * WIDTH, number * WIDTH + held))
            else:
                self._kept[key] = _hashes(self._read(level, number), held)
        return self._kept[key]


def _hashes(tile: bytes | None, count: int) -> list[Hash]:
    """The first `count` hashes of a tile: the tree may have grown since it was read."""
    if not isinstance(tile, bytes) or len(tile) % 32 or len(tile) < 32 * count:
        raise FormatError("a stored tile of the tree is not there, or is cut short")
    return [tile[at : at + 32] for at in range(0, 32 * count, 32)]


def _fold(subtrees: list[Hash]) -> Hash:
    *rest, node = subtrees
    for subtree in reversed(rest):
        node = node_hash(subtree, node)
    return node
