"""The survey: every disclosed state read once, in the order of the steps, before anything is drawn.

    sizes       of each segment's update, recomputed; the draw ranks them, and a false one in an entry convicts
    screens     what looks wrong without replay (`screens`)
    distance    from the initial to the final weights, for the swap bound

Two states are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from polchain.core.entries import CheckpointEntry, Update
from polchain.core.manifest import Snapshot
from polchain.core.rows import TensorRow
from polchain.training.distance import FLOATING, distance, is_parameter, norm, update_size
from polchain.verifier.bench import state_of
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.screens import Flag, SettingsScreen, outliers, screen_pair
from polchain.verifier.soundness import Swap, swap_bound, swap_distance

__all__ = ["Survey", "false_sizes", "survey", "swap_of"]

UPDATE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Survey:
    """What the disclosed states say by themselves.

    Attributes:
        updates: for each segment the size of its update, that size relative to the weights, and how much what is no
            parameter (moments, buffers, `extra`) changed, relative to itself: a planted momentum moves no weight in
            the segment that plants it. Where a state is not disclosed the entry's own figure stands in, and 0.
        false: a sentence for each entry that claims another size than its states have.
        unmeasured: segments of which a state is not disclosed.
        moved: the parameters whose rows changed at all, for only they have a gradient.
        travelled: the distance from the initial to the final weights; NaN where one of them is not disclosed.
        flags: segments that a screen wants replayed, and why.
        remarks: what was not screened.
    """

    updates: tuple[tuple[float, float, float], ...]
    false: tuple[str, ...]
    unmeasured: tuple[int, ...]
    moved: frozenset[str]
    travelled: float
    flags: tuple[Flag, ...]
    remarks: tuple[str, ...]

    @property
    def flagged(self) -> dict[int, list[str]]:
        """The reasons, by segment."""
        found: dict[int, list[str]] = {}
        for flag in self.flags:
            found.setdefault(flag.segment, []).append(flag.reason)
        return found


def survey(intact: IntactClaim) -> Survey:
    """Measure and screen every segment whose states are disclosed."""
    segments = intact.segments
    updates: list[tuple[float, float, float]] = []
    hidden = Hidden()
    false: list[str] = []
    unmeasured: list[int] = []
    flags: list[Flag] = []
    moved: set[str] = set()
    settings = SettingsScreen()
    initial: Snapshot | None = None
    before: Snapshot | None = None
    for number, entry in enumerate(intact.checkpoints):
        after = state_of(intact, entry)
        hidden.look(entry, after, false)
        # Settings are rows: to look at them takes no tensors.
        rows = after.manifest if after is not None else intact.claim.manifest(entry.state)
        if rows is not None:
            settings.look(rows, number - 1)
        else:
            settings.skip()
        if number == 0:
            initial = after  # mapped, not read: its pages can go
        elif before is not None and after is not None:
            segment = segments[number - 1]
            updates.append(_measure(entry, before, after, false))
            moved |= _changed(before, after)
            flags += [Flag(segment.index, reason) for reason in screen_pair(before, after, segment.steps)]
        else:
            unmeasured.append(number - 1)
            updates.append((entry.update.l2 if entry.update is not None else 0.0, 0.0, 0.0))
        before = after
    missing = set(unmeasured)
    measured = [None if i in missing else size for i, (size, *_) in enumerate(updates)]
    losses = [segment.closing.loss for segment in segments]
    changed, remarks = settings.result(len(segments))
    flags += [*changed, *outliers(measured, losses, [segment.steps for segment in segments])]
    if unmeasured:
        remarks.append(
            f"screens and largest updates: where states are not disclosed, the log is taken at its word: "
            f"{len(unmeasured)} of {len(segments)} updates"
        )
    travelled = math.nan if initial is None or before is None else distance(initial, before).l2
    return Survey(
        updates=tuple(updates),
        false=tuple(false),
        unmeasured=tuple(unmeasured),
        moved=frozenset(moved),
        travelled=travelled,
        flags=tuple(sorted(flags, key=lambda flag: flag.segment)),
        remarks=tuple(remarks),
    )


def swap_of(
    intact: IntactClaim,
    seen: Survey | None,
    always: Collection[int],
    draws: int,
    reference: float | None = None,
    drift: float = 0.0,
) -> Swap:
    """The swap bound of a verification.

    Args:
        intact: the claim.
        seen: what the survey found; None where there was none.
        always: segments that were reproduced and would have been replayed whatever was drawn.
        draws: r, the draws that were answered.
        reference: d_ref, where a calibration measured it.
        drift: how far the weights may go astray within what is tolerated, which nobody has to swap in.
    """
    if seen is None:
        return Swap.unchecked("the updates were not measured")
    if seen.unmeasured:
        count = len(seen.unmeasured)
        return Swap.unchecked(f"{count} of {len(seen.updates)} updates could not be measured from disclosed states")
    sizes = [size for size, *_ in seen.updates]
    if not all(math.isfinite(size) for size in sizes):
        return Swap.unchecked("an update is not finite")
    free = [(s.steps, sizes[s.index]) for s in intact.segments if s.index not in always]
    needed = swap_distance(seen.travelled, reference)
    if 0.0 < needed <= drift:
        return Swap.unchecked(f"what is tolerated could carry weights {drift:.3g}, which is as far as a swap has to")
    return swap_bound(free, intact.steps, needed - drift, draws)


class Hidden:
    """What lies between two disclosed states cannot be farther apart than the updates stated between them."""

    def __init__(self) -> None:
        self._shown: Snapshot | None = None
        self._l2 = self._linf = 0.0
        self._skipped = False

    def look(self, entry: CheckpointEntry, state: Snapshot | None, false: list[str]) -> None:
        """Take the next entry and its state, if it is disclosed; adds a sentence to `false` where it is too far."""
        stated = entry.update or Update(0.0, 0.0)
        self._l2, self._linf = self._l2 + stated.l2, self._linf + stated.linf
        if state is None:
            self._skipped = True
            return
        if self._skipped and self._shown is not None:
            size = update_size(self._shown, state)
            for name, ours, theirs in (("", size.l2, self._l2), (" at most", size.linf, self._linf)):
                if math.isfinite(ours) and ours > theirs * (1 + UPDATE_TOLERANCE):
                    false.append(
                        f"the entries up to step {entry.step} claim updates of{name} {theirs:.6g} together since the "
                        f"last state that is shown, which is{name} {ours:.6g} away"
                    )
        self._shown, self._l2, self._linf, self._skipped = state, 0.0, 0.0, False


def _changed(before: Snapshot, after: Snapshot) -> set[str]:
    old = {row.name: row.digest for row in before.manifest.tensors() if is_parameter(row)}
    return {row.name for row in after.manifest.tensors() if is_parameter(row) and old.get(row.name) != row.digest}


def _measure(entry: CheckpointEntry, before: Snapshot, after: Snapshot, false: list[str]) -> tuple[float, float, float]:
    """The three measures of an update; adds a sentence to `false` where the entry's is another."""
    size = update_size(before, after)
    weights = norm(before)
    false += false_sizes(entry, size)
    relative = size.l2 / weights if weights > 0 and math.isfinite(size.l2) and math.isfinite(weights) else math.inf
    return size.l2, relative, _carried(before, after)


def false_sizes(entry: CheckpointEntry, size: Update) -> list[str]:
    """A sentence for each size of its update that an entry states otherwise than its states have it."""
    found = []
    stated = entry.update or Update(0.0, 0.0)
    for name, ours, theirs in (("", size.l2, stated.l2), (" at most", size.linf, stated.linf)):
        # Non-finite weights have no size to compare.
        if math.isfinite(ours) and not math.isclose(ours, theirs, rel_tol=UPDATE_TOLERANCE, abs_tol=1e-30):
            found.append(
                f"the entry of step {entry.step} claims an update of{name} {theirs:.6g}, "
                f"its states are{name} {ours:.6g} apart"
            )
    return found


def _carried(before: Snapshot, after: Snapshot) -> float:
    """How much the floating rows that are no parameters changed, relative to themselves; infinite where rows differ."""

    def carried(row: TensorRow) -> bool:
        return row.dtype in FLOATING and not is_parameter(row)

    moved = distance(before, after, carried).l2
    length = norm(before, carried)
    if not math.isfinite(moved) or not math.isfinite(length):
        return math.inf
    return moved / length if length > 0 else (0.0 if moved == 0.0 else math.inf)
