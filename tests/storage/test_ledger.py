"""The ledger: what was acknowledged stays, what was put back or changed is found, and one process writes."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polchain.core.digest import Digest, sha256
from polchain.core.entries import CheckpointEntry, encode_entry, leaf_data
from polchain.core.genesis import Genesis
from polchain.core.keys import PrivateKey
from polchain.core.merkle import leaf_hash, root
from polchain.core.note import open_head
from polchain.core.rows import GROUPS
from polchain.errors import (
    ChainError,
    EvidenceError,
    FormatError,
    KeyMismatchError,
    MissingFileError,
    PolchainError,
    RolledBackError,
    RunLockedError,
    SignatureError,
    StorageError,
    UsageError,
)
from polchain.storage.database import DATABASE
from polchain.storage.headfile import HEAD
from polchain.storage.ledger import Ledger
from polchain.storage.runs import find_run

KEY = PrivateKey.generate()


def genesis(run_id: bytes = bytes(16)) -> Genesis:
    return Genesis(run_id=run_id, key=KEY.public)


def checkpoint(prev: Digest, step: int) -> CheckpointEntry:
    digest = sha256(step.to_bytes(8, "little"))
    return CheckpointEntry(prev, step, dict.fromkeys(GROUPS, digest), digest)


def append(ledger: Ledger, count: int) -> None:
    for _ in range(count):
        ledger.append(checkpoint(ledger.root, ledger.size))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of six entries, closed."""
    folder = tmp_path / "run"
    with Ledger.create(folder, genesis(), KEY) as ledger:
        append(ledger, 5)
    return folder


def test_what_was_appended_is_read_back(run: Path) -> None:
    with Ledger(run) as ledger:
        ledger.check()
        entries = list(ledger.entries())
        assert ledger.size == len(entries) == 6
        assert ledger.root == Digest("sha256", root([leaf_hash(leaf_data(data)) for data in entries]))
        assert entries[0] == encode_entry(genesis())
        assert list(ledger.entries(4)) == entries[4:]
        third = ledger.entry(3)
        assert isinstance(third, CheckpointEntry)
        assert third.step == 3
        head = open_head(ledger.head(), ledger.origin, KEY.public)
        assert (head.size, head.root) == (6, ledger.root.value)
        assert sorted(ledger.times()) == [0, 1, 2, 3, 4, 5]
        with pytest.raises(MissingFileError, match="no entry 6"):
            ledger.entry(6)
    assert (run / HEAD).read_bytes() == ledger_head(run)


def ledger_head(run: Path) -> bytes:
    with Ledger(run) as ledger:
        return ledger.head()


def test_a_ledger_goes_on_where_it_was_closed(run: Path) -> None:
    with Ledger(run, KEY) as ledger:
        append(ledger, 2)
        ledger.check()
        assert ledger.size == 8
    with Ledger(run) as again:
        assert again.size == 8


def test_the_same_entries_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "other", genesis(), KEY) as other:
        append(other, 5)
        with Ledger(run) as ledger:
            assert list(other.entries()) == list(ledger.entries())
            assert other.head() == ledger.head()


def test_notes_are_kept(run: Path) -> None:
    with Ledger(run, KEY) as ledger:
        assert ledger.note("seed") is None
        ledger.set_note("seed", "one")
        ledger.set_note("seed", "two")
    with Ledger(run) as ledger:
        assert ledger.note("seed") == "two"


# --- who may write


def test_only_an_entry_that_follows_is_appended(run: Path) -> None:
    with Ledger(run, KEY) as ledger:
        with pytest.raises(ChainError, match="does not follow"):
            ledger.append(checkpoint(sha256(b"elsewhere"), 6))
        assert ledger.size == 6
        append(ledger, 1)
    with Ledger(run) as reader, pytest.raises(UsageError, match="opened to read"):
        append(reader, 1)


def test_one_process_writes_and_others_read(run: Path) -> None:
    with Ledger(run, KEY) as ledger:
        with pytest.raises(RunLockedError) as caught:
            Ledger(run, KEY)
        assert caught.value.hint
        with Ledger(run) as reader:
            append(ledger, 1)
            assert reader.size == 6
    Ledger(run, KEY).close()


def test_a_forked_worker_that_outlives_the_writer_does_not_hold_the_lock(run: Path) -> None:
    def write_and_die() -> None:
        Ledger(run, KEY)
        worker = os.fork()
        if worker == 0:
            os.write(ready, b"r")
            os.read(hold, 1)  # until the test closes its end
            os._exit(0)
        time.sleep(60)

    ready_here, ready = os.pipe()
    hold, hold_here = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(hold_here)
        write_and_die()
    try:
        assert os.read(ready_here, 1) == b"r"
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        Ledger(run, KEY).close()
    finally:
        for descriptor in (hold_here, hold, ready, ready_here):
            os.close(descriptor)


