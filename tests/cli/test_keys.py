"""`polchain keygen`."""

import json
import os
import pty
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polchain.core.keys import PrivateKey, PublicKey
from polchain.errors import KeyUnavailableError
from polchain.storage.keyfile import PassphraseSource, read_key
from tests.cli.conftest import Done, command

Call = Callable[..., Done]


def secret(path: Path, mode: int = 0o600) -> Path:
    path.write_text("a passphrase\n")
    path.chmod(mode)
    return path


def test_a_key_is_written_for_its_owner_alone(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "key"
    done = call("keygen", "--key-file", path, "--no-passphrase")
    assert done.code == 0
    public = PrivateKey.from_openssh(path.read_bytes(), None).public
    assert [line.split("  ", 1)[1].strip() for line in done.out.splitlines()] == [
        str(public),
        public.fingerprint,
        f"{path}: never leaves this machine",
        f"{path}.pub: give it to whoever verifies",
    ]
    assert "not encrypted" in done.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PublicKey.parse((tmp_path / "folder" / "key.pub").read_text()) == public


def test_the_environment_says_where(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLCHAIN_KEY_FILE", str(tmp_path / "named"))
    monkeypatch.setenv("POLCHAIN_PASSPHRASE_FILE", str(secret(tmp_path / "secret")))
    done = call("keygen", "--json")
    assert (done.code, done.err) == (0, "")
    answer = json.loads(done.out)
    assert (answer["key_file"], answer["encrypted"]) == (str(tmp_path / "named"), True)
    assert str(read_key(tmp_path / "named", PassphraseSource.from_environment()).public) == answer["public_key"]
    monkeypatch.delenv("POLCHAIN_PASSPHRASE_FILE")
    with pytest.raises(KeyUnavailableError):
        read_key(tmp_path / "named", PassphraseSource.from_environment())


def test_a_passphrase_from_a_descriptor(start: Call, tmp_path: Path) -> None:
    done = start("keygen", "--key-file", tmp_path / "key", "--passphrase-fd", "0", text="from a pipe\n")
    assert (done.code, done.err) == (0, "")
    key = read_key(tmp_path / "key", PassphraseSource(file=_file(tmp_path / "secret", "from a pipe")))
    assert str(key.public) in done.out


def _file(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def test_nothing_is_overwritten(call: Call, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("mine")
    done = call("keygen", "--key-file", tmp_path / "key", "--no-passphrase")
    assert done.code == 2
    assert (tmp_path / "key").read_text() == "mine"


def test_without_a_terminal_a_source_must_be_named(start: Call, tmp_path: Path) -> None:
    done = start("keygen", "--key-file", tmp_path / "key")
    assert (done.code, done.out) == (4, "")
    assert "--no-passphrase" in done.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("text", "code"), [("", 2), ("x" * 73, 2)])
def test_a_passphrase_that_is_none_is_refused(start: Call, tmp_path: Path, text: str, code: int) -> None:
    done = start("keygen", "--key-file", tmp_path / "key", "--passphrase-fd", "0", text=text)
    assert done.code == code
    assert os.listdir(tmp_path) == []


def test_a_passphrase_file_that_others_can_read_is_refused(call: Call, tmp_path: Path) -> None:
    done = call("keygen", "--key-file", tmp_path / "key", "--passphrase-file", secret(tmp_path / "secret", 0o644))
    assert done.code == 4
    assert "chmod 600" in done.err


@pytest.mark.parametrize(
    ("typed", "code"), [(["a", "a"], 0), (["a", "b"], 2), ([""], 2), (["\x04"], 4), (["\x03"], 130)]
)
def test_a_terminal_is_asked_twice(tmp_path: Path, typed: list[str], code: int) -> None:
    ours, theirs = pty.openpty()
    words = command(["keygen", "--key-file", tmp_path / "key"])
    # A session of its own, so that the terminal is the controlling one and Ctrl-C arrives.
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(theirs)
    seen = b""
    for text in typed:
        while not seen.endswith(b": "):
            seen += os.read(ours, 1024)
        time.sleep(0.1)
        os.write(ours, text.encode() if text in ("\x03", "\x04") else f"{text}\n".encode())
        seen = b""
    while True:
        try:
            piece = os.read(ours, 1024)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(20) == code, seen
    assert b"Traceback" not in seen
    assert (tmp_path / "key").exists() == (code == 0)
