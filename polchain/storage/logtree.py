"""The tree over a ledger's entries, and who signs its heads.

It is taken from the end of the log and the tiles before it, where that gives the root which the last head signs;
else from every entry. Proofs are made from tiles, and checked; where one fails, from the entries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from polchain.core.entries import Entry, KeyChange, leaf_data, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.keyline import KeyLine, key_line
from polchain.core.merkle import Frontier, Hash, check_consistency, check_inclusion, leaf_hash
from polchain.core.note import origin_of
from polchain.core.tiles import WIDTH, Edge, TileTree
from polchain.errors import ChainError, EvidenceError, MissingFileError, StorageError
from polchain.storage.database import Database
from polchain.storage.tree import TreeTable

__all__ = ["LogTree", "no_entry"]


class LogTree:
    """The tree of a ledger as it was when it was opened, and as it grows.

    Attributes:
        origin: whose log this is, and of which run.
        frontier, edge: of all entries.
        changes: the entries that change keys, with their numbers.
        keys: who signs the heads.
        table: the tiles as they are stored.
    """

    def __init__(self, db: Database, genesis: Genesis) -> None:
        """Load it.

        Raises:
            ChainError, FormatError, SignatureError: the entries are damaged.
        """
        self.origin = origin_of(genesis.key, genesis.run_id)
        self.frontier, self.edge = Frontier(), Edge()
        self.changes: list[tuple[int, KeyChange]] = []
        self.keys: KeyLine
        self.table = TreeTable(db.conn)
        self._db, self._genesis = db, genesis
        self._tiles: dict[tuple[int, int], bytes] | None = None  # where the database has none, or wrong ones
        if not self._load_end():
            self._load_all()

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self.frontier.size

    def keys_with(self, entry: Entry) -> tuple[list[tuple[int, KeyChange]], KeyLine]:
        """The key changes and the signers once this entry follows.

        Raises:
            ChainError: nobody may make that change, or the key was revoked.
        """
        changes = [*self.changes, *([(self.size, entry)] if isinstance(entry, KeyChange) else [])]
        return changes, key_line(self._genesis, changes, self.size + 1)

    def _load_end(self) -> bool:
        """Take the tree from its tiles and the entries after them; False where that is not what the last head signs."""
        last = self._db.last()
        if not isinstance(last, int) or last + 1 < WIDTH or not self.table.there:
            return False
        size = last + 1
        untiled = size - size % WIDTH
        # The last entry in any case: after one that revokes the key, none follows.
        first = min(last, untiled)
        try:
            tail = list(zip(range(first, size), self._db.entries(first), strict=False))
            leaves = [leaf_hash(leaf_data(data)) for number, data in tail if number >= untiled]
            edge = Edge.read(size, self.table.read, leaves)
            listed = [(number, self._entry(number)) for number in self.table.changes() if number < first]
            recent = [(number, parse_entry(data)) for number, data in tail if _may_change(data)]
            changes = [(number, entry) for number, entry in (*listed, *recent) if isinstance(entry, KeyChange)]
            if len(changes) < len(listed) or changes[: len(listed)] != listed:
                return False
            keys = key_line(self._genesis, changes, size)
            head, frontier = keys.open(self._db.head(size) or b"", self.origin), edge.frontier()
            if (head.size, head.root) != (size, frontier.root()):
                return False
        except (EvidenceError, MissingFileError, sqlite3.Error):
            return False
        self.frontier, self.edge, self.changes, self.keys = frontier, edge, changes, keys
        return True

    def _entry(self, number: int) -> Entry:
        data = self._db.entry(number)
        if data is None:
            raise no_entry(number, self.size)
        return parse_entry(data)  # type: ignore[arg-type]

    def _load_all(self) -> None:
        """Take the tree from every entry."""
        self.edge, self._tiles = Edge(), {}
        for number, data in enumerate(self._db.entries()):
            for tile in self.edge.append(leaf_hash(leaf_data(data))):
                self._tiles[tile[:2]] = tile[2]
            # Parsed only where the bytes can be such an entry: a log may have a million others.
            if _may_change(data) and isinstance(change := parse_entry(data), KeyChange):
                self.changes.append((number, change))
        self.frontier = self.edge.frontier()
        self.keys = key_line(self._genesis, self.changes, self.size)

    def prove_inclusion(self, number: int) -> list[Hash]:
        """The proof that an entry is in the tree, checked before it is given.

        Raises:
            MissingFileError: there is no entry with that number.
            ChainError: the entries are not those that the last head signs.
        """
        data, root = self._db.entry(number), self.frontier.root()
        if number >= self.size or not isinstance(data, bytes):
            raise no_entry(number, self.size)
        leaf = leaf_data(data)
        return self._prove(
            lambda tree: tree.prove_inclusion(number),
            lambda proof: check_inclusion(leaf, number, proof, self.size, root),
        )

    def prove_consistency(self, old_size: int) -> list[Hash]:
        """The proof that the tree extends the one that the head of `old_size` signs, checked.

        Raises:
            ChainError: there is no head of that size, or the entries are not those that the heads sign.
        """
        note, root = self._db.head(old_size), self.frontier.root()
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

    def _tree(self, tiles: dict[tuple[int, int], bytes] | None) -> TileTree:
        def leaves(start: int, end: int) -> list[Hash]:
            if (start, end) == (self.size - self.size % WIDTH, self.size):
                return self.edge.levels[0]
            found = zip(range(start, end), self._db.entries(start), strict=False)
            return [leaf_hash(leaf_data(data)) for _, data in found]

        read = self.table.read if tiles is None else lambda level, number: tiles.get((level, number))
        return TileTree(self.size, read, leaves)

    def _tiles_of_entries(self) -> dict[tuple[int, int], bytes]:
        edge, tiles = Edge(), {}
        for _, data in zip(range(self.size), self._db.entries(), strict=False):
            for level, number, hashes in edge.append(leaf_hash(leaf_data(data))):
                tiles[level, number] = hashes
        return tiles

    def mend(self) -> None:
        """Make the stored tiles again.

        Raises:
            StorageError: the disk refused.
        """
        self._tiles = self._tiles_of_entries()
        self.keep()

    def keep(self) -> None:
        """Store the tiles that were made from the entries, if they were, for the next opening.

        Raises:
            StorageError: the disk refused.
        """
        if self._tiles is None:
            return
        if self.table.there and self.size < WIDTH:
            self._tiles = None
            return
        tiles = [(level, number, hashes) for (level, number), hashes in self._tiles.items()]
        try:
            with self._db.transaction():
                self.table.replace(tiles, [number for number, _ in self.changes])
        except sqlite3.Error as error:
            raise StorageError(f"the ledger refused its tiles: {error}", hint="free some space, then go on") from error
        self._tiles = None


def no_entry(number: int, size: int) -> MissingFileError:
    """What to raise where there is no such entry."""
    return MissingFileError(f"the log has no entry {number}", hint=f"it has entries 0 to {size - 1}")


def _may_change(data: bytes) -> bool:
    """Whether an entry's bytes can be a key change's: most cannot, and need no parsing."""
    return b'"kind":"r' in data