def test_a_forked_worker_does_not_give_the_writers_lock_away(run: Path) -> None:
    with Ledger(run, KEY) as ledger:
        pid = os.fork()
        if pid == 0:
            ledger._unlock()
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(RunLockedError):
            Ledger(run, KEY)


def test_a_ledger_that_is_refused_is_not_left_locked(run: Path) -> None:
    with pytest.raises(KeyMismatchError, match="belongs to"):
        Ledger(run, PrivateKey.generate())
    Ledger(run, KEY).close()


def test_a_run_is_not_made_twice(run: Path) -> None:
    before = (run / DATABASE).read_bytes()
    with pytest.raises(UsageError, match=r"a run at .* already"):
        Ledger.create(run, genesis(bytes([1] * 16)), KEY)
    assert (run / DATABASE).read_bytes() == before
    Ledger(run, KEY).close()


def test_a_run_that_is_being_made_is_not_made_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other process makes it between our look and our lock.
    import polchain.storage.ledger as module

    lock = module.take

    def late(folder: Path) -> int:
        monkeypatch.setattr(module, "take", lock)
        Ledger.create(folder, genesis(bytes([1] * 16)), KEY).close()
        return lock(folder)

    monkeypatch.setattr(module, "take", late)
    with pytest.raises(UsageError, match="already"):
        Ledger.create(tmp_path / "run", genesis(), KEY)
    with Ledger(tmp_path / "run") as ledger:
        assert ledger.genesis.run_id == bytes([1] * 16)


