"""An honest prover who forgot to attach something is stopped at home, and never REFUTED."""

import os
from pathlib import Path

import pytest

from polchain.core.keys import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import DATA, SCRIPTS
from tests.recording import Done, recorder

SCRIPT = SCRIPTS / "careless.py"


def record(folder: Path, key: Path, kind: str, **variables: str) -> Done:
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(key), "POLCHAIN_DATA": str(DATA), **variables}
    return recorder().run(SCRIPT, (kind,), folder, environment)


@pytest.mark.parametrize("kind", ["unfreeze", "mode"])
def test_what_changes_late_without_being_attached_is_found_at_home_and_convicts_nobody(
    kind: str, tmp_path: Path
) -> None:
    key = PrivateKey.generate()
    write_key(tmp_path / "key", key, None)
    done = record(tmp_path, tmp_path / "key", kind)
    assert "something that crosses steps was not attached" in done.output, "the last segment was not checked"
    again = record(tmp_path, tmp_path / "key", kind)
    assert "this run has failed its self-check" in again.output, "typing the command again must not forget it"

    export(tmp_path / "run", tmp_path / "claim")
    verdict = verify(
        tmp_path / "claim", Policy(keys=frozenset([key.public])), data=DATA, recipe=SCRIPT, recipe_arguments=(kind,)
    )
    assert verdict.outcome is Ruled.INCONCLUSIVE, verdict.reasons
    assert "reproduced only when trained straight from step 0" in "; ".join(verdict.reasons)


def test_augmentation_in_place_does_not_change_the_data(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    write_key(tmp_path / "key", key, None)
    done = record(tmp_path, tmp_path / "key", "in-place")
    assert done.status == 0, done.output
    export(tmp_path / "run", tmp_path / "claim")
    policy = Policy(keys=frozenset([key.public]))
    verdict = verify(tmp_path / "claim", policy, data=DATA, recipe=SCRIPT, recipe_arguments=("in-place",))
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons


def test_an_initial_state_that_hangs_on_the_environment_is_found_at_the_first_segment(tmp_path: Path) -> None:
    write_key(tmp_path / "key", PrivateKey.generate(), None)
    done = record(tmp_path, tmp_path / "key", "environment", CARELESS="5")
    assert "the initial state is another one in a fresh process" in done.output
