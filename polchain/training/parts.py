"""Reproduction error by part of the state: what a tolerance is applied to.

    parameters   the model's floating parameters, all together
    tensors      each of them alone, the worst
    buffers      its floating buffers (running means)       )
    optimizer    moments                                    )  all of a kind together, and each alone
    extra        an average of the weights, a second model  )

    rho = |replayed movement - claimed movement| / |replayed movement|

A movement is what a stretch of training adds to the state that it began with. Where replay and claim begin with one
state, that is |replayed - claimed| / |replayed - before|; where each goes on from its own, what they differed by before
does not count again.

A small tensor that is altered wholly would hide in the norm of the whole: so each is measured alone too. But a tensor
that hardly moves (a bias in front of a normalisation) is nothing but rounding, and would never agree: so what it is
measured against is at least its fair share of the whole movement, by its number of elements. One that does not move at
all has to be equal. First and second moments differ by orders of magnitude, so "all together" is all rows of one kind:
of one buffer's name, one moment's, one object's.

What is no measurement stays out of rho and is compared exactly: integers, booleans, Python's scalars, the set of rows
and their shapes, and counters, which torch keeps as floating tensors of one element (Adam's `step`). So is what may
never forget an error, for the drift of small ones in it has no bound: `extra`, and all buffers but running statistics.
Schedules are float arithmetic, which another library rounds in another way: their rows may differ in the last bits.
"""

from __future__ import annotations

import math

import torch

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import Row, ScalarRow, TensorRow, group_of
from polchain.training.distance import FLOATING
from polchain.training.rho import PARTS, Errors
from polchain.training.tensors import tensor_from

__all__ = ["errors_between", "false_row", "initial_gap", "same_schedule"]

# The end of a cosine is a small difference of large numbers, whose relative error is large: hence the floor.
SETTING_TOLERANCE = 1e-6
SETTING_FLOOR = 1e-9
# torch's batch and instance norms: averages that forget a tenth each step, and that training does not read.
RUNNING = ("running_mean", "running_var")


def errors_between(
    before: Snapshot, claimed: Snapshot, replayed: Snapshot, claimed_before: Snapshot | None = None
) -> Errors:
    """rho of each part, of a stretch that was replayed.

    Args:
        before: the state that the replay of the stretch began with.
        claimed: the state at its end, as claimed.
        replayed: the same, as replayed. Its rows are those of `claimed` (see `false_row`).
        claimed_before: the state at its beginning, as claimed, where the replay went on from one of its own.
    """
    kinds: dict[tuple[str, str], _Kind] = {}
    for row in replayed.manifest.tensors():
        if row.dtype in FLOATING and not _is_counter(row, replayed):
            kind = kinds.setdefault(_kind(row), _Kind())
            kind.add(row, (before, replayed), (claimed_before or before, claimed))
    found = dict.fromkeys(PARTS, (0.0, ""))
    for (part, _), kind in kinds.items():
        whole, (alone, name) = kind.whole(), kind.alone()
        if part == "parameters":
            found["parameters"], found["tensors"] = (whole, name), (alone, name)
        else:
            found[part] = max(found[part], (max(whole, alone), name))
    return Errors.by_part(lambda part: found[part][0], lambda part: found[part][1] if found[part][0] > 0.0 else "")


def initial_gap(one: Snapshot, other: Snapshot) -> float:
    """How far two initial states are apart, relative to themselves; infinite where a row differs that is none of rho's.

    The worst tensor counts, as it does in `errors_between`.
    """
    if false_row(one, other):
        return math.inf
    return errors_between(Snapshot(Manifest(()), {}), one, other).largest


def false_row(claimed: Snapshot, replayed: Snapshot) -> str:
    """The first row that no tolerance covers and that is not equal; empty where there is none.

    Those are all rows but parameters, moments and running statistics (counters excepted), and the schedule: see
    `same_schedule`.
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
        if not _forgets(row):
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
    """The rows of one kind: how far their movements are apart, and how far they moved."""

    def __init__(self) -> None:
        self._tensors: list[tuple[str, int, float, float]] = []

    def add(self, row: TensorRow, ours: tuple[Snapshot, Snapshot], theirs: tuple[Snapshot, Snapshot]) -> None:
        moved = _movement(row.name, *ours)
        same = all(_row(a, row.name) == _row(b, row.name) for a, b in zip(ours, theirs, strict=True))
        gap = 0.0 if same else _norm(moved - _movement(row.name, *theirs))
        self._tensors.append((row.name, math.prod(row.shape), gap, _norm(moved)))

    def whole(self) -> float:
        """rho of all of them together."""
        return _ratio(math.hypot(*(gap for _, _, gap, _ in self._tensors)), self._moved())

    def alone(self) -> tuple[float, str]:
        """The worst rho of one of them, and which."""
        moved, elements = self._moved(), sum(count for _, count, _, _ in self._tensors)
        found = []
        for name, count, gap, own in self._tensors:
            share = moved * math.sqrt(count / elements) if count else 0.0
            found.append((_ratio(gap, max(own, share) if own > 0.0 else 0.0), name))
        return max(found)

    def _moved(self) -> float:
        return math.hypot(*(moved for _, _, _, moved in self._tensors))


def _ratio(gap: float, moved: float) -> float:
    """gap / moved; 0 for no gap; infinite where either is not finite, or where nothing moved."""
    if gap == 0.0:
        return 0.0
    return gap / moved if math.isfinite(gap) and math.isfinite(moved) and moved > 0.0 else math.inf


def _row(state: Snapshot, name: str) -> Row | None:
    return state.manifest[name] if name in state.manifest else None  # noqa: SIM401


def _movement(name: str, before: Snapshot, after: Snapshot) -> torch.Tensor:
    """What was added to a tensor; all of it where it was not there before, as moments are not before the first step."""
    end, begin = after.manifest[name], _row(before, name)
    assert isinstance(end, TensorRow)
    found = _load(after, end)
    if isinstance(begin, TensorRow) and (begin.dtype, begin.shape) == (end.dtype, end.shape):
        found = found - _load(before, begin)
    return found


def _kind(row: TensorRow) -> tuple[str, str]:
    group, _, rest = row.name.partition("/")
    if group == "model":
        if row.role == "parameter":
            return "parameters", ""
        return "buffers", rest.rpartition(".")[2]
    if group == "optimizer":
        return "optimizer", rest.rpartition("/")[2]
    return "extra", rest.partition("/")[0]


def _forgets(row: TensorRow) -> bool:
    """Whether an error in this row is bounded: it is in the drift (parameters, moments), or averaged away."""
    part, kind = _kind(row)
    return part in ("parameters", "optimizer") or (part == "buffers" and kind in RUNNING)


def _is_counter(row: TensorRow, state: Snapshot) -> bool:
    """Whether a floating row holds one whole number that no gradient made: a step count."""
    if math.prod(row.shape) != 1 or row.role != "state" or row.dtype not in FLOATING:
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
