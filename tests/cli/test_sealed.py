"""Claims as zips, sealed claims, challenges and their answers, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
