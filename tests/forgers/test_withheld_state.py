"""A withheld state: the jump to the stolen weights lies across a checkpoint that is committed to and not shown.

The hidden state itself is honest, so the segment before it replays exactly. What convicts are the sizes that the forger
states: the two states that he does show are farther apart than both of them together.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.published_check import gap, tensors_of
from polchain.core.claim import Claim
from polchain.verifier.challenge import draw_steps
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import withheld_state
from tests.forgers.conftest import Verify
from tests.forgers.forge import Forgery
from tests.forgers.victims import LONG, forger

HIDDEN = 150


@pytest.fixture(scope="module")
def forgery(long_victim: Recorded) -> Forgery:
    return withheld_state.forge(forger(long_victim.claim, "withholder"), HIDDEN)


@pytest.fixture(scope="module")
def claim(forgery: Forgery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forgery.claim(tmp_path_factory.mktemp("withheld") / "claim")


@pytest.fixture(scope="module")
def intact(forgery: Forgery, claim: Path) -> IntactClaim:
    return check_integrity(Claim.read(claim), Policy(keys=frozenset({forgery.shop.key.public})))


def seed_that(intact: IntactClaim, *, hits: bool) -> bytes:
    """A challenge seed that draws the step after the hidden state, or one that does not."""
    seeds = (number.to_bytes(32, "big") for number in range(1000))
    draws = Policy().draws
    return next(s for s in seeds if (HIDDEN in draw_steps(s, intact.head.root, draws, intact.steps)) is hits)


def test_what_is_not_shown_where_it_was_drawn_is_refuted_too(
    forgery: Forgery, claim: Path, intact: IntactClaim, polchain_says: Verify
) -> None:
    assert forgery.arrived() < 0.1
    verdict = polchain_says(claim, forgery.shop.key.public, LONG, seed=seed_that(intact, hits=True))
    assert verdict.outcome is Ruled.REFUTED


def test_the_states_on_both_sides_contradict_the_stated_sizes(forgery: Forgery, intact: IntactClaim) -> None:
    # This is what a verifier could look at: two updates cannot lead farther than both of them together.
    before, after = forgery.states[HIDDEN - 1], forgery.states[HIDDEN + 1]
    stated = sum(intact.checkpoints[i].update.l2 for i in (HIDDEN, HIDDEN + 1))  # type: ignore[union-attr]
    assert gap(tensors_of(before), tensors_of(after)) > 100 * stated


def test_a_jump_across_a_state_that_is_not_shown_is_found_without_luck(
    forgery: Forgery, claim: Path, intact: IntactClaim, polchain_says: Verify
) -> None:
    verdict = polchain_says(claim, forgery.shop.key.public, LONG, seed=seed_that(intact, hits=False))
    assert verdict.outcome is Ruled.REFUTED
    assert "together since the last state that is shown" in verdict.reasons[0]