def test_where_there_is_no_run_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no run at"):
        Ledger(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(MissingFileError, match="is a file, not a run"):
        Ledger(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot make a run"):
        Ledger.create(tmp_path / "file" / "run", genesis(), KEY)


def test_a_run_is_found_by_argument_environment_or_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_run(Path("x")) == Path("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="which run"):
        find_run(None)
    (run / "polchain.toml").touch()
    (run / "deep").mkdir()
    monkeypatch.chdir(run / "deep")
    assert find_run(None) == run
    monkeypatch.setenv("POLCHAIN_RUN", "elsewhere")
    assert find_run(None) == Path("elsewhere")


# --- head.note


def grown(run: Path, count: int = 1) -> bytes:
    with Ledger(run, KEY) as ledger:
        append(ledger, count)
    return (run / HEAD).read_bytes()


@pytest.mark.parametrize("form", ["older", "missing", "empty"])
def test_a_head_note_that_is_behind_is_mended(run: Path, form: str) -> None:
    older = (run / HEAD).read_bytes()
    newest = grown(run)
    assert older != newest
    if form == "missing":
        (run / HEAD).unlink()
    else:
        (run / HEAD).write_bytes(older if form == "older" else b"")
    Ledger(run, KEY).close()
    assert (run / HEAD).read_bytes() == newest


def test_a_head_note_that_is_ahead_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "backup")
    newest = grown(run)
    (tmp_path / "backup" / HEAD).write_bytes(newest)
    with pytest.raises(RolledBackError, match="signs 7 entries which this ledger of 6 does not hold") as caught:
        Ledger(tmp_path / "backup", KEY)
    assert "restore" in caught.value.hint
    assert (tmp_path / "backup" / HEAD).read_bytes() == newest, "the evidence was overwritten"


def test_a_ledger_older_than_a_published_head_is_not_signed_on(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "backup")
    newest = grown(run)
    (run / "heads").mkdir()
    (run / "heads" / "7.note").write_bytes(newest)
    Ledger(run, KEY).close()
    # Put back with all its files, but for what was published.
    shutil.copytree(run / "heads", tmp_path / "backup" / "heads")
    with pytest.raises(RolledBackError, match=r"heads/7\.note was published") as caught:
        Ledger(tmp_path / "backup", KEY)
    assert "restore" in caught.value.hint
    Ledger(tmp_path / "backup").close()


def test_a_head_note_of_a_fork_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "fork")
    grown(run)
    with Ledger(tmp_path / "fork", KEY) as fork:
        fork.append(checkpoint(fork.root, 999))
    shutil.copy(tmp_path / "fork" / HEAD, run / HEAD)
    with pytest.raises(RolledBackError):
        Ledger(run, KEY)


@pytest.mark.parametrize("form", ["garbage", "flipped", "another key's", "another run's"])
def test_a_head_note_that_is_not_this_logs_is_refused(run: Path, tmp_path: Path, form: str) -> None:
    note = (run / HEAD).read_bytes()
    if form == "garbage":
        note = b"\xff\x00"
    elif form == "flipped":
        note = note[:-20] + bytes([note[-20] ^ 1]) + note[-19:]
    else:
        key, run_id = (PrivateKey.generate(), bytes(16)) if form == "another key's" else (KEY, bytes([1] * 16))
        Ledger.create(tmp_path / "other", Genesis(run_id=run_id, key=key.public), key).close()
        note = (tmp_path / "other" / HEAD).read_bytes()
    (run / HEAD).write_bytes(note)
    with pytest.raises(EvidenceError, match=r"head\.note"):
        Ledger(run, KEY)


# --- damage


def tampered(run: Path, *statements: str) -> Path:
    connection = sqlite3.connect(run / DATABASE)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return run


def other_entry(run: Path, number: int) -> str:
    with Ledger(run) as ledger:
        entry = ledger.entry(number)
    assert isinstance(entry, CheckpointEntry)
    return encode_entry(checkpoint(entry.prev, 1000)).hex()


TAMPERED: dict[str, tuple[type[PolchainError], str, Callable[[Path], list[str]]]] = {
    "an entry changed": (
        ChainError,
        "head of size 4",
        lambda run: [f"UPDATE entries SET data = x'{other_entry(run, 3)}' WHERE number = 3"],
    ),
    "an entry dropped": (ChainError, "entry 3 is missing", lambda run: ["DELETE FROM entries WHERE number = 3"]),
    "the last entry dropped": (
        ChainError,
        "heads of entries that it does not hold",
        lambda run: ["DELETE FROM entries WHERE number = 5"],
    ),
    "two entries swapped": (
        ChainError,
        "entry 2 does not follow",
        lambda run: [
            "UPDATE entries SET number = 99 WHERE number = 2",
            "UPDATE entries SET number = 2 WHERE number = 3",
            "UPDATE entries SET number = 3 WHERE number = 99",
        ],
    ),
    "an entry of nonsense": (FormatError, "entry", lambda run: ["UPDATE entries SET data = x'00' WHERE number = 3"]),
    "an entry of text": (FormatError, "entry 3", lambda run: ["UPDATE entries SET data = 'text' WHERE number = 3"]),
    "a genesis of text": (ChainError, "genesis", lambda run: ["UPDATE entries SET data = 'text' WHERE number = 0"]),
    "a genesis of null": (ChainError, "genesis", lambda run: ["UPDATE entries SET data = NULL WHERE number = 0"]),
    "no entries": (ChainError, "genesis", lambda run: ["DELETE FROM entries"]),
    "a head dropped": (ChainError, "no head of size 3", lambda run: ["DELETE FROM heads WHERE size = 3"]),
    "the last head dropped": (ChainError, "no head of size 6", lambda run: ["DELETE FROM heads WHERE size = 6"]),
    "a head of text": (FormatError, "size 3", lambda run: ["UPDATE heads SET note = 'text' WHERE size = 3"]),
    "a head of another size": (
        ChainError,
        "the head of size 3",
        lambda run: ["UPDATE heads SET note = (SELECT note FROM heads WHERE size = 2) WHERE size = 3"],
    ),
    "a head too many": (
        ChainError,
        "heads of entries",
        lambda run: ["INSERT INTO heads SELECT 9, note FROM heads WHERE size = 6"],
    ),
    "a signature flipped": (
        SignatureError,
        "the signature is not by",
        lambda run: [f"UPDATE heads SET note = x'{flipped_signature(run).hex()}' WHERE size = 3"],
    ),
    "a table dropped": (FormatError, "cannot be read", lambda run: ["DROP TABLE entries"]),
    "a table of times dropped": (FormatError, "no plain table sidecar", lambda run: ["DROP TABLE sidecar"]),
    "a view for a table": (
        FormatError,
        "holds a view, 'entries'",
        lambda run: ["ALTER TABLE entries RENAME TO hidden", "CREATE VIEW entries AS SELECT number, data FROM hidden"],
    ),
    "a view beside the tables": (FormatError, "holds a view", lambda run: ["CREATE VIEW more AS SELECT 1"]),
    "a trigger": (
        FormatError,
        "holds a trigger",
        lambda run: ["CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM heads; END"],
    ),
    "a virtual table": (
        FormatError,
        "holds a virtual table, 'notes'",
        lambda run: ["DROP TABLE notes", "CREATE VIRTUAL TABLE notes USING fts5(name, value)"],
    ),
}


def flipped_signature(run: Path) -> bytes:
    with Ledger(run) as ledger:
        note = ledger.head(3)
    return note[:-20] + (b"A" if note[-20:-19] != b"A" else b"B") + note[-19:]


@pytest.mark.parametrize("what", TAMPERED)
def test_a_ledger_with(run: Path, what: str) -> None:
    kind, said, statements = TAMPERED[what]
    tampered(run, *statements(run))
    with pytest.raises(kind) as caught:
        checked(run)
    assert said in str(caught.value)
    with pytest.raises(PolchainError):
        checked(run, KEY)


def checked(run: Path, key: PrivateKey | None = None) -> None:
    with Ledger(run, key) as ledger:
        ledger.check()


@pytest.mark.parametrize(
    "data", [b"", b"garbage " * 1000, b"SQLite format 3\0" + bytes(5000)], ids=["empty", "text", "zeros"]
)
def test_a_database_that_is_none_is_refused(run: Path, data: bytes) -> None:
    for leftover in run.glob(f"{DATABASE}-*"):
        leftover.unlink()
    (run / DATABASE).write_bytes(data)
    for key in (None, KEY):
        with pytest.raises(EvidenceError):
            Ledger(run, key)


def test_a_byte_changed_in_the_file_is_found_or_changes_nothing(run: Path) -> None:
    with Ledger(run) as ledger:
        honest = list(ledger.entries())
    data = (run / DATABASE).read_bytes()
    found = 0
    for place in range(0, len(data), len(data) // 60):
        changed = bytearray(data)
        changed[place] ^= 0x55
        for leftover in run.glob(f"{DATABASE}-*"):
            leftover.unlink()
        (run / DATABASE).write_bytes(changed)
        try:
            checked(run)
        except PolchainError:
            found += 1
        else:
            with Ledger(run) as ledger:
                assert list(ledger.entries()) == honest, f"byte {place} changes the log unseen"
    assert found, "no byte mattered, so nothing was tested"


# --- the disk


class FullDisk:
    """A connection whose disk is full from some statement on."""

    def __init__(self, connection: sqlite3.Connection, at: str) -> None:
        self._connection, self._at = connection, at

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: object) -> object:
        if statement.startswith(self._at):
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *arguments)


