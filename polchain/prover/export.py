"""A run's claim: what `core.claim` describes, taken from the run's folder.

It is made in a folder beside `out`, which is renamed, or packed where `out` ends in `.zip`, when everything in it was
checked: a claim is whole or not there.
A run may be exported while it trains; the claim then ends with the head that was read first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.core.archive import write_archive
from polchain.core.claim import (
    BEACON,
    ENTRIES,
    HEAD,
    MAX_RECEIPTS,
    checkpoint_name,
    head_name,
    manifest_name,
    receipt_name,
    write_listing,
)
from polchain.core.digest import Digest, blake3
from polchain.core.entries import CheckpointEntry, Start, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.keys import PublicKey
from polchain.core.manifest import Snapshot
from polchain.errors import (
    CheckpointMissingError,
    FormatError,
    MissingFileError,
    PolchainError,
    RolledBackError,
    StorageError,
    UsageError,
)
from polchain.prover.anchored import AnchorBook
from polchain.prover.thinned import left_out, what_helps
from polchain.storage.checkpoints import CheckpointStore, read_tensors
from polchain.storage.ledger import Ledger

if TYPE_CHECKING:
    from polchain.prover.thinning import Regenerator

__all__ = ["ExportSummary", "export"]

ZIP = ".zip"


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written.

    Attributes:
        path: the claim's folder, or its zip.
        entries: how many entries; root: the root that their head signs.
        states: how many different states are disclosed, rows and tensors; thinned: of how many the rows alone, since
            the run has left them out on purpose.
        missing: the steps whose state the run no longer has.
        sealed: whether rows alone were written; then `states` is 0.
        exposing: whether the data is private, and states are disclosed that it left its traces in.
        receipts: how many receipts of its heads it has; pending: those of them that are not final.
        bytes: of all files together.
        key: the prover's; a verifier pins it.
        recipe: the digest that a verifier vouches for; None for a foreign run.
    """

    path: Path
    entries: int
    root: Digest
    states: int
    missing: tuple[int, ...]
    receipts: int
    pending: int
    bytes: int
    key: PublicKey
    recipe: Digest | None
    sealed: bool = False
    exposing: bool = False
    thinned: int = 0


def export(
    run: Path,
    out: Path,
    *,
    allow_missing: bool = False,
    sealed: bool = False,
    stored_only: bool = False,
    data: Path | None = None,
    on_state: Callable[[int, int], None] | None = None,
) -> ExportSummary:
    """Write the claim of a run, every disclosed state checked as the claim holds it.

    States that were left out of the run on purpose are trained again, one after the other, and must be the log's.

    Args:
        run: the run's folder.
        out: the claim's folder, or the zip where it ends in `.zip`; nothing may be there.
        allow_missing: leave out states that are not there.
        sealed: disclose no tensors, only the states' rows; challenges are answered one by one (`opening`).
        stored_only: disclose only the rows of states that were left out on purpose: whoever verifies trains them again.
        data: the folder with the dataset, which is read where something is trained again; the working directory.
        on_state: called with how many states are done, and of how many.

    Raises:
        UsageError: there is something at `out`.
        NotReproducedError: this machine does not give a state again that was left out.
        MissingFileError: there is no run.
        CheckpointMissingError: a state is not there; its step is named.
        FormatError, ManifestError, RolledBackError: the run is damaged.
        StorageError: the disk refused; nothing is left.
    """
    if os.path.lexists(out):
        raise UsageError(f"there is something at {out} already", hint="a claim is a new folder, or a new zip")
    with Ledger(run) as ledger:
        # Read together: a writer may append meanwhile.
        entries, head, root = list(islice(ledger.entries(), ledger.size)), ledger.head(), ledger.root
        genesis = ledger.genesis
        out_of_run = left_out(ledger)
        anchored = _anchored(AnchorBook(run), ledger)
        # What shows that a key was handed over; the last head is in the claim anyway.
        anchored.files.update(
            {head_name(size): ledger.head(size) for size in ledger.keys.handovers if size < ledger.size}
        )
    partial = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.partial")
    packed = partial.with_suffix(".packed") if out.suffix == ZIP else None
    try:
        partial.mkdir(parents=True)
        (partial / HEAD).parent.mkdir()
        (partial / HEAD).write_bytes(head)
        (partial / ENTRIES).write_bytes(b"".join(data + b"\n" for data in entries))
        for name, text in anchored.files.items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_bytes(text)
        _copy_recipe(genesis, run, partial)
        with _Source(run, entries, data or Path.cwd(), out_of_run, sealed or stored_only) as source:
            states, missing = _copy_states(entries, genesis, source, partial, allow_missing, sealed, on_state)
        write_listing(partial)
        paths = [path for path in partial.rglob("*") if path.is_file()]
        if packed is not None:
            write_archive(packed, ((path.relative_to(partial).as_posix(), path) for path in paths))
            paths = [packed]
        total = sum(path.stat().st_size for path in paths)
        (packed or partial).rename(out)
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror}", hint="is there room, and may you write there?"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if packed is not None:
            packed.unlink(missing_ok=True)
    return ExportSummary(
        path=out,
        entries=len(entries),
        root=root,
        states=states,
        missing=missing,
        receipts=anchored.receipts,
        pending=anchored.pending,
        bytes=total,
        key=genesis.key,
        recipe=genesis.recipe.program() if genesis.recipe is not None else None,
        sealed=sealed,
        exposing=genesis.dataset is not None and genesis.dataset.salts is not None and states > 0,
        thinned=0 if sealed else source.thinned,
    )


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What a claim has of a run's anchors."""

    files: dict[str, bytes]
    receipts: int
    pending: int


