"""A log as the commands that show things read it: of a run, or of a claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from polchain.core.archive import is_archive
from polchain.core.claim import LISTING, Claim
from polchain.core.digest import Digest
from polchain.core.entries import Entry, leaf_data, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.keyline import changes_of, key_line
from polchain.core.manifest import Manifest
from polchain.core.merkle import leaf_hash, root
from polchain.core.note import TreeHead, origin_of
from polchain.errors import ChainError, CheckpointMissingError
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger, find_run

__all__ = ["Log", "log_at", "read_log"]


@dataclass(frozen=True, slots=True)
class Log:
    """Entries and the signed head over them. That the head signs these entries was checked; nothing else was.

    Attributes:
        times: when this machine committed each entry, by number; a claim has none.
        manifest: the rows of a state, or None where they are not there.
    """

    path: Path
    is_claim: bool
    entries: tuple[bytes, ...]
    hashes: tuple[bytes, ...]
    head: TreeHead
    genesis: Genesis
    times: Mapping[int, float]
    manifest: Callable[[Digest], Manifest | None]

    def entry(self, number: int) -> Entry:
        """One entry, parsed."""
        return parse_entry(self.entries[number])


def log_at(path: Path | None) -> Log:
    """The log of a run or claim, or of the run that is meant where none is named (`find_run`)."""
    return read_log(find_run(path))


def read_log(path: Path) -> Log:
    """Read a log, and check that its head signs it.

    Raises:
        MissingFileError: neither a run nor a claim is there.
        EvidenceError: it is damaged.
    """
    # A claim is a stranger's: a database that he puts beside its listing is not opened.
    is_claim = (path / LISTING).exists() or is_archive(path)
    times: Mapping[int, float] = {}
    manifest: Callable[[Digest], Manifest | None]
    if is_claim:
        claim = Claim.read(path)
        manifest = claim.manifest
        entries, note = tuple(claim.entries()), claim.head()
    else:
        with Ledger(path) as ledger:
            # A writer may append meanwhile: what is shown ends with the head that was read.
            entries, note = tuple(islice(ledger.entries(), ledger.size)), ledger.head()
            times, manifest = ledger.times(), _kept(CheckpointStore(path))
    genesis = parse_entry(entries[0]) if entries else None
    if not isinstance(genesis, Genesis):
        raise ChainError(f"the log at {path} does not begin with a genesis")
    keys = key_line(genesis, changes_of(map(parse_entry, entries)), len(entries))
    head = keys.open(note, origin_of(genesis.key, genesis.run_id))
    hashes = tuple(leaf_hash(leaf_data(data)) for data in entries)
    if (head.size, head.root) != (len(hashes), root(hashes)):
        raise ChainError(f"the head at {path} signs another log than the one beside it")
    return Log(path, is_claim, entries, hashes, head, genesis, times, manifest)


def _kept(store: CheckpointStore) -> Callable[[Digest], Manifest | None]:
    def manifest(state: Digest) -> Manifest | None:
        try:
            return store.manifest(state)
        except CheckpointMissingError:
            return None

    return manifest
