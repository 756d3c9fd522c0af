"""A ledger of many entries: opened by its end, proved from tiles, and never by what its entries do not say."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import polchain.storage.checking as checking
import polchain.storage.database as module
from polchain.core import merkle
from polchain.core.digest import Digest, sha256
from polchain.core.entries import CheckpointEntry, KeyChange, encode_entry, leaf_data
from polchain.core.genesis import Genesis
from polchain.core.keys import PrivateKey
from polchain.core.merkle import check_consistency, check_inclusion, leaf_hash
from polchain.core.rows import GROUPS
from polchain.errors import ChainError, EvidenceError, MissingFileError, PolchainError, StorageError
from polchain.storage.database import DATABASE
from polchain.storage.headfile import HeadFile, read_head
from polchain.storage.ledger import Ledger
from polchain.storage.logtree import LogTree

KEY, NEW, RECOVERY = (PrivateKey.generate() for _ in range(3))
SIZE = 64 * 4 + 9


def checkpoint(prev: Digest, step: int) -> CheckpointEntry:
    digest = sha256(step.to_bytes(8, "little"))
    return CheckpointEntry(prev, step, dict.fromkeys(GROUPS, digest), digest)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 265 entries whose key changes in entry 100."""
    folder = tmp_path_factory.mktemp("long") / "run"
    genesis = Genesis(run_id=bytes(16), key=KEY.public, recovery=RECOVERY.public)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "connect", quick(module.connect))
        with Ledger.create(folder, genesis, KEY) as ledger:
            for _ in range(99):
                ledger.append(checkpoint(ledger.root, ledger.size))
            ledger.append(KeyChange(ledger.root, "rotate", NEW.public))
        with Ledger(folder, NEW) as ledger:
            while ledger.size < SIZE:
                ledger.append(checkpoint(ledger.root, ledger.size))
    return folder


def quick(opened: object) -> object:
    """A database that does not wait for the disk: what is tested here is not durability."""

    def open_quickly(path: Path) -> sqlite3.Connection:
        connection: sqlite3.Connection = opened(path)  # type: ignore[operator]
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    return open_quickly


