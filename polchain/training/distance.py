"""Distances between training states, per tensor and whole.

    rho = |replayed - claimed| / |replayed - opening|     reproduction error over the size of the replayed update

Norms are taken in float64 over floating rows; integers and booleans compare exactly and stay out of rho. A difference
that is not finite counts as infinite. `l1`, `l2`, `linf` and `cosine` are the metrics of Jia et al. 2021, section V-C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from polchain.core.entries import Update
from polchain.core.manifest import Snapshot
from polchain.core.rows import TensorRow, group_of
from polchain.training.tensors import tensor_from

__all__ = [
    "Distance",
    "cosine_distance",
    "distance",
    "group_error",
    "norm",
    "reproduction_error",
    "update_gap",
    "update_size",
]

# Elements that are converted and compared at a time.
BLOCK = 1 << 17

FLOATING = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"})


@dataclass(frozen=True, slots=True)
class Distance:
    """Norms of a difference: l1, l2 (Euclidean), linf (largest element)."""

    l1: float
    l2: float
    linf: float


def is_parameter(row: TensorRow) -> bool:
    """True for the floating parameters of the model, which the update and rho are measured over."""
    return group_of(row.name) == "model" and row.role == "parameter" and row.dtype in FLOATING


def distance(a: Snapshot, b: Snapshot, which: Callable[[TensorRow], bool] = is_parameter) -> Distance:
    """The distance between two states over the rows that `which` picks; infinite where their rows do not match."""
    l1 = squares = linf = 0.0
    for left, right in _pairs(a, b, which):
        if left is None or right is None:
            return Distance(math.inf, math.inf, math.inf)
        if left.numel() == 0:
            continue
        gap = (left - right).abs_()
        if not bool(torch.isfinite(gap).all()):
            return Distance(math.inf, math.inf, math.inf)
        l1 += float(gap.sum())
        squares += float(gap.square().sum())
        linf = max(linf, float(gap.max()))
    return Distance(l1, math.sqrt(squares), linf)


def cosine_distance(a: Snapshot, b: Snapshot) -> float:
    """1 - cos of the angle between all parameters of two states; 0 to 2, infinite where rows do not match."""
    dot = left_squares = right_squares = 0.0
    for left, right in _pairs(a, b, is_parameter):
        if left is None or right is None:
            return math.inf
        dot += float((left * right).sum())
        left_squares += float(left.square().sum())
        right_squares += float(right.square().sum())
    norm = math.sqrt(left_squares * right_squares)
    return 1.0 - dot / norm if norm > 0 else (0.0 if left_squares == right_squares else 1.0)


def update_size(before: Snapshot, after: Snapshot) -> Update:
    """How far the parameters went between two states; infinite where their rows do not match or one is not finite.

    The size of an update is in a signed entry: its last bit does not depend on how many threads torch has.
    """
    squares = linf = 0.0
    rooms = np.empty((2, BLOCK))  # fresh memory for each tensor would scatter over the heap
    for left, right in _rows(before, after, is_parameter):
        if left is None or right is None:
            return Update(math.inf, math.inf)
        a, b = _flat(before, left), _flat(after, right)
        if left.digest == right.digest:
            # Equal bytes are no distance apart, unless they are no numbers.
            if not all(bool(torch.isfinite(piece.to(torch.float64)).all()) for piece in a.split(BLOCK)):
                return Update(math.inf, math.inf)
            continue
        total, largest = _moved(a, b, rooms)
        if not math.isfinite(largest):
            return Update(math.inf, math.inf)
        squares += total
        linf = max(linf, largest)
    return Update(math.sqrt(squares), linf)


def _moved(a: torch.Tensor, b: torch.Tensor, rooms: np.ndarray) -> tuple[float, float]:
    """The sum of squares of b - a in float64, and the largest element; a and b are flat. A block at a time, which
    numpy sums: torch would share the sum out among its threads, and round as they do."""
    squares = largest = 0.0
    for at in range(0, a.numel(), BLOCK):
        length = min(BLOCK, a.numel() - at)
        gap, other = (room[:length] for room in rooms)
        part = torch.from_numpy(gap)
        part.copy_(a[at : at + length]).sub_(torch.from_numpy(other).copy_(b[at : at + length])).abs_()
        top = float(part.max())
        if not math.isfinite(top):
            return math.inf, math.inf
        largest = max(largest, top)
        squares += float(np.square(gap, out=gap).sum())
    return squares, largest


def _flat(state: Snapshot, row: TensorRow) -> torch.Tensor:
    return tensor_from(state.buffers[row.name], row.dtype, row.shape).reshape(-1)


def update_gap(first: tuple[Snapshot, Snapshot], second: tuple[Snapshot, Snapshot]) -> float:
    """How far two updates (before, after) of the parameters differ, over the size of the larger; 0 where none moved."""
    larger = max(distance(*first).l2, distance(*second).l2)
    names = [row.name for row in first[0].manifest.tensors() if is_parameter(row)]
    if not math.isfinite(larger) or not math.isfinite(distance(first[0], second[0]).l2):
        return math.inf  # rows that do not match, or weights that are not finite
    squares = 0.0
    for name in names:
        a, b, c, d = (_load(state, _row(state, name)) for state in (*first, *second))
        squares += float(((b - a) - (d - c)).square().sum())
    return math.sqrt(squares) / larger if larger > 0 else 0.0


def reproduction_error(
    opening: Snapshot, claimed: Snapshot, replayed: Snapshot, which: Callable[[TensorRow], bool] = is_parameter
) -> float:
    """rho: |replayed - claimed| over |replayed - opening|; 0 where nothing differs, infinite where nothing moved."""
    gap = distance(claimed, replayed, which).l2
    if gap == 0.0:
        return 0.0
    moved = distance(opening, replayed, which).l2
    return gap / moved if moved > 0 and math.isfinite(moved) else math.inf


def group_error(opening: Snapshot, claimed: Snapshot, replayed: Snapshot, group: str) -> float:
    """rho over the floating rows of one state group, buffers and moments included.

    A row that only one of claimed and replayed has is an infinite error: an absent state is not zeros. A row that the
    opening does not have yet (moments before the first step) moved by its whole length.
    """

    def inside(row: TensorRow) -> bool:
        return group_of(row.name) == group and row.dtype in FLOATING

    gap = distance(claimed, replayed, inside).l2
    if gap == 0.0:
        return 0.0
    before = {row.name for row in opening.manifest.tensors() if inside(row)}
    after = {row.name for row in replayed.manifest.tensors() if inside(row)}
    common = before & after
    moved = distance(opening, replayed, lambda row: row.name in common).l2
    new = norm(replayed, lambda row: row.name in after - common)
    size = math.hypot(moved, new)
    return gap / size if size > 0 and math.isfinite(size) else math.inf


def norm(state: Snapshot, which: Callable[[TensorRow], bool] = is_parameter) -> float:
    """l2 norm of the rows that `which` picks: all parameters."""
    squares = [float(_load(state, row).square().sum()) for row in state.manifest.tensors() if which(row)]
    return math.sqrt(sum(squares))


def worst_tensor(a: Snapshot, b: Snapshot) -> str:
    """The name of the first row whose bytes differ, tensors before scalars; empty where none does."""
    left = {row.name: row for row in a.manifest.rows}
    right = {row.name: row for row in b.manifest.rows}
    differing = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    return min(differing, key=lambda name: (not isinstance(left.get(name), TensorRow), name), default="")


def _row(state: Snapshot, name: str) -> TensorRow:
    row = state.manifest[name]
    assert isinstance(row, TensorRow)  # the rows of both were compared
    return row


def _load(state: Snapshot, row: TensorRow) -> torch.Tensor:
    return tensor_from(state.buffers[row.name], row.dtype, row.shape).to(torch.float64)


def _rows(
    a: Snapshot, b: Snapshot, which: Callable[[TensorRow], bool]
) -> Iterable[tuple[TensorRow | None, TensorRow | None]]:
    """The rows of both, in pairs; a pair of None where they do not match."""
    left = {row.name: row for row in a.manifest.tensors() if which(row)}
    right = {row.name: row for row in b.manifest.tensors() if which(row)}
    if left.keys() != right.keys():
        yield None, None
        return
    for name, row in left.items():
        other = right[name]
        if (row.dtype, row.shape) != (other.dtype, other.shape):
            yield None, None
            return
        yield row, other


def _pairs(
    a: Snapshot, b: Snapshot, which: Callable[[TensorRow], bool]
) -> Iterable[tuple[torch.Tensor | None, torch.Tensor | None]]:
    for row, other in _rows(a, b, which):
        if row is None or other is None:
            yield None, None
        elif row.digest != other.digest or a is b:
            yield _load(a, row), _load(b, other)
        else:
            # Equal bytes have distance 0; the cosine still needs their length.
            same = _load(a, row)
            yield same, same
