"""Priority: the table of docs/disputes.md, row by row, over plain values; and the law that A, B and B, A mirror."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.verifier.priority import Basis, Between, Decision, Moment, Outcome, Side, Sides, decide

EARLY, LATER, LATEST = Moment(100, 110), Moment(200, 210), Moment(300, 310)
NOTHING = Side()
COPY = Side(covers=True, evidence=LATER)
WORKER = Side(covers=True, worked=True, exact=True, evidence=LATER)
REGISTERED = replace(WORKER, evidence=LATEST, start=EARLY, beacon=Moment(90, 95))

moments = st.none() | st.builds(lambda low, margin: Moment(low, low + margin), st.integers(0, 20), st.integers(0, 5))
sides = st.builds(
    Side,
    covers=st.booleans(),
    worked=st.booleans(),
    exact=st.booleans(),
    evidence=moments,
    not_before=st.none() | st.integers(0, 25),
    start=moments,
    beacon=moments,
)
betweens = st.builds(Between, *[st.booleans()] * 5, st.sampled_from([False, False, False, True]))


@given(sides, sides, betweens)
def test_a_b_and_b_a_mirror_each_other(left: Side, right: Side, between: Between) -> None:
    assert decide(right, left, between.mirrored) == decide(left, right, between).mirrored


@given(sides, sides, betweens)
def test_nobody_is_named_who_did_not_work_but_for_declared_descent(left: Side, right: Side, between: Between) -> None:
    found = decide(left, right, between)
    named = {Sides.LEFT: [left], Sides.RIGHT: [right], Sides.BOTH: [left, right]}.get(found.named, [])
    assert all(side.worked for side in named) or found.outcome is Outcome.CONTINUES
    assert any(side.worked for side in named) or not named


@given(sides, sides, betweens)
def test_a_claim_that_fails_integrity_is_never_named(left: Side, right: Side, between: Between) -> None:
    found = decide(left, NOTHING, replace(between, left_descends=False, right_descends=False, same_rows=False))
    assert found.named in (Sides.NONE, Sides.LEFT)


@pytest.mark.parametrize(
    ("left", "right", "between", "expected"),
    [
        pytest.param(NOTHING, NOTHING, Between(), (Outcome.NOT_COVERED, Sides.NONE), id="neither covers"),
        pytest.param(WORKER, NOTHING, Between(), (Outcome.PROVEN, Sides.LEFT), id="one covers and worked"),
        pytest.param(COPY, NOTHING, Between(), (Outcome.NOT_PROVEN, Sides.NONE), id="one covers and did not work"),
        pytest.param(COPY, COPY, Between(), (Outcome.NOT_PROVEN, Sides.NONE), id="neither worked"),
        pytest.param(
            replace(WORKER, evidence=LATEST), COPY, Between(right_descends=True), (Outcome.DESCENDS, Sides.LEFT),
            id="made of what the other worked for, whatever the evidence says",
        ),
        pytest.param(
            replace(NOTHING, worked=True), COPY, Between(right_descends=True), (Outcome.DESCENDS, Sides.LEFT),
            id="whoever covers",
        ),
        pytest.param(
            COPY, replace(COPY, evidence=LATEST), Between(right_descends=True), (Outcome.NOT_PROVEN, Sides.NONE),
            id="made of what nobody worked for",
        ),
        pytest.param(
            WORKER, COPY, Between(right_descends=True, right_declared=True), (Outcome.CONTINUES, Sides.BOTH),
            id="declared",
        ),
        pytest.param(
            WORKER, REGISTERED, Between(right_descends=True), (Outcome.EARLIER, Sides.LEFT),
            id="what a beacon's seed gave descends from nobody",
        ),
        pytest.param(REGISTERED, COPY, Between(), (Outcome.PROVEN, Sides.LEFT), id="(b) the seed was published first"),
        pytest.param(
            REGISTERED, replace(COPY, evidence=Moment(50, 60)), Between(same_rows=True),
            (Outcome.NOT_PROVEN, Sides.NONE), id="(a) before (d): who worked for what was there before his seed copied",
        ),
        pytest.param(
            WORKER, replace(COPY, evidence=LATEST, beacon=Moment(250, 260)), Between(same_rows=True),
            (Outcome.PROVEN, Sides.LEFT), id="(a) there before the other's seed was known",
        ),
        pytest.param(
            WORKER, replace(WORKER, evidence=LATEST), Between(), (Outcome.EARLIER, Sides.LEFT), id="(c) both worked"
        ),
        pytest.param(
            WORKER, replace(WORKER, evidence=Moment(205, 215)), Between(), (Outcome.UNDECIDED, Sides.NONE),
            id="(c) within the sources' error",
        ),
        pytest.param(WORKER, replace(COPY, evidence=LATEST), Between(), (Outcome.PROVEN, Sides.LEFT), id="(d) earlier"),
        pytest.param(WORKER, replace(COPY, evidence=EARLY), Between(), (Outcome.CONTESTED, Sides.NONE), id="(d) later"),
        pytest.param(WORKER, COPY, Between(), (Outcome.UNDECIDED, Sides.NONE), id="(d) one block"),
        pytest.param(
            replace(WORKER, evidence=None), replace(COPY, evidence=None), Between(), (Outcome.UNDECIDED, Sides.NONE),
            id="no evidence at all",
        ),
        pytest.param(
            WORKER, WORKER, Between(equivocation=True), (Outcome.EQUIVOCATION, Sides.NONE), id="one log, two histories"
        ),
    ],
)  # fmt: skip
def test_each_row_of_the_table(left: Side, right: Side, between: Between, expected: tuple[Outcome, Sides]) -> None:
    found = decide(left, right, between)
    assert (found.outcome, found.named) == expected


def test_first_is_said_only_if_the_evidence_ends_before_the_other_can_have_existed() -> None:
    later = replace(WORKER, evidence=LATEST, not_before=220)
    assert decide(WORKER, later, Between()) == Decision(Outcome.EARLIER, Sides.LEFT, Basis.BOTH_WORKED, first=True)
    earlier_start = replace(later, not_before=205)
    assert not decide(WORKER, earlier_start, Between()).first


def test_what_was_there_before_a_seed_was_known_does_not_descend_from_it() -> None:
    there_before = replace(COPY, evidence=Moment(50, 60))
    found = decide(replace(REGISTERED, covers=False), there_before, Between(right_descends=True))
    assert (found.outcome, found.basis) == (Outcome.NOT_PROVEN, Basis.ALONE)
