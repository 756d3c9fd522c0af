"""The tree over a ledger's entries, kept beside them: tiles (`core.tiles`), and which entries change keys.

    tiles(level, number, hashes)      changes(number)

A ledger that has neither, or older ones, is whole: they are made again from the entries. They are believed only where
the root that they give is the one that the last head signs, and every proof made from them is checked before it leaves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from polchain.core.tiles import Tile

__all__ = ["TreeTable"]

CREATE = (
    "CREATE TABLE IF NOT EXISTS tiles (level INTEGER, number INTEGER, hashes BLOB, PRIMARY KEY (level, number))"
    " WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS changes (number INTEGER PRIMARY KEY)",
)


class TreeTable:
    """The two tables. Writing is for whoever is inside a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    @property
    def there(self) -> bool:
        """Whether the ledger has them."""
        query = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN ('tiles', 'changes')"
        return bool(self.connection.execute(query).fetchone()[0] == 2)

    def read(self, level: int, number: int) -> bytes | None:
        """A tile's hashes; None where it is not there."""
        query = "SELECT hashes FROM tiles WHERE level = ? AND number = ?"
        row = self.connection.execute(query, (level, number)).fetchone()
        return row[0] if row is not None and isinstance(row[0], bytes) else None

    def changes(self) -> list[int]:
        """The entries that change keys."""
        found = [number for (number,) in self.connection.execute("SELECT number FROM changes ORDER BY number")]
        if any(not isinstance(number, int) for number in found):
            raise sqlite3.DataError("a number in `changes` is none")
        return found

    def holds(self, tiles: Mapping[tuple[int, int], bytes], changes: list[int]) -> bool:
        """Whether these are what is stored, and all of it."""
        try:
            found = self.connection.execute("SELECT level, number, hashes FROM tiles").fetchall()
            return self.changes() == changes and {(row[0], row[1]): row[2] for row in found} == tiles
        except sqlite3.Error:
            return False

    def write(self, tiles: Iterable[Tile]) -> None:
        """Keep these tiles."""
        for tile in tiles:
            self.connection.execute("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?)", tile)

    def write_change(self, number: int) -> None:
        """Remember that an entry changes keys."""
        self.connection.execute("INSERT OR REPLACE INTO changes VALUES (?)", (number,))

    def create(self) -> None:
        """Make the tables, where they are not there."""
        for statement in CREATE:
            self.connection.execute(statement)

    def replace(self, tiles: Iterable[Tile], changes: Iterable[int]) -> None:
        """Put these in the place of whatever is there."""
        for table in ("tiles", "changes"):
            self.connection.execute(f"DROP TABLE IF EXISTS {table}")
        self.create()
        self.write(tiles)
        for number in changes:
            self.write_change(number)
