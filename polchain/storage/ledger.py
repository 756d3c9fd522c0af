"""The run's ledger: a SQLite file, its signed head beside it.

    ledger.db    entries(number, data)   heads(size, note)   sidecar(number, committed_at)   notes(name, value)
    head.note    the last head, renamed into place after each append
    lock         held by the one process that writes, and not by what it forks

An append is one transaction (WAL, synchronous=FULL): the entry goes in, is read back, the head over it is signed and
goes in beside it. Only when it is durable does `head.note` follow. So a crash leaves a head.note that is at most
behind, which the next writer mends; one that is *ahead* means that the database was put back to an older state, and is
refused.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import sqlite_utils

from polchain.core.claim import HEADS, LISTING
from polchain.core.digest import Digest
from polchain.core.entries import Entry, KeyChange, encode_entry, leaf_data, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.keyline import KeyLine, key_line
from polchain.core.merkle import Frontier, leaf_hash
from polchain.core.note import PrivateKey, TreeHead, origin_of, sign_head
from polchain.errors import (
    ChainError,
    EvidenceError,
    FormatError,
    KeyMismatchError,
    MissingFileError,
    RolledBackError,
    RunLockedError,
    StorageError,
    UsageError,
)
from polchain.storage.checkpoints import make_folder, sync_folder

__all__ = ["Ledger", "find_run", "locked", "no_run"]

DATABASE = "ledger.db"
HEAD = "head.note"
LOCK = "lock"
SETTINGS = "polchain.toml"
TABLES = frozenset({"entries", "heads", "sidecar", "notes"})


class Ledger:
    """A run's log. Opened to read, or, with the run's private key, to write."""

    def __init__(self, folder: Path, key: PrivateKey | None = None) -> None:
        """Open an existing ledger; with a key, lock the run for writing and mend a head.note that is behind.

        Raises:
            MissingFileError: there is no run in the folder.
            RunLockedError: another process is writing to it.
            KeyMismatchError: the key is not the run's.
            RolledBackError: the ledger is older than its head.note.
            FormatError, ChainError: the ledger is damaged.
        """
        self.folder = folder
        if not (folder / DATABASE).exists():
            raise no_run(folder)
        self.key = key
        self._lock = _lock(folder) if key is not None else None
        self.frontier = Frontier()
        self.keys: KeyLine
        self._changes: list[tuple[int, KeyChange]] = []
        try:
            self.db = _open(folder / DATABASE)
            _check_schema(self.db)
            self.genesis = self._read_genesis()
            self._load()
            if key is not None:
                wanted = self.keys.signer(self.size + 1)
                if key.public not in (wanted, self.genesis.recovery):
                    raise KeyMismatchError(
                        f"the run at {folder} belongs to {wanted}, the key given is {key.public}",
                        hint="give the key that the run was started with, or changed to: --key-file",
                    )
                self._check_published()
                self._mend_head()
        except sqlite3.Error as error:
            self._unlock()
            raise FormatError(f"{folder / DATABASE} cannot be read: {error}") from error
        except BaseException:
            self._unlock()
            raise

    @classmethod
    def create(cls, folder: Path, genesis: Genesis, key: PrivateKey) -> Ledger:
        """Make a run's ledger, with its genesis; returns it open for writing.

        Raises:
            UsageError: there is a run already.
            StorageError: the disk refused.
        """
        try:
            make_folder(folder)
        except OSError as error:
            raise StorageError(f"cannot make a run at {folder}: {error.strerror}") from error
        lock = _lock(folder)
        partial = folder / f".{DATABASE}.{os.getpid()}.partial"
        try:
            # Under the lock: of two that begin at once, one finds the other's.
            if (folder / DATABASE).exists():
                raise UsageError(f"there is a run at {folder} already", hint="choose another folder")
            db = _open(partial)
            db["entries"].create({"number": int, "data": bytes}, pk="number")  # type: ignore[union-attr]
            db["heads"].create({"size": int, "note": bytes}, pk="size")  # type: ignore[union-attr]
            db["sidecar"].create({"number": int, "committed_at": float}, pk="number")  # type: ignore[union-attr]
            db["notes"].create({"name": str, "value": str}, pk="name")  # type: ignore[union-attr]
            data = encode_entry(genesis)
            frontier = Frontier()
            frontier.append(leaf_hash(leaf_data(data)))
            note = sign_head(TreeHead(origin_of(genesis.key, genesis.run_id), 1, frontier.root()), key)
            _insert(db, 0, data, note)
            db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
            for leftover in (f"{partial}-wal", f"{partial}-shm"):
                Path(leftover).unlink(missing_ok=True)
            partial.rename(folder / DATABASE)
            sync_folder(folder)
        except (OSError, sqlite3.Error) as error:
            partial.unlink(missing_ok=True)
            raise StorageError(f"cannot make a run at {folder}: {error}") from error
        finally:
            _unlock(lock)
        return cls(folder, key)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and give back the lock."""
        self.db.close()
        self._unlock()

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self.frontier.size

    @property
    def root(self) -> Digest:
        """The root of the tree over all entries: the `prev` of the next one."""
        return Digest("sha256", self.frontier.root())

    @property
    def origin(self) -> str:
        """Whose log this is, and of which run."""
        return origin_of(self.genesis.key, self.genesis.run_id)

    def append(self, entry: Entry) -> TreeHead:
        """Append an entry and sign the head over it. Durable when this returns.

        Raises:
            ChainError: its `prev` is not the present root.
            StorageError: the disk refused the entry, and nothing was appended; or it refused head.note alone, which
                the next opening mends.
        """
        if self.key is None:
            raise UsageError("the ledger was opened to read")
        if entry.prev != self.root:
            raise ChainError("the entry does not follow the last one")
        changes = [*self._changes, *([(self.size, entry)] if isinstance(entry, KeyChange) else [])]
        keys = key_line(self.genesis, changes, self.size + 1)
        if self.key.public != keys.signer(self.size + 1):
            raise KeyMismatchError(f"the next head takes the signature of {keys.signer(self.size + 1)}")
        data = encode_entry(entry)
        number = self.size
        try:
            with _transaction(self.db):
                self.db.conn.execute("INSERT INTO entries VALUES (?, ?)", (number, data))
                (stored,) = self.db.conn.execute("SELECT data FROM entries WHERE number = ?", (number,)).fetchone()
                grown = self.frontier.copy()
                grown.append(leaf_hash(leaf_data(stored)))
                head = TreeHead(self.origin, grown.size, grown.root())
                note = sign_head(head, self.key)
                self.db.conn.execute("INSERT INTO heads VALUES (?, ?)", (head.size, note))
                self.db.conn.execute("INSERT INTO sidecar VALUES (?, ?)", (number, time.time()))
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"the ledger refused an entry: {error}", hint="free some space, then go on") from error
        self.frontier = grown
        self._changes, self.keys = changes, keys
        self._write_head(note)
        return head

    def entries(self, start: int = 0) -> Iterator[bytes]:
        """The entries' bytes, in order."""
        query = "SELECT data FROM entries WHERE number >= ? ORDER BY number"
        for (data,) in self.db.conn.execute(query, (start,)):
            yield data

    def entry(self, number: int) -> Entry:
        """One entry, parsed.

        Raises:
            MissingFileError: there is no entry with that number.
        """
        row = self.db.conn.execute("SELECT data FROM entries WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise MissingFileError(f"the log has no entry {number}", hint=f"it has entries 0 to {self.size - 1}")
        return parse_entry(row[0])

    def head(self, size: int | None = None) -> bytes:
        """The last signed head, or the one over `size` entries; empty where the log never had that size.

        Raises:
            ChainError: the last head is not there.
        """
        found = self._note(self.size if size is None else size)
        if found is None and size is None:
            raise ChainError(f"no head of size {self.size}")
        return found or b""

    def times(self) -> dict[int, float]:
        """When each entry was committed by this machine's clock, seconds since 1970. Signed by nobody."""
        return dict(self.db.conn.execute("SELECT number, committed_at FROM sidecar"))

    def note(self, name: str) -> str | None:
        """A private note of the run's, such as the seed's value before `start` publishes it."""
        row = self.db.conn.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Keep a private note.

        Raises:
            StorageError: the disk refused.
        """
        try:
            with _transaction(self.db):
                self.db.conn.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))
        except sqlite3.Error as error:
            raise StorageError(f"the ledger refused a note: {error}", hint="free some space, then go on") from error

    def check(self) -> None:
        """Check the whole ledger: every entry links to the root before it, and every head signs its tree.

        Raises:
            ChainError, FormatError, SignatureError: which entry is wrong, and how.
        """
        frontier = Frontier()
        for number, data in enumerate(self.entries()):
            entry = parse_entry(data)
            if entry.prev.value != frontier.root():
                raise ChainError(f"entry {number} does not follow the one before it")
            frontier.append(leaf_hash(leaf_data(data)))
            note = self._note(number + 1)
            if note is None:
                raise ChainError(f"no head of size {number + 1}")
            head = self.keys.open(note, self.origin)
            if (head.size, head.root) != (frontier.size, frontier.root()):
                raise ChainError(f"the head of size {number + 1} signs another tree")
        (heads,) = self.db.conn.execute("SELECT COUNT(*) FROM heads").fetchone()
        if heads != frontier.size:
            raise ChainError("the ledger holds heads of entries that it does not hold")

    def _note(self, size: int) -> bytes | None:
        row = self.db.conn.execute("SELECT note FROM heads WHERE size = ?", (size,)).fetchone()
        if row is not None and not isinstance(row[0], bytes):
            raise FormatError(f"the head of size {size} in the ledger is not bytes")
        return None if row is None else row[0]

    def _read_genesis(self) -> Genesis:
        row = self.db.conn.execute("SELECT data FROM entries WHERE number = 0").fetchone()
        genesis = parse_entry(row[0]) if row and isinstance(row[0], bytes) else None
        if not isinstance(genesis, Genesis):
            raise ChainError(f"the log at {self.folder} does not begin with a genesis")
        return genesis

    def _load(self) -> None:
        for number, (stored, data) in enumerate(
            self.db.conn.execute("SELECT number, data FROM entries ORDER BY number")
        ):
            if stored != number:
                raise ChainError(f"entry {number} is missing from the ledger")
            if not isinstance(data, bytes):
                raise FormatError(f"entry {number} of the ledger is not bytes")
            self.frontier.append(leaf_hash(leaf_data(data)))
            # Parsed only where the bytes can be such an entry: a log may have a million others.
            if b'"kind":"r' in data and isinstance(change := parse_entry(data), KeyChange):
                self._changes.append((number, change))
        self.keys = key_line(self.genesis, self._changes, self.size)

    def _check_published(self) -> None:
        """Compare with every head that was published: a ledger without one of them is older than it."""
        for path in sorted((self.folder / "heads").glob("*.note")):
            match = HEADS.fullmatch(f"heads/{path.name}")
            if match is not None and self._note(int(match[1])) != path.read_bytes():
                raise RolledBackError(
                    f"heads/{path.name} was published, and this ledger of {self.size} entries does not hold it",
                    hint="the ledger was put back to an older state: restore the newest; signing on would fork the log",
                )

    def _mend_head(self) -> None:
        note = self.head()
        path = self.folder / HEAD
        published = path.read_bytes() if path.exists() else b""
        if published == note:
            return
        if published:
            try:
                head = self.keys.open(published, self.origin)
            except EvidenceError as error:
                raise type(error)(
                    f"{path} is not a head of this log: {error}",
                    hint="restore it; it shows whether the ledger is the newest",
                ) from error
            if self._note(head.size) != published:
                raise RolledBackError(
                    f"{HEAD} signs {head.size} entries which this ledger of {self.size} does not hold",
                    hint="the ledger was put back to an older state: restore the newest; signing on would fork the log",
                )
        self._write_head(note)

    def _write_head(self, note: bytes) -> None:
        # Not synced: the database is the durable copy, and a note that is behind is mended.
        partial = self.folder / f".{HEAD}.partial"
        try:
            partial.write_bytes(note)
            partial.rename(self.folder / HEAD)
        except OSError as error:
            raise StorageError(f"cannot write {self.folder / HEAD}: {error.strerror}") from error

    def _unlock(self) -> None:
        if self._lock is not None:
            _unlock(self._lock)
            self._lock = None


def no_run(folder: Path) -> MissingFileError:
    """What to raise where there is no ledger: a claim looks like a run to whoever mixes them up."""
    if (folder / LISTING).is_file():
        return MissingFileError(
            f"{folder} is a claim, not a run", hint="`polchain verify` checks claims; `log` and `show` read them"
        )
    if folder.is_file():
        return MissingFileError(f"{folder} is a file, not a run", hint="a run is the folder that `polchain init` makes")
    return MissingFileError(f"no run at {folder}", hint="`polchain init RUN` makes one")


def find_run(argument: Path | None) -> Path:
    """The run meant: the argument, `POLCHAIN_RUN`, or the nearest folder upwards with a `polchain.toml` and a ledger.

    Raises:
        UsageError: none of them.
    """
    if argument is not None:
        return argument
    if os.environ.get("POLCHAIN_RUN"):
        return Path(os.environ["POLCHAIN_RUN"])
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / SETTINGS).exists() and (folder / DATABASE).exists():
            return folder
    raise UsageError("which run?", hint="name its folder, or set POLCHAIN_RUN")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every writer out of a run for a while.

    Raises:
        RunLockedError: another process is writing to it.
    """
    descriptor = _lock(folder)
    try:
        yield
    finally:
        _unlock(descriptor)


def _open(path: Path) -> sqlite_utils.Database:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return sqlite_utils.Database(connection)


def _check_schema(db: sqlite_utils.Database) -> None:
    """Refuse a database that computes: a view answers what it likes, a trigger writes what nobody asked for."""
    plain = set()
    for kind, name, text in db.conn.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "table" and str(text).upper().startswith("CREATE VIRTUAL"):
            kind = "virtual table"
        if kind == "table":
            plain.add(name)
        elif kind != "index":
            raise FormatError(f"the ledger holds a {kind}, {str(name)[:40]!a}, where it has plain tables only")
    missing = sorted(TABLES - plain)
    if missing:
        raise FormatError(f"the ledger cannot be read: it has no plain table {missing[0]}")


def _insert(db: sqlite_utils.Database, number: int, data: bytes, note: bytes) -> None:
    with _transaction(db):
        db.conn.execute("INSERT INTO entries VALUES (?, ?)", (number, data))
        db.conn.execute("INSERT INTO heads VALUES (?, ?)", (number + 1, note))
        db.conn.execute("INSERT INTO sidecar VALUES (?, ?)", (number, time.time()))


@contextmanager
def _transaction(db: sqlite_utils.Database) -> Iterator[None]:
    db.conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.conn.execute("COMMIT")
    except BaseException:
        if db.conn.in_transaction:  # SQLite has ended it by itself where the disk is full
            db.conn.execute("ROLLBACK")
        raise


def _lock(folder: Path) -> int:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot write in {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise RunLockedError(f"another process is writing to {folder}", hint="wait for it to end, or stop it") from None
    _held.add(descriptor)
    return descriptor


def _unlock(descriptor: int) -> None:
    if descriptor in _held:
        _held.remove(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was just forked may not have closed its copy yet
        os.close(descriptor)


def _forget_locks() -> None:
    """In a forked child: a loader's workers outlive a killed trainer by seconds, and must not hold its lock."""
    while _held:
        os.close(_held.pop())


_held: set[int] = set()
os.register_at_fork(after_in_child=_forget_locks)
