"""Is a run whole? Every entry, head, recipe file, manifest, tensor and receipt is read and checked.

What an interrupted writer leaves is no damage, and is told apart: a head.note that is behind, a file half written
under a `.partial` name, a state that was stored and whose entry never followed. `repair` removes the last two and puts
head.note right; it never touches what an entry names. Where there is damage no state is removed: in a ledger that was
put back to an older copy, the newest states have no entry, and may be all that is left of them.

Of heads that were anchored, the ledger must hold the same; receipts must be of their heads, as far as no network is
asked. Nothing of that is repaired: it is evidence. Of private data the secret that the genesis names must be there.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from polchain.anchors.base import target_of
from polchain.core.claim import checkpoint_name, head_name, manifest_name
from polchain.core.digest import Digest, blake3
from polchain.core.entries import CheckpointEntry, Entry, Final, parse_entry
from polchain.core.manifest import check_manifest
from polchain.errors import CheckpointMissingError, DataSecretError, EvidenceError, FormatError, PolchainError
from polchain.prover.anchored import AnchorBook
from polchain.prover.privacy import kept_secret
from polchain.prover.thinned import THINNED, Thinning
from polchain.storage.checkpoints import CheckpointStore, read_tensors, write_durably
from polchain.storage.database import DATABASE
from polchain.storage.headfile import HEAD, read_head
from polchain.storage.ledger import Ledger
from polchain.storage.lock import locked
from polchain.storage.runs import no_run

__all__ = ["Health", "check"]

STATE_FILE = re.compile(r"[0-9a-f]{64}\.(json|safetensors)")


@dataclass(slots=True)
class Health:
    """What was found.

    Attributes:
        damage: what is wrong, as sentences; none means clean.
        leftovers: what an interrupted writer left.
        mended: those of them that were removed or put right.
        entries, states: how many were checked.
        thinned: how many states were left out on purpose: their rows are there.
    """

    path: Path
    damage: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    entries: int = 0
    states: int = 0
    thinned: int = 0


def check(run: Path, *, repair: bool = False, on_state: Callable[[int, int], None] | None = None) -> Health:
    """Check a run that nobody is writing to; `on_state` is called with how many entries are done, and of how many.

    Raises:
        MissingFileError: there is no run.
        RunLockedError: another process is writing to it, or anchoring it.
        StorageError: it cannot be read.
    """
    if not (run / DATABASE).exists():
        raise no_run(run)
    found = Health(run)
    book = AnchorBook(run)
    with locked(run), book.locked() if (run / "anchors").is_dir() else nullcontext():
        try:
            with Ledger(run) as ledger:
                found.entries = ledger.size
                _check_ledger(ledger, found, repair)
                _check_anchors(ledger, book, found)
                _check_recipe(ledger, found)
                _check_secret(ledger, found)
                named = _check_states(ledger, found, on_state)
        except (EvidenceError, sqlite3.Error) as error:
            found.damage.append(f"{DATABASE}: {error}")
            return found
        leftovers = [(path, "a file half written") for path in _half_written(run)]
        leftovers += [(path, "a state that no entry names") for path in _orphans(run, named)]
        for path, what in leftovers:
            found.leftovers.append(f"{path.relative_to(run)}: {what}")
            # Only a ledger that is whole, and no older than its head.note, says which states nobody needs.
            if repair and not (found.damage and STATE_FILE.fullmatch(path.name)):
                path.unlink(missing_ok=True)
                found.mended.append(found.leftovers[-1])
    return found


def _check_ledger(ledger: Ledger, found: Health, repair: bool) -> None:
    try:
        if not ledger.check():
            found.leftovers.append(f"{DATABASE}: tiles that are not those of its entries")
            if repair:
                ledger.mend_tree()
                found.mended.append(found.leftovers[-1])
    except EvidenceError as error:
        found.damage.append(f"{DATABASE}: {error}")
    published, last = read_head(found.path), ledger.head()
    if published == last:
        return
    if published:
        try:
            head = ledger.keys.open(published, ledger.origin)
        except EvidenceError as error:
            found.damage.append(f"{HEAD}: {error}")
            return
        if ledger.head(head.size) != published:
            found.damage.append(
                f"{HEAD} signs {head.size} entries which this ledger of {ledger.size} does not hold: "
                "the ledger was put back to an older state"
            )
            return
    found.leftovers.append(f"{HEAD} is behind the ledger" if published else f"{HEAD} is not there")
    if repair and not found.damage:
        write_durably(found.path / HEAD, last)
        found.mended.append(found.leftovers[-1])


def _check_anchors(ledger: Ledger, book: AnchorBook, found: Health) -> None:
    """Check that the ledger holds every head that was published, and that each receipt is of its head."""
    origin, keys = ledger.origin, ledger.keys
    for size, note in book.heads().items():
        if ledger.head(size) == note:
            continue
        try:
            keys.open(note, origin)
        except EvidenceError as error:
            found.damage.append(f"{head_name(size)}: {error}")
            continue
        found.damage.append(
            f"{head_name(size)} is a head that this ledger of {ledger.size} entries does not hold: "
            "the ledger was put back to an older state, or the file is another head's"
        )
    for size, source, path in book.names():
        try:
            filed = book.find(size, source)
            note = ledger.head(size)
            if not note:
                found.damage.append(f"anchors/{path.name}: the ledger holds no head of {size} entries")
            elif filed is not None:
                filed.target(target_of(keys.open(note, origin), note))
        except EvidenceError as error:
            said = str(error)
            found.damage.append(said if path.name in said else f"anchors/{path.name}: {said}")
    try:
        book.beacon()
    except EvidenceError as error:
        found.damage.append(str(error))


def _check_recipe(ledger: Ledger, found: Health) -> None:
    recipe = ledger.genesis.recipe
    for ref in recipe.files if recipe is not None else ():
        path = found.path / "recipe" / ref.path
        if not path.is_file():
            found.damage.append(f"recipe/{ref.path} is not there")
        elif path.stat().st_size != ref.size or blake3(path.read_bytes()) != ref.digest:
            found.damage.append(f"recipe/{ref.path} is not the text that the genesis names")


def _check_secret(ledger: Ledger, found: Health) -> None:
    dataset = ledger.genesis.dataset
    if dataset is None:
        return
    try:
        kept_secret(found.path, dataset)
    except (DataSecretError, FormatError) as error:
        found.damage.append(str(error))


def _check_states(ledger: Ledger, found: Health, on_state: Callable[[int, int], None] | None) -> set[bytes] | None:
    """Check each state that an entry names; returns those states' digests, or None if not all can be read."""
    thinning = Thinning.parse(ledger.note(THINNED))
    out = thinning.left_out([entry for _, entry in _entries(ledger)]) if thinning.intervals else {}
    # Of a long log no entry is held: 32 bytes of each state that was seen.
    seen: set[bytes] = set()
    unread: list[str] = []
    for number, entry in _entries(ledger, unread):
        if not isinstance(entry, CheckpointEntry | Final):
            continue
        state = entry.state
        if state.value in seen:
            continue
        seen.add(state.value)
        if on_state is not None:
            on_state(number, ledger.size)
        try:
            _check_state(CheckpointStore(found.path), state, entry)
            found.states += 1
        except CheckpointMissingError as error:
            # Whoever logs a foreign run may keep the rows alone: `commit --no-store`.
            if state in out and (found.path / manifest_name(state)).is_file():
                found.thinned += 1
            elif not (ledger.genesis.foreign and (found.path / manifest_name(state)).is_file()):
                found.damage.append(f"the state of step {entry.step}: {error}")
        except PolchainError as error:
            found.damage.append(f"the state of step {entry.step}: {error}")
    if on_state is not None:
        on_state(ledger.size, ledger.size)
    found.damage += unread
    return None if unread else seen


