"""Relayed momentum: one forged step plants a momentum, and honest training carries the weights to the stolen ones.

The forged step is the smallest of lies: its weights are true. What it leads to are the largest updates of the run, and
every one of them replays exactly; so to replay the largest updates of the weights finds nothing. What else crosses
steps is ranked too: there the lie is the largest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from polchain.core.claim import Claim
from polchain.verifier.challenge import draw_challenge, draw_steps
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.survey import survey
from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.alone import errors_of
from tests.forgers.attacks import relayed_momentum
from tests.forgers.conftest import Verify
from tests.forgers.forge import Forgery
from tests.forgers.victims import LONG, forger

JOINT = 100


@pytest.fixture(scope="module")
def forgery(long_victim: Recorded) -> Forgery:
    return relayed_momentum.forge(forger(long_victim.claim, "relay"), JOINT)


@pytest.fixture(scope="module")
def claim(forgery: Forgery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forgery.claim(tmp_path_factory.mktemp("relay") / "claim")


@pytest.fixture(scope="module")
def intact(forgery: Forgery, claim: Path) -> IntactClaim:
    return check_integrity(Claim.read(claim), Policy(keys=frozenset({forgery.shop.key.public})))


def seed_that(intact: IntactClaim, *, hits: bool) -> bytes:
    """A challenge seed that draws the forged step, or one that does not."""
    seeds = (number.to_bytes(32, "big") for number in range(1000))
    draws = Policy().draws
    return next(s for s in seeds if (JOINT - 1 in draw_steps(s, intact.head.root, draws, intact.steps)) is hits)


def test_it_passes_a_bit_exact_check_of_every_segments_parameters(forgery: Forgery, claim: Path) -> None:
    assert forgery.arrived() < 0.2
    errors, _ = errors_of(claim, "sgd")
    assert len(errors) == 160
    assert not any(errors)


def test_the_forged_step_is_not_among_the_largest_updates(intact: IntactClaim) -> None:
    seen = survey(intact)
    assert not seen.false
    updates = seen.updates
    ranked = sorted(range(len(updates)), key=lambda i: -updates[i][0])
    assert ranked[0] >= JOINT, "the largest update is honest, and follows from the lie"
    assert JOINT - 1 not in ranked[: len(ranked) // 10]


def test_where_the_forged_step_is_drawn_it_is_refuted(
    forgery: Forgery, claim: Path, intact: IntactClaim, polchain_says: Verify
) -> None:
    verdict = polchain_says(claim, forgery.shop.key.public, LONG, seed=seed_that(intact, hits=True))
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reasons[0].startswith(f"steps {JOINT - 1} to {JOINT}: the claimed optimizer state is off by rho")


def test_where_the_forged_step_is_not_drawn_it_is_found_all_the_same(
    forgery: Forgery, claim: Path, intact: IntactClaim, polchain_says: Verify
) -> None:
    verdict = polchain_says(claim, forgery.shop.key.public, LONG, seed=seed_that(intact, hits=False))
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reasons[0].startswith(f"steps {JOINT - 1} to {JOINT}: the claimed optimizer state is off by rho")


def test_no_draw_is_needed_to_replay_what_the_momentum_moved(intact: IntactClaim) -> None:
    picks = draw_challenge(intact, bytes(32), 0, updates=survey(intact).updates).picks
    assert {JOINT - 1, JOINT} <= {pick.segment.index for pick in picks}
