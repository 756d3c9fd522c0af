"""`polchain init` and `polchain train`, as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polchain.storage.keyfile import write_key
from polchain.storage.ledger import Ledger
from tests.cli.conftest import Done, command
from tests.runs import make_key

Call = Callable[..., Done]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    write_key(folder / "locked", make_key(folder / "key"), b"open")
    return folder


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, start: Call, script: Path, keys: Path
) -> tuple[Path, Done, Done]:
    """A run begun by `init` and trained by `train`, with what both printed."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    began = start("init", run, "--recipe", script, "--key-file", keys / "key", "--data", script.parent, "--", "8", "-")
    trained = start("train", run, "--json", cwd=run.parent)
    return run, began, trained


def test_init_stops_at_the_genesis(unbroken: tuple[Path, Done, Done], script: Path) -> None:
    run, began, _ = unbroken
    assert began.code == 0, began.err
    assert [line.split()[0] for line in began.out.splitlines()] == ["run", "key", "recipe", "dataset", "head"]
    assert "a line on stdout" in began.err, "what the script prints is not the answer"
    assert "after the loop" not in began.err
    settings = (run / "polchain.toml").read_text()
    assert f'script = "{script}"' in settings
    assert 'arguments = ["8", "-"]' in settings
    assert f'data = "{script.parent}"' in settings


def test_train_finishes_the_run(unbroken: tuple[Path, Done, Done], script: Path) -> None:
    run, _, trained = unbroken
    assert trained.code == 0, trained.err
    answer = json.loads(trained.out)
    assert (answer["step"], answer["steps"], answer["finished"], answer["entries"]) == (8, 8, True, 8)
    assert "after the loop" in trained.err
    assert "\x1b" not in trained.err
    assert "left" not in trained.err, "no progress where there is no terminal"
    assert f"__main__ ['{script}', '8', '-'] {script.parent}" in trained.err, "as `python SCRIPT ARGS` has it"
    assert not (run.parent / "must not be used").exists()
    with Ledger(run) as ledger:
        assert str(ledger.root) == answer["head"]["root"]
        assert ledger.size == 8


def test_training_again_changes_nothing(unbroken: tuple[Path, Done, Done], start: Call) -> None:
    run, _, trained = unbroken
    again = start("train", run)
    assert again.code == 0
    assert "step     8 of 8" in again.out
    assert json.loads(trained.out)["head"]["root"] in again.out


def test_a_claim_of_it_exports_and_fsck_is_clean(unbroken: tuple[Path, Done, Done], call: Call, tmp_path: Path) -> None:
    run = unbroken[0]
    assert call("export", run, tmp_path / "claim").code == 0
    assert call("fsck", run).code == 0
    assert "and earlier ones replayed exactly" in call("status", run).out
    assert call("init", run, "--recipe", __file__).code == 2


def size(run: Path) -> int:
    with Ledger(run) as ledger:
        return ledger.size


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_stopped_run_goes_on(how: int, code: int, tmp_path: Path, start: Call, script: Path, keys: Path) -> None:
    words = command(["train", tmp_path / "run", "--recipe", script, "--key-file", keys / "key", "--", "8", "-"])
    process = subprocess.Popen(
        words, env={**os.environ, "WAIT": "5"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line == "waiting\n":
            break
    deadline = time.monotonic() + 30
    while how == signal.SIGKILL and size(tmp_path / "run") < 5:  # what was interrupted is recorded, what is killed not
        assert time.monotonic() < deadline, "step 4 is never recorded"
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    health = start("fsck", tmp_path / "run")
    assert (health.code, health.out.splitlines()[-1]) == (0, "5 entries, 3 states: clean")
    done = start("train", tmp_path / "run", env={"POLCHAIN_KEY_FILE": str(keys / "key")})
    assert done.code == 0, done.err
    assert "polchain: resuming at step 4" in done.err
    assert "step     8 of 8" in done.out


def test_a_scripts_own_fault_shows_its_traceback(tmp_path: Path, start: Call, script: Path, keys: Path) -> None:
    words = ["train", tmp_path / "run", "--recipe", script, "--key-file", keys / "key", "--json"]
    done = start(*words, "--", "8", "early")
    assert done.code == 1
    trace = done.err[done.err.index("Traceback") :].splitlines()
    assert trace[1].strip().startswith(f'File "{script}"'), "the traceback begins with the script"
    assert trace[-1] == "ValueError: the script's own fault"
    assert not (tmp_path / "run").exists()
    assert json.loads(done.out)["error"] == {
        "name": "ValueError",
        "message": "the script raised ValueError: the script's own fault",
        "hint": "",
        "exit_code": 1,
    }


def test_what_is_no_python_is_refused(tmp_path: Path, call: Call) -> None:
    (tmp_path / "train.ipynb").write_text("{}")
    for verb in ("train", "init"):
        done = call(verb, tmp_path / "run", "--recipe", tmp_path / "train.ipynb")
        assert (done.code, done.out) == (2, "")
        assert "train.ipynb is not a Python script" in done.err
    assert not (tmp_path / "run").exists()


def test_a_fault_in_a_script_run_by_hand_shows_one_traceback_and_the_hint(
    tmp_path: Path, script: Path, keys: Path
) -> None:
    done = subprocess.run(
        [sys.executable, script, "2", "-"],
        cwd=tmp_path,
        env={**os.environ, "POLCHAIN_KEY_FILE": str(keys / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith(f"KeyUnavailableError: no key at {keys / 'none'}\nhint: `polchain keygen` makes one\n")


def test_a_script_that_records_nothing(tmp_path: Path, start: Call, script: Path, keys: Path) -> None:
    done = start("train", tmp_path / "run", "--recipe", script, "--key-file", keys / "key", "--", "2", "nothing")
    assert (done.code, done.out) == (2, "")
    assert "without recording" in done.err


def test_errors_of_the_recorder_keep_their_codes(
    unbroken: tuple[Path, Done, Done], start: Call, call: Call, keys: Path
) -> None:
    run = unbroken[0]
    changed = start("train", run, "--", "10", "-")
    assert changed.code == 4
    assert "polchain: error: the run at" in changed.err
    assert "Traceback" not in changed.err
    missing = start("train", run, "--key-file", keys / "none", "--json")
    assert (missing.code, json.loads(missing.out)["error"]["name"]) == (4, "KeyUnavailableError")
    assert call("train", run, "--data", keys / "none").code == 4


def test_a_locked_key_and_a_module(tmp_path: Path, start: Call, script: Path, keys: Path) -> None:
    words = ["init", tmp_path / "run", "--recipe", "tiny", "--module", "--key-file", keys / "locked"]
    done = start(*words, "--passphrase-fd", "0", "--", "2", "-", cwd=script.parent, text="open\n")
    assert done.code == 0, done.err
    assert "module = true" in (tmp_path / "run" / "polchain.toml").read_text()
    with Ledger(tmp_path / "run") as ledger:
        assert ledger.genesis.recipe is not None
        assert (ledger.genesis.recipe.entry, ledger.genesis.recipe.module) == ("tiny", True)


def test_a_script_run_by_hand_needs_none_of_this(tmp_path: Path, script: Path, keys: Path) -> None:
    done = subprocess.run(
        [sys.executable, script, "2", "late"],
        cwd=tmp_path,
        env={**os.environ, "POLCHAIN_KEY_FILE": str(keys / "key")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.endswith("after the loop\n")
    with Ledger(tmp_path / "must not be used") as ledger:
        assert ledger.size == 5
