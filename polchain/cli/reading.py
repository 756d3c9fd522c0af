"""A log as the commands that show things read it: of a run, or of a claim.

A run's log is read as it is shown, and its proofs come from its tiles; a claim's is read once to see that its head
signs it, and again as it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from polchain.core.archive import is_archive
from polchain.core.claim import LISTING, Claim
from polchain.core.digest import Digest
from polchain.core.entries import KeyChange, leaf_data, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.keyline import key_line
from polchain.core.manifest import Manifest
from polchain.core.merkle import leaf_hash, prove_inclusion, root
from polchain.core.note import TreeHead, origin_of
from polchain.errors import ChainError, CheckpointMissingError, MissingFileError
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger
from polchain.storage.runs import find_run

__all__ = ["Log", "log_at"]


@dataclass(frozen=True, slots=True)
class Log:
    """A log under its signed head. That the head signs its tree was checked; nothing else was.

    Attributes:
        head: the signed head; its size is the number of entries.
        entries: the entries' bytes, in order.
        entry: one entry's bytes.
        prove: the proof that an entry is in the tree.
        times: when this machine committed each entry, in order, where a run says so; a claim has none.
        manifest: the rows of a state, or None where they are not there.
    """

    path: Path
    is_claim: bool
    head: TreeHead
    entries: Callable[[], Iterator[bytes]]
    entry: Callable[[int], bytes]
    prove: Callable[[int], list[bytes]]
    times: Callable[[int], Iterator[tuple[int, float]]]
    manifest: Callable[[Digest], Manifest | None]


@contextmanager
def log_at(path: Path | None) -> Iterator[Log]:
    """The log of a run or claim, or of the run that is meant where none is named (`find_run`).

    Raises:
        MissingFileError: neither a run nor a claim is there.
        EvidenceError: it is damaged.
    """
    found = find_run(path)
    # A claim is a stranger's: a database that he puts beside its listing is not opened.
    if (found / LISTING).exists() or is_archive(found):
        yield _of_claim(found)
    else:
        with Ledger(found) as ledger:
            yield _of_run(found, ledger)


def _of_run(path: Path, ledger: Ledger) -> Log:
    # A writer may append meanwhile: what is shown ends with the head that was read.
    head = ledger.keys.open(ledger.head(), ledger.origin)
    if (head.size, head.root) != (ledger.size, ledger.root.value):
        raise ChainError(f"the head at {path} signs another log than the one beside it")
    return Log(
        path,
        False,
        head,
        lambda: islice(ledger.entries(), ledger.size),
        lambda number: next(_bounded(ledger.entries(number), number, ledger.size)),
        ledger.prove_inclusion,
        ledger.times_from,
        _kept(CheckpointStore(path)),
    )


def _of_claim(path: Path) -> Log:
    claim = Claim.read(path)
    genesis: Genesis | None = None
    changes, hashes = [], []
    for number, data in enumerate(claim.entries()):
        entry = parse_entry(data)
        if number == 0 and isinstance(entry, Genesis):
            genesis = entry
        if isinstance(entry, KeyChange):
            changes.append((number, entry))
        hashes.append(leaf_hash(leaf_data(data)))
    if genesis is None:
        raise ChainError(f"the log at {path} does not begin with a genesis")
    head = key_line(genesis, changes, len(hashes)).open(claim.head(), origin_of(genesis.key, genesis.run_id))
    if (head.size, head.root) != (len(hashes), root(hashes)):
        raise ChainError(f"the head at {path} signs another log than the one beside it")
    return Log(
        path,
        True,
        head,
        claim.entries,
        lambda number: next(_bounded(islice(claim.entries(), number, None), number, len(hashes))),
        lambda number: prove_inclusion(hashes, number),
        lambda first: iter(()),
        claim.manifest,
    )


def _bounded(entries: Iterator[bytes], number: int, size: int) -> Iterator[bytes]:
    if number >= size:
        raise MissingFileError(f"the log has no entry {number}", hint=f"it has entries 0 to {size - 1}")
    return entries


def _kept(store: CheckpointStore) -> Callable[[Digest], Manifest | None]:
    def manifest(state: Digest) -> Manifest | None:
        try:
            return store.manifest(state)
        except CheckpointMissingError:
            return None

    return manifest
