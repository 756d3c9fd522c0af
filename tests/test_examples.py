"""Both examples replay exactly in other processes: dropout, augmentation, momentum, AdamW, loader workers 0 and 2."""

import os
from pathlib import Path

import pytest

from polchain.core.keys import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.forgers import warm
from tests.recording import recorder

EXAMPLES = Path(__file__).parent.parent / "examples"
DATA = EXAMPLES / "data"


@pytest.fixture(autouse=True)
def _kept_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polchain.verifier.bench.Worker", warm.KeptWorker)


def weights(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("resnet_digits.py", ["--steps", "12", "--every", "4", "--workers", "0"]),
        ("resnet_digits.py", ["--steps", "12", "--every", "4", "--workers", "2"]),
        ("gpt_shakespeare.py", ["--steps", "12", "--every", "4", "--workers", "0"]),
        ("gpt_shakespeare.py", ["--steps", "12", "--every", "4", "--workers", "2"]),
    ],
)
def test_an_example_replays_exactly(script: str, arguments: list[str], tmp_path: Path) -> None:
    key = PrivateKey.generate()
    write_key(tmp_path / "key", key, None)
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(tmp_path / "key"), "POLCHAIN_DATA": str(DATA)}
    done = recorder(2).run(EXAMPLES / script, arguments, tmp_path, environment)
    assert done.status == 0, done.output
    (run,) = (tmp_path / "runs").iterdir()
    export(run, tmp_path / "claim")
    verdict = verify(
        tmp_path / "claim",
        Policy(keys=frozenset([key.public])),
        data=DATA,
        recipe=EXAMPLES / script,
        recipe_arguments=tuple(arguments),
    )
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert all(item.rho == 0.0 for item in verdict.reproductions)
    assert len(verdict.reproductions) == 4, "the initial state and three segments"
