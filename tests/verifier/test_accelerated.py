"""bfloat16 autocast with a gradient scaler: recorded, self-checked and replayed in the sandbox, exactly."""

from __future__ import annotations

import pytest

from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import DATA, SCRIPTS, record_once
from tests.forgers import warm

WORDS = ("--device", "cpu", "--width", "8", "--steps", "2", "--every", "2", "--precision", "bf16", "--scaler")


def test_autocast_with_a_gradient_scaler_replays_exactly(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polchain.verifier.bench.Worker", warm.KeptWorker)
    run = record_once(tmp_path_factory, "accelerated", SCRIPTS / "accelerated.py", WORDS)
    policy = Policy(keys=frozenset({run.key.public}))
    verdict = verify(run.claim, policy, data=DATA, recipe=run.script, recipe_arguments=WORDS, timeout=120, jobs=1)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
