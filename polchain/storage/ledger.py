"""The run's ledger: a SQLite file, its signed head beside it.

    ledger.db    entries(number, data)   heads(size, note)   sidecar(number, committed_at)   notes(name, value)
                 tiles, changes: hashes of the tree, to be made again from the entries (`storage.tree`)
    head.note    the last head, written over after each append
    lock         held by the one process that writes, and not by what it forks

An append is one transaction (WAL, synchronous=FULL): the entry goes in, is read back, the head over it is signed and
goes in beside it. Only when it is durable does `head.note` follow. So a crash leaves a head.note that is at most
behind, which the next writer mends; one that is *ahead* means that the database was put back to an older state, and is
refused.

Opening reads the end of the log and the tiles before it, which must give the root that the last head signs; where they
do not, or are not there, it reads every entry. A writer's log rebuilds that root, or is refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from polchain.core.digest import Digest
from polchain.core.entries import Entry, KeyChange, encode_entry, leaf_data, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.keyline import KeyLine
from polchain.core.keys import PrivateKey
from polchain.core.merkle import Frontier, Hash, leaf_hash
from polchain.core.note import TreeHead, origin_of, sign_head
from polchain.errors import ChainError, FormatError, KeyMismatchError, StorageError, UsageError
from polchain.storage.checking import check_entries
from polchain.storage.checkpoints import make_folder, sync_folder
from polchain.storage.database import DATABASE, Database
from polchain.storage.headfile import HeadFile, check_published, mend_head
from polchain.storage.lock import give_back, take
from polchain.storage.logtree import LogTree, no_entry
from polchain.storage.runs import no_run
from polchain.storage.tree import TreeTable

__all__ = ["Ledger"]


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
        self._head_file = HeadFile(folder)
        self._lock = take(folder) if key is not None else None
        try:
            self.db = Database(folder / DATABASE)
            self.db.check_schema()
            self.genesis = self._read_genesis()
            self.tree = LogTree(self.db, self.genesis)
            if key is not None:
                wanted = self.keys.signer(self.size + 1)
                if key.public not in (wanted, self.genesis.recovery):
                    raise KeyMismatchError(
                        f"the run at {folder} belongs to {wanted}, the key given is {key.public}",
                        hint="give the key that the run was started with, or changed to: --key-file",
                    )
                check_published(folder, self.db, self.size)
                self._check_root()
                mend_head(self._head_file, self.db, self.size, lambda note: self.keys.open(note, self.origin))
                self.tree.keep()
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
        lock = take(folder)
        partial = folder / f".{DATABASE}.{os.getpid()}.partial"
        try:
            # Under the lock: of two that begin at once, one finds the other's.
            if (folder / DATABASE).exists():
                raise UsageError(f"there is a run at {folder} already", hint="choose another folder")
            db = Database(partial)
            db.create()
            TreeTable(db.conn).create()
            data = encode_entry(genesis)
            frontier = Frontier()
            frontier.append(leaf_hash(leaf_data(data)))
            note = sign_head(TreeHead(origin_of(genesis.key, genesis.run_id), 1, frontier.root()), key)
            with db.transaction():
                db.put_entry(0, data)
                db.put_head(1, note)
            db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
            for leftover in (f"{partial}-wal", f"{partial}-shm"):
                Path(leftover).unlink(missing_ok=True)
            partial.rename(folder / DATABASE)
            sync_folder(folder)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                for leftover in (f"{partial}", f"{partial}-wal", f"{partial}-shm"):
                    Path(leftover).unlink(missing_ok=True)
            raise StorageError(f"cannot make a run at {folder}: {error}") from error
        finally:
            give_back(lock)
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
        return self.tree.size

    @property
    def root(self) -> Digest:
        """The root of the tree over all entries: the `prev` of the next one."""
        return Digest("sha256", self.tree.frontier.root())

    @property
    def origin(self) -> str:
        """Whose log this is, and of which run."""
        return self.tree.origin

    @property
    def keys(self) -> KeyLine:
        """Who signs the heads."""
        return self.tree.keys

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
        tree, number = self.tree, self.size
        changes, keys = tree.keys_with(entry)
        if self.key.public != keys.signer(number + 1):
            raise KeyMismatchError(f"the next head takes the signature of {keys.signer(number + 1)}")
        data = encode_entry(entry)
        try:
            with self.db.transaction():
                leaf = leaf_hash(leaf_data(self.db.put_entry(number, data)))
                grown, edge = tree.frontier.copy(), tree.edge.copy()
                grown.append(leaf)
                tree.table.write(edge.append(leaf))
                if isinstance(entry, KeyChange):
                    tree.table.write_change(number)
                head = TreeHead(self.origin, grown.size, grown.root())
                note = sign_head(head, self.key)
                self.db.put_head(head.size, note)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"the ledger refused an entry: {error}", hint="free some space, then go on") from error
        tree.frontier, tree.edge, tree.changes, tree.keys = grown, edge, changes, keys
        self._head_file.write(note)
        return head

    def entries(self, start: int = 0) -> Iterator[bytes]:
        """The entries' bytes, in order.

        Raises:
            ChainError, FormatError: one is missing, or is not bytes.
        """
        return self.db.entries(start)

    def entry(self, number: int) -> Entry:
        """One entry, parsed.

        Raises:
            MissingFileError: there is no entry with that number.
        """
        data = self.db.entry(number)
        if data is None:
            raise no_entry(number, self.size)
        return parse_entry(data)  # type: ignore[arg-type]

    def head(self, size: int | None = None) -> bytes:
        """The last signed head, or the one over `size` entries; empty where the log never had that size.

        Raises:
            ChainError: the last head is not there.
        """
        found = self.db.head(self.size if size is None else size)
        if found is None and size is None:
            raise ChainError(f"no head of size {self.size}")
        return found or b""

    def times(self) -> dict[int, float]:
        """When each entry was committed by this machine's clock, seconds since 1970. Signed by nobody."""
        return dict(self.db.times(0))

    def times_from(self, first: int) -> Iterator[tuple[int, float]]:
        """The entries from `first` on that have such a time, with it, in order."""
        return self.db.times(first)

    def note(self, name: str) -> str | None:
        """A private note of the run's, such as the seed's value before `start` publishes it."""
        return self.db.note(name)

    def set_note(self, name: str, value: str) -> None:
        """Keep a private note.

        Raises:
            StorageError: the disk refused.
        """
        self.db.set_note(name, value)

    def prove_inclusion(self, number: int) -> list[Hash]:
        """The proof that an entry is in the tree of all entries, checked before it is given.

        Raises:
            MissingFileError: there is no entry with that number.
            ChainError: the entries are not those that the last head signs.
        """
        return self.tree.prove_inclusion(number)

    def prove_consistency(self, old_size: int) -> list[Hash]:
        """The proof that the tree of all entries extends the one that the head of `old_size` signs, checked.

        Raises:
            ChainError: there is no head of that size, or the entries are not those that the heads sign.
        """
        return self.tree.prove_consistency(old_size)

    def check(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """Check the whole ledger: every entry links to the root before it, and every head signs its tree.

        Args:
            progress: called with how many entries were checked, and of how many.

        Returns:
            Whether the stored tiles, where there are any, are those of the entries.

        Raises:
            ChainError, FormatError, SignatureError: which entry is wrong, and how.
        """
        found = check_entries(self.db.rows(), self.keys, self.origin, self.size, progress)
        if self.db.count_heads() != found.size:
            raise ChainError("the ledger holds heads of entries that it does not hold")
        changes = [number for number in found.suspects if isinstance(self.entry(number), KeyChange)]
        if changes != [number for number, _ in self.tree.changes]:
            raise ChainError("the log's key was changed by other entries than those that the ledger names")
        return not self.tree.table.there or self.tree.table.holds(found.tiles, changes)

    def mend_tree(self) -> None:
        """Make the stored tiles again; for whoever has checked the ledger and keeps writers out.

        Raises:
            StorageError: the disk refused.
        """
        self.tree.mend()

    def _read_genesis(self) -> Genesis:
        data = self.db.entry(0)
        genesis = parse_entry(data) if isinstance(data, bytes) else None
        if not isinstance(genesis, Genesis):
            raise ChainError(f"the log at {self.folder} does not begin with a genesis")
        return genesis

    def _check_root(self) -> None:
        """A log that does not rebuild its own last head is never signed on: the next head would be a fork."""
        head = self.keys.open(self.head(), self.origin)
        if (head.size, head.root) != (self.size, self.root.value):
            raise ChainError(
                f"the ledger's entries are not the {head.size} that its last head signs",
                hint="`polchain fsck` names the entry; restore the newest copy of the ledger",
            )

    def _unlock(self) -> None:
        if self._lock is not None:
            give_back(self._lock)
            self._lock = None
