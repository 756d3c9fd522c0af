"""The challenge: anyone can redraw it, nobody can foresee it, and what must always be replayed always is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.claim import Claim
from polchain.core.entries import encode_entry, leaf_data
from polchain.core.merkle import leaf_hash
from polchain.errors import UsageError
from polchain.verifier.challenge import Challenge, draw_challenge, draw_steps, public_seed
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy

FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS: list[dict[str, Any]] = json.loads((FOLDER / "challenge.json").read_text())
PUBLIC: list[dict[str, str]] = json.loads((FOLDER / "public_seed.json").read_text())
SEED = bytes(range(32))


@pytest.fixture(scope="module")
def long(long_claim: Path) -> IntactClaim:
    return check_integrity(Claim.read(long_claim), Policy())


def reasons_of(challenge: Challenge) -> dict[int, tuple[str, ...]]:
    return {pick.segment.index: pick.reasons for pick in challenge.picks}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_frozen_draws_come_out(vector: dict[str, Any]) -> None:
    # Written by another implementation: BLAKE3's own binding and the sentence in the module's docstring.
    seed, root = bytes.fromhex(vector["seed"]), bytes.fromhex(vector["root"])
    found = draw_steps(seed, root, vector["draws"], int(vector["steps"]))
    assert [str(step) for step in found] == vector["expect"]


def test_the_same_arguments_give_the_same_challenge_and_another_seed_another(long: IntactClaim) -> None:
    first = draw_challenge(long, SEED, 90)
    assert draw_challenge(long, SEED, 90) == first
    assert draw_challenge(long, bytes(32), 90).draws != first.draws


def test_fewer_draws_are_the_first_of_more() -> None:
    more = draw_steps(SEED, bytes(32), 500, 9970)
    assert draw_steps(SEED, bytes(32), 90, 9970) == more[:90]


@given(st.binary(min_size=32, max_size=32), st.integers(0, 200), st.integers(1, 2**40))
def test_every_draw_is_a_step(seed: bytes, draws: int, steps: int) -> None:
    found = draw_steps(seed, bytes(32), draws, steps)
    assert len(found) == draws
    assert all(0 <= step < steps for step in found)


@pytest.mark.parametrize("steps", [97, 1000])
def test_the_draw_is_uniform_over_the_steps(steps: int) -> None:
    count = 200 * steps
    cells = [0] * steps
    for step in draw_steps(SEED, b"\x07" * 32, count, steps):
        cells[step] += 1
    chi = sum((cell - 200) ** 2 / 200 for cell in cells)
    # Mean steps - 1, variance 2 (steps - 1): five standard deviations either way, for one fixed seed.
    assert abs(chi - (steps - 1)) < 5 * (2 * (steps - 1)) ** 0.5


def test_a_segment_is_drawn_as_often_as_it_has_steps(uneven: IntactClaim) -> None:
    drawn = draw_challenge(uneven, SEED, 20_000).draws
    giant = sum(2000 <= step < 2300 for step in drawn) / len(drawn)
    assert giant == pytest.approx(0.1, abs=0.01)


def test_the_first_the_last_and_the_largest_updates_are_always_replayed(long: IntactClaim) -> None:
    reasons = reasons_of(draw_challenge(long, SEED, 0, top_updates=2))
    assert "first" in reasons[0]
    assert "last" in reasons[len(long.segments) - 1]
    assert "largest updates" in reasons[49]  # closes at step 500
    assert "largest updates" in reasons[699]
    assert len(reasons) <= 4 + 2


def test_the_largest_updates_are_those_measured_in_size_and_relative_to_the_weights(long: IntactClaim) -> None:
    measured = [(1.0, 0.1)] * len(long.segments)
    measured[300] = (5.0, 0.1)
    measured[301] = (1.0, 0.9)
    reasons = reasons_of(draw_challenge(long, SEED, 0, updates=measured, top_updates=1))
    assert set(reasons) == {0, len(long.segments) - 1, 300, 301}
    # What the entries claim counts for nothing where states were measured.
    assert 49 not in reasons


def test_a_long_segment_is_always_replayed(uneven: IntactClaim) -> None:
    reasons = reasons_of(draw_challenge(uneven, SEED, 0, top_updates=0))
    assert {index for index, why in reasons.items() if "long" in why} == {200}
    assert uneven.segments[200].steps == 300


def test_a_run_of_few_segments_is_replayed_whole(intact: IntactClaim) -> None:
    challenge = draw_challenge(intact, SEED, 0)
    assert challenge.steps == intact.steps == 60


def test_full_replays_everything_once(long: IntactClaim) -> None:
    challenge = draw_challenge(long, SEED, 90, full=True)
    assert sorted(pick.segment.index for pick in challenge.picks) == list(range(len(long.segments)))
    assert challenge.steps == long.steps


def test_every_drawn_step_lies_in_a_picked_segment(uneven: IntactClaim) -> None:
    challenge = draw_challenge(uneven, SEED, 90)
    spans = [(pick.segment.first, pick.segment.last) for pick in challenge.picks]
    assert all(any(first <= step < last for first, last in spans) for step in challenge.draws)
    assert len(spans) == len(set(spans))


def test_the_two_segments_around_a_state_in_dispute_are_always_replayed(long: IntactClaim) -> None:
    reasons = reasons_of(draw_challenge(long, SEED, 0, top_updates=0, disputed=[500, 0]))
    assert {index for index, why in reasons.items() if "in dispute" in why} == {0, 49, 50}
    with pytest.raises(UsageError, match="no checkpoint of the claim is at step 505"):
        draw_challenge(long, SEED, 0, disputed=[505])


def test_what_a_screen_flagged_is_always_replayed_and_says_why(long: IntactClaim) -> None:
    flagged = {300: ["a", "b"], 301: ["a"]}
    challenge = draw_challenge(long, SEED, 90, top_updates=0, flagged=flagged)
    reasons = reasons_of(challenge)
    assert reasons[300][:2] == ("screen: a", "screen: b")
    assert reasons[301][0] == "screen: a"
    # It adds no confidence: the draws are the same.
    assert challenge.draws == draw_challenge(long, SEED, 90, top_updates=0).draws


def test_fixed_picks_are_those_that_no_draw_decides(long: IntactClaim) -> None:
    some, none = draw_challenge(long, SEED, 90), draw_challenge(long, SEED, 0)
    assert {pick.segment.index for pick in some.picks if pick.fixed} == {pick.segment.index for pick in none.picks}
    assert any(not pick.fixed for pick in some.picks)


@pytest.mark.parametrize("vector", PUBLIC, ids=lambda vector: vector["name"])
def test_the_frozen_public_seeds_come_out(vector: dict[str, str]) -> None:
    # Written with BLAKE3's own binding and the sentence in the docstring.
    block, leaf = bytes.fromhex(vector["block"]), bytes.fromhex(vector["genesis_leaf"])
    if vector["expect"] == "UsageError":
        with pytest.raises(UsageError):
            public_seed(block, leaf)
    else:
        assert public_seed(block, leaf).hex() == vector["expect"]


def test_anybody_makes_the_same_public_draw_and_no_other_run_has_it(intact: IntactClaim, long: IntactClaim) -> None:
    def drawn(claim: IntactClaim, block: bytes) -> tuple[int, ...]:
        seed = public_seed(block, leaf_hash(leaf_data(encode_entry(claim.genesis))))
        return draw_challenge(long, seed, 90).draws

    block = b"\x25" * 32
    assert drawn(long, block) == drawn(long, block)
    assert drawn(long, block) != drawn(long, b"\x26" * 32)
    assert drawn(long, block) != drawn(intact, block)
    # A block's hash taken for a challenge seed as it is would give another draw.
    assert drawn(long, block) != draw_challenge(long, block, 90).draws


def test_a_challenge_is_drawn_from_an_intact_claim_alone(intact: IntactClaim) -> None:
    arguments = {name: getattr(intact, name) for name in IntactClaim.__slots__ if name != "seal"}
    with pytest.raises(TypeError, match="comes from check_integrity alone"):
        IntactClaim(**arguments, seal=object())
