"""Claims as zips, sealed claims, challenges and their answers, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.claims import DATA, DIGITS, Recorded, record_once
from tests.cli.conftest import Done
from tests.runs import make_key, make_run

Call = Callable[..., Done]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return make_run(tmp_path / "foreign", make_key(tmp_path / "foreign-key"), foreign=True)


def test_every_command_that_takes_a_claim_takes_its_zip(foreign: Path, tmp_path: Path, call: Call) -> None:
    assert call("export", foreign, tmp_path / "claim").code == 0
    assert call("export", foreign, tmp_path / "claim.zip").code == 0
    for words in (["log"], ["show"], ["verify", "--integrity-only"]):
        more = ["2"] if words == ["show"] else []
        folder, zipped = (call(*words, tmp_path / name, *more, "--json") for name in ("claim", "claim.zip"))
        assert (folder.code, zipped.code) == (0, 0), folder.err + zipped.err
        same = zipped.out.replace("claim.zip", "claim")
        assert json.loads(same) == json.loads(folder.out)
    (tmp_path / "claim.zip").write_bytes((tmp_path / "claim.zip").read_bytes() + b"\n")
    done = call("verify", tmp_path / "claim.zip")
    assert done.code == 1
    assert "is not a canonical zip" in done.err


def test_a_sealed_export_says_so(foreign: Path, tmp_path: Path, call: Call) -> None:
    done = call("export", foreign, tmp_path / "claim", "--checkpoints", "none")
    assert done.code == 0
    assert "none: sealed" in done.out
    assert call("export", foreign, tmp_path / "other", "--checkpoints", "some").code == 2
    assert json.loads(call("export", foreign, tmp_path / "x.zip", "--checkpoints", "none", "--json").out)["sealed"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record_once(tmp_path_factory, "digits-sgd", DIGITS, ("--optimizer", "sgd"))


def test_a_sealed_claim_goes_from_hand_to_hand(recorded: Recorded, tmp_path: Path, call: Call) -> None:
    run, sealed, drawn, opening = (
        recorded.claim.parent / "run", tmp_path / "sealed.zip", tmp_path / "c.json", tmp_path / "r.opening",
    )  # fmt: skip
    key = str(recorded.key.public)
    assert call("export", run, sealed, "--checkpoints", "none").code == 0
    asked = call("challenge", sealed, "--key", key, "-o", drawn, "--json")
    assert asked.code == 0, asked.err
    said = json.loads(asked.out)
    assert (said["segments"], said["steps"], said["states"], said["draws"]) == (12, 60, 13, 90)
    again = call("challenge", sealed, "--key", key, "-o", drawn)
    assert again.code == 2
    assert "already" in again.err
    done = call("respond", run, drawn, "-o", opening, "--data", DATA, "--json")
    assert done.code == 0, done.err
    answered = json.loads(done.out)
    assert (answered["challenge"], answered["states"], answered["missing"]) == (said["digest"], 13, [])
    assert answered["bytes"] == opening.stat().st_size

    recipe = ("--recipe", recorded.script, "--recipe-args", "--optimizer sgd")
    found = call("verify", sealed, "--key", key, *recipe, "--opening", opening, "--challenge", drawn, "--json")
    assert found.code == 0, found.out + found.err
    assert json.loads(found.out)["challenge_seed"] == said["seed"]
    for wrong in (["--seed", "00" * 32], ["--full"], ["--budget", "5%"], ["--integrity-only"]):
        done = call("verify", sealed, "--opening", opening, *wrong)
        assert done.code == 2, done.out
        assert "--opening answers a draw that was made" in done.err
    assert call("verify", sealed, "--challenge", drawn).code == 2
    other = call("challenge", sealed, "-o", tmp_path / "other.json")
    assert "the prover's key is not pinned" in other.err
    refused = call("verify", sealed, "--opening", opening, "--challenge", tmp_path / "other.json", "--json")
    assert refused.code == 1
    assert json.loads(refused.out)["error"]["name"] == "ChallengeError"
