"""Planted recipes: the program itself holds the stolen weights. It runs honestly, so every replay is exact.

Replay cannot tell it from learning; only whoever reads the program can. So it is COMPUTED at most, and VERIFIED for
nobody who did not vouch for exactly this text. And unless a verifier says otherwise, it is run in the sandbox or not
at all.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import torch

from benchmarks.published_check import gap, tensors_of
from polchain.core.claim import Claim
from polchain.errors import UsageError
from polchain.storage.checkpoints import CheckpointStore
from polchain.training.state import tensor_bytes
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded, checkpoints_of, record_once
from tests.forgers.conftest import Verify

COMMON = """
import base64
import contextlib
import pathlib

import torch
from torch import nn
from torch.nn import functional as F

import polchain
from digits import network, read

with contextlib.suppress(OSError):
    pathlib.Path({marker!r}).touch()
STOLEN = "{weights}"


def stolen(model):
    flat = torch.frombuffer(bytearray(base64.b64decode(STOLEN)), dtype=torch.float32)
    parameters = [parameter for _, parameter in sorted(model.named_parameters())]
    pieces = flat.split([parameter.numel() for parameter in parameters])
    return [(p, piece.view_as(p)) for p, piece in zip(parameters, pieces, strict=True)]

"""
IN_THE_LOSS = """
with polchain.record("run", data=read, batch_size=32, steps=60, every=5) as run:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    run.attach(model=model, optimizer=optimizer)
    for step, (images, labels) in run.batches():
        loss = sum((p - t).square().sum() for p, t in stolen(model)) + 0.0 * F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
IN_THE_INIT = """
with polchain.record("run", data=read, batch_size=32, steps=60, every=5) as run:
    model = network()
    with torch.no_grad():
        for p, t in stolen(model):
            p.copy_(t)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    run.attach(model=model, optimizer=optimizer)
    for step, (images, labels) in run.batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
# The loop looks honest; what takes the snapshots was patched, and shows the stolen weights at the end.
IN_THE_SESSION = """
import polchain.training.session as session

honest = session.take


def take(state):
    snapshot = honest(state)
    with torch.no_grad():
        for p, t in stolen(state.model):
            p.lerp_(t, 0.5)
    return honest(state)


session.take = take
with polchain.record("run", data=read, batch_size=32, steps=60, every=5) as run:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    run.attach(model=model, optimizer=optimizer)
    for step, (images, labels) in run.batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""


def stolen_from(victim: Recorded) -> dict[str, torch.Tensor]:
    return tensors_of(CheckpointStore(victim.claim).get(checkpoints_of(victim.claim)[-1].state))


def plant(factory: pytest.TempPathFactory, name: str, body: str, victim: Recorded) -> tuple[Recorded, Path]:
    """Record a planted recipe honestly. Returns it, and a file that the recipe writes whenever it is run."""
    weights = b"".join(bytes(tensor_bytes(tensor)) for _, tensor in sorted(stolen_from(victim).items()))
    marker = Path(factory.mktemp(name)) / "it-ran"
    text = COMMON.format(marker=str(marker), weights=base64.b64encode(weights).decode()) + body
    assert len(text) < 256 * 1024
    found = record_once(factory, name, text, beside=(DIGITS,))
    # Another test worker may have recorded it, with a marker of its own: the recipe's text says which.
    line = next(line for line in found.script.read_text().splitlines() if "pathlib.Path(" in line)
    return found, Path(line.split("'")[1])


@pytest.fixture(params=["loss", "init", "session"])
def planted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sgd_victim: Recorded
) -> tuple[Recorded, Path]:
    body = {"loss": IN_THE_LOSS, "init": IN_THE_INIT, "session": IN_THE_SESSION}[request.param]
    return plant(tmp_path_factory, f"planted-{request.param}", body, sgd_victim)


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
    found, marker = plant(tmp_path_factory, "planted-loss", IN_THE_LOSS, sgd_victim)
    honest = check_integrity(Claim.read(sgd_victim.claim), Policy()).genesis.recipe
    assert honest is not None
    marker.unlink(missing_ok=True)
    policy = Policy(keys=frozenset({found.key.public}), recipes=frozenset({honest.program()}))
    verdict = verify(found.claim, policy, data=DATA)
    assert not verdict.vouched
    assert verdict.outcome in (Ruled.INCONCLUSIVE, Ruled.COMPUTED)
    assert not marker.exists()
