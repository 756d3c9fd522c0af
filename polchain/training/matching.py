"""Whether one model is inside a training state, whatever its tensors are called.

    exactly      every parameter tensor has the same bytes there, or those of the state's tensor rounded to its coarser
                 type
    within       |a - b| is at most so much of the larger of |a| and |b|, in every tensor by itself
    by values    sorted |values|, divided by their norm, are within that: a permuted or rescaled copy, perhaps

Tensors are looked for by shape; those whose names end alike are tried first. A tensor of the state may serve twice:
tied weights are written once by some and twice by others.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import TensorRow, group_of
from polchain.training.distance import FLOATING
from polchain.training.tensors import TORCH_DTYPES, tensor_from

__all__ = ["Match", "Spread", "beside", "constant_rows", "match", "parameters", "same_values"]

# A tensor of fewer elements has the sorted values of another by chance.
SCREENED: Final = 256
# Sorting is for those whose largest value agrees; whoever makes all agree is not waited for.
MOST_SORTED: Final = 10_000
# Far over what sums of fp64 are off, far under any distance that says something.
ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Match:
    """How a model was found in a state.

    Attributes:
        found: whether every parameter tensor was.
        worst: the largest distance of a tensor, relative; 0 where all are exact, infinite where one is not there.
        tensor: the tensor that has it, by its name in the model; empty where all are exact.
        unread: True where only digests could be compared.
    """

    found: bool
    worst: float
    tensor: str = ""
    unread: bool = False

    @property
    def exact(self) -> bool:
        """Whether nothing differs but the type."""
        return self.found and self.worst == 0.0


def parameters(manifest: Manifest) -> tuple[TensorRow, ...]:
    """The floating parameters of a model, by name; aliases are other names of these."""
    return tuple(row for row in manifest.tensors() if _floating(row, ("model",)) and row.role == "parameter")


def beside(manifest: Manifest) -> tuple[TensorRow, ...]:
    """The floating tensors beside a model, such as an average of it."""
    return tuple(row for row in manifest.tensors() if _floating(row, ("extra",)))


def match(model: Snapshot | Manifest, state: Snapshot | Manifest, distance: float) -> Match:
    """Look for every parameter tensor of a model in a state: in its model, buffers included, and in what is beside it.

    Args:
        model: what is looked for; its manifest alone where its tensors are not known.
        state: where; its manifest alone where it is not disclosed.
        distance: the most that a tensor may differ, relative.
    """
    wanted = parameters(_manifest(model))
    there: dict[tuple[int, ...], list[TensorRow]] = defaultdict(list)
    for row in _manifest(state).tensors():
        if _floating(row, ("model", "extra")):
            there[row.shape].append(row)
    digests = {(row.dtype, row.digest) for rows in there.values() for row in rows}
    left = [row for row in wanted if (row.dtype, row.digest) not in digests]
    if not wanted or any(row.shape not in there for row in left):
        missing = next((row.name for row in left if row.shape not in there), "")
        return Match(False, math.inf, missing)
    if not left:
        return Match(True, 0.0)
    if isinstance(model, Manifest) or isinstance(state, Manifest):
        return Match(False, math.inf, left[0].name, unread=True)
    worst, tensor = 0.0, ""
    # What has the fewest places to be in is tried first: a state of another model is left after one tensor.
    for row in sorted(left, key=lambda row: (len(there[row.shape]), -row.size, row.name)):
        gap = _nearest(model, row, state, there[row.shape], distance)
        if gap > worst:
            worst, tensor = gap, row.name
        if not gap <= distance:
            return Match(False, gap, row.name)
    return Match(True, worst, tensor)


class Spread:
    """The values of a snapshot's tensors, whatever their places: |values| over their norm, sorted; each found once."""

    def __init__(self, state: Snapshot) -> None:
        self.state = state
        self._outlines: dict[str, tuple[float, float] | None] = {}
        self._sorted: dict[str, torch.Tensor] = {}

    def outline(self, row: TensorRow) -> tuple[float, float] | None:
        """The largest value, and the sum of all over the root of their number; None where they say nothing."""
        if row.name not in self._outlines:
            values = _load(self.state, row).double().reshape(-1).abs()
            norm = float(values.norm())
            low, high = (float(value) for value in values.aminmax())
            said = math.isfinite(norm) and norm > 0.0 and low < high
            total = float(values.sum()) / math.sqrt(values.numel())
            self._outlines[row.name] = (high / norm, total / norm) if said else None
        return self._outlines[row.name]

    def values(self, row: TensorRow) -> torch.Tensor:
        """All of them."""
        if row.name not in self._sorted:
            values = _load(self.state, row).double().reshape(-1).abs()
            # numpy sorts numbers many times faster than torch.
            ordered = torch.from_numpy(np.sort(values.numpy()))
            self._sorted[row.name] = torch.div(ordered, values.norm())
        return self._sorted[row.name]


