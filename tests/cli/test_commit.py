"""`polchain init --foreign` and `polchain commit`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from polchain.storage.ledger import Ledger
from tests.cli.conftest import Done
from tests.runs import make_key, make_run

Call = Callable[..., Done]


def save(path: Path, value: float) -> Path:
    torch.save({"model": {"w": torch.full((2, 2), value)}, "net": {"v": torch.zeros(1)}}, path)
    return path


@pytest.fixture
def foreign(tmp_path: Path, key_file: Path, call: Call) -> Path:
    done = call("init", tmp_path / "run", "--foreign")
    assert (done.code, done.err) == (0, "")
    assert "none: a foreign run" in done.out
    return tmp_path / "run"


def test_init_refuses_a_folder_with_a_run(foreign: Path, call: Call) -> None:
    assert call("init", foreign, "--foreign").code == 2
    assert call("train", foreign, "--recipe", __file__).code == 2


def test_a_commit_is_logged_once(foreign: Path, tmp_path: Path, call: Call) -> None:
    path = save(tmp_path / "model.pt", 1.0)
    words = ["commit", foreign, path, "--step", 10, "--map", "net=model"]
    done = call(*words, "--loss", "0.5", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert (answer["step"], answer["repeated"], answer["head"]["size"]) == (10, False, 2)
    again = call(*words)
    assert again.code == 0
    assert "already committed" in again.out
    with Ledger(foreign) as ledger:
        assert ledger.size == 2
        assert str(ledger.root) == answer["head"]["root"]
    save(path, 2.0)
    other = call(*words)
    assert (other.code, other.out) == (1, "")
    assert other.err.startswith("polchain: error: another state is committed at step 10")
    assert json.loads(call(*words, "--json").out)["error"]["name"] == "ConflictError"


def test_the_run_may_be_found(foreign: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "model.pt", 1.0)
    monkeypatch.setenv("POLCHAIN_RUN", str(foreign))
    assert call("commit", path, "--step", 1, "--map", "net=extra").code == 0
    monkeypatch.delenv("POLCHAIN_RUN")
    monkeypatch.chdir(foreign)
    assert call("commit", save(path, 2.0), "--step", 2, "--map", "net=extra").code == 0
    monkeypatch.chdir(tmp_path)
    assert call("commit", path, "--step", 3).code == 2
    assert "2  checkpoint     2" in call("log", foreign).out


def test_no_store_keeps_the_rows_alone(foreign: Path, tmp_path: Path, call: Call) -> None:
    done = call("commit", foreign, save(tmp_path / "m.pt", 1.0), "--step", 1, "--map", "net=extra", "--no-store")
    assert done.code == 0
    assert "states kept  0 of 1" in call("status", foreign).out
    assert call("fsck", foreign).code == 0
    assert call("export", foreign, tmp_path / "claim").code == 0
    assert "model/w" in call("show", tmp_path / "claim", 1).out


def test_watch_once_commits_what_is_there(foreign: Path, tmp_path: Path, call: Call) -> None:
    (tmp_path / "saved").mkdir()
    for step in (100, 200):
        torch.save({"model": {"w": torch.full((2,), float(step))}}, tmp_path / "saved" / f"step_{step}.pt")
    done = call("commit", foreign, "--watch", tmp_path / "saved", "--once", "--settle", "0.05", "--json")
    assert done.code == 0, done.err
    assert [json.loads(line)["step"] for line in done.out.splitlines()] == [100, 200]
    again = call("commit", foreign, "--watch", tmp_path / "saved", "--once", "--settle", "0.05")
    assert (again.code, again.out) == (0, "")


def test_a_checkpoint_without_a_model_is_refused(foreign: Path, tmp_path: Path, call: Call) -> None:
    torch.save({"net": {"w": torch.ones(2)}, "epoch": 1}, tmp_path / "net_1.pt")
    done = call("commit", foreign, tmp_path / "net_1.pt", "--step", 1)
    assert (done.code, done.out) == (2, "")
    assert "no model is recognised in net_1.pt, which has epoch, net" in done.err
    assert "polchain: hint: --map KEY=model" in done.err
    (tmp_path / "saved").mkdir()
    (tmp_path / "net_1.pt").rename(tmp_path / "saved" / "net_1.pt")
    watch = ["commit", foreign, "--watch", tmp_path / "saved", "--once", "--settle", "0.05"]
    done = call(*watch)
    assert (done.code, done.out) == (0, "")
    assert done.err.count("net_1.pt is left alone") == 1
    assert "step 1 " in call(*watch, "--map", "net=model").out
    missing = call("commit", foreign, "--watch", tmp_path / "nowhere")
    assert missing.code == 4
    assert "watching" not in missing.err


def test_errors_of_a_commit(foreign: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "model.pt", 1.0)
    assert call("commit", foreign, tmp_path / "nothing", "--step", 1).code == 4
    assert call("commit", tmp_path / "nowhere", path, "--step", 1).code == 4
    make_key(tmp_path / "another")
    done = call("commit", foreign, path, "--step", 1, "--map", "net=model", "--key-file", tmp_path / "another")
    assert done.code == 1
    assert "--key-file" in done.err
    owned = make_run(tmp_path / "owned", make_key(tmp_path / "owner"))
    done = call("commit", owned, path, "--step", 9, "--map", "net=model", "--key-file", tmp_path / "owner")
    assert done.code == 2
    (tmp_path / "key").chmod(0o644)
    assert call("commit", foreign, path, "--step", 1).code == 4
