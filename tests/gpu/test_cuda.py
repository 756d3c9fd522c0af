"""Exact replay on CUDA, in every precision, and what happens to a claim where its device is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from polchain.core.keys import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import verify
from tests.forgers.forge import Workshop

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
SCRIPT = ROOT / "tests" / "scripts" / "accelerated.py"

pytestmark = pytest.mark.gpu


@dataclass(frozen=True)
class OnCuda:
    """A claim that was recorded on the GPU."""

    claim: Path
    key: PrivateKey
    script: Path
    arguments: tuple[str, ...]

    def verify(self) -> Verdict:
        return verify(
            self.claim,
            Policy(keys=frozenset([self.key.public])),
            data=EXAMPLES / "data",
            recipe=self.script,
            recipe_arguments=self.arguments,
        )


def record(folder: Path, script: Path, arguments: Sequence[str]) -> OnCuda:
    key = PrivateKey.generate()
    write_key(folder / "key", key, None)
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(folder / "key"), "POLCHAIN_DATA": str(EXAMPLES / "data")}
    copy = folder / script.name
    shutil.copy(script, copy)
    done = subprocess.run(
        [sys.executable, copy, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = next(path.parent for path in folder.rglob("ledger.db"))
    export(run, folder / "claim")
    return OnCuda(folder / "claim", key, copy, tuple(arguments))


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> OnCuda:
    return record(tmp_path_factory.mktemp("plain"), SCRIPT, ())


def test_a_resnet_recorded_on_cuda_replays_exactly_on_cuda(tmp_path: Path) -> None:
    found = record(tmp_path, EXAMPLES / "resnet_digits.py", ("--steps", "40", "--every", "10")).verify()
    assert found.outcome is Ruled.VERIFIED, found.reasons


@pytest.mark.parametrize(
    "arguments",
    [
        ("--precision", "fp32"),
        ("--precision", "tf32", "--width", "64"),
        ("--precision", "bf16", "--scaler"),
        ("--compile", "--steps", "20", "--every", "10"),
    ],
    ids=["fp32", "tf32", "bf16-scaler", "compile"],
)
def test_each_way_of_computing_replays_exactly(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = record(tmp_path, SCRIPT, arguments).verify()
    assert found.outcome is Ruled.VERIFIED, found.reasons
    assert {item.outcome for item in found.reproductions} == {Outcome.EXACT}
    assert len(found.reproductions) > 2, "the initial state and some segments were replayed"


def test_a_claim_from_cuda_is_not_refuted_where_there_is_none(plain: OnCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = plain.verify()
    assert found.outcome is Ruled.INCONCLUSIVE, found.reasons
    assert any("cuda" in reason for reason in (*found.reasons, *found.remarks)), "it says which device was missing"


def test_a_jump_at_the_end_is_refuted_on_cuda(plain: OnCuda, tmp_path: Path) -> None:
    shop = Workshop(plain.claim)
    states, losses = shop.train(60)
    claim = shop.claim(tmp_path / "claim", [*states[:-1], shop.states()[-1]], losses)
    found = OnCuda(claim, shop.key, plain.script, plain.arguments).verify()
    assert found.outcome is Ruled.REFUTED, found.reasons
