"""When an entry was made: not before one time, not after another, and who says so.

    entry       0   1   2   3   4   5   6   7
    beacon          |                            made after that value was known: entries 1 to 7
    head of 4   ------------|                    existed by then: entries 0 to 3
    head of 6   --------------------|            existed by then: entries 0 to 5

Each entry commits to all before it, so an entry is no older than the newest beacon at or before it, and no younger
than the earliest head that covers it. A bound is one of three things, each a type of its own:

    Bound       a checked time, already moved by the source's margin to the side that claims less
    Pending     published, but its source does not call it final yet: no time follows
    Unknown     no evidence

A bound may be `unchecked` (the evidence fits together, but nobody vouched for it) or weak. What is final goes before
what is not, and what is strong before what is weak, even if it is later: the better evidence is the entry's bound, and
an earlier one of less worth stands beside it.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from polchain.anchors.base import Timestamp
from polchain.errors import AnchorError, UsageError

__all__ = [
    "Beacon",
    "Bound",
    "Evidence",
    "Interval",
    "Pending",
    "Span",
    "Stamped",
    "Unknown",
    "clock",
    "describe",
    "intervals",
]

_MINUTE: Final = 60
_HOUR: Final = 3_600
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Beacon:
    """A checked beacon value inside entry `index`; its `timestamp` is when the value became known."""

    index: int
    timestamp: Timestamp


@dataclass(frozen=True, slots=True)
class Stamped:
    """A head of `size` entries, and what its receipt was found to prove; None while it is pending."""

    size: int
    timestamp: Timestamp | None


@dataclass(frozen=True, slots=True)
class Bound:
    """A time in seconds since 1970, UTC: its source's, moved by the source's margin."""

    time: int
    timestamp: Timestamp

    @property
    def final(self) -> bool:
        return self.timestamp.status == "final"

    @property
    def worth(self) -> tuple[bool, bool]:
        """Less is better: final before unchecked, then strong before weak."""
        return not self.final, bool(self.timestamp.weak)


@dataclass(frozen=True, slots=True)
class Pending:
    """Something was published, and is not final yet."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is no evidence."""


Evidence: TypeAlias = Bound | Pending | Unknown


@dataclass(frozen=True, slots=True)
class Interval:
    """When an entry was made.

    Attributes:
        not_before: the newest beacon at or before the entry.
        not_after: the best evidence that it existed; among equally good, the earliest.
        weaker: bounds of less worth than `not_after` that are earlier than it, the best first.
    """

    not_before: Bound | Unknown
    not_after: Evidence
    weaker: tuple[Bound, ...] = ()

    def __str__(self) -> str:
        return f"not before {describe(self.not_before)}; not after {describe(self.not_after, up=True)}"


@dataclass(frozen=True, slots=True)
class Span:
    """Entries `first` to `last`, both included, that have the same interval."""

    first: int
    last: int
    interval: Interval


def intervals(size: int, beacons: Sequence[Beacon], stamped: Sequence[Stamped]) -> tuple[Span, ...]:
    """The interval of every entry of a log of `size`, in spans without a gap.

    Raises:
        UsageError: a beacon or a head outside the log.
        AnchorError: two checked times contradict each other: an entry existed before its beacon was known.
    """
    if any(not 0 <= beacon.index < size for beacon in beacons):
        raise UsageError(f"a beacon outside the log of {size} entries")
    if any(not 1 <= head.size <= size for head in stamped):
        raise UsageError(f"a head that the log of {size} entries does not contain")
    starts = sorted({0, *(beacon.index for beacon in beacons), *(head.size for head in stamped)} - {size})
    # A beacon reaches up from its entry, a head down from its last; counted from above, both reach up.
    pending = max((head.size for head in stamped if head.timestamp is None), default=0)
    lower = _gather(starts, [(b.index, Bound(b.timestamp.time - b.timestamp.margin, b.timestamp)) for b in beacons], -1)
    known = [(head.size, head.timestamp) for head in stamped if head.timestamp is not None]
    heads = [(1 - count, Bound(stamp.time + stamp.margin, stamp)) for count, stamp in known]
    upper = _gather([-start for start in reversed(starts)], heads, 1)[::-1]
    spans: list[Span] = []
    for first, end, low, high in zip(starts, [*starts[1:], size], lower, upper, strict=False):
        interval = _interval(first, low, high, first < pending)
        if spans and spans[-1].interval == interval:
            spans[-1] = Span(spans[-1].first, end - 1, interval)
        else:
            spans.append(Span(first, end - 1, interval))
    return tuple(spans)


def describe(evidence: Evidence, *, up: bool = False) -> str:
    """A bound in words: "sepolia block 7412331, 2026-11-22 14:03 UTC, final, weak: testnet".

    The time is written no more precisely than the source knows it, rounded down, or `up`: what is written is true.
    """
    if isinstance(evidence, Unknown):
        return "unknown"
    if isinstance(evidence, Pending):
        return "pending"
    stamp = evidence.timestamp
    parts = [stamp.source, clock(evidence.time, stamp.margin, up), stamp.status]
    if stamp.weak:
        parts.append(f"weak: {', '.join(stamp.weak)}")
    return ", ".join(parts)


def _interval(index: int, lower: Sequence[Bound], upper: Sequence[Bound], pending: bool) -> Interval:
    """From the tightest bounds of each worth, the best worth first."""
    # Evidence that nobody vouched for convicts nobody.
    low = max((bound for bound in lower if bound.final), key=lambda bound: bound.time, default=None)
    high = min((bound for bound in upper if bound.final), key=lambda bound: bound.time, default=None)
    if low and high and low.time > high.time:
        raise AnchorError(
            f"entry {index} cannot be older than what it contains: {describe(low)}; {describe(high, up=True)}"
        )
    not_before = lower[0] if lower else Unknown()
    if not upper:
        return Interval(not_before, Pending() if pending else Unknown())
    best, *others = upper
    weaker: list[Bound] = []
    for bound in others:
        if bound.time < min(better.time for better in (best, *weaker)):
            weaker.append(bound)
    return Interval(not_before, best, tuple(weaker))


def _gather(points: Sequence[int], bounds: Sequence[tuple[int, Bound]], sign: int) -> list[tuple[Bound, ...]]:
    """For each of the ascending points: of the bounds that begin there or before, the tightest of each worth."""
    found: list[tuple[Bound, ...]] = []
    best: dict[tuple[bool, bool], Bound] = {}
    waiting = sorted(bounds, key=lambda item: item[0], reverse=True)
    for point in points:
        while waiting and waiting[-1][0] <= point:
            _, bound = waiting.pop()
            best[bound.worth] = min(
                best.get(bound.worth, bound), bound, key=lambda one: (sign * one.time, one.timestamp.source)
            )
        found.append(tuple(best[worth] for worth in sorted(best)))
    return found


def clock(time: int, margin: int, up: bool) -> str:
    """A time in seconds since 1970, no more precise than its margin, rounded down, or `up`."""
    steps = ((0, 1, " %H:%M:%S"), (_MINUTE, _MINUTE, " %H:%M"), (_HOUR, _HOUR, " %Hh"))
    unit, form = next(((unit, form) for most, unit, form in steps if margin <= most), (_DAY, ""))
    rounded = -(-time // unit) * unit if up else time // unit * unit
    try:
        moment = datetime.datetime.fromtimestamp(rounded, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{rounded} s after 1970 UTC"
    return moment.strftime(f"%Y-%m-%d{form} UTC")
