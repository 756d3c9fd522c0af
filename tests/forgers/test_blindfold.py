"""Blindfold: the largest updates of every epoch are honest; whatever lies between them need not be.

Whoever checks the largest never looks at the rest. A uniform draw over the steps does, as often as it must.
"""

from __future__ import annotations

import math
from pathlib import Path

from polchain.core.claim import Claim
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.survey import Survey, survey
from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.alone import errors_of
from tests.forgers.attacks import blindfold
from tests.forgers.conftest import Judged, Published, Verify
from tests.forgers.victims import LONG, forger

FORGED = tuple(range(20, 160, 20))
SEEDS = 400


def test_honest_large_steps_hide_a_forged_run_from_the_published_check_and_not_from_the_draw(
    long_victim: Recorded, published: Published, delta: float, judged: Judged
) -> None:
    forgery = blindfold.forge(forger(long_victim.claim, "blindfold"))
    check = published("sgd")
    looked_at = check.largest(forgery.states, forgery.batches)
    assert all(step < 16 or step % 16 < blindfold.HONEST for step in looked_at)
    assert check.accepts(forgery.states, forgery.batches, delta=delta)
    assert forgery.arrived() < 1e-6

    verdict = judged(forgery)
    assert verdict.outcome is Ruled.REFUTED


def caught(intact: IntactClaim, seen: Survey, draws: int, seed: int) -> bool:
    """Whether this challenge replays a step that was never computed."""
    challenge = draw_challenge(intact, seed.to_bytes(32, "big"), draws, updates=seen.updates, flagged=seen.flagged)
    return any(pick.segment.first in FORGED for pick in challenge.picks)


def test_a_few_forged_steps_are_caught_as_often_as_the_bound_says_and_by_the_largest_updates_never(
    long_victim: Recorded, polchain_says: Verify, tmp_path: Path
) -> None:
    forgery = blindfold.forge_a_few(forger(long_victim.claim, "a few"), FORGED)
    claim, key = forgery.claim(tmp_path / "claim"), forgery.shop.key.public
    errors, largest = errors_of(claim, "sgd")
    assert not set(largest) & set(FORGED)
    assert not any(errors[segment] for segment in largest), "what the published check looks at is exact, bit for bit"

    intact = check_integrity(Claim.read(claim), Policy(keys=frozenset({key})))
    seen = survey(intact)
    assert not seen.false
    f = len(FORGED) / 160
    for draws in (1, 14, 40):
        escape = (1 - f) ** draws
        escaped = sum(not caught(intact, seen, draws, seed) for seed in range(SEEDS))
        # Four standard deviations.
        assert abs(escaped / SEEDS - escape) < 4 * math.sqrt(escape * (1 - escape) / SEEDS), draws

    # And so is the verdict: with 14 draws, one seed that hits and one that misses. The second verdict says what it is.
    demands = {"fraction": 0.2, "confidence": 0.95}
    draws = Policy(**demands).draws
    assert draws == 14
    hit = next(seed for seed in range(SEEDS) if caught(intact, seen, draws, seed))
    miss = next(seed for seed in range(SEEDS) if not caught(intact, seen, draws, seed))
    verdict = polchain_says(claim, key, LONG, seed=hit.to_bytes(32, "big"), **demands)
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reproductions[-1].pick is not None
    assert verdict.reproductions[-1].pick.reasons == ("drawn",)
    verdict = polchain_says(claim, key, LONG, seed=miss.to_bytes(32, "big"), **demands)
    assert verdict.outcome is Ruled.VERIFIED
    assert "at least 80 % of the steps were computed" in verdict.reasons[0]
