"""One proof for several leaves of a tree.

The tree is walked from its root, left before right. A subtree without a wanted leaf is one hash of the proof; a wanted
leaf is computed from its bytes; every other node has two children. So the proof has the hashes of the largest subtrees
that hold no wanted leaf, from left to right, and no shorter one would do. With no wanted leaf it is the root itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from polchain.core.merkle import Hash, node_hash, root
from polchain.errors import InclusionError, UsageError

__all__ = ["check_inclusions", "prove_inclusions"]


def prove_inclusions(leaf_hashes: Sequence[Hash], indices: Sequence[int]) -> list[Hash]:
    """The proof that the leaves at these indices are in the tree.

    Raises:
        UsageError: no such leaf, or the indices do not rise.
    """
    _check_indices(indices, len(leaf_hashes), UsageError)
    proof: list[Hash] = []
    for start, end, wanted in _walk(len(leaf_hashes), indices):
        if not wanted:
            proof.append(root(leaf_hashes[start:end]))
    return proof


def check_inclusions(leaves: Mapping[int, Hash], proof: Sequence[Hash], size: int, expected: Hash) -> None:
    """Check that these are leaves of the tree of that size and root.

    Args:
        leaves: leaf hashes by index, which the caller has computed from the leaves' bytes.
        proof: what `prove_inclusions` gave.
        size, expected: the tree's size and root.

    Raises:
        InclusionError: the root differs, an index is outside the tree, or the proof is longer or shorter than the
            indices require, or something in it is not a hash.
    """
    indices = sorted(leaves)
    _check_indices(indices, size, InclusionError)
    if any(type(value) is not bytes or len(value) != 32 for value in (*proof, expected)):
        raise InclusionError("a hash is 32 bytes, and something here is not")
    rest = iter(proof)
    # Subtrees that are complete but for their right neighbour, as (start, end, hash).
    done: list[tuple[int, int, Hash]] = []
    for start, end, wanted in _walk(size, indices):
        node = leaves[start] if wanted else next(rest, None)
        if node is None:
            raise InclusionError(f"the proof of {len(indices)} leaves is shorter than a tree of {size} requires")
        done.append((start, end, node))
        while len(done) > 1 and _siblings(done[-2], done[-1], size):
            (left, _, first), (_, right, second) = done[-2:]
            done[-2:] = [(left, right, node_hash(first, second))]
    if next(rest, None) is not None:
        raise InclusionError(f"the proof of {len(indices)} leaves is longer than a tree of {size} requires")
    if [(start, end) for start, end, _ in done] != [(0, size)] or done[0][2] != expected:
        raise InclusionError(f"the {len(indices)} leaves are not in the tree of {size} with root {expected.hex()}")


def _walk(size: int, indices: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """The subtrees that are not opened further, left to right: where one starts and ends, and whether it is wanted."""
    stack = [(0, size, 0, len(indices))] if size else []
    while stack:
        start, end, low, high = stack.pop()
        if low == high or end - start == 1:
            yield start, end, low != high
            continue
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        split = _first_at(indices, middle, low, high)
        stack += [(middle, end, split, high), (start, middle, low, split)]


def _first_at(indices: Sequence[int], value: int, low: int, high: int) -> int:
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


def _siblings(left: tuple[int, int, Hash], right: tuple[int, int, Hash], size: int) -> bool:
    """Whether two neighbours are the children of one node: the left one complete, the right one no larger, and cut
    short only by the tree's end."""
    length = left[1] - left[0]
    complete = length & (length - 1) == 0 and left[0] % (2 * length) == 0
    return complete and (right[1] - right[0] == length or (right[1] == size and right[1] - right[0] < length))


def _check_indices(indices: Sequence[int], size: int, error: type[UsageError] | type[InclusionError]) -> None:
    rising = all(a < b for a, b in pairwise(indices))
    if not rising or (indices and not 0 <= indices[0] <= indices[-1] < size):
        raise error(f"the leaves to prove do not rise, or lie outside a tree of {size}")
