"""The step bound and the swap bound: known values, the laws that such bounds obey, and escapes as they are measured."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.claim import Claim
from polchain.errors import PolicyError
from polchain.verifier.challenge import draw_challenge, draw_steps, draws_within
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.soundness import (
    Bound,
    Swap,
    cheapest_swap,
    check_drift,
    draws_needed,
    escape_probability,
    supported_fraction,
    swap_bound,
    swap_distance,
)

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


# Made by hand, from f = 1 - (1 - c)^(1/r).
@pytest.mark.parametrize(
    ("draws", "confidence", "fraction"),
    [
        (1, 0.5, 0.5),
        (2, 0.75, 0.5),
        (3, 0.875, 0.5),
        (1, 0.99, 0.99),
        (2, 0.99, 0.9),
        (4, 0.99, 0.683772),
        (44, 0.99, 0.099374),
        (90, 0.99, 0.049881),
        (459, 0.99, 0.009983),
        (59, 0.95, 0.049507),
        (1_000_000, 0.99, 4.60516e-06),
    ],
)
def test_known_shares_that_draws_support(draws: int, confidence: float, fraction: float) -> None:
    assert supported_fraction(draws, confidence) == pytest.approx(fraction, rel=1e-4)


@given(SHARES, SHARES)
def test_the_two_directions_agree(fraction: float, confidence: float) -> None:
    draws = draws_needed(fraction, confidence)
    assert supported_fraction(draws, confidence) <= fraction * (1 + 1e-9)
    assert draws == 1 or supported_fraction(draws - 1, confidence) > fraction * (1 - 1e-9)


def test_no_draws_support_no_share() -> None:
    assert supported_fraction(0, 0.99) == 1.0
    assert Bound(0, 0.05, 0.99, 1.0, 10, 2000).support == "no draw, so no share is supported"


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
    assert str(Bound(44, 0.05, 0.99, 0.1, 100, 2000)).endswith("; 44 draws support f = 0.0994 at confidence 99 %")
    assert Bound(5, 0.05, 0.99, 0.0, 2000, 2000).support == "every step was replayed"


def test_a_chance_that_is_left_is_never_rounded_away() -> None:
    text = str(Bound(600, 0.05, 0.99, escape_probability(0.05, 600), 900, 2000))
    assert "confidence over 99.99 %" in text
    # Nor is a share rounded to one that the draws do not support.
    for draws in range(1, 500):
        bound = Bound(draws, 0.05, 0.99, 0.5, 100, 2000)
        printed = float(bound.support.split("f = ")[1].split()[0])
        assert bound.supported <= printed <= bound.supported * 1.01


# The swap bound


@pytest.mark.parametrize(
    ("segments", "distance", "steps"),
    [
        ([(10, 1.0)] * 10, 2.0, 20),
        ([(10, 1.0)] * 10, 2.5, 25),  # three segments in truth: the relaxation takes half of one
        ([(10, 1.0)] * 10, 10.0, 100),
        ([(10, 1.0)] * 10, 10.1, math.inf),
        ([(100, 1.0), (1, 1.0)], 1.0, 1),
        ([(100, 50.0), (1, 1.0), (1, 0.1)], 2.0, 3),  # the first step of the first, then 2 of its 100
        ([(10, 0.0), (10, 2.0)], 2.0, 10),
        ([(10, 0.0)], 0.1, math.inf),
        ([], 1.0, math.inf),
    ],
)
def test_known_cheapest_swaps(segments: list[tuple[int, float]], distance: float, steps: float) -> None:
    assert cheapest_swap(segments, distance) == pytest.approx(steps, rel=1e-6)


SEGMENTS = st.lists(
    st.tuples(st.integers(1, 50), st.one_of(st.just(0.0), st.floats(1e-3, 1e3, allow_subnormal=False))), max_size=9
)


@given(SEGMENTS, st.floats(1e-3, 3e3))
def test_the_cheapest_swap_is_never_above_the_true_one(segments: list[tuple[int, float]], distance: float) -> None:
    sets = itertools.chain.from_iterable(itertools.combinations(segments, n) for n in range(1, len(segments) + 1))
    enough = [s for s in sets if sum(Fraction(size) for _, size in s) >= Fraction(distance)]
    true = min((sum(steps for steps, _ in s) for s in enough), default=math.inf)
    found = cheapest_swap(segments, distance)
    assert found <= true, "a bound above the truth promises a thief more trouble than he has"
    # And below it by no more than one segment, so that it says something.
    if true < math.inf:
        assert found > true - max(steps for steps, _ in segments) - 1e-6


def test_a_swap_escapes_as_its_share_of_the_steps_says() -> None:
    # 100 segments of 10 steps and length 1; D = 5 needs five of them.
    swap = swap_bound([(10, 1.0)] * 100, 1000, 5.0, 90)
    assert swap.share == pytest.approx(0.05, rel=1e-6)
    assert swap.escape == pytest.approx(escape_probability(0.05, 90), rel=1e-4)
    assert swap.within(0.01)
    assert not swap.within(0.001)
    assert swap.within(None)
    assert str(swap).startswith("weights 5 away take at least 5 % of the steps to swap in, and pass 90 draws with")
    assert "heuristic" in str(swap)


def test_segments_that_are_always_replayed_are_not_the_thiefs() -> None:
    free = [(10, 1.0)] * 99
    assert swap_bound([*free, (10, 50.0)], 1000, 5.0, 90).share < swap_bound(free, 1000, 5.0, 90).share


def test_where_no_swap_fits_it_does_not_escape_even_without_a_draw() -> None:
    swap = swap_bound([(10, 0.01)] * 3, 1000, 5.0, 0)
    assert (swap.share, swap.escape) == (1.0, 0.0)
    assert "no weights 5 away fit" in str(swap)
    assert swap_bound([], 60, 5.0, 0).escape == 0.0


@pytest.mark.parametrize("distance", [0.0, math.nan, math.inf])
def test_without_a_distance_there_is_no_swap_bound(distance: float) -> None:
    swap = swap_bound([(10, 1.0)] * 3, 30, distance, 90)
    assert not swap.checked
    assert swap.within(None)
    assert not swap.within(1.0), "a limit is not met by what was not checked"
    assert str(swap).startswith("not checked: ")
    assert swap.to_json()["escape"] == "nan"
    assert str(Swap.unchecked("why")) == "not checked: why"


def test_the_distance_is_half_the_smaller_one() -> None:
    assert swap_distance(8.0) == 4.0
    assert swap_distance(8.0, 6.0) == 3.0
    assert swap_distance(8.0, 60.0) == 4.0


@pytest.mark.parametrize(
    ("segments", "drift", "reference", "initial", "holds"),
    [
        (100, 0.001, 26.0, 10.0, True),  # 0.1 under a tenth of 16
        (100, 0.02, 26.0, 10.0, False),  # 2 over 1.6
        (100, 0.016, 26.0, 10.0, False),  # a tenth itself is not under it
        (1, 1e-9, 352.0, 356.0, False),  # two untrained networks lie further apart: d_ref measures nothing
        (0, 1.0, 26.0, 10.0, True),
        (10, math.nan, 26.0, 10.0, False),
    ],
)
def test_a_tolerance_that_adds_up_is_refused_with_the_figures(
    segments: int, drift: float, reference: float, initial: float, holds: bool
) -> None:
    if holds:
        check_drift(segments, drift, reference, initial)
        return
    with pytest.raises(PolicyError) as caught:
        check_drift(segments, drift, reference, initial)
    words = str(caught.value)
    assert all(f"{figure:.3g}" in words for figure in (segments, drift, segments * drift, reference, initial))


# Escapes as they are measured, over the segments of logs


FORGED = (0.02, 0.05, 0.15, 0.4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recorded", "uneven", "long"])
@pytest.mark.parametrize("how", ["scattered", "in one piece", "the longest", "the shortest"])
def test_measured_escapes_of_partial_forgeries_lie_within_the_bound(
    name: str, how: str, request: pytest.FixtureRequest
) -> None:
    intact: IntactClaim = request.getfixturevalue(name if name != "recorded" else "intact")
    segments, steps = intact.segments, intact.steps
    source = random.Random(f"{name} {how}")
    owner = [segment.index for segment in segments for _ in range(segment.steps)]
    fixed = {pick.segment.index for pick in draw_challenge(intact, bytes(32), 0).picks}
    trials = 800
    for fraction in FORGED:
        for draws in (5, 30, 90):
            escaped, share, careless = 0, 1.0, 0
            for trial in range(trials):
                if trial % 50 == 0:
                    forged = forge(segments, fraction * steps, how, source)
                    share = min(share, sum(s.steps for s in segments if s.index in forged) / steps)
                drawn = {owner[step] for step in draw_steps(source.randbytes(32), intact.head.root, draws, steps)}
                careless += not drawn & forged
                escaped += not (drawn | fixed) & forged
            bound = escape_probability(share, draws) if share < 1 else 0.0
            # Six standard deviations of so many trials: few escapes scatter to one side, and each run has a new key.
            room = 6 * math.sqrt(max(bound * (1 - bound), 1e-4) / trials)
            assert careless / trials <= bound + room, f"{how}, f = {share:.3f}, {draws} draws, without fixed picks"
            assert escaped <= careless, "what is always replayed can only catch more"


def forge(segments: tuple[object, ...], steps: float, how: str, source: random.Random) -> set[int]:
    """Segments that hold this many steps at least."""
    lengths = [segment.steps for segment in segments]  # type: ignore[attr-defined]
    order = list(range(len(lengths)))
    if how == "scattered":
        source.shuffle(order)
    elif how == "in one piece":
        at = source.randrange(len(order))
        order = order[at:] + order[:at]
    else:
        source.shuffle(order)
        order.sort(key=lambda index: lengths[index], reverse=how == "the longest")
    forged: set[int] = set()
    while sum(lengths[index] for index in forged) < steps:
        forged.add(order[len(forged)])
    return forged


@pytest.mark.parametrize("room", [29, 9])
def test_a_sample_that_stops_at_what_does_not_fit_would_not_be_honest_and_ours_is(room: int) -> None:
    # Every other segment holds ten steps, the others one. The forger takes the long ones.
    lengths = [10 if index % 2 else 1 for index in range(200)]
    owner = [index for index, length in enumerate(lengths) for _ in range(length)]
    share = 10 / 11
    source = random.Random(11)
    draws = draws_within(lengths, room, 90)
    assert draws == {29: 2, 9: 0}[room], "as many of the longest as fit"
    trials = 4000
    missed = escaped = promised = 0.0
    for _ in range(trials):
        stream = [source.choice(owner) for _ in range(40)]
        missed += all(lengths[index] == 1 for index in stream[:draws])
        taken: set[int] = set()
        count = 0
        while sum(lengths[index] for index in taken | {stream[count]}) <= room:
            taken.add(stream[count])
            count += 1
        escaped += all(lengths[index] == 1 for index in taken)
        promised += (1 - share) ** count
    assert missed / trials <= (1 - share) ** draws + 0.01
    if room == 9:
        assert escaped == trials, "a sample that leaves out what does not fit never sees what was forged"
        assert promised < 0.95 * trials, "and would still promise something for each short segment that it took"


@pytest.fixture(scope="module")
def long(long_claim: Path) -> IntactClaim:
    return check_integrity(Claim.read(long_claim), Policy())
