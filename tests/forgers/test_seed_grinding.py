"""Seed grinding: a prover who draws his own seed may draw many. Nothing that he signs is false, so the verdict stands,
and says whose the seed is. A beacon leaves no choice: exactly one block will do (see `test_time.py`).
"""

from __future__ import annotations

import pytest

from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import seed_grinding
from tests.forgers.conftest import Judged, Published
from tests.forgers.forge import Workshop


def test_a_ground_seed_is_verified_and_the_verdict_says_that_it_was_the_provers_choice(
    sgd_victim: Recorded, published: Published, judged: Judged
) -> None:
    shop, losses = seed_grinding.grind(Workshop(sgd_victim.claim), published("sgd"), 12)
    assert min(losses) < sum(losses) / len(losses)
    verdict = judged(seed_grinding.forge(shop))
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert (
        "the seed is the prover's own choice, not a beacon's: it could have been picked among many" in verdict.remarks
    )


def test_the_luck_of_a_ground_seed_cannot_be_lent_to_another_genesis(
    sgd_victim: Recorded, published: Published
) -> None:
    shop, losses = seed_grinding.grind(Workshop(sgd_victim.claim), published("sgd"), 4)
    # The value was drawn for this run id: under another it gives another seed.
    other = Workshop(sgd_victim.claim, shop.key, bytes(16), shop.value)
    assert other.seed != shop.seed
    _, [again] = seed_grinding.measure([other], published("sgd"))
    assert again != pytest.approx(min(losses))
