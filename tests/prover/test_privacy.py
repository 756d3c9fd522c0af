"""A private run's secret: written before the genesis, asked for ever after, never replaced, never shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from polchain.cli.app import main
from polchain.cli.launching import Orders, Script
from polchain.cli.publishing import orders_for
from polchain.core.genesis import Configuration, Genesis, RecipeRef
from polchain.core.keys import PrivateKey
from polchain.core.salts import DataSecret
from polchain.core.task import Task
from polchain.errors import DataSecretError, FormatError, RecipeError, StorageError, UsageError
from polchain.prover import recorder
from polchain.prover.fsck import check
from polchain.prover.launch import Launch
from polchain.prover.recorder import Recorder
from polchain.prover.settings import RunSettings
from polchain.storage.database import DATABASE
from polchain.storage.keyfile import write_key
from polchain.storage.ledger import Ledger
from polchain.storage.secretfile import SECRET, SECRET_LIMIT, read_secret, write_secret
from polchain.training.host import Options
from polchain.training.program import Program
from tests.runs import make_key, make_run

DATA = [(float(number), number % 2) for number in range(8)]
OPTIONS = Options(DATA, Configuration(4, 2, ((0, 2),), "fp32", True))
GIVEN = DataSecret(bytes(range(32)))
SALTS = GIVEN.commitment


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Genesis]:
    """Begin a run, or go on with it, as a script's `record` does; nothing is trained."""
    write_key(tmp_path / "key", PrivateKey.generate(), None)
    program = Program(RecipeRef("train", True, (), (), ()), {})
    monkeypatch.setattr(recorder, "find_program", lambda files: program)

    def make(run: Path, **how: object) -> Genesis:
        host = Recorder(run, Launch(settings=RunSettings(tmp_path / "key"), **how))  # type: ignore[arg-type]
        try:
            host.begin(OPTIONS)
        finally:
            host.close(failed=False)
        with Ledger(run) as ledger:
            return ledger.genesis

    return make


@pytest.fixture
def given(tmp_path: Path) -> Path:
    write_secret(tmp_path / "given", GIVEN)
    return tmp_path / "given"


def salts_of(genesis: Genesis) -> object:
    assert genesis.dataset is not None
    return genesis.dataset.salts


def test_a_plain_run_has_no_secret(begin: Callable[..., Genesis], tmp_path: Path) -> None:
    assert salts_of(begin(tmp_path / "run")) is None
    assert not (tmp_path / "run" / SECRET).exists()


def test_each_private_run_draws_its_own_and_goes_on_with_it(begin: Callable[..., Genesis], tmp_path: Path) -> None:
    one, other = begin(tmp_path / "one", private=True), begin(tmp_path / "other", private=True)
    kept = read_secret(tmp_path / "one" / SECRET)
    assert salts_of(one) == kept.commitment != salts_of(other)
    assert stat.S_IMODE((tmp_path / "one" / SECRET).stat().st_mode) == 0o600
    assert begin(tmp_path / "one") == one, "resumed without any flag"
    assert read_secret(tmp_path / "one" / SECRET) == kept


def test_two_runs_may_share_a_given_secret(begin: Callable[..., Genesis], given: Path, tmp_path: Path) -> None:
    one, other = begin(tmp_path / "one", data_secret=given), begin(tmp_path / "other", data_secret=given)
    assert one.dataset == other.dataset
    assert salts_of(one) == GIVEN.commitment
    given.unlink()
    assert begin(tmp_path / "one") == one, "the run keeps a copy"


def test_a_run_that_lost_its_secret_does_not_go_on(begin: Callable[..., Genesis], tmp_path: Path, given: Path) -> None:
    run = tmp_path / "run"
    begin(run, private=True)
    (run / SECRET).rename(tmp_path / "moved")
    for how in ({}, {"private": True}, {"data_secret": given}):
        with pytest.raises(DataSecretError, match=r"data\.secret is gone"):
            begin(run, **how)
        assert not (run / SECRET).exists(), "no second secret is drawn for a genesis that names the first"
    given.rename(run / SECRET)
    with pytest.raises(DataSecretError, match="another secret than the one that this run's data"):
        begin(run)
    (run / SECRET).write_text("damaged")
    with pytest.raises(FormatError, match="not a data secret"):
        begin(run)
    (tmp_path / "moved").rename(run / SECRET)
    (run / SECRET).chmod(0o640)
    with pytest.raises(DataSecretError, match="others can read") as caught:
        begin(run)
    assert "chmod 600" in caught.value.hint
    (run / SECRET).chmod(0o600)
    begin(run)


