"""Chosen data: batches searched, samples optimised or left out. The training is real, so every replay on that data is
exact; but a run's seed gives its batches, and its genesis, which commits to the data, gives its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.published_check import PublishedCheck, gap, tensors_of
from polchain.core.claim import Claim
from polchain.core.entries import CheckpointEntry, Entry
from polchain.errors import ChainError, DatasetError
from polchain.training.dataset import Commitment
from polchain.training.randomness import batch_digest
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import DIGITS, Recorded
from tests.forgers.attacks import chosen_data
from tests.forgers.conftest import Judged, Published, Verify
from tests.forgers.forge import Forgery, Workshop
from tests.forgers.victims import forger, published_check


def searched(shop: Workshop, check: PublishedCheck) -> Forgery:
    return chosen_data.adversarial_batches(shop, check)


def subtracted(shop: Workshop, check: PublishedCheck) -> Forgery:
    return chosen_data.data_subtraction(shop)


@pytest.mark.parametrize("choose", [searched, subtracted])
def test_batches_that_were_picked_replay_exactly_for_who_believes_them_and_are_not_the_seeds(
    sgd_victim: Recorded,
    published: Published,
    judged: Judged,
    tmp_path: Path,
    choose: Callable[[Workshop, PublishedCheck], Forgery],
) -> None:
    check = published("sgd")
    forgery = choose(forger(sgd_victim.claim, choose.__name__), check)
    shop = forgery.shop
    assert check.exact_parameters(forgery.states, forgery.batches)
    if choose is searched:
        honest, target = tensors_of(shop.train(60)[0][-1]), shop.target()
        # Not by much: no choice of real batches leads far from where they all lead.
        assert gap(tensors_of(forgery.states[-1]), target) < gap(honest, target)

    # Said as they were, they are not the batches of the seed.
    digests = {
        stop: batch_digest(part) for (_, stop), part in zip(pairwise(shop.stops()), forgery.batches, strict=True)
    }

    def as_they_were(entry: Entry) -> Entry:
        if isinstance(entry, CheckpointEntry) and entry.step:
            return replace(entry, batches=digests[entry.step])
        return entry

    claim = replace(forgery, edit=as_they_were).claim(tmp_path / "said")
    with pytest.raises(ChainError, match="step 5: the batches are not the ones that the seed gives"):
        check_integrity(Claim.read(claim), Policy(keys=frozenset({shop.key.public})))

    # Denied, they are not what a replay finds.
    verdict = judged(forgery)
    assert verdict.outcome is Ruled.REFUTED
    assert "state is off by rho" in verdict.reasons[0]


@pytest.fixture(scope="module")
def forged(sgd_victim: Recorded) -> Forgery:
    shop = chosen_data.short(forger(sgd_victim.claim, "data forger"))
    return chosen_data.data_forging(shop, published_check("sgd"))


def test_samples_made_to_measure_lead_to_the_stolen_weights_and_pass_the_published_check(
    forged: Forgery, delta: float
) -> None:
    assert forged.samples is not None
    check = published_check("sgd", tuple(forged.samples))
    assert check.accepts(forged.states, forged.batches, delta=1e-3 * delta)
    assert forged.arrived() < 0.6


def test_samples_made_to_measure_are_not_the_committed_ones(forged: Forgery, judged: Judged) -> None:
    verdict = judged(forged)
    assert verdict.outcome is Ruled.REFUTED
    assert "state is off by rho" in verdict.reasons[0]


def test_to_commit_to_forged_samples_changes_the_order_that_they_were_made_for(
    forged: Forgery, polchain_says: Verify, tmp_path: Path
) -> None:
    assert forged.samples is not None
    old = forged.shop
    ref = Commitment.of(list(forged.samples)).ref()
    shop = Workshop(old.victim, old.key, old.run_id, old.value, old.genesis.recipe, None, old.configuration, ref)
    assert shop.batches() != old.batches(), "the data is in the genesis, and the genesis in the seed"
    claim = replace(forged, shop=shop).claim(tmp_path / "claim")
    key = shop.key.public
    arguments = old.genesis.recipe.arguments if old.genesis.recipe is not None else ()

    # Who has data of his own finds it at once,
    with pytest.raises(DatasetError, match="the data read here is not the data that the claim commits to"):
        polchain_says(claim, key, arguments)
    # and who takes the forger's replays another order, from other initial weights.
    chosen_data.write_samples(forged.samples, tmp_path)
    policy = Policy(keys=frozenset({key}))
    verdict = verify(claim, policy, data=tmp_path, recipe=DIGITS, recipe_arguments=arguments, timeout=120)
    assert verdict.outcome is Ruled.REFUTED
    assert "the initial weights are not the ones that the seed gives" in verdict.reasons[0]
