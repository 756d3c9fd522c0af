"""Rank-matched initial weights: drawn right, permuted to lie near the stolen ones, and a straight line from there."""

from __future__ import annotations

import torch

from benchmarks.published_check import gap, tensors_of
from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import rank_matched_init
from tests.forgers.conftest import Judged, Published
from tests.forgers.victims import forger


def test_permuted_initial_weights_pass_every_test_of_their_distribution_and_are_not_what_the_seed_gives(
    sgd_victim: Recorded, published: Published, delta: float, judged: Judged
) -> None:
    forgery = rank_matched_init.forge(forger(sgd_victim.claim, "rank matcher"))
    drawn, start = tensors_of(forgery.shop.initial()), tensors_of(forgery.states[0])
    assert gap(start, forgery.shop.target()) < 0.8 * gap(drawn, forgery.shop.target())
    assert all(torch.equal(drawn[name].flatten().sort().values, start[name].flatten().sort().values) for name in drawn)

    check = published("sgd")
    assert check.starts_well(forgery.states[0])
    assert check.accepts(forgery.states, forgery.batches, delta=delta)
    assert forgery.arrived() < 1e-6

    verdict = judged(forgery)
    assert verdict.outcome is Ruled.REFUTED
    assert "initial state: the initial weights are not the ones that the seed gives" in verdict.reasons[0]
