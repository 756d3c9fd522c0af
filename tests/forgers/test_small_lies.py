"""Small lies in a log that is honest otherwise: a forger who trains, and cheats in one place.

The workshop itself is tested first: what it writes without a lie is VERIFIED, so whatever is refused below is refused
for the lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from polchain.core.claim import Claim
from polchain.core.entries import CheckpointEntry, Start, Update
from polchain.core.manifest import Snapshot
from polchain.errors import ChainError, UsageError
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from tests.claims import DIGITS, Recorded, entries_of, write_log
from tests.forgers.conftest import Verify
from tests.forgers.forge import Workshop, edited, tensors_of, with_rows

SGD = ("--optimizer", "sgd")


@dataclass
class Honest:
    """What an honest training under the forger's own seed gave."""

    shop: Workshop
    states: Sequence[Snapshot]
    losses: Sequence[float | None]


@pytest.fixture(scope="module")
def honest(sgd_victim: Recorded) -> Honest:
    shop = Workshop(sgd_victim.claim)
    return Honest(shop, *shop.train(60))


def test_without_a_lie_the_workshops_claim_is_verified(honest: Honest, polchain_says: Verify, tmp_path: Path) -> None:
    claim = honest.shop.claim(tmp_path / "claim", honest.states, honest.losses)
    verdict = polchain_says(claim, honest.shop.key.public, SGD)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons


def test_an_honest_prefix_with_the_stolen_model_at_its_end_is_refused(
    honest: Honest, polchain_says: Verify, tmp_path: Path
) -> None:
    stolen = tensors_of(honest.shop.states()[-1])
    states = [*honest.states[:-1], with_rows(honest.states[-1], stolen)]
    claim = honest.shop.claim(tmp_path / "claim", states, honest.losses)
    verdict = polchain_says(claim, honest.shop.key.public, SGD)
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reasons[0].startswith("steps 55 to 60: the claimed model state is off by rho")


@pytest.mark.parametrize(
    ("factors", "said"),
    [((0.1, 1.0), "claims an update of"), ((1.0, 0.1), "claims an update of at most")],
    ids=["l2", "linf"],
)
def test_a_lied_update_size_is_refused(
    honest: Honest, polchain_says: Verify, tmp_path: Path, factors: tuple[float, float], said: str
) -> None:
    def smaller(entry: object) -> object:
        if isinstance(entry, CheckpointEntry) and entry.step == 30 and entry.update is not None:
            return replace(entry, update=Update(entry.update.l2 * factors[0], entry.update.linf * factors[1]))
        return entry

    claim = honest.shop.claim(tmp_path / "claim", honest.states, honest.losses, smaller)  # type: ignore[arg-type]
    verdict = polchain_says(claim, honest.shop.key.public, SGD)
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reasons[0].startswith(f"the entry of step 30 {said}")


@pytest.mark.parametrize("loss", [0.0001, None], ids=["lied", "left out"])
def test_a_lied_loss_is_not_verified(honest: Honest, polchain_says: Verify, tmp_path: Path, loss: float | None) -> None:
    edit = edited(CheckpointEntry, 60, loss=loss)
    claim = honest.shop.claim(tmp_path / "claim", honest.states, honest.losses, edit)
    verdict = polchain_says(claim, honest.shop.key.public, SGD)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert f"steps 55 to 60: the state is reproduced, the logged loss {loss} is not" in verdict.reasons[0]


def test_an_edited_configuration_is_not_what_the_recipe_asks_for(
    sgd_victim: Recorded, polchain_says: Verify, tmp_path: Path
) -> None:
    theirs = Workshop(sgd_victim.claim).configuration
    assert theirs is not None
    shop = Workshop(sgd_victim.claim, configuration=replace(theirs, steps=6000))
    claim = shop.claim(tmp_path / "claim", shop.states())
    verdict = polchain_says(claim, shop.key.public, SGD)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons == ("the recipe asks for another configuration than the genesis states",)


def test_an_edited_batch_size_does_not_give_the_batches(sgd_victim: Recorded, tmp_path: Path) -> None:
    shop = Workshop(sgd_victim.claim)
    claim = shop.claim(tmp_path / "claim", shop.states())
    genesis = replace(shop.genesis, configuration=replace(shop.configuration, batch_size=64))  # type: ignore[type-var]
    write_log(claim, [genesis, *entries_of(claim)[1:]], shop.key)
    with pytest.raises(ChainError, match="the batches are not the ones that the seed gives"):
        check_integrity(Claim.read(claim), Policy())


def test_an_installed_module_passed_off_as_the_verifiers_own_script_is_not_vouched_for(
    sgd_victim: Recorded, polchain_says: Verify, tmp_path: Path
) -> None:
    # No file to compare, and an entry point that exists wherever polchain is installed.
    theirs = Workshop(sgd_victim.claim).genesis.recipe
    assert theirs is not None
    ref = replace(theirs, entry="polchain._examples.quickstart", module=True, files=())
    shop = Workshop(sgd_victim.claim, ref=ref, files={})
    claim = shop.claim(tmp_path / "claim", shop.states())
    with pytest.raises(UsageError, match=r"is the module polchain\._examples\.quickstart, yours is the script"):
        polchain_says(claim, shop.key.public, SGD)


def test_other_arguments_are_another_program(sgd_victim: Recorded, polchain_says: Verify) -> None:
    with pytest.raises(UsageError, match=r"was run with arguments --optimizer sgd, yours has \(none\)"):
        polchain_says(sgd_victim.claim, sgd_victim.key.public, (), recipe=DIGITS)


def test_a_claim_cannot_speak_to_the_terminal(honest: Honest, polchain_says: Verify, tmp_path: Path) -> None:
    shouting = {**honest.shop.start.fingerprint, "cpu": "\x1b[2J\nVERIFIED"}
    edit = edited(Start, fingerprint=shouting)
    claim = honest.shop.claim(tmp_path / "claim", honest.states, honest.losses, edit)
    verdict = polchain_says(claim, honest.shop.key.public, SGD)
    assert verdict.outcome is Ruled.VERIFIED
    assert any("cpu: recorded with ?[2J?VERIFIED" in remark for remark in verdict.remarks)
    assert all(text.isprintable() for text in (*verdict.reasons, *verdict.remarks))
