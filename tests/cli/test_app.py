"""The manner of the command line: exit codes, streams, help, what is loaded."""

import errno
import inspect
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

import polchain
from polchain import errors
from polchain.cli import app as cli
from polchain.cli import output
from polchain.cli.failures import report
from polchain.errors import EvidenceError, PolchainError, UnavailableError, UsageError
from tests.cli.conftest import Done, command

Call = Callable[..., Done]

COMMANDS = typer.main.get_command(cli.application()).commands  # type: ignore[attr-defined]
CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, PolchainError)]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_has_help(name: str, call: Call) -> None:
    done = call(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: polchain {name} ")
    assert COMMANDS[name].help[0].islower(), "help is written in lower case"
    assert len(COMMANDS[name].help.partition(". ")[0]) < 64, "longer, and `polchain --help` cuts it off"
    for parameter in COMMANDS[name].params:
        assert parameter.help, f"{name} {parameter.name} has no help"


def test_the_help_lists_every_command(call: Call) -> None:
    done = call("--help")
    assert done.code == 0
    assert all(f"  {name} " in done.out for name in COMMANDS)
    assert "..." not in done.out.replace("[ARGS]...", "")


def test_the_package_is_the_command() -> None:
    words = [sys.executable, "-m", "polchain", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"polchain {polchain.__version__}\n")


def test_the_designed_commands_of_the_prover_and_the_house_exist() -> None:
    assert {"keygen", "init", "train", "commit", "status", "log", "show", "export", "fsck"} <= COMMANDS.keys()


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_every_error_has_its_exit_code(error: type[PolchainError], capsys: pytest.CaptureFixture[str]) -> None:
    expected = 2 if issubclass(error, UsageError) else 4 if issubclass(error, UnavailableError) else 1
    assert issubclass(error, UsageError | UnavailableError | EvidenceError) or error is PolchainError
    assert report(error("it is so", hint="do this"), as_json=False) == expected
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "polchain: error: it is so\npolchain: hint: do this\n"
    assert report(error("it is so", hint="do this"), as_json=True) == expected
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "error": {"name": error.__name__, "message": "it is so", "hint": "do this", "exit_code": expected}
    }


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 4, "MissingFileError"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 4, "StorageError"),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "StorageError"),
        (sqlite3.OperationalError("disk I/O error"), 4, "StorageError"),
        (sqlite3.DatabaseError("malformed"), 1, "FormatError"),
        (MemoryError(), 4, "NotEnoughMemoryError"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (ZeroDivisionError("division by zero"), 70, "Bug"),
        (RecursionError(), 70, "Bug"),
    ],
)
def test_what_the_system_raises_is_named(
    error: BaseException, code: int, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, as_json=True) == code
    assert json.loads(capsys.readouterr().out)["error"]["name"] == name


def test_an_interrupt_in_a_command_is_said_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, call: Call, run: Path
) -> None:
    def interrupted(path: Path) -> None:
        with output.on_interrupt("nothing is lost"):
            raise KeyboardInterrupt

    monkeypatch.setattr("polchain.prover.status.describe", interrupted)
    done = call("status", run)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines() == ["polchain: error: interrupted", "polchain: hint: nothing is lost"]