def same_values(model: Snapshot | Spread, state: Snapshot, distance: float) -> bool:
    """Whether at least half of a model's elements are in tensors whose sorted values a state's tensor has.

    Args:
        model: what is looked for; its `Spread` where it is looked for in many states.
        state: where.
        distance: the most that sorted values may differ.
    """
    mine, theirs = model if isinstance(model, Spread) else Spread(model), Spread(state)
    rows = parameters(mine.state.manifest)
    wanted = {size for row in rows if (size := _elements(row)) >= SCREENED}
    others: dict[int, list[tuple[float, float, TensorRow]]] = defaultdict(list)
    for row in state.manifest.tensors():
        if _floating(row, ("model", "extra")) and _elements(row) in wanted:
            outline = theirs.outline(row)
            if outline is not None:
                others[_elements(row)].append((*outline, row))
    for places in others.values():
        places.sort(key=lambda place: (place[0], place[2].name))
    found = tried = 0
    left = total = sum(_elements(row) for row in rows)
    slack = distance + ROUNDING
    for row in sorted(rows, key=_elements, reverse=True):
        size = _elements(row)
        outline = mine.outline(row) if size in others else None
        alike: list[TensorRow] = []
        if outline is not None:
            peak, mean = outline
            # Of what is within the distance neither the largest value nor the mean differs by more (for the mean, by
            # Cauchy and Schwarz): they tell most tensors apart, without sorting.
            places = others[size]
            first = bisect.bisect_left(places, peak - slack, key=lambda place: place[0])
            end = bisect.bisect_right(places, peak + slack, key=lambda place: place[0])
            tried += end - first
            if tried > MOST_SORTED:
                return False
            alike = [other for _, theirs_mean, other in places[first:end] if abs(theirs_mean - mean) <= slack]
        if any(float((mine.values(row) - theirs.values(other)).norm()) <= distance for other in alike):
            found += size
        left -= size
        if 2 * (found + left) < total:
            return False
    return total > 0 and 2 * found >= total


def constant_rows(state: Snapshot, rows: Iterable[TensorRow]) -> frozenset[str]:
    """The names of the rows whose elements are all equal, or none of them a number."""
    return frozenset(row.name for row in rows if _constant(_load(state, row)))


def _nearest(model: Snapshot, row: TensorRow, state: Snapshot, places: list[TensorRow], distance: float) -> float:
    """The distance of the first place that is within it, those with a like name first; else the least of all."""
    mine = _load(model, row)
    least = math.inf
    for place in sorted(places, key=lambda other: (-_common_end(row.name, other.name), other.name)):
        least = min(least, _distance(mine, row.dtype, _load(state, place), place.dtype))
        if least <= distance:
            break
    return least


def _distance(mine: torch.Tensor, dtype: str, other: torch.Tensor, other_dtype: str) -> float:
    """|a - b| over the larger of |a| and |b|; 0 where rounding to the model's coarser type makes them equal."""
    # Not the other way: a few bits of a model are not the model.
    if _precision(dtype) < _precision(other_dtype) and torch.equal(
        mine.double(), other.to(TORCH_DTYPES[dtype]).double()
    ):
        return 0.0
    a, b = mine.double(), other.double()
    gap = float((a - b).norm())
    size = max(float(a.norm()), float(b.norm()))
    if not math.isfinite(gap) or not math.isfinite(size):
        return math.inf
    return gap / size if size > 0 else 0.0


def _precision(dtype: str) -> tuple[int, float]:
    kind = TORCH_DTYPES[dtype]
    return kind.itemsize, -torch.finfo(kind).eps


def _common_end(name: str, other: str) -> int:
    """How many parts of two dotted names agree, from the end."""
    count = 0
    for one, two in zip(reversed(name.split(".")), reversed(other.split(".")), strict=False):
        if one.rpartition("/")[2] != two.rpartition("/")[2]:
            break
        count += 1
    return count


def _floating(row: TensorRow, groups: tuple[str, ...]) -> bool:
    return group_of(row.name) in groups and row.dtype in FLOATING and _elements(row) > 0


def _elements(row: TensorRow) -> int:
    return math.prod(row.shape)


def _constant(tensor: torch.Tensor) -> bool:
    flat = tensor.reshape(-1)
    # What diverged is NaN throughout, in everybody's run.
    return flat.numel() == 0 or bool((flat == flat[0]).all()) or bool(flat.isnan().all())


def _load(state: Snapshot, row: TensorRow) -> torch.Tensor:
    return tensor_from(state.buffers[row.name], row.dtype, row.shape)


def _manifest(state: Snapshot | Manifest) -> Manifest:
    return state if isinstance(state, Manifest) else state.manifest
