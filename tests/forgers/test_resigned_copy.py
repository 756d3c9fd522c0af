"""The re-signed copy: the victim's whole run under another key.

The seed is bound to the genesis, which holds the key and the run id. So under another key the batches do not follow
from the seed; and where the thief computes the batches anew, the initial weights do not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from polchain.core.claim import Claim
from polchain.core.digest import Digest
from polchain.core.entries import BeaconRef, CheckpointEntry, Entry, Start
from polchain.core.keys import PrivateKey
from polchain.errors import AnchorError, ChainError, KeyMismatchError
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from tests.claims import DIGITS, Recorded, entries_of
from tests.forgers.attacks import resigned_copy
from tests.forgers.conftest import Verify
from tests.forgers.forge import Workshop, edited

SGD = ("--optimizer", "sgd")


def thief(victim: Recorded, *, same_run_id: bool) -> Workshop:
    """Somebody with the victim's claim and a key of his own; the same start value as the victim's."""
    theirs = check_integrity(Claim.read(victim.claim), Policy())
    assert theirs.start is not None
    value = theirs.start.value
    key = PrivateKey.generate()
    if same_run_id:
        return Workshop(victim.claim, key, run_id=theirs.genesis.run_id, value=value)
    return Workshop(victim.claim, key, value=value)


@pytest.mark.parametrize("same_run_id", [True, False], ids=["same run id", "fresh run id"])
def test_the_batches_of_a_resigned_copy_do_not_follow_from_its_seed(
    sgd_victim: Recorded, tmp_path: Path, same_run_id: bool
) -> None:
    shop = thief(sgd_victim, same_run_id=same_run_id)
    batches = {e.step: e.batches for e in entries_of(sgd_victim.claim) if isinstance(e, CheckpointEntry)}

    def as_the_victim(entry: Entry) -> Entry:
        if isinstance(entry, CheckpointEntry):
            return replace(entry, batches=batches[entry.step])
        return entry

    claim = replace(resigned_copy.forge(shop), edit=as_the_victim).claim(tmp_path / "claim")
    with pytest.raises(ChainError, match="step 5: the batches are not the ones that the seed gives"):
        check_integrity(Claim.read(claim), Policy(keys=frozenset({shop.key.public})))


def test_with_its_batches_computed_anew_the_initial_weights_of_a_copy_are_another_seeds(
    sgd_victim: Recorded, polchain_says: Verify, tmp_path: Path
) -> None:
    shop = thief(sgd_victim, same_run_id=True)
    claim = resigned_copy.forge(shop).claim(tmp_path / "claim")
    verdict = polchain_says(claim, shop.key.public, SGD)
    assert verdict.outcome is Ruled.REFUTED
    assert "the initial weights are not the ones that the seed gives: model/0.bias differs" in verdict.reasons[0]


def test_under_the_victims_pinned_key_a_copy_is_somebody_elses(sgd_victim: Recorded, tmp_path: Path) -> None:
    shop = thief(sgd_victim, same_run_id=True)
    claim = resigned_copy.forge(shop).claim(tmp_path / "claim")
    with pytest.raises(KeyMismatchError, match="which is not the pinned key"):
        check_integrity(Claim.read(claim), Policy(keys=frozenset({sgd_victim.key.public})))


def test_a_copy_that_calls_the_victims_seed_its_tasks_replays_exactly_and_is_not_verified(
    sgd_victim: Recorded, polchain_says: Verify, tmp_path: Path
) -> None:
    # The seed of a task is used as it is, so a thief may hand in the victim's: everything reproduces.
    seed = check_integrity(Claim.read(sgd_victim.claim), Policy()).seed
    assert seed is not None
    shop = Workshop(sgd_victim.claim, value=seed, source="task", task=Digest("sha256", bytes(32)))
    claim = resigned_copy.forge(shop).claim(tmp_path / "task")
    verdict = polchain_says(claim, shop.key.public, SGD)
    assert all(item.outcome.name == "EXACT" for item in verdict.reproductions)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons == ("the seed is said to be a task's, which cannot be checked yet",)

    nameless = Workshop(sgd_victim.claim, value=seed, source="task")
    claim = resigned_copy.forge(nameless).claim(tmp_path / "nameless")
    with pytest.raises(ChainError, match="the seed is a task's, but the genesis names no task"):
        check_integrity(Claim.read(claim), Policy())


def test_a_seed_that_is_only_said_to_be_a_beacons_is_refused(
    sgd_victim: Recorded, polchain_says: Verify, tmp_path: Path
) -> None:
    shop = Workshop(sgd_victim.claim, source="beacon")
    states, losses = shop.train(60)
    named = edited(Start, beacon=BeaconRef(1, "mainnet", 20_000_000))
    claim = shop.claim(tmp_path / "claim", states, losses, named)
    assert any(isinstance(entry, Start) and entry.source == "beacon" for entry in entries_of(claim))
    with pytest.raises(AnchorError, match="the genesis names no beacon"):
        polchain_says(claim, shop.key.public, SGD, recipe=DIGITS)