def test_a_bug_is_one_line_and_a_hint(monkeypatch: pytest.MonkeyPatch, call: Call, run: Path) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("with a secret of \x1b[31m")

    monkeypatch.setattr("polchain.prover.status.describe", broken)
    done = call("status", run)
    assert done.code == 70
    assert done.out == ""
    assert done.err.splitlines() == [
        r"polchain: error: this is a bug in polchain: ZeroDivisionError: with a secret of \x1b[31m",
        "polchain: hint: set POLCHAIN_DEBUG=1 for the traceback, and report it",
    ]
    monkeypatch.setenv("POLCHAIN_DEBUG", "1")
    assert "Traceback" in call("status", run).err


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["--nonsense"],
        ["log", "--nonsense"],
        ["log", "a", "b"],
        ["init"],
        ["init", "RUN"],
        ["init", "RUN", "--foreign", "--recipe", "x"],
        ["init", "RUN", "--recipe", "nowhere.py"],
        ["train", "RUN"],
        ["commit"],
        ["commit", "PATH"],
        ["commit", "PATH", "--step", "x"],
        ["commit", "PATH", "--step", "-1"],
        ["commit", "a", "b", "c", "--step", "1"],
        ["commit", "PATH", "--step", "1", "--map", "x"],
        ["commit", "PATH", "--step", "1", "--map", "x=nonsense"],
        ["commit", "PATH", "--step", "1", "--map", "x=model", "--map", "x=extra"],
        ["commit", "--once", "PATH", "--step", "1"],
        ["commit", "--watch", "DIR", "--step", "1"],
        ["show"],
        ["show", "x"],
        ["show", "٣"],
        ["show", "1", "2", "3"],
        ["export"],
        ["keygen", "--no-passphrase", "--passphrase-fd", "0"],
        ["keygen", "--passphrase-fd", "-1"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_exit_2(
    words: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*words)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"polchain: error: [^\n]+\n(polchain: hint: [^\n]+\n)?", done.err), done.err
    assert json.loads(call(*words, "--json").out)["error"]["exit_code"] == 2
    assert os.listdir(tmp_path) == []


def test_without_a_command_the_help_goes_to_stderr(call: Call) -> None:
    done = call()
    assert (done.code, done.out) == (2, "")
    assert "Commands:" in done.err


def test_the_version(call: Call) -> None:
    assert call("--version") == Done(0, f"polchain {polchain.__version__}\n", "")


def test_reading_loads_neither_torch_nor_web3(run: Path, claim: Path, tmp_path: Path) -> None:
    lines = [
        ["--version"],
        ["--help"],
        ["keygen", "--no-passphrase", "--key-file", str(tmp_path / "new-key")],
        ["status", str(run)],
        ["log", str(run)],
        ["log", str(claim)],
        ["show", str(run), "3"],
        ["show", str(claim), "3", "--json"],
        ["export", str(run), str(tmp_path / "again")],
        ["fsck", str(run)],
        ["train", str(tmp_path / "nothing")],
        ["nonsense"],
    ]
    program = f"""
import sys
from polchain.cli.app import main
for words in {lines!r}:
    code = main(words)
    assert code == (2 if words[0] in ("train", "nonsense") else 0), (words, code)
    loaded = {{"torch", "web3", "lightning", "transformers"}} & sys.modules.keys()
    assert not loaded, (words, loaded)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_is_no_error(run: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command(["log", run]), stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_under_stdout_is_an_error(run: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(["log", run]), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("polchain: error: ")
    assert "Traceback" not in done.stderr


def on_terminal(words: list[object], **environment: str) -> str:
    """What a terminal is sent: stdin, stdout and stderr are one."""
    ours, theirs = pty.openpty()
    environment = {"TERM": "xterm-256color", **environment}
    keep = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(command(words), stdin=theirs, stdout=theirs, stderr=theirs, env={**keep, **environment})
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(ours, 4096):
            text += piece
    except OSError:
        pass  # The other end was closed.
    os.close(ours)
    assert process.wait(60) in (0, 4)
    return text.decode()


def test_colour_is_for_terminals_that_want_it(run: Path, tmp_path: Path) -> None:
    log, missing = ["log", run], ["log", tmp_path / "nowhere"]
    assert "\x1b[" in on_terminal(log)
    assert "\x1b[" in on_terminal(missing)
    for settings in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        for words in (log, missing):
            assert "\x1b" not in on_terminal(words, **settings)
    piped = subprocess.run(command(log), capture_output=True, env={**os.environ, "TERM": "xterm-256color"}, check=True)
    assert b"\x1b" not in piped.stdout + piped.stderr
