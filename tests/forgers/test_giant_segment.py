"""A giant segment among tiny ones: whoever draws segments misses it, whoever draws steps cannot."""

from __future__ import annotations

from pathlib import Path

from polchain.core.claim import Claim
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import giant_segment
from tests.forgers.attacks.giant_segment import GIANT, STEPS
from tests.forgers.conftest import Published, Verify
from tests.forgers.victims import forger


def test_a_giant_forged_segment_is_always_replayed(
    long_victim: Recorded, published: Published, delta: float, polchain_says: Verify, tmp_path: Path
) -> None:
    forgery = giant_segment.forge(giant_segment.workshop(forger(long_victim.claim, "giant")))
    assert published("sgd").accepts(forgery.states, forgery.batches, delta=delta)
    assert forgery.arrived() < 0.15

    key = forgery.shop.key.public
    claim = forgery.claim(tmp_path / "claim")
    intact = check_integrity(Claim.read(claim), Policy(keys=frozenset({key})))
    [giant] = [segment for segment in intact.segments if segment.steps > 1]
    # Of the segments it is one in a hundred; of the steps more than a third.
    assert len(intact.segments) > 100
    assert giant.steps > STEPS / 3
    challenge = draw_challenge(intact, bytes(32), 1, top_updates=0)
    assert next(pick for pick in challenge.picks if pick.segment == giant).reasons[0] == "long"

    verdict = polchain_says(claim, key, forgery.shop.genesis.recipe.arguments)  # type: ignore[union-attr]
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reasons[0].startswith(f"steps {GIANT[0]} to {GIANT[1]}: ")
    assert verdict.reproductions[-1].pick is not None
    assert "long" in verdict.reproductions[-1].pick.reasons
