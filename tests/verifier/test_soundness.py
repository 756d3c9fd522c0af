"""The step bound: known values, and the laws that any such bound obeys."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.errors import PolicyError
from polchain.verifier.soundness import Bound, draws_needed, escape_probability, supported_fraction

SHARES = st.floats(min_value=1e-3, max_value=0.999)


@pytest.mark.parametrize(
    ("fraction", "confidence", "draws"),
    [
        (0.05, 0.99, 90),
        (0.01, 0.99, 459),
        (0.05, 0.95, 59),
        (0.01, 0.95, 299),
        (0.001, 0.99, 4603),
        (0.1, 0.9, 22),
        (0.5, 0.5, 1),
        (0.5, 0.75, 2),
        (0.75, 0.9375, 2),
        (0.99, 0.5, 1),
    ],
)
def test_known_numbers_of_draws(fraction: float, confidence: float, draws: int) -> None:
    assert draws_needed(fraction, confidence) == draws


@given(SHARES, SHARES)
def test_the_number_of_draws_is_enough_and_one_less_is_not(fraction: float, confidence: float) -> None:
    draws = draws_needed(fraction, confidence)
    assert escape_probability(fraction, draws) <= 1 - confidence
    assert draws == 1 or escape_probability(fraction, draws - 1) > 1 - confidence


@given(SHARES, SHARES, SHARES)
def test_more_confidence_or_a_smaller_share_never_needs_fewer_draws(a: float, b: float, c: float) -> None:
    low, high = sorted((a, b))
    assert draws_needed(c, low) <= draws_needed(c, high)
    assert draws_needed(low, c) >= draws_needed(high, c)


@given(SHARES, st.integers(0, 5000))
def test_each_draw_lowers_the_chance_to_escape(fraction: float, draws: int) -> None:
    now, after = escape_probability(fraction, draws), escape_probability(fraction, draws + 1)
    assert 0.0 <= after <= now <= 1.0
    assert escape_probability(fraction, 0) == 1.0


@given(st.integers(1, 5000), SHARES)
def test_the_supported_share_is_the_one_that_these_draws_catch(draws: int, confidence: float) -> None:
    share = supported_fraction(draws, confidence)
    assert 0.0 < share < 1.0
    assert escape_probability(share, draws) == pytest.approx(1 - confidence, rel=1e-6)
    assert supported_fraction(draws + 1, confidence) < share


def test_no_draws_support_no_share() -> None:
    assert supported_fraction(0, 0.99) == 1.0


def test_measured_escapes_stay_within_the_bound() -> None:
    # 40 of 1,000 steps are forged, in one piece; 60 draws, 4,000 times.
    source = random.Random(7)
    missed = sum(all(source.randrange(1000) >= 40 for _ in range(60)) for _ in range(4000)) / 4000
    assert missed == pytest.approx(escape_probability(0.04, 60), abs=0.015)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.1, math.nan, math.inf, -math.inf])
def test_what_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(PolicyError, match="is not between 0 and 1"):
        draws_needed(value, 0.99)
    with pytest.raises(PolicyError):
        draws_needed(0.05, value)
    with pytest.raises(PolicyError):
        escape_probability(value, 3)


@pytest.mark.parametrize("fraction", [5e-324, 1e-300, 1e-17, 1e-9])
def test_a_share_that_nobody_could_draw_for_is_refused_at_once(fraction: float) -> None:
    with pytest.raises(PolicyError, match="needs over 1,000,000 draws"):
        draws_needed(fraction, 0.99)


def test_a_bound_is_met_by_enough_draws_or_by_replaying_everything() -> None:
    assert Bound(90, 0.05, 0.99, escape_probability(0.05, 90), 500, 2000).met
    assert not Bound(89, 0.05, 0.99, escape_probability(0.05, 89), 500, 2000).met
    assert Bound(0, 0.05, 0.99, 0.0, 2000, 2000).met
    assert not Bound(0, 0.05, 0.99, 1.0, 0, 0).met


def test_a_bound_says_what_it_means() -> None:
    text = str(Bound(90, 0.05, 0.99, escape_probability(0.05, 90), 500, 2000))
    assert text.startswith("at least 95 % of the steps were computed, confidence 99")
    assert str(Bound(5, 0.05, 0.99, 0.0, 2000, 2000)) == "all 2000 steps were replayed"
    assert str(Bound(0, 0.05, 0.99, 1.0, 0, 0)) == "the log has no steps"
    assert str(Bound(10, 0.05, 0.99, 0.6, 100, 2000)).startswith("not met: 10 draws")
