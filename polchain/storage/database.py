"""The rows of a ledger, in SQLite (WAL, synchronous=FULL).

    entries(number, data)      heads(size, note)      sidecar(number, committed_at)      notes(name, value)

What is read here is what is there: whether it is right, its reader checks.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlite_utils

from polchain.errors import ChainError, FormatError, StorageError

__all__ = ["DATABASE", "Database"]

DATABASE = "ledger.db"
TABLES = frozenset({"entries", "heads", "sidecar", "notes"})


class Database:
    """An open database. Writing is for whoever is inside a transaction."""

    def __init__(self, path: Path) -> None:
        self.conn = connect(path)

    def close(self) -> None:
        """Close it."""
        self.conn.close()

    def create(self) -> None:
        """Make the tables."""
        made = sqlite_utils.Database(self.conn)
        made["entries"].create({"number": int, "data": bytes}, pk="number")  # type: ignore[union-attr]
        made["heads"].create({"size": int, "note": bytes}, pk="size")  # type: ignore[union-attr]
        made["sidecar"].create({"number": int, "committed_at": float}, pk="number")  # type: ignore[union-attr]
        made["notes"].create({"name": str, "value": str}, pk="name")  # type: ignore[union-attr]

    def check_schema(self) -> None:
        """Refuse a database that computes: a view answers what it likes, a trigger writes what nobody asked for.

        Raises:
            FormatError: it holds something else than plain tables, or not all of them.
        """
        plain = set()
        for kind, name, text in self.conn.execute("SELECT type, name, sql FROM sqlite_master"):
            if kind == "table" and str(text).upper().startswith("CREATE VIRTUAL"):
                kind = "virtual table"
            if kind == "table":
                plain.add(name)
            elif kind != "index":
                raise FormatError(f"the ledger holds a {kind}, {str(name)[:40]!a}, where it has plain tables only")
        missing = sorted(TABLES - plain)
        if missing:
            raise FormatError(f"the ledger cannot be read: it has no plain table {missing[0]}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written inside, or nothing."""
        self.conn.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.conn.execute("COMMIT")
        except BaseException:
            if self.conn.in_transaction:  # SQLite has ended it by itself where the disk is full
                self.conn.execute("ROLLBACK")
            raise

    def put_entry(self, number: int, data: bytes) -> bytes:
        """Write an entry; returns what is there when it is read back."""
        self.conn.execute("INSERT INTO entries VALUES (?, ?)", (number, data))
        (stored,) = self.conn.execute("SELECT data FROM entries WHERE number = ?", (number,)).fetchone()
        assert isinstance(stored, bytes)
        return stored

    def put_head(self, size: int, note: bytes) -> None:
        """Write the head that ends with an entry, and when that was."""
        self.conn.execute("INSERT INTO heads VALUES (?, ?)", (size, note))
        self.conn.execute("INSERT INTO sidecar VALUES (?, ?)", (size - 1, time.time()))

    def entries(self, start: int = 0) -> Iterator[bytes]:
        """The entries' bytes, in order.

        Raises:
            ChainError, FormatError: one is missing, or is not bytes.
        """
        query = "SELECT number, data FROM entries WHERE number >= ? ORDER BY number"
        for number, (stored, data) in enumerate(self.conn.execute(query, (start,)), start=start):
            if stored != number:
                raise ChainError(f"entry {number} is missing from the ledger")
            if not isinstance(data, bytes):
                raise FormatError(f"entry {number} of the ledger is not bytes")
            yield data

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """The entries' bytes, each with the note of the head that ends with it.

        Raises:
            ChainError, FormatError: one is missing, or is not bytes.
        """
        query = "SELECT size, note FROM heads WHERE size > 0 ORDER BY size"
        heads = iter(self.conn.execute(query))
        for number, data in enumerate(self.entries()):
            size, note = next(heads, (None, None))
            if size != number + 1:
                raise ChainError(f"no head of size {number + 1}")
            if not isinstance(note, bytes):
                raise FormatError(f"the head of size {size} in the ledger is not bytes")
            yield data, note

    def entry(self, number: int) -> object:
        """What is stored as an entry's bytes; None where there is none."""
        row = self.conn.execute("SELECT data FROM entries WHERE number = ?", (number,)).fetchone()
        return None if row is None else row[0]

    def last(self) -> object:
        """The last entry's number; None where there is none."""
        return self.conn.execute("SELECT MAX(number) FROM entries").fetchone()[0]

    def head(self, size: int) -> bytes | None:
        """The note of the head of that size; None where there is none.

        Raises:
            FormatError: it is not bytes.
        """
        row = self.conn.execute("SELECT note FROM heads WHERE size = ?", (size,)).fetchone()
        if row is not None and not isinstance(row[0], bytes):
            raise FormatError(f"the head of size {size} in the ledger is not bytes")
        return None if row is None else row[0]

    def count_heads(self) -> int:
        """How many heads there are."""
        return int(self.conn.execute("SELECT COUNT(*) FROM heads").fetchone()[0])

    def times(self, first: int) -> Iterator[tuple[int, float]]:
        """When each entry from `first` on was committed, where that is known."""
        yield from self.conn.execute(
            "SELECT number, committed_at FROM sidecar WHERE number >= ? ORDER BY number", (first,)
        )

    def note(self, name: str) -> str | None:
        """A private note."""
        row = self.conn.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Keep a private note.

        Raises:
            StorageError: the disk refused.
        """
        try:
            with self.transaction():
                self.conn.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))
        except sqlite3.Error as error:
            raise StorageError(f"the ledger refused a note: {error}", hint="free some space, then go on") from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are durable."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection
