"""Cheap training: half of the steps at twice the learning rate, or half of the bits; signed as the honest recipe's.

The weights are as good as honest ones. That is not what is claimed.
"""

from __future__ import annotations

from polchain.verifier.replay import Outcome
from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import cheap_training
from tests.forgers.conftest import Judged, Published
from tests.forgers.victims import forger


def test_a_lazy_trainer_passes_the_published_check_and_is_far_off_in_rho(
    sgd_victim: Recorded, published: Published, delta: float, judged: Judged
) -> None:
    forgery = cheap_training.lazy(forger(sgd_victim.claim, "lazy"))
    check = published("sgd")
    assert check.starts_well(forgery.states[0])
    assert check.accepts(forgery.states, forgery.batches, delta=delta)

    verdict = judged(forgery)
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reasons[0].startswith("steps 0 to 5: the claimed ")


def test_training_in_fewer_bits_than_the_recipe_asks_for_passes_the_published_check_and_is_not_verified(
    sgd_victim: Recorded, published: Published, delta: float, judged: Judged
) -> None:
    forgery = cheap_training.imprecise(forger(sgd_victim.claim, "imprecise"))
    assert published("sgd").accepts(forgery.states, forgery.batches, delta=0.1 * delta)

    verdict = judged(forgery)
    # It may be too close to convict; equal it is not, in any segment.
    assert verdict.outcome in (Ruled.INCONCLUSIVE, Ruled.REFUTED)
    replays = [item for item in verdict.reproductions if item.pick is not None]
    assert replays
    assert all(item.outcome is not Outcome.EXACT for item in replays)
