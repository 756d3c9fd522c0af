"""Screens: what every disclosed segment is looked at for, without replay. A screen never convicts.

    steps       Adam and AdamW: no weight moves further than the recursion allows, whatever the gradients were
    moments     no first moment is larger, and no second moment shrinks faster, than any gradients make it
    settings    betas, eps, momentum, decay do not change; the learning rate does not jump
    outliers    the size of the update, and the loss, are like those of the segments around

A flagged segment joins the challenge and is listed in the report. The thresholds are such that an honest run has few:
what every optimizer of that kind obeys, with room for rounding; and for outliers three, or one in five hundred.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import Scalar, ScalarRow, TensorRow
from polchain.training.moments import beyond_moments, beyond_steps, lost_moment, reach

__all__ = ["Flag", "SettingsScreen", "outliers", "screen_pair"]

SETTINGS: Final = "schedule/settings/"
_SETTING: Final = re.compile(r"(?:([^/]+)/)?([0-9]+)/(.+)")
ROOM: Final = 1.01  # over what exact arithmetic allows

# What some schedulers cycle, and say so by a setting of their own; then it is not constant, and bounds nothing.
CYCLED: Final = frozenset({"momentum", "betas/0"})
RATES: Final = frozenset({"lr"})
JUMP: Final = 2.0
# A setting that changes in more segments than this is a schedule: if it is a false one, the draws find it.
RARE_SHARE: Final = 0.05
RARE_COUNT: Final = 5

NEIGHBOURS: Final = 8  # on each side
LEAST_NEIGHBOURS: Final = 6
SPREADS: Final = 8.0  # of 1.4826 median absolute deviations, a standard deviation where the values are normal
UPDATE_FACTOR: Final = math.log(1.5)
LOSS_SHARE: Final = 0.5
# What is flagged is replayed: in a long run the outliers of honest training must not double what a draw costs.
OUTLIER_SHARE: Final = 0.002
OUTLIER_COUNT: Final = 3


@dataclass(frozen=True, slots=True)
class Flag:
    """A segment that a screen wants replayed, and why."""

    segment: int
    reason: str


def screen_pair(before: Snapshot, after: Snapshot, steps: int) -> list[str]:
    """What the states at both ends of a segment of so many steps show that no gradients can have done."""
    bounds = _Bounds(before.manifest, after.manifest)
    worst: dict[str, tuple[float, str]] = {}

    def note(says: str, row: str, ratio: float) -> None:
        if ratio > ROOM and ratio > worst.get(says, (0.0, ""))[0]:
            worst[says] = (ratio, row)

    for row in after.manifest.group("optimizer"):
        if not isinstance(row, TensorRow) or not row.name.endswith("/exp_avg_sq"):
            continue
        key, parameter = _owner(after.manifest, row.name, bounds.keys)
        bound = bounds.of(key)
        first = row.name.removesuffix("_sq")
        note("shrank further than it can", row.name, lost_moment(before, after, row.name, bound.keep, steps))
        note("is larger than gradients make it", first, beyond_moments(after, first, row.name, bound.reach))
        if parameter and bound.adam:
            far = beyond_steps(before, after, parameter, bound.rate * bound.reach, bound.decay, steps)
            note("moved further than Adam can", parameter, far)
    lost = [row.name for row in before.manifest.group("optimizer") if row.name not in after.manifest]
    return [
        *(f"{name} is gone" for name in lost[:1]),
        *(f"{row} {says}: {_times(ratio)}" for says, (ratio, row) in worst.items()),
    ]


@dataclass(frozen=True, slots=True)
class _Bound:
    """What one optimizer's settings allow, whichever group a weight is in: no row says which.

    Attributes:
        reach: R, the largest of any group.
        keep: b2, the least.
        rate, decay: the largest learning rate, and the largest share of a weight that a step takes off it.
        adam: whether a step is R times the rate at most; RAdam and NAdam make other steps of the same moments.
    """

    reach: float
    keep: float
    rate: float
    decay: float
    adam: bool


class _Bounds:
    """The bounds of each optimizer, from the settings at both ends of a segment."""

    def __init__(self, before: Manifest, after: Manifest) -> None:
        self.manifests = (before, after)
        self.ends = (_groups(before), _groups(after))
        self.keys = self.ends[1].keys()
        self._known: dict[str, _Bound] = {}

    def of(self, key: str) -> _Bound:
        """The bounds of an optimizer, by its name."""
        if key not in self._known:
            groups = [group for end in self.ends for group in end.get(key, {}).values()]
            rate = _rate(groups, self.manifests)
            self._known[key] = _Bound(
                reach=_reach(groups),
                keep=_least(groups, "betas/1"),
                rate=rate,
                decay=rate * _most(groups, "weight_decay"),
                adam=any("amsgrad" in group for group in groups),
            )
        return self._known[key]


class SettingsScreen:
    """Settings of the optimizers' groups along a run: constant, or a schedule."""

    def __init__(self) -> None:
        self._before: dict[str, ScalarRow] | None = None
        self._changes: dict[str, list[tuple[int, str]]] = {}

    def look(self, manifest: Manifest, segment: int) -> None:
        """The settings of the state that `segment` closes with; of the first state, segment -1."""
        now = {
            row.name.removeprefix(SETTINGS): row
            for row in manifest.group("schedule")
            if isinstance(row, ScalarRow) and row.name.startswith(SETTINGS)
        }
        before, self._before = self._before, now
        if before is None:
            return
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if not _same_setting(name, old, new, now):
                text = f"{name} changes from {_shown(old)} to {_shown(new)}"
                self._changes.setdefault(name, []).append((segment, text))

    def skip(self) -> None:
        """A state that is not disclosed: nothing is compared across it."""
        self._before = None

    def result(self, segments: int) -> tuple[list[Flag], list[str]]:
        """The flags, and remarks on settings that change too often to be flagged."""
        most = max(RARE_COUNT, RARE_SHARE * segments)
        rare: dict[int, list[str]] = {}
        often: list[str] = []
        remarks: list[str] = []
        for name, changes in self._changes.items():
            if len(changes) <= most:
                for segment, text in changes:
                    rare.setdefault(segment, []).append(text)
            else:
                often.append(name)
        flags = [Flag(i, texts[0] + (f", and {len(texts) - 1} more" if texts[1:] else "")) for i, texts in rare.items()]
        if often:
            remarks.append(f"the setting {often[0]} changes in too many segments to be screened, as a schedule does")
        return flags, remarks