@pytest.fixture
def run(long: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(long, tmp_path / "run"))


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often a whole log was read to open it."""
    found: list[int] = []
    load = LogTree._load_all

    def counted(self: LogTree) -> None:
        found.append(1)
        load(self)

    monkeypatch.setattr(LogTree, "_load_all", counted)
    return found


def changed(run: Path, *statements: str) -> None:
    connection = sqlite3.connect(run / DATABASE)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def proves(ledger: Ledger) -> None:
    """Every proof that the ledger gives holds, and is the one that its entries give."""
    entries = list(ledger.entries())
    hashes = [leaf_hash(leaf_data(data)) for data in entries]
    for number in (0, 63, 64, 100, 255, 256, len(entries) - 1):
        proof = ledger.prove_inclusion(number)
        assert proof == merkle.prove_inclusion(hashes, number)
        check_inclusion(leaf_data(entries[number]), number, proof, ledger.size, ledger.root.value)
    for old in (1, 64, 100, 101, 264):
        proof = ledger.prove_consistency(old)
        head = ledger.keys.open(ledger.head(old), ledger.origin)
        check_consistency(old, head.root, ledger.size, ledger.root.value, proof)


def test_a_long_log_is_opened_by_its_end(run: Path, scans: list[int]) -> None:
    with Ledger(run) as ledger:
        assert not scans, "the whole log was read"
        assert ledger.size == SIZE
        assert ledger.keys.signer(100) == KEY.public
        assert ledger.keys.signer(SIZE) == NEW.public
        proves(ledger)
        assert ledger.check(), "the stored tiles are not those of the entries"
        with pytest.raises(MissingFileError, match="no entry 265"):
            ledger.prove_inclusion(SIZE)
        with pytest.raises(ChainError, match="no head of size 266"):
            ledger.prove_consistency(SIZE + 1)


def test_a_writer_goes_on_from_the_tiles(run: Path, scans: list[int]) -> None:
    for _ in range(3):
        with Ledger(run, NEW) as ledger:
            for _ in range(30):
                ledger.append(checkpoint(ledger.root, ledger.size))
            proves(ledger)
    assert not scans
    with Ledger(run) as ledger:
        assert ledger.size == SIZE + 90
        assert ledger.check()


STALE = {
    "no tiles, as an older polchain wrote it": ["DROP TABLE tiles", "DROP TABLE changes"],
    "a tile gone": ["DELETE FROM tiles WHERE level = 1"],
    "a tile of nothing": ["UPDATE tiles SET hashes = x'00' WHERE level = 1"],
    "a tile of text": ["UPDATE tiles SET hashes = 'text' WHERE level = 1"],
    "another tile": ["UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 1"],
    "another table": ["DROP TABLE tiles", "CREATE TABLE tiles (x)"],
    "a key change left out": ["DELETE FROM changes"],
    "a key change made up": ["INSERT INTO changes VALUES (7)"],
    "a key change of nowhere": ["INSERT INTO changes VALUES (-7)"],
    "a key change without a number": [
        "DROP TABLE changes",
        "CREATE TABLE changes (number)",
        "INSERT INTO changes VALUES ('x')",
    ],
}


@pytest.mark.parametrize("what", STALE)
def test_tiles_that_disagree_are_not_believed_and_made_again(run: Path, scans: list[int], what: str) -> None:
    changed(run, *STALE[what])
    with Ledger(run) as ledger:
        proves(ledger)
        assert ledger.keys.signer(SIZE) == NEW.public
        assert ledger.check() == what.startswith("no tiles"), "wrong tiles were not noticed"
    assert scans, "wrong tiles were believed"
    with Ledger(run, NEW) as ledger:
        ledger.append(checkpoint(ledger.root, ledger.size))
        proves(ledger)
    scans.clear()
    with Ledger(run) as ledger:
        proves(ledger)
        assert ledger.check(), "the tiles were not made again"
    assert not scans


def test_a_wrong_tile_of_leaves_gives_no_wrong_proof(run: Path) -> None:
    # Opening does not read it.
    changed(run, "UPDATE tiles SET hashes = zeroblob(2048) WHERE level = 0 AND number = 1")
    with Ledger(run) as ledger:
        proves(ledger)
        assert not ledger.check()
        ledger.mend_tree()
        assert ledger.check()


def test_an_entry_that_was_changed_is_neither_proved_nor_signed_over(run: Path) -> None:
    with Ledger(run) as ledger:
        entry = ledger.entry(70)
        assert isinstance(entry, CheckpointEntry)
        other = encode_entry(checkpoint(entry.prev, 999)).hex()
    changed(run, f"UPDATE entries SET data = x'{other}' WHERE number = 70")
    with Ledger(run) as ledger:
        with pytest.raises(ChainError, match="not those that the heads sign"):
            ledger.prove_inclusion(70)
        with pytest.raises(ChainError, match="head of size 71"):
            ledger.check()
    changed(run, "DROP TABLE tiles")
    with pytest.raises(ChainError, match="not the 265 that its last head signs"):
        Ledger(run, NEW)


def test_a_head_whose_entry_is_gone_is_not_signed_over(run: Path) -> None:
    published = (run / "head.note").read_bytes()
    changed(run, f"DELETE FROM entries WHERE number = {SIZE - 1}")
    with pytest.raises(PolchainError, match="does not hold"):
        Ledger(run, NEW)
    assert (run / "head.note").read_bytes() == published, "it is what shows that an entry is gone"


def test_an_entry_that_is_gone_is_missed(run: Path) -> None:
    changed(run, "DELETE FROM entries WHERE number = 70")
    with Ledger(run) as ledger, pytest.raises(ChainError, match="entry 70 is missing"):
        ledger.check()


@pytest.mark.parametrize("where", [0, 5, 130, 264])
def test_several_processes_find_what_one_finds(run: Path, monkeypatch: pytest.MonkeyPatch, where: int) -> None:
    def said() -> str:
        try:
            with Ledger(run) as ledger:
                ledger.check()
        except PolchainError as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    monkeypatch.setattr(checking, "STRETCH", 40)
    for statement in (
        "SELECT 1",
        f"UPDATE heads SET note = (SELECT note FROM heads WHERE size = 9) WHERE size = {where + 1}",
    ):
        changed(run, statement)
        monkeypatch.setattr(checking, "ALONE", 10**6)
        alone = said()
        monkeypatch.setattr(checking, "ALONE", 0)
        monkeypatch.setattr(checking.os, "sched_getaffinity", lambda _: {0, 1})
        assert said() == alone
    assert "signs another tree" in alone


def test_the_first_of_two_damages_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "STRETCH", 16)
    changed(run, "UPDATE heads SET note = x'00' WHERE size = 50", "DELETE FROM heads WHERE size = 60")
    with Ledger(run) as ledger, pytest.raises(EvidenceError, match="note"):
        ledger.check()


def test_a_head_is_written_whole(tmp_path: Path) -> None:
    file = HeadFile(tmp_path)
    assert read_head(tmp_path) == b""
    for data in (b"one", b"two", b"six", b"another", b"3", b"4" * 600, b"5" * 600, b"6" * 600):
        file.write(data)
        assert read_head(tmp_path) == data
        assert [one.name for one in tmp_path.iterdir()] == ["head.note"]
    with pytest.raises(StorageError, match="No such file"):
        HeadFile(tmp_path / "nowhere").write(b"x")


FOUND: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to(path.with_name("mine")),
    "a pipe": os.mkfifo,
    "longer": lambda path: path.write_bytes(b"half of something else"),
    "of the same length": lambda path: path.write_bytes(b"half a head"),
}


@pytest.mark.parametrize("name", ["head.note", ".head.note.partial"])
@pytest.mark.parametrize("kind", FOUND)
def test_whatever_is_there_gives_way_to_the_head(tmp_path: Path, kind: str, name: str) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"the owner's")
    FOUND[kind](tmp_path / name)
    HeadFile(tmp_path).write(b"the head 1.")
    assert (read_head(tmp_path), mine.read_bytes()) == (b"the head 1.", b"the owner's")
    assert (tmp_path / "head.note").lstat().st_size == 11


def test_a_head_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "head.note").mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        read_head(tmp_path)
    (tmp_path / "head.note").rmdir()
    os.mkfifo(tmp_path / "head.note")
    assert read_head(tmp_path) == b""


def test_a_reader_sees_whole_heads(tmp_path: Path) -> None:
    notes = [bytes([letter]) * 400 for letter in b"abcdefgh"]
    file, seen, over = HeadFile(tmp_path), set(), threading.Event()
    file.write(notes[0])

    def read() -> None:
        while not over.is_set():
            seen.add(read_head(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(4000):
        file.write(notes[number % 8])
    over.set()
    reader.join()
    assert seen <= set(notes)
    assert len(seen) > 1
