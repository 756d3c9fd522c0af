"""Advice: from a calibration to the checkpoints under which a claim would be CONSISTENT on the other machine.

Segments are to be so short that five times the largest error measured stays under the cap: honest errors have long
tails, and few were measured. Early ones shorter than late ones; where the late phase begins is chosen so
that the fewest checkpoints are needed. And what is tolerated must not add up (`tau`): the drift condition is tried with
the updates that were measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polchain.errors import PolicyError
from polchain.training.rho import PARTS
from polchain.verifier.calibration import Calibration, Point
from polchain.verifier.soundness import check_drift
from polchain.verifier.tau import CAPS, ROOM, Tolerance

__all__ = ["Advice", "advise", "choose_late", "segments_of"]


@dataclass(frozen=True, slots=True)
class Advice:
    """What serves between the reference and one other machine.

    Attributes:
        schedule: pairs (from step, k), as `record(every=)` takes them; empty where only exact replay can serve.
        checkpoints: how many that makes.
        drift: how far a claim could be led astray within the tolerance, as a distance.
        reason: why nothing serves; empty where something does.
    """

    schedule: tuple[tuple[int, int], ...]
    checkpoints: int
    drift: float
    reason: str = ""

    @property
    def every(self) -> str:
        """The schedule as text: `0:1,40:10`."""
        return ",".join(f"{start}:{k}" for start, k in self.schedule)


def choose_late(points: Sequence[Point], steps: int) -> int:
    """Where the late phase begins: at the measured step with which, all pairs together, the fewest checkpoints do."""
    pairs = sorted({point.pair for point in points})
    starts = sorted({0, *(point.first for point in points)})

    def cost(late: int) -> tuple[int, int]:
        total = 0
        for pair in pairs:
            mine = [point for point in points if point.pair == pair]
            found = _longest(mine, late, steps)
            # What does not serve counts as a checkpoint at every step, twice: the others decide.
            total += 2 * steps if found is None else _count(found, late, steps)
        return total, late

    return min(starts, key=cost)


def advise(calibration: Calibration, pair: tuple[int, int]) -> Advice:
    """The sparsest schedule under which a claim would be CONSISTENT between two machines."""
    points = tuple(point for point in calibration.points if point.pair == pair)
    steps, late = calibration.steps, calibration.late
    early = sorted(_serving(point for point in points if point.first < late), reverse=True)
    after = sorted(_serving(point for point in points if point.first >= late), reverse=True)
    if late == 0:
        early = after
    if not early or not after:
        phase = "early" if not early else "late"
        shortest = min(point.steps for point in points)
        mine = [p for p in points if p.steps == shortest and (p.first < late) == (phase == "early")]
        errors = max(mine, key=_worst).errors
        part = max(PARTS, key=lambda each: errors.of(each) / CAPS[each])
        return Advice(
            (), 0, 0.0,
            f"{phase} segments of {shortest} step{'s' if shortest > 1 else ''} differ by rho {errors.of(part):.2g} of "
            f"the {part} already; {CAPS[part] / ROOM:g} would do",
        )  # fmt: skip
    tolerance = Tolerance(calibration, points, 0.0)
    refusal = ""
    for short, long in sorted(((a, b) for a in early for b in after), key=lambda ks: _count(ks, late, steps)):
        schedule = ((0, long),) if late == 0 or short == long else ((0, short), (late, long))
        segments = segments_of(schedule, steps)
        sized = [(first, length, _update(points, first, length)) for first, length in segments]
        drift = tolerance.drift(sized)
        try:
            check_drift(len(sized), drift / len(sized), calibration.trained, calibration.initial)
        except PolicyError as error:
            refusal = refusal or str(error)
            continue
        return Advice(schedule, len(segments), drift)
    return Advice((), 0, 0.0, refusal)


def segments_of(schedule: Sequence[tuple[int, int]], steps: int) -> list[tuple[int, int]]:
    """(first step, length) of each segment under an interval schedule."""
    found = []
    at = 0
    while at < steps:
        index = max(i for i, (start, _) in enumerate(schedule) if start <= at)
        start, k = schedule[index]
        end = min(start + ((at - start) // k + 1) * k, steps)
        if index + 1 < len(schedule):
            end = min(end, schedule[index + 1][0])
        found.append((at, end - at))
        at = end
    return found


def _longest(points: Sequence[Point], late: int, steps: int) -> tuple[int, int] | None:
    after = _serving(point for point in points if point.first >= late)
    early = _serving(point for point in points if point.first < late) if late > 0 else after
    return (max(early), max(after)) if early and after else None


def _serving(points: Iterable[Point]) -> set[int]:
    """The lengths at which every point of these leaves room under the caps; none longer than one that does not."""
    measured = list(points)
    worst: dict[int, float] = {}
    for point in measured:
        worst[point.steps] = max(worst.get(point.steps, 0.0), _worst(point))
    # A long segment that was measured only further on says nothing about the beginning of a phase.
    start = min((point.first for point in measured), default=0)
    found = set()
    for length in sorted(worst):
        if not worst[length] <= 1.0:
            break
        if any(point.steps == length and point.first <= start + length for point in measured):
            found.add(length)
    return found


def _worst(point: Point) -> float:
    """The largest of its errors, as a share of what the cap leaves room for."""
    return max(ROOM * point.errors.of(part) / CAPS[part] for part in PARTS)


def _count(lengths: tuple[int, int], late: int, steps: int) -> int:
    early, after = lengths
    return -(-late // early) + -(-(steps - late) // after)


def _update(points: Sequence[Point], first: int, length: int) -> float:
    """How far such a segment moves the parameters: as the nearest one did that was measured and is no shorter."""
    fitting = [point for point in points if point.steps >= length] or list(points)
    return min(fitting, key=lambda point: (point.steps, abs(point.first - first))).update