@pytest.mark.parametrize("at", ["BEGIN", "INSERT INTO entries", "INSERT INTO heads", "INSERT INTO sidecar", "COMMIT"])
def test_a_full_disk_appends_nothing_and_the_ledger_goes_on(run: Path, at: str) -> None:
    with Ledger(run, KEY) as ledger:
        connection, note = ledger.db.conn, (run / HEAD).read_bytes()
        ledger.db.conn = FullDisk(connection, at)  # type: ignore[assignment]
        with pytest.raises(StorageError, match="disk is full"):
            append(ledger, 1)
        with pytest.raises(StorageError, match="disk is full"):
            append(ledger, 1)
        assert ledger.size == 6
        assert (run / HEAD).read_bytes() == note
        ledger.db.conn = connection
        append(ledger, 1)
        ledger.check()
        assert ledger.size == 7


def test_a_full_disk_keeps_no_note(run: Path) -> None:
    with Ledger(run, KEY) as ledger:
        connection = ledger.db.conn
        ledger.db.conn = FullDisk(connection, "COMMIT")  # type: ignore[assignment]
        with pytest.raises(StorageError, match="refused a note"):
            ledger.set_note("seed", "x")
        ledger.db.conn = connection
        assert ledger.note("seed") is None


APPENDER = """
    import sys
    from pathlib import Path
    from polchain.core.digest import sha256
    from polchain.core.entries import CheckpointEntry
    from polchain.core.manifest import GROUPS
    from polchain.core.keys import PrivateKey
    from polchain.storage.ledger import Ledger

    ledger = Ledger(Path(sys.argv[1]), PrivateKey.from_openssh(sys.stdin.buffer.read(), None))
    while True:
        digest = sha256(bytes([ledger.size % 256]))
        ledger.append(CheckpointEntry(ledger.root, ledger.size, dict.fromkeys(GROUPS, digest), digest))
        sys.stdout.write(f"{ledger.size}\\n")
        sys.stdout.flush()
"""


def test_a_kill_loses_nothing_that_was_acknowledged(run: Path) -> None:
    secret, before = KEY.to_openssh(None), 6
    for lines in (1, 7, 40):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(APPENDER), str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(secret)
        process.stdin.close()
        said = [process.stdout.readline() for _ in range(lines)]
        assert all(said), "the appending process ended by itself"
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        acknowledged = int([line for line in said if line.endswith(b"\n")][-1])
        assert acknowledged >= before + lines
        with Ledger(run, KEY) as ledger:
            ledger.check()
            assert acknowledged <= ledger.size <= acknowledged + 1, "an acknowledged entry is gone"
            assert (run / HEAD).read_bytes() == ledger.head()
            before = ledger.size
