r"""The Merkle tree of RFC 6962, section 2.1, over SHA-256.

    leaf hash    SHA-256(0x00 || leaf)
    node         SHA-256(0x01 || left || right)
    empty tree   SHA-256()

                 root
                /    \
              /        \            the left side holds the largest power of two
            n           n           that is less than the number of leaves
           / \         / \
          n   n       n   e
         / \ / \     / \
         a b c d     ...

An inclusion proof is the sibling of every node from the leaf up; a consistency proof (RFC 9162, 2.1.4) rebuilds
the old root and the new one from the same hashes. A maker works on leaf hashes. A checker computes the leaf hash
from the leaf's bytes, takes index and size from a signed head, and refuses a proof of any other length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, TypeAlias

from polchain.errors import ConsistencyError, EvidenceError, InclusionError, UsageError

__all__ = [
    "EMPTY_ROOT",
    "Frontier",
    "Hash",
    "check_consistency",
    "check_inclusion",
    "consistency_path",
    "inclusion_path",
    "leaf_hash",
    "node_hash",
    "prove_consistency",
    "prove_inclusion",
    "root",
]

Hash: TypeAlias = bytes

EMPTY_ROOT: Final[Hash] = hashlib.sha256().digest()

_PIECE: Final = 4096  # a power of two


def leaf_hash(leaf: bytes) -> Hash:
    """SHA-256(0x00 || leaf) (RFC 6962, 2.1)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: Hash, right: Hash) -> Hash:
    """SHA-256(0x01 || left || right) (RFC 6962, 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaf_hashes: Sequence[Hash]) -> Hash:
    """The root of the tree (RFC 6962, 2.1)."""
    if not leaf_hashes:
        return EMPTY_ROOT
    # A long list piece by piece, each a complete subtree but the last: it may be one that makes its items.
    level = (
        list(leaf_hashes)
        if len(leaf_hashes) <= _PIECE
        else [root(leaf_hashes[start : start + _PIECE]) for start in range(0, len(leaf_hashes), _PIECE)]
    )
    while len(level) > 1:
        level = _parents(level)
    return level[0]


class Frontier:
    """A tree that only grows: the roots of its complete subtrees, largest first.

    Append, root and copy take O(log n); what was appended is not kept.
    """

    __slots__ = ("_root", "_size", "_subtrees")

    def __init__(self) -> None:
        self._size = 0
        self._subtrees: list[Hash] = []
        self._root: Hash | None = None  # until somebody asks

    @classmethod
    def of(cls, size: int, subtrees: Sequence[Hash]) -> Frontier:
        """A frontier of `size` leaves, from the roots of its complete subtrees, largest first.

        Raises:
            UsageError: a tree of that size has another number of them.
        """
        if len(subtrees) != size.bit_count():
            raise UsageError(f"a tree of {size} has {size.bit_count()} complete subtrees, not {len(subtrees)}")
        made = cls()
        made._size = size
        made._subtrees = list(subtrees)
        return made

    @property
    def size(self) -> int:
        """How many leaves were appended."""
        return self._size

    @property
    def subtrees(self) -> tuple[Hash, ...]:
        """The roots of the complete subtrees, largest first."""
        return tuple(self._subtrees)

    def append(self, leaf_hash: Hash) -> None:
        """Add one leaf."""
        node = leaf_hash
        # As in counting by one: each trailing 1 of the old size is a subtree that the carry merges.
        size = self._size
        while size & 1:
            node = node_hash(self._subtrees.pop(), node)
            size >>= 1
        self._subtrees.append(node)
        self._size += 1
        self._root = None

    def root(self) -> Hash:
        """The root of the leaves so far."""
        if not self._subtrees:
            return EMPTY_ROOT
        if self._root is None:
            *rest, node = self._subtrees
            for subtree in reversed(rest):
                node = node_hash(subtree, node)
            self._root = node
        return self._root

    def copy(self) -> Frontier:
        """An independent frontier of the same leaves."""
        other = Frontier()
        other._size = self._size
        other._subtrees = self._subtrees.copy()
        other._root = self._root
        return other


def prove_inclusion(leaf_hashes: Sequence[Hash], index: int) -> list[Hash]:
    """The audit path of leaf `index`, lowest sibling first (RFC 9162, 2.1.3.1).

    Raises:
        UsageError: no such leaf.
    """
    return [root(leaf_hashes[start:end]) for start, end in inclusion_path(index, len(leaf_hashes))]


def inclusion_path(index: int, size: int) -> list[tuple[int, int]]:
    """The leaves, from and up to, under each hash of `prove_inclusion`'s proof, lowest first.

    Raises:
        UsageError: no such leaf.
    """
    if not 0 <= index < size:
        raise UsageError(f"leaf {index} of a tree of {size} cannot be proved")
    path: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def check_inclusion(leaf: bytes, index: int, proof: Sequence[Hash], size: int, root: Hash) -> None:
    """Check that `leaf` is leaf `index` of the tree of that size and root (RFC 9162, 2.1.3.2).

    The leaf hash is computed here from the leaf's bytes.

    Raises:
        InclusionError: the root differs, the index is outside the tree, the proof is longer or shorter than the
            tree requires, or something in it is not a hash.
    """
    if not 0 <= index < size:
        raise InclusionError(f"leaf {index} is outside a tree of {size}")
    _check_hashes((*proof, root), InclusionError)
    node, last = index, size - 1
    seen = leaf_hash(leaf)
    for sibling in proof:
        if last == 0:
            raise InclusionError(f"the proof of leaf {index} is longer than a tree of {size} requires")
        if node & 1 or node == last:
            seen = node_hash(sibling, seen)
            # A right edge without a sibling rises until it becomes a right child.
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            seen = node_hash(seen, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise InclusionError(f"the proof of leaf {index} is shorter than a tree of {size} requires")
    if seen != root:
        raise InclusionError(f"leaf {index} is not in the tree of {size} with root {root.hex()}")


def prove_consistency(leaf_hashes: Sequence[Hash], old_size: int) -> list[Hash]:
    """That the tree of all leaves extends the one of the first `old_size` (RFC 9162, 2.1.4.1).

    Raises:
        UsageError: the old tree is larger than the new one.
    """
    return [root(leaf_hashes[start:end]) for start, end in consistency_path(old_size, len(leaf_hashes))]


def consistency_path(old_size: int, size: int) -> list[tuple[int, int]]:
    """The leaves, from and up to, under each hash of `prove_consistency`'s proof, lowest first.

    Raises:
        UsageError: the old tree is larger than the new one.
    """
    if not 0 <= old_size <= size:
        raise UsageError(f"a tree of {size} does not extend a tree of {old_size}")
    if old_size in (0, size):
        return []
    # SUBPROOF without its recursion: go down to the node where the old tree ends, take each sibling on the way.
    siblings: list[tuple[int, int]] = []
    start, end = 0, size
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((start, middle))
            start = middle
    # A checker knows the old root already, where it is a node of the new tree.
    bottom = [(start, end)] if start else []
    return bottom + siblings[::-1]


def check_consistency(old_size: int, old_root: Hash, new_size: int, new_root: Hash, proof: Sequence[Hash]) -> None:
    """Check that the new tree extends the old one (RFC 9162, 2.1.4.2).

    An empty tree is extended by every tree, with the empty proof.

    Raises:
        ConsistencyError: a root differs, the new tree is smaller, the proof is longer or shorter than the trees
            require, or something in it is not a hash.
    """
    if not 0 <= old_size <= new_size:
        raise ConsistencyError(f"a tree of {new_size} does not extend a tree of {old_size}")
    _check_hashes((*proof, old_root, new_root), ConsistencyError)
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise ConsistencyError("the root of the empty tree is SHA-256 of nothing, and this is another")
    if old_size == new_size and old_root != new_root:
        raise ConsistencyError(f"two roots for one size, {old_size}: {old_root.hex()} and {new_root.hex()}")
    if old_size in (0, new_size):
        if proof:
            raise ConsistencyError(f"the proof from {old_size} to {new_size} must be empty")
        return
    # Where the old tree is one complete subtree, its root is the first node, and the proof leaves it out.
    complete = old_size & (old_size - 1) == 0
    path = [old_root, *proof] if complete else list(proof)
    if not path:
        raise ConsistencyError(f"the proof from {old_size} to {new_size} is shorter than the trees require")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ConsistencyError(f"the proof from {old_size} to {new_size} is longer than the trees require")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ConsistencyError(f"the proof from {old_size} to {new_size} is shorter than the trees require")
    if old != old_root:
        raise ConsistencyError(f"the proof does not lead to the old root, {old_root.hex()} of size {old_size}")
    if new != new_root:
        raise ConsistencyError(f"the proof does not lead to the new root, {new_root.hex()} of size {new_size}")


def _parents(level: list[Hash]) -> list[Hash]:
    pairs = zip(level[::2], level[1::2], strict=False)
    parents = [node_hash(left, right) for left, right in pairs]
    return parents + level[-1:] if len(level) & 1 else parents


def _split(size: int) -> int:
    """The largest power of two below `size`, which is 2 or more."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_hashes(hashes: Sequence[Hash], error: type[EvidenceError]) -> None:
    for value in hashes:
        if type(value) is not bytes or len(value) != 32:
            raise error("a hash is 32 bytes, and something here is not")
