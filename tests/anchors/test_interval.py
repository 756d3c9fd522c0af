"""Intervals: what beacons and anchors say about each entry, and no more."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.anchors.base import Status, Timestamp
from polchain.anchors.interval import Beacon, Bound, Interval, Pending, Span, Stamped, Unknown, describe, intervals
from polchain.errors import AnchorError, UsageError

NOON = 1_795_348_800  # 2026-11-22 12:00:00 UTC


def at(
    time: int, margin: int = 0, status: Status = "final", weak: tuple[str, ...] = (), source: str = "x"
) -> Timestamp:
    return Timestamp(source, time, margin, status, weak)


def low(stamp: Timestamp) -> Bound:
    return Bound(stamp.time - stamp.margin, stamp)


def high(stamp: Timestamp) -> Bound:
    return Bound(stamp.time + stamp.margin, stamp)


def test_without_evidence_nothing_is_known() -> None:
    assert intervals(5, [], []) == (Span(0, 4, Interval(Unknown(), Unknown())),)
    assert intervals(0, [], []) == ()


def test_a_beacon_bounds_what_follows_it_and_a_head_what_it_covers() -> None:
    beacon, first, second = at(100, 5), at(200, 10), at(300)
    spans = intervals(8, [Beacon(1, beacon)], [Stamped(4, first), Stamped(6, second)])
    assert spans == (
        Span(0, 0, Interval(Unknown(), high(first))),
        Span(1, 3, Interval(low(beacon), high(first))),
        Span(4, 5, Interval(low(beacon), high(second))),
        Span(6, 7, Interval(low(beacon), Unknown())),
    )
    assert (spans[1].interval.not_before, spans[1].interval.not_after) == (Bound(95, beacon), Bound(210, first))


def test_the_newest_beacon_and_the_earliest_head_count() -> None:
    old, new, early, late = at(100), at(150), at(200), at(400)
    spans = intervals(3, [Beacon(0, old), Beacon(2, new)], [Stamped(3, late), Stamped(3, early)])
    assert spans == (
        Span(0, 1, Interval(low(old), high(early))),
        Span(2, 2, Interval(low(new), high(early))),
    )


def test_a_larger_head_that_was_anchored_earlier_bounds_the_small_ones_too() -> None:
    late, early = at(500), at(300)
    assert intervals(4, [], [Stamped(2, late), Stamped(4, early)]) == (Span(0, 3, Interval(Unknown(), high(early))),)


def test_pending_is_neither_unknown_nor_a_time() -> None:
    spans = intervals(4, [], [Stamped(2, at(100)), Stamped(3, None)])
    assert [span.interval.not_after for span in spans] == [high(at(100)), Pending(), Unknown()]


def test_better_evidence_is_the_bound_and_earlier_evidence_of_less_worth_stands_beside_it() -> None:
    strong, weak = at(400), at(300, weak=("testnet",))
    unchecked, useless = at(200, status="unchecked"), at(350, status="unchecked", weak=("testnet",))
    heads = [Stamped(1, stamp) for stamp in (useless, unchecked, weak, strong)]
    [span] = intervals(1, [], heads)
    assert span.interval == Interval(Unknown(), high(strong), (high(weak), high(unchecked)))
    [span] = intervals(1, [], heads[:2])
    assert span.interval == Interval(Unknown(), high(unchecked))
    [span] = intervals(1, [Beacon(0, at(10)), Beacon(0, at(90, status="unchecked"))], [])
    assert span.interval.not_before == low(at(10))


def test_times_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(AnchorError, match="entry 1 cannot be older than what it contains"):
        intervals(3, [Beacon(1, at(200))], [Stamped(2, at(100))])
    # Entry 0 is older than the beacon, and may be; margins may explain a little; and nobody vouched for this.
    intervals(3, [Beacon(1, at(200))], [Stamped(1, at(100))])
    intervals(3, [Beacon(1, at(200, 30))], [Stamped(2, at(180, 10))])
    intervals(3, [Beacon(1, at(200))], [Stamped(2, at(100, status="unchecked"))])
    intervals(3, [Beacon(1, at(200, status="unchecked"))], [Stamped(2, at(100))])


@pytest.mark.parametrize("index", [-1, 3])
def test_evidence_from_outside_the_log_is_a_mistake(index: int) -> None:
    with pytest.raises(UsageError):
        intervals(3, [Beacon(index, at(1))], [])
    with pytest.raises(UsageError):
        intervals(3, [], [Stamped(index + 1 if index > 0 else 0, at(1))])


stamps = st.builds(
    at,
    st.integers(0, 50),
    st.integers(0, 3),
    st.sampled_from(["final", "unchecked"]),
    st.sampled_from([(), ("testnet",)]),
)


@given(
    st.integers(1, 12).flatmap(
        lambda size: st.tuples(
            st.just(size),
            st.lists(st.builds(Beacon, st.integers(0, size - 1), stamps), max_size=4),
            st.lists(st.builds(Stamped, st.integers(1, size), stamps | st.none()), max_size=5),
        )
    )
)
def test_spans_leave_no_gap_and_each_bound_follows_from_the_evidence(
    case: tuple[int, list[Beacon], list[Stamped]],
) -> None:
    size, beacons, stamped = case
    try:
        spans = intervals(size, beacons, stamped)
    except AnchorError:
        return
    assert [i for span in spans for i in range(span.first, span.last + 1)] == list(range(size))
    assert all(one.interval != two.interval for one, two in itertools.pairwise(spans))
    for span in spans:
        for index in range(span.first, span.last + 1):
            before = [low(b.timestamp) for b in beacons if b.index <= index]
            after = [head.timestamp for head in stamped if head.size > index]
            known = [high(stamp) for stamp in after if stamp is not None]
            found = span.interval
            assert found.not_before in before if before else found.not_before == Unknown()
            if known:
                assert {found.not_after, *found.weaker} <= set(known)
                assert min(b.time for b in known) == min(b.time for b in (found.not_after, *found.weaker))  # type: ignore[union-attr]
                finals = [b for b in known if b.final and not b.timestamp.weak]
                if finals:
                    assert found.not_after.time == min(b.time for b in finals)  # type: ignore[union-attr]
            else:
                assert found.not_after == (Pending() if after else Unknown())


def test_bounds_are_written_no_more_precisely_than_they_are_known() -> None:
    block = at(NOON + 7_393, 12, "final", ("testnet",), "sepolia block 7412331")
    assert describe(high(block), up=True) == "sepolia block 7412331, 2026-11-22 14:04 UTC, final, weak: testnet"
    assert describe(low(block)) == "sepolia block 7412331, 2026-11-22 14:03 UTC, final, weak: testnet"
    assert describe(Unknown()) == "unknown"
    assert describe(Pending()) == "pending"
    assert describe(high(at(NOON + 1, weak=("testnet", "single RPC")))).endswith("weak: testnet, single RPC")


@pytest.mark.parametrize(
    ("margin", "down", "up"),
    [
        (0, "2026-11-22 12:00:01 UTC", "2026-11-22 12:00:01 UTC"),
        (1, "2026-11-22 12:00 UTC", "2026-11-22 12:01 UTC"),
        (60, "2026-11-22 12:00 UTC", "2026-11-22 12:01 UTC"),
        (61, "2026-11-22 12h UTC", "2026-11-22 13h UTC"),
        (3_601, "2026-11-22 UTC", "2026-11-23 UTC"),
    ],
)
def test_a_time_is_rounded_to_the_side_that_claims_less(margin: int, down: str, up: str) -> None:
    bound = Bound(NOON + 1, at(NOON + 1, margin))
    assert describe(bound) == f"x, {down}, final"
    assert describe(bound, up=True) == f"x, {up}, final"


def test_a_time_that_no_calendar_holds_is_written_as_a_number() -> None:
    for time in (2**63, -(2**63)):
        assert "s after 1970 UTC" in describe(Bound(time, at(time)))


def test_ten_thousand_anchors_take_no_time() -> None:
    many = range(1, 10_001)
    spans = intervals(10_000, [Beacon(i - 1, at(i)) for i in many], [Stamped(i, at(i + 5)) for i in many])
    assert len(spans) == 10_000
    assert spans[-1].interval == Interval(low(at(10_000)), high(at(10_005)))


def test_an_interval_reads_as_a_sentence() -> None:
    [span] = intervals(1, [Beacon(0, at(NOON, source="b"))], [Stamped(1, at(NOON + 9, source="a"))])
    assert str(span.interval) == (
        "not before b, 2026-11-22 12:00:00 UTC, final; not after a, 2026-11-22 12:00:09 UTC, final"
    )
