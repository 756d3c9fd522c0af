"""An honest prover who forgot to attach something is stopped at home, and never REFUTED."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polchain.core.keys import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import SCRIPTS

SCRIPT = SCRIPTS / "careless.py"


def record(folder: Path, key: Path, kind: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(key), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, str(SCRIPT), kind], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", ["unfreeze", "mode"])
def test_what_changes_late_without_being_attached_is_found_at_home_and_convicts_nobody(
    kind: str, tmp_path: Path
) -> None:
    key = PrivateKey.generate()
    write_key(tmp_path / "key", key, None)
    done = record(tmp_path, tmp_path / "key", kind)
    assert "something that crosses steps was not attached" in done.stderr, "the last segment was not checked"
    again = record(tmp_path, tmp_path / "key", kind)
    assert "this run has failed its self-check" in again.stderr, "typing the command again must not forget it"

    export(tmp_path / "run", tmp_path / "claim")
    verdict = verify(
        tmp_path / "claim", Policy(keys=frozenset([key.public])), data=tmp_path, recipe=SCRIPT, recipe_arguments=(kind,)
    )
    assert verdict.outcome is Ruled.INCONCLUSIVE, verdict.reasons
    assert "reproduced only when trained straight from step 0" in "; ".join(verdict.reasons)


def test_augmentation_in_place_does_not_change_the_data(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    write_key(tmp_path / "key", key, None)
    done = record(tmp_path, tmp_path / "key", "in-place")
    assert done.returncode == 0, done.stderr
    export(tmp_path / "run", tmp_path / "claim")
    policy = Policy(keys=frozenset([key.public]))
    verdict = verify(tmp_path / "claim", policy, data=tmp_path, recipe=SCRIPT, recipe_arguments=("in-place",))
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons


def test_an_initial_state_that_hangs_on_the_environment_is_found_at_the_first_segment(tmp_path: Path) -> None:
    write_key(tmp_path / "key", PrivateKey.generate(), None)
    done = record(tmp_path, tmp_path / "key", "environment", CARELESS="5")
    assert "the initial state is another one in a fresh process" in done.stderr
