"""The run's ledger: a SQLite file, its signed head beside it.

    ledger.db    entries(number, data)   heads(size, note)   sidecar(number, committed_at)   notes(name, value)
                 tiles, changes: hashes of the tree, to be made again from the entries (`storage.tree`)
    head.note    the last head, renamed into place after each append
    lock         held by the one process that writes, and not by what it forks

An append is one transaction (WAL, synchronous=FULL): the entry goes in, is read back, the head over it is signed and
goes in beside it. Only when it is durable does `head.note` follow. So a crash leaves a head.note that is at most
behind, which the next writer mends; one that is *ahead* means that the database was put back to an older state, and is
refused.

Opening reads the end of the log and the tiles before it, which must give the root that the last head signs; where they
do not, or are not there, it reads every entry. A writer's log rebuilds that root, or is refused.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import sqlite_utils

from polchain.core.claim import HEADS, LISTING
from polchain.core.digest import Digest
from polchain.core.entries import Entry, KeyChange, encode_entry, leaf_data, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.keyline import KeyLine, key_line
from polchain.core.keys import PrivateKey
from polchain.core.merkle import Frontier, Hash, check_consistency, check_inclusion, leaf_hash
from polchain.core.note import TreeHead, origin_of, sign_head
from polchain.core.tiles import WIDTH, Edge, TileTree
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
from polchain.storage.checking import check_entries
from polchain.storage.checkpoints import make_folder, sync_folder
from polchain.storage.headfile import replace_file
from polchain.storage.tree import TreeTable

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
            FormatError, ChainError: the ledger is damaged; with a key, its entries are not those that its head signs.
        """
        self.folder = folder
        if not (folder / DATABASE).exists():
            raise no_run(folder)
        self.key = key
        self._lock = _lock(folder) if key is not None else None
        self.frontier = Frontier()
        self.keys: KeyLine
        self._changes: list[tuple[int, KeyChange]] = []
        self._edge = Edge()
        self._tiles: dict[tuple[int, int], bytes] | None = None  # where the database has none, or wrong ones
        try:
            self.db = _open(folder / DATABASE)
            _check_schema(self.db)
            self.tree = TreeTable(self.db.conn)
            self.genesis = self._read_genesis()
            if not self._load_end():
                self._load_all()
            if key is not None:
                wanted = self.keys.signer(self.size + 1)
                if key.public not in (wanted, self.genesis.recovery):
                    raise KeyMismatchError(
                        f"the run at {folder} belongs to {wanted}, the key given is {key.public}",
                        hint="give the key that the run was started with, or changed to: --key-file",
                    )
                self._check_published()
                self._check_root()
                self._mend_head()
                self._keep_tree()
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
            TreeTable(db.conn).create()
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
                leaf = leaf_hash(leaf_data(stored))
                grown, edge = self.frontier.copy(), self._edge.copy()
                grown.append(leaf)
                self.tree.write(edge.append(leaf))
                if isinstance(entry, KeyChange):
                    self.tree.write_change(number)
                head = TreeHead(self.origin, grown.size, grown.root())
                note = sign_head(head, self.key)
                self.db.conn.execute("INSERT INTO heads VALUES (?, ?)", (head.size, note))
                self.db.conn.execute("INSERT INTO sidecar VALUES (?, ?)", (number, time.time()))
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"the ledger refused an entry: {error}", hint="free some space, then go on") from error
        self.frontier, self._edge = grown, edge
        self._changes, self.keys = changes, keys
        self._write_head(note)
        return head

    def entries(self, start: int = 0) -> Iterator[bytes]:
        """The entries' bytes, in order.

        Raises:
            ChainError, FormatError: one is missing, or is not bytes.
        """
        query = "SELECT number, data FROM entries WHERE number >= ? ORDER BY number"
        for number, (stored, data) in enumerate(self.db.conn.execute(query, (start,)), start=start):
            if stored != number:
                raise ChainError(f"entry {number} is missing from the ledger")
            if not isinstance(data, bytes):
                raise FormatError(f"entry {number} of the ledger is not bytes")
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

    def times_from(self, first: int) -> Iterator[tuple[int, float]]:
        """The entries from `first` on that have such a time, with it, in order."""
        yield from self.db.conn.execute(
            "SELECT number, committed_at FROM sidecar WHERE number >= ? ORDER BY number", (first,)
        )

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

    def prove_inclusion(self, number: int) -> list[Hash]:
        """The proof that an entry is in the tree of all entries, checked before it is given.

        Raises:
            MissingFileError: there is no entry with that number.
            ChainError: the entries are not those that the last head signs.
        """
        row = self.db.conn.execute("SELECT data FROM entries WHERE number = ?", (number,)).fetchone()
        if row is None or number >= self.size or not isinstance(row[0], bytes):
            raise MissingFileError(f"the log has no entry {number}", hint=f"it has entries 0 to {self.size - 1}")
        root, leaf = self.root.value, leaf_data(row[0])
        return self._prove(
            lambda tree: tree.prove_inclusion(number),
            lambda proof: check_inclusion(leaf, number, proof, self.size, root),
        )

    def prove_consistency(self, old_size: int) -> list[Hash]:
        """The proof that the tree of all entries extends the one that the head of `old_size` signs, checked.

        Raises:
            ChainError: there is no head of that size, or the entries are not those that the heads sign.
        """
        note, root = self._note(old_size), self.root.value
        if note is None or old_size > self.size:
            raise ChainError(f"no head of size {old_size}")
        old = self.keys.open(note, self.origin)
        return self._prove(
            lambda tree: tree.prove_consistency(old_size),
            lambda proof: check_consistency(old.size, old.root, self.size, root, proof),
        )

    def _prove(self, make: Callable[[TileTree], list[Hash]], check: Callable[[list[Hash]], None]) -> list[Hash]:
        try:
            proof = make(self._tree(self._tiles))
            check(proof)
        except (EvidenceError, sqlite3.Error):
            # The tiles are wrong, or an entry is: the entries themselves say which.
            try:
                proof = make(self._tree(self._tiles_of_entries()))
                check(proof)
            except EvidenceError as error:
                raise ChainError(f"the entries are not those that the heads sign: {error}") from error
        return proof

    def check(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """Check the whole ledger: every entry links to the root before it, and every head signs its tree.

        Args:
            progress: called with how many entries were checked, and of how many.

        Returns:
            Whether the stored tiles, where there are any, are those of the entries.

        Raises:
            ChainError, FormatError, SignatureError: which entry is wrong, and how.
        """
        found = check_entries(self.rows(), self.keys, self.origin, self.size, progress)
        (heads,) = self.db.conn.execute("SELECT COUNT(*) FROM heads").fetchone()
        if heads != found.size:
            raise ChainError("the ledger holds heads of entries that it does not hold")
        changes = [number for number in found.suspects if isinstance(self.entry(number), KeyChange)]
        if changes != [number for number, _ in self._changes]:
            raise ChainError("the log's key was changed by other entries than those that the ledger names")
        return not self.tree.there or self.tree.holds(found.tiles, changes)

    def mend_tree(self) -> None:
        """Make the stored tiles again; for whoever has checked the ledger and keeps writers out.

        Raises:
            StorageError: the disk refused.
        """
        self._tiles = self._tiles_of_entries()
        self._keep_tree()

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """The entries' bytes, each with the note of the head that ends with it.

        Raises:
            ChainError, FormatError: one is missing, or is not bytes.
        """
        query = "SELECT size, note FROM heads WHERE size > 0 ORDER BY size"
        heads = iter(self.db.conn.execute(query))
        for number, data in enumerate(self.entries()):
            size, note = next(heads, (None, None))
            if size != number + 1:
                raise ChainError(f"no head of size {number + 1}")
            if not isinstance(note, bytes):
                raise FormatError(f"the head of size {size} in the ledger is not bytes")
            yield data, note

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

    def _load_end(self) -> bool:
        """Take the tree from its tiles and the entries after them; False where that is not what the last head signs."""
        (last,) = self.db.conn.execute("SELECT MAX(number) FROM entries").fetchone()
        if not isinstance(last, int) or last + 1 < WIDTH or not self.tree.there:
            return False
        size = last + 1
        untiled = size - size % WIDTH
        # The last entry in any case: after one that revokes the key, none follows.
        first = min(last, untiled)
        try:
            tail = list(zip(range(first, size), self.entries(first), strict=False))
            leaves = [leaf_hash(leaf_data(data)) for number, data in tail if number >= untiled]
            edge = Edge.read(size, self.tree.read, leaves)
            listed = [(number, self.entry(number)) for number in self.tree.changes() if number < first]
            recent = [(number, parse_entry(data)) for number, data in tail if _may_change(data)]
            changes = [(number, entry) for number, entry in (*listed, *recent) if isinstance(entry, KeyChange)]
            if len(changes) < len(listed) or changes[: len(listed)] != listed:
                return False
            keys = key_line(self.genesis, changes, size)
            head, frontier = keys.open(self._note(size) or b"", self.origin), edge.frontier()
            if (head.size, head.root) != (size, frontier.root()):
                return False
        except (EvidenceError, MissingFileError, sqlite3.Error):
            return False
        self.frontier, self._edge, self._changes, self.keys = frontier, edge, changes, keys
        return True

    def _load_all(self) -> None:
        """Take the tree from every entry."""
        self._edge, self._tiles = Edge(), {}
        for number, data in enumerate(self.entries()):
            for tile in self._edge.append(leaf_hash(leaf_data(data))):
                self._tiles[tile[:2]] = tile[2]
            # Parsed only where the bytes can be such an entry: a log may have a million others.
            if _may_change(data) and isinstance(change := parse_entry(data), KeyChange):
                self._changes.append((number, change))
        self.frontier = self._edge.frontier()
        self.keys = key_line(self.genesis, self._changes, self.size)

    def _tiles_of_entries(self) -> dict[tuple[int, int], bytes]:
        edge, tiles = Edge(), {}
        for _, data in zip(range(self.size), self.entries(), strict=False):
            for level, number, hashes in edge.append(leaf_hash(leaf_data(data))):
                tiles[level, number] = hashes
        return tiles

    def _tree(self, tiles: dict[tuple[int, int], bytes] | None) -> TileTree:
        def leaves(start: int, end: int) -> list[Hash]:
            if (start, end) == (self.size - self.size % WIDTH, self.size):
                return self._edge.levels[0]
            return [leaf_hash(leaf_data(data)) for _, data in zip(range(start, end), self.entries(start), strict=False)]

        read = self.tree.read if tiles is None else lambda level, number: tiles.get((level, number))
        return TileTree(self.size, read, leaves)

    def _check_root(self) -> None:
        """A log that does not rebuild its own last head is never signed on: the next head would be a fork."""
        head = self.keys.open(self.head(), self.origin)
        if (head.size, head.root) != (self.size, self.frontier.root()):
            raise ChainError(
                f"the ledger's entries are not the {head.size} that its last head signs",
                hint="`polchain fsck` names the entry; restore the newest copy of the ledger",
            )

    def _keep_tree(self) -> None:
        """Store the tiles that were made from the entries, for the next opening."""
        if self._tiles is None:
            return
        if self.tree.there and self.size < WIDTH:
            self._tiles = None
            return
        tiles = [(level, number, hashes) for (level, number), hashes in self._tiles.items()]
        try:
            with _transaction(self.db):
                self.tree.replace(tiles, [number for number, _ in self._changes])
        except sqlite3.Error as error:
            raise StorageError(f"the ledger refused its tiles: {error}", hint="free some space, then go on") from error
        self._tiles = None

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
        try:
            replace_file(self.folder / HEAD, note)
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


def _may_change(data: bytes) -> bool:
    """Whether an entry's bytes can be a key change's: most cannot, and need no parsing."""
    return b'"kind":"r' in data


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