def outliers(updates: Sequence[float | None], losses: Sequence[float | None], lengths: Sequence[int]) -> list[Flag]:
    """Segments whose update or loss is unlike that of the segments around which have as many steps.

    Args:
        updates: the size of each segment's update, as measured; None where it was not.
        losses: the mean loss that each entry states.
        lengths: steps of each segment.
    """
    logs = [None if size is None else math.log(max(size, 1e-300)) for size in updates]
    found: list[Flag] = []
    for values, floor, says in (
        (logs, lambda _: UPDATE_FACTOR, _update_reason),
        (losses, lambda middle: LOSS_SHARE * abs(middle), _loss_reason),
    ):
        scored: list[tuple[float, int, float, float]] = []
        for index, value in enumerate(values):
            around = _around(values, lengths, index)
            if value is None or not math.isfinite(value) or len(around) < LEAST_NEIGHBOURS:
                continue
            middle = median(around)
            gap = abs(value - middle)
            spread = 1.4826 * median(abs(other - middle) for other in around)
            if gap > floor(middle) and gap > SPREADS * spread:
                scored.append((gap / spread if spread > 0 else math.inf, index, value, middle))
        # The most glaring ones alone: honest losses have heavy tails.
        most = max(OUTLIER_COUNT, int(OUTLIER_SHARE * len(values)))
        scored.sort(key=lambda item: (-item[0], item[1]))
        found += [Flag(index, says(value, middle)) for _, index, value, middle in scored[:most]]
    return found


def _update_reason(value: float, middle: float) -> str:
    return f"the update is {math.exp(min(700.0, value - middle)):.2g} times those around"


def _loss_reason(value: float, middle: float) -> str:
    return f"the loss is {value:.3g}, around it {middle:.3g}"