def _anchored(book: AnchorBook, ledger: Ledger) -> _Anchored:
    """The receipts of the heads that the ledger has, those heads, and the beacon; each is read and checked."""
    files: dict[str, bytes] = {}
    # A head that was anchored after the ledger was read is left out, like its entries.
    kept = [one for one in book.receipts() if one.filed.head_size <= ledger.size]
    heads = book.heads()
    for one in kept:
        size = one.filed.head_size
        note = ledger.head(size)
        if heads.get(size, note) != note:
            raise RolledBackError(
                f"the run's {head_name(size)} is another head than its ledger's", hint="`polchain fsck` says more"
            )
        files[head_name(size)] = note
        files[receipt_name(size, one.source)] = one.filed.encode()
    start = ledger.entry(1) if ledger.size > 1 else None
    # A run may have drawn its seed after all.
    beacon = book.beacon()
    if not isinstance(start, Start) or start.beacon is None:
        beacon = None
    if beacon is not None:
        files[BEACON] = beacon.encode()
    if len(kept) + (beacon is not None) > MAX_RECEIPTS:
        raise FormatError(
            f"{len(kept)} receipts are more than the {MAX_RECEIPTS} that a claim may have",
            hint=f"move some out of {book.run / 'anchors'}: the newest covers all entries before it",
        )
    return _Anchored(files, len(kept), sum(not one.final for one in kept))


def _copy_recipe(genesis: Genesis, run: Path, claim: Path) -> None:
    for ref in genesis.recipe.files if genesis.recipe is not None else ():
        source = run / "recipe" / ref.path
        if not source.is_file():
            raise MissingFileError(f"the run's recipe/{ref.path} is not there", hint="put it back as it was")
        text = source.read_bytes()
        if len(text) != ref.size or blake3(text) != ref.digest:
            raise FormatError(f"the run's recipe/{ref.path} was changed", hint="put it back as it was")
        target = claim / "recipe" / ref.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)


def _copy_states(
    entries: list[bytes],
    genesis: Genesis,
    source: _Source,
    claim: Path,
    allow_missing: bool,
    sealed: bool,
    on_state: Callable[[int, int], None] | None,
) -> tuple[int, tuple[int, ...]]:
    steps: dict[Digest, list[int]] = {}
    for entry in map(parse_entry, entries):
        if isinstance(entry, CheckpointEntry):
            steps.setdefault(entry.state, []).append(entry.step)
    missing: list[int] = []
    shown = 0
    for done, (state, at) in enumerate(steps.items()):
        if on_state is not None:
            on_state(done, len(steps))
        try:
            shown += source.copy(state, claim, sealed)
        except CheckpointMissingError as error:
            # Whoever logs a foreign run may keep the rows alone: `commit --no-store`.
            meant = genesis.foreign and (source.run / manifest_name(state)).is_file()
            if not (allow_missing or meant):
                raise CheckpointMissingError(
                    f"the state of step {at[0]} is not there: {error}",
                    hint="restore it, or leave it out with --allow-missing: its segments then cannot be verified",
                ) from error
            missing += at
        except PolchainError as error:
            raise type(error)(f"step {at[0]}: {error}", hint=what_helps(error)) from error
    if on_state is not None:
        on_state(len(steps), len(steps))
    return shown, tuple(sorted(missing))


class _Source:
    """Where the states of a claim come from: the run's folder, or training again."""

    def __init__(
        self, run: Path, entries: list[bytes], data: Path, out: Mapping[Digest, int], rows_alone: bool
    ) -> None:
        self.run, self.entries, self.data, self.out, self.rows_alone = run, entries, data, out, rows_alone
        self.store = CheckpointStore(run)
        self.thinned = 0
        self._again: Regenerator | None = None

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        if self._again is not None:
            self._again.close()

    def copy(self, state: Digest, claim: Path, sealed: bool) -> bool:
        """Put a state into a claim; returns whether its tensors are disclosed."""
        manifest = self.store.manifest(state)
        rows = claim / manifest_name(state)
        rows.parent.mkdir(exist_ok=True)
        rows.write_bytes(manifest.encode())
        if sealed:
            return False
        source, target = self.run / checkpoint_name(state), claim / checkpoint_name(state)
        if not source.exists():
            if state not in self.out:
                raise CheckpointMissingError(f"{checkpoint_name(state)} is gone")
            if self.rows_alone:
                self.thinned += 1
                return False
            CheckpointStore(claim).put(self._regenerated(state))
        else:
            target.parent.mkdir(exist_ok=True)
            # A copy, not a link: whatever happens to the claim must not happen to the run.
            shutil.copyfile(source, target)
        read_tensors(target, manifest)
        return True

    def _regenerated(self, state: Digest) -> Snapshot:
        if self._again is None:
            # Here, because it loads torch.
            from polchain.prover.thinning import Regenerator

            self._again = Regenerator(self.run, self.entries, self.data)
        return self._again.state(state)
