"""Reproduction error by part of the state: what a tolerance is applied to.

    parameters   the model's floating parameters
    buffers      its floating buffers (running means)
    optimizer    moments
    extra        an average of the weights, a second model

    rho = |replayed - claimed| / |replayed - before|       whole, and of each tensor; the worst of them counts

A small tensor that is altered wholly would hide in the norm of the whole: so each is measured alone too. But a tensor
that hardly moves (a bias in front of a normalisation) is nothing but rounding, and would never agree: so what it is
measured against is at least its fair share of the whole movement, by its number of elements. First and second moments
differ by orders of magnitude, so "the whole" is all rows of one kind: of one buffer's name, one moment's, one object's.

What is no measurement stays out of rho and is compared exactly: integers, booleans, Python's scalars, the set of rows
and their shapes, and counters, which torch keeps as floating tensors of one element (Adam's `step`). Schedules are
float arithmetic, which another library rounds in another way: their rows may differ in the last bits.
"""

from __future__ import annotations

import math

import torch

from polchain.core.manifest import Manifest, Row, ScalarRow, Snapshot, TensorRow, group_of
from polchain.training.distance import FLOATING
from polchain.training.rho import PARTS, Errors
from polchain.training.state import tensor_from

__all__ = ["errors_between", "false_row", "initial_gap", "same_schedule"]

# The end of a cosine is a small difference of large numbers, whose relative error is large: hence the floor.
SETTING_TOLERANCE = 1e-6
SETTING_FLOOR = 1e-9


def errors_between(before: Snapshot, claimed: Snapshot, replayed: Snapshot) -> Errors:
    """rho of each part, between two states that should be one.

    Args:
        before: the state at the beginning of the stretch whose movement rho is relative to.
        claimed: the state at its end, as claimed.
        replayed: the same, as replayed. Its rows are those of `claimed` (see `false_row`).
    """
    kinds: dict[tuple[str, str], _Kind] = {}
    for row in replayed.manifest.tensors():
        if row.dtype in FLOATING and not _is_counter(row, replayed):
            kinds.setdefault(_kind(row), _Kind()).add(row, before, claimed, replayed)
    found = dict.fromkeys(PARTS, (0.0, ""))
    for (part, _), kind in kinds.items():
        found[part] = max(found[part], kind.rho())
    largest = max(found.values())
    return Errors.by_part(lambda part: found[part][0], largest[1])


def initial_gap(one: Snapshot, other: Snapshot) -> float:
    """How far two initial states are apart, relative to themselves; infinite where a row differs that is none of rho's.

    The worst tensor counts, as it does in `errors_between`.
    """
    if false_row(one, other):
        return math.inf
    return errors_between(Snapshot(Manifest(()), {}), one, other).largest


def false_row(claimed: Snapshot, replayed: Snapshot) -> str:
    """The first row that no tolerance covers and that is not equal; empty where there is none.

    Those are all rows but floating tensors (counters excepted) and the schedule: see `same_schedule`.
    """
    ours = {row.name: row for row in replayed.manifest.rows if group_of(row.name) != "schedule"}
    theirs = {row.name: row for row in claimed.manifest.rows if group_of(row.name) != "schedule"}
    for name in sorted(ours.keys() | theirs.keys()):
        row, other = ours.get(name), theirs.get(name)
        if row == other:
            continue
        if not isinstance(row, TensorRow) or not isinstance(other, TensorRow) or row.dtype not in FLOATING:
            return name
        if (row.role, row.dtype, row.shape) != (other.role, other.dtype, other.shape) or _is_counter(row, replayed):
            return name
    return ""


def same_schedule(claimed: Manifest, replayed: Manifest) -> bool:
    """Whether the schedule's rows agree but for the last bits of floats.

    Settings that only one side has are those of another library version: the recipe alone says what they are.
    """
    ours = {row.name: row for row in replayed.group("schedule")}
    theirs = {row.name: row for row in claimed.group("schedule")}
    for name in ours.keys() | theirs.keys():
        row, other = ours.get(name), theirs.get(name)
        if row is None or other is None:
            if not name.startswith("schedule/settings/"):
                return False
        elif row != other and not _close(row, other):
            return False
    return True


class _Kind:
    """The rows of one kind: how far apart, and how far they moved."""

    def __init__(self) -> None:
        self.tensors: list[tuple[str, int, float, float]] = []

    def add(self, row: TensorRow, before: Snapshot, claimed: Snapshot, replayed: Snapshot) -> None:
        ours = _load(replayed, row)
        gap = 0.0
        if claimed.manifest[row.name] != row:
            gap = _norm(ours - _load(claimed, row))
        opened = before.manifest[row.name] if row.name in before.manifest else None  # noqa: SIM401
        if isinstance(opened, TensorRow) and (opened.dtype, opened.shape) == (row.dtype, row.shape):
            ours = ours - _load(before, opened)
        # Moments that were not there yet moved by their whole length.
        self.tensors.append((row.name, row_elements(row), gap, _norm(ours)))

    def rho(self) -> tuple[float, str]:
        """The worst rho, of the whole and of each tensor, and the tensor that differs most."""
        gap = math.hypot(*(gap for _, _, gap, _ in self.tensors))
        if gap == 0.0:
            return 0.0, ""
        moved = math.hypot(*(moved for _, _, _, moved in self.tensors))
        elements = sum(count for _, count, _, _ in self.tensors)
        each = [
            (_ratio(gap, max(own, moved * math.sqrt(count / elements))), name)
            for name, count, gap, own in self.tensors
            if gap > 0.0
        ]
        largest, name = max(each)
        return max(largest, _ratio(gap, moved)), name


def row_elements(row: TensorRow) -> int:
    """How many elements a tensor has."""
    return math.prod(row.shape)


def _ratio(gap: float, moved: float) -> float:
    """gap / moved; infinite where either is not finite, or where nothing moved."""
    return gap / moved if math.isfinite(gap) and math.isfinite(moved) and moved > 0.0 else math.inf


def _kind(row: TensorRow) -> tuple[str, str]:
    group, _, rest = row.name.partition("/")
    if group == "model":
        if row.role == "parameter":
            return "parameters", ""
        return "buffers", rest.rpartition(".")[2]
    if group == "optimizer":
        return "optimizer", rest.rpartition("/")[2]
    return "extra", rest.partition("/")[0]


def _is_counter(row: TensorRow, state: Snapshot) -> bool:
    """Whether a floating row holds one whole number that no gradient made: a step count."""
    if row_elements(row) != 1 or row.role != "state" or row.dtype not in FLOATING:
        return False
    value = float(_load(state, row).reshape(()))
    return not math.isfinite(value) or value == math.floor(value)


def _close(a: Row, b: Row) -> bool:
    return (
        isinstance(a, ScalarRow)
        and isinstance(b, ScalarRow)
        and isinstance(a.value, float)
        and isinstance(b.value, float)
        and math.isclose(a.value, b.value, rel_tol=SETTING_TOLERANCE, abs_tol=SETTING_FLOOR)
    )


def _norm(tensor: torch.Tensor) -> float:
    """l2; infinite where an element is not finite."""
    size = float(tensor.square().sum().sqrt()) if tensor.numel() else 0.0
    return size if math.isfinite(size) else math.inf


def _load(state: Snapshot, row: TensorRow) -> torch.Tensor:
    other = state.manifest[row.name]
    assert isinstance(other, TensorRow)
    return tensor_from(state.buffers[row.name], other.dtype, other.shape).to(torch.float64)