def _entries(ledger: Ledger, unread: list[str] | None = None) -> Iterator[tuple[int, Entry]]:
    """The entries that can be read, with their numbers; what is wrong with the others goes into `unread`."""
    for number, data in enumerate(ledger.entries()):
        try:
            yield number, parse_entry(data)
        except EvidenceError as error:
            if unread is not None:
                unread.append(f"entry {number}: {error}")


def _check_state(store: CheckpointStore, state: Digest, entry: CheckpointEntry | Final) -> None:
    manifest = store.manifest(state)
    check_manifest(manifest, entry.roots)
    read_tensors(store.folder / checkpoint_name(state), manifest)


def _half_written(run: Path) -> Iterator[Path]:
    return (path for path in sorted(run.rglob(".*.partial*")) if path.is_file())


def _orphans(run: Path, named: set[bytes] | None) -> Iterator[Path]:
    """States that no entry names; none without `named`, which takes a log of which every entry can be read."""
    for folder, suffix in (("checkpoints", ".safetensors"), ("manifests", ".json")) if named is not None else ():
        for path in sorted((run / folder).glob("*")):
            if not path.is_file() or not STATE_FILE.fullmatch(path.name):
                continue
            if named is None or path.suffix != suffix or bytes.fromhex(path.stem) not in named:
                yield path
