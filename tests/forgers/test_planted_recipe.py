"""Planted recipes: the program itself holds the stolen weights. It runs honestly, so every replay is exact.

Replay cannot tell it from learning; only whoever reads the program can. So it is COMPUTED at most, and VERIFIED for
nobody who did not vouch for exactly this text. And unless a verifier says otherwise, it is run in the sandbox or not
at all.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.published_check import gap, tensors_of
from polchain.core.claim import Claim
from polchain.errors import UsageError
from polchain.storage.checkpoints import CheckpointStore
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded, checkpoints_of, record_once
from tests.forgers.attacks import planted_recipe
from tests.forgers.conftest import Verify

MARK = """
import contextlib
import pathlib

with contextlib.suppress(OSError):
    pathlib.Path({marker!r}).touch()
"""


def stolen_from(victim: Recorded) -> dict[str, torch.Tensor]:
    return tensors_of(CheckpointStore(victim.claim).get(checkpoints_of(victim.claim)[-1].state))


def plant(factory: pytest.TempPathFactory, kind: str, victim: Recorded) -> tuple[Recorded, Path]:
    """Record a planted recipe honestly. Returns it, and a file that the recipe writes whenever it is run."""
    name = f"planted-{kind}"
    marker = Path(factory.mktemp(name)) / "it-ran"
    text = planted_recipe.text(kind, stolen_from(victim), MARK.format(marker=str(marker)))
    assert len(text) < 256 * 1024
    found = record_once(factory, name, text, beside=(DIGITS,))
    # Another test worker may have recorded it, with a marker of its own: the recipe's text says which.
    line = next(line for line in found.script.read_text().splitlines() if "pathlib.Path(" in line)
    return found, Path(line.split("'")[1])


@pytest.fixture(params=list(planted_recipe.KINDS))
def planted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sgd_victim: Recorded
) -> tuple[Recorded, Path]:
    return plant(tmp_path_factory, request.param, sgd_victim)


def test_a_planted_recipe_ends_at_the_stolen_weights_and_is_computed_at_most(
    planted: tuple[Recorded, Path],
    sgd_victim: Recorded,
    polchain_says: Verify,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, marker = planted
    stolen = stolen_from(sgd_victim)
    nothing = {name: torch.zeros_like(value) for name, value in stolen.items()}
    assert gap(stolen_from(found), stolen) < 0.01 * gap(nothing, stolen)

    # Nobody vouched, and there is no sandbox: nothing is run.
    marker.unlink(missing_ok=True)
    with monkeypatch.context() as here:
        here.setenv("PATH", str(tmp_path))
        verdict = polchain_says(found.claim, found.key.public, (), recipe=None)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert "without a sandbox a stranger's program is not run" in verdict.reasons[0]
    assert "install bubblewrap" in verdict.reasons[0]
    assert not verdict.reproductions
    assert not marker.exists()

    # The honest recipe is not this one, and it is not run either.
    with pytest.raises(UsageError, match=r"is the script planted-\w+\.py, yours is the script digits\.py"):
        polchain_says(found.claim, found.key.public, ())
    assert not marker.exists()

    # Run all the same, everything is as claimed; and still it is not VERIFIED.
    verdict = polchain_says(found.claim, found.key.public, (), recipe=None, unsafe_no_sandbox=True)
    assert verdict.outcome is Ruled.COMPUTED
    assert "nobody vouched for the recipe" in verdict.reasons[0]
    assert marker.exists()


def test_in_the_sandbox_a_planted_recipe_is_computed_at_most_and_leaves_no_mark(
    planted: tuple[Recorded, Path], polchain_says: Verify, require_sandbox: None
) -> None:
    found, marker = planted
    marker.unlink(missing_ok=True)
    verdict = polchain_says(found.claim, found.key.public, (), recipe=None)
    assert verdict.outcome is Ruled.COMPUTED
    assert "nobody vouched for the recipe" in verdict.reasons[0]
    assert verdict.sandbox.startswith("bubblewrap")
    assert not marker.exists()


def test_vouching_for_another_program_is_no_vouching(
    tmp_path_factory: pytest.TempPathFactory, sgd_victim: Recorded
) -> None:
    found, marker = plant(tmp_path_factory, "loss", sgd_victim)
    honest = check_integrity(Claim.read(sgd_victim.claim), Policy()).genesis.recipe
    assert honest is not None
    marker.unlink(missing_ok=True)
    policy = Policy(keys=frozenset({found.key.public}), recipes=frozenset({honest.program()}))
    verdict = verify(found.claim, policy, data=DATA)
    assert not verdict.vouched
    assert verdict.outcome in (Ruled.INCONCLUSIVE, Ruled.COMPUTED)
    assert not marker.exists()
