"""Forgeries of a share of the steps, counted against the draw: as often as the bound says, and no more often."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks import escape
from benchmarks.chance import at_least, at_most, upper_bound
from benchmarks.detection_table import on_page
from polchain.core.claim import Claim
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.soundness import escape_probability
from polchain.verifier.survey import survey
from tests.claims import Recorded

TRIALS = 400


def test_the_page_says_what_was_measured() -> None:
    assert on_page(escape.MARKS) == escape.report(escape.read()), "make it again: python -m benchmarks.escape --table"


def test_what_was_measured_is_within_the_bound() -> None:
    found = escape.read()
    assert {item.run for item in found} == set(escape.SCHEDULES)
    assert all(escape.within(item) for item in found)
    assert any(item.how == escape.LONGEST for item in found)


def test_forgeries_of_recorded_runs_escape_no_more_often_than_the_bound(longer: Recorded) -> None:
    intact = check_integrity(Claim.read(longer.claim), Policy())
    found = escape.measure("longer", intact, survey(intact), TRIALS, random.Random(1))
    for item in found:
        assert escape.within(item), f"{item}: the bound is {item.bound:.3g}"
        assert item.picked <= item.drawn, "what is always replayed can only catch more"
    # They do escape, where the bound lets them: nothing here is caught for another reason.
    assert max(item.drawn for item in found) > TRIALS / 2


def test_a_giant_segment_is_no_shelter(uneven: IntactClaim) -> None:
    found = escape.measure("uneven", uneven, None, TRIALS, random.Random(2))
    assert all(escape.within(item) for item in found)
    [giant] = [item for item in found if item.how == escape.LONGEST and item.draws == 30]
    assert giant.share == 0.1
    assert giant.picked == 0, "it is always replayed"

    # Whoever draws segments instead of steps lets a tenth of the steps through, and these counts would say so.
    source, count = random.Random(3), len(uneven.segments)
    missed = sum(all(source.randrange(count) != 0 for _ in range(30)) for _ in range(TRIALS))
    assert not escape.within(replace(giant, drawn=missed))


# Exact values of the Clopper-Pearson bound: with no event, 1 - 0.05^(1/n); with one, from (1-p)^n + np(1-p)^(n-1).
@pytest.mark.parametrize(
    ("events", "n", "bound"),
    [(0, 1, 0.95), (0, 20, 0.139108), (0, 210, 0.014164), (1, 20, 0.216106), (20, 20, 1.0), (0, 0, 1.0)],
)
def test_known_upper_bounds(events: int, n: int, bound: float) -> None:
    assert upper_bound(events, n) == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("n", [5, 60, 20000])
def test_so_few_events_are_improbable_beyond_the_bound(n: int) -> None:
    assert escape_probability(upper_bound(0, n), n) == pytest.approx(0.05, rel=1e-6)
    assert upper_bound(0, n) < upper_bound(1, n) < upper_bound(n // 2, n)


@pytest.mark.parametrize(("k", "n", "p"), [(0, 10, 0.3), (3, 10, 0.3), (10, 10, 0.3), (900, 2000, 0.5), (7, 9, 1e-9)])
def test_as_many_or_more_and_fewer_are_everything(k: int, n: int, p: float) -> None:
    assert at_least(k, n, p) + at_most(k - 1, n, p) == pytest.approx(1.0)
    assert at_most(3, 10, 0.5) == pytest.approx(176 / 1024)
    assert at_least(9, 10, 0.5) == pytest.approx(11 / 1024)