def test_a_begun_folder_with_a_secret_stays_private(begin: Callable[..., Genesis], tmp_path: Path, given: Path) -> None:
    """Killed between the two, or put there by hand: the next begin must not fall back to plain data."""
    run = tmp_path / "run"
    write_secret(run / SECRET, DataSecret(bytes(32)))
    with pytest.raises(UsageError, match="is another secret than the one given"):
        begin(run, data_secret=given)
    assert not (run / DATABASE).exists()
    assert salts_of(begin(run)) == DataSecret(bytes(32)).commitment


def test_the_secret_is_durable_before_the_genesis_names_it(
    begin: Callable[..., Genesis], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise StorageError("full")

    monkeypatch.setattr(Ledger, "create", refuse)
    with pytest.raises(StorageError, match="full"):
        begin(tmp_path / "run", private=True)
    assert read_secret(tmp_path / "run" / SECRET)


def test_a_task_of_private_data_takes_its_secret(begin: Callable[..., Genesis], tmp_path: Path, given: Path) -> None:
    task = Task.of(begin(tmp_path / "draft", data_secret=given), bytes(32))
    assert task.dataset.salts == GIVEN.commitment
    for how in ({}, {"private": True}):
        with pytest.raises(RecipeError, match="another dataset, or the same under another secret") as caught:
            begin(tmp_path / "run", task=task, **how)
        assert "--data-secret FILE" in caught.value.hint
        assert not (tmp_path / "run" / SECRET).exists(), "what was refused leaves no secret behind"
    assert begin(tmp_path / "run", task=task, data_secret=given).dataset == task.dataset


def test_fsck_calls_a_lost_secret_damage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_key(tmp_path / "key"), salts=SALTS)
    (gone,) = check(run).damage
    assert gone.endswith("data.secret is gone: the secret that this run's data is salted with")
    write_secret(run / SECRET, DataSecret(bytes(32)))
    (other,) = check(run).damage
    assert "is another secret" in other
    (run / SECRET).unlink()
    write_secret(run / SECRET, GIVEN)
    assert not check(run).damage


def test_a_secret_file_is_new_private_and_plain(tmp_path: Path) -> None:
    path = tmp_path / "deep" / SECRET
    before = os.umask(0)
    try:
        write_secret(path, GIVEN)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="already"):
        write_secret(path, DataSecret(bytes(32)))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="already"):
        write_secret(tmp_path / "link", GIVEN)
    assert read_secret(path) == GIVEN
    with pytest.raises(DataSecretError, match="no data secret at"):
        read_secret(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for strange in (tmp_path / "pipe", tmp_path):
        with pytest.raises(FormatError, match="not a plain file"):
            read_secret(strange)
    path.write_bytes(GIVEN.encode() + bytes(2 * SECRET_LIMIT))
    with pytest.raises(FormatError, match="not a data secret"):
        read_secret(path)


def test_no_process_is_told_the_secret_in_its_arguments(given: Path) -> None:
    script = Script("train.py", False, ())
    orders = orders_for("init", False, script, None, None, private=True, data_secret=given)
    assert Orders.parse(orders.encode()) == orders
    assert orders.data_secret == str(given)
    assert GIVEN.value.hex() not in orders.encode()


def test_what_cannot_be_meant_is_a_usage_error(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.py"
    script.touch()
    init = ["init", str(tmp_path / "run")]
    for words, says in (
        (["--foreign", "--private-data"], "--foreign takes no script"),
        (["--foreign", "--data-secret", str(given)], "--foreign takes no script"),
        (["--recipe", str(script), "--private-data", "--data-secret", str(given)], "one of them"),
    ):
        assert main([*init, *words]) == 2
        assert says in capsys.readouterr().err
    assert main([*init, "--recipe", str(script), "--data-secret", str(tmp_path / "none")]) == 4
    assert "no data secret at" in capsys.readouterr().err
    assert main(["verify", str(tmp_path), "--data-secret", str(script)]) == 4, "a file that others can read"
    script.chmod(0o600)
    assert main(["verify", str(tmp_path), "--data-secret", str(script)]) == 1
    assert "not a data secret" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_export_of_private_states_says_what_they_expose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = make_key(tmp_path / "key")
    runs = {name: make_run(tmp_path / name, key, salts=salts) for name, salts in (("plain", None), ("private", SALTS))}
    for name, words, exposes in (
        ("plain", [], False),
        ("private", [], True),
        ("private", ["--checkpoints", "none"], False),
    ):
        out = tmp_path / f"{name}-{len(words)}"
        assert main(["export", str(runs[name]), str(out), *words]) == 0
        (line,) = [*(line for line in capsys.readouterr().err.splitlines() if "gradients" in line), ""][:1]
        assert ("checkpoints that lie close together expose gradients" in line) is exposes, (name, words)