def _around(values: Sequence[float | None], lengths: Sequence[int], index: int) -> list[float]:
    near = range(max(0, index - NEIGHBOURS), min(len(values), index + NEIGHBOURS + 1))
    return [
        value
        for i in near
        if i != index and lengths[i] == lengths[index] and (value := values[i]) is not None and math.isfinite(value)
    ]


def _groups(manifest: Manifest) -> dict[str, dict[str, dict[str, Scalar]]]:
    """Settings by optimizer ("" for an only one), then by group."""
    found: dict[str, dict[str, dict[str, Scalar]]] = {}
    for row in manifest.group("schedule"):
        match = _SETTING.fullmatch(row.name.removeprefix(SETTINGS)) if row.name.startswith(SETTINGS) else None
        if match is not None and isinstance(row, ScalarRow):
            found.setdefault(match[1] or "", {}).setdefault(match[2], {})[match[3]] = row.value
    return found


def _owner(manifest: Manifest, moment: str, keys: Collection[str]) -> tuple[str, str]:
    """The optimizer that a moment's row belongs to, and the row of the weight; empty where it is no model's."""
    stem = moment.removeprefix("optimizer/").rpartition("/")[0]
    key, _, rest = stem.partition("/")
    if key in keys and rest:
        return key, f"model/{rest}" if f"model/{rest}" in manifest else ""
    return "", f"model/{stem}" if f"model/{stem}" in manifest else ""


def _numbers(groups: Sequence[Mapping[str, Scalar]], setting: str) -> list[float]:
    values = [group.get(setting) for group in groups]
    return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _least(groups: Sequence[Mapping[str, Scalar]], setting: str) -> float:
    """The least value in any group; 0, which claims nothing, where there is none."""
    return max(0.0, min(_numbers(groups, setting), default=0.0))


def _most(groups: Sequence[Mapping[str, Scalar]], setting: str) -> float:
    return max((abs(value) for value in _numbers(groups, setting)), default=0.0)


def _reach(groups: Sequence[Mapping[str, Scalar]]) -> float:
    """The largest R of any group; which group a weight is in, no row says. Infinite where betas are cycled."""
    if not groups or any("max_momentum" in group for group in groups):
        return math.inf
    pairs = [(_numbers([group], "betas/0"), _numbers([group], "betas/1")) for group in groups]
    return max(reach(a[0], b[0]) if a and b else math.inf for a, b in pairs)


def _rate(groups: Sequence[Mapping[str, Scalar]], manifests: Sequence[Manifest]) -> float:
    """The largest learning rate that the rows at both ends name.

    The schedule between them is unknown. What it starts from and goes up to, a scheduler writes into the settings
    (`initial_lr`, `max_lr`) or keeps (`base_lrs`, `max_lrs`); most schedules never go above that.
    """
    named = [_most(groups, setting) for setting in ("lr", "initial_lr", "max_lr")]
    for manifest in manifests:
        for row in manifest.group("schedule"):
            parts = row.name.split("/")
            if isinstance(row, ScalarRow) and parts[1] == "scheduler" and parts[-2] in ("base_lrs", "max_lrs"):
                value = row.value
                named.append(abs(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0)
    return max(named)


def _same_setting(name: str, old: ScalarRow | None, new: ScalarRow | None, now: Mapping[str, ScalarRow]) -> bool:
    if old is None or new is None:
        return old is new
    if (old.type, old.text) == (new.type, new.text):
        return True
    match = _SETTING.fullmatch(name)
    setting = match[3] if match is not None else name
    if setting in CYCLED and f"{name.removesuffix(setting)}max_momentum" in now:
        return True
    a, b = old.value, new.value
    if setting in RATES and isinstance(a, int | float) and isinstance(b, int | float) and a * b > 0:
        return max(a / b, b / a) <= JUMP
    return False


def _shown(row: ScalarRow | None) -> str:
    if row is None:
        return "nothing"
    return f"{row.value:.6g}" if isinstance(row.value, float) else repr(row.value)[:40]


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times that" if math.isfinite(ratio) else "beyond all measure"
