"""How far a run is: read from its folder, without its key, while it may be written to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polchain.core.claim import manifest_name
from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, Entry, Final, Start, parse_entry
from polchain.core.keys import PublicKey
from polchain.errors import EvidenceError
from polchain.prover.anchored import AnchorBook, Kept, Trouble
from polchain.prover.pipeline import HELD, Held
from polchain.prover.thinned import THINNED, Thinning
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.headfile import HEAD, read_head
from polchain.storage.ledger import Ledger

# Names of the ledger's private notes that the self-check keeps.
CHECKED = "self-check"
FAILED = "self-check-failed"

__all__ = ["Anchored", "AnchoredBy", "Status", "describe"]

NAMED = 5


@dataclass(frozen=True, slots=True)
class AnchoredBy:
    """What one source of time has of a run.

    Attributes:
        source: the network's name, or the time-stamping authority's.
        kind: ethereum or rfc3161.
        final, pending: how many receipts.
    """

    source: str
    kind: str
    final: int
    pending: int


@dataclass(frozen=True, slots=True)
class Anchored:
    """The anchors of a run, as its folder has them.

    Attributes:
        heads: how many heads have a receipt.
        step: the last step of the newest of them; None where there is none.
        trouble: why anchoring does not work at present.
    """

    heads: int
    step: int | None
    sources: tuple[AnchoredBy, ...]
    trouble: Trouble | None

    def to_json(self) -> dict[str, Any]:
        """As `polchain status --json` prints it."""
        return {
            "heads": self.heads,
            "step": self.step,
            "sources": [asdict(one) for one in self.sources],
            "trouble": asdict(self.trouble) if self.trouble is not None else None,
        }


@dataclass(frozen=True, slots=True)
class Status:
    """A run at one moment.

    Attributes:
        recipe: the digest that a verifier vouches for; None for a foreign run.
        step: the last committed step; steps: the most that the run may have, where that is known.
        committed: checkpoint entries; kept: those whose state is there, rows and tensors.
        missing_steps: the steps whose state is not; thinned: how many were left out on purpose.
        bytes: what the run's folder takes on disk.
        self_check: the last segment (from 1) that the self-check replayed exactly; None for a foreign run.
        seed_source: prover, beacon or task; None where no step was recorded yet.
        beacon: the chain that the seed is to come from; None where the genesis names none.
        anchors: which heads were anchored.
        held: how long the training had to wait for the recording behind it.
        missing: what is not there that should be, as short sentences.
    """

    path: Path
    run_id: bytes
    key: PublicKey
    recipe: Digest | None
    entries: int
    root: Digest
    step: int
    steps: int | None
    finished: bool
    committed: int
    kept: int
    missing_steps: tuple[int, ...]
    thinned: int
    bytes: int
    self_check: int | None
    seed_source: str | None
    beacon: int | None
    anchors: Anchored
    held: Held
    missing: tuple[str, ...]

    @property
    def foreign(self) -> bool:
        """True where polchain did not own the loop."""
        return self.recipe is None

    def to_json(self) -> dict[str, Any]:
        """The object that `polchain status --json` prints."""
        return {
            "run": str(self.path),
            "run_id": self.run_id.hex(),
            "public_key": str(self.key),
            "foreign": self.foreign,
            "recipe": str(self.recipe) if self.recipe is not None else None,
            "entries": self.entries,
            "head": {"size": self.entries, "root": str(self.root)},
            "step": self.step,
            "steps": self.steps,
            "finished": self.finished,
            "states": {
                "committed": self.committed,
                "kept": self.kept,
                "thinned": self.thinned,
                "missing_steps": list(self.missing_steps),
            },
            "bytes": self.bytes,
            "self_check": self.self_check,
            "seed_source": self.seed_source,
            "beacon": self.beacon,
            "anchors": self.anchors.to_json(),
            "held": asdict(self.held),
            "missing": list(self.missing),
        }


def failed_check(run: Path) -> str | None:
    """Why the run's self-check failed; None where it did not.

    Raises:
        MissingFileError: there is no run.
    """
    with Ledger(run) as ledger:
        return ledger.note(FAILED)


def describe(run: Path) -> Status:
    """Read a run's status.

    Raises:
        MissingFileError: there is no run.
        FormatError, ChainError: its ledger is damaged.
    """
    with Ledger(run) as ledger:
        entries = [parse_entry(data) for data, _ in zip(ledger.entries(), range(ledger.size), strict=False)]
        genesis, note = ledger.genesis, ledger.head()
        checked, failed = ledger.note(CHECKED) or "", ledger.note(FAILED)
        root, held = ledger.root, Held.parse(ledger.note(HELD))
        out = Thinning.parse(ledger.note(THINNED)).left_out(entries)
    states = [entry for entry in entries if isinstance(entry, CheckpointEntry)]
    start = next((entry for entry in entries if isinstance(entry, Start)), None)
    store = CheckpointStore(run)
    gone = [entry for entry in states if not store.has(entry.state)]
    missing_steps = tuple(e.step for e in gone if e.state not in out or not (run / manifest_name(e.state)).is_file())
    missing = [f"the self-check failed: {failed}"] if failed is not None else []
    if missing_steps:
        named = ", ".join(str(step) for step in missing_steps[:NAMED])
        more = f" and {len(missing_steps) - NAMED} more" if len(missing_steps) > NAMED else ""
        what = "state of step" if len(missing_steps) == 1 else "states of steps"
        missing.append(f"the {what} {named}{more}: not kept, or gone")
    published = read_head(run)
    if not published:
        missing.append(f"{HEAD}: the next writer puts it back")
    elif published != note:
        missing.append(f"{HEAD} is not the last head: the next writer mends it if it is behind")
    if genesis.recipe is not None:
        missing += [f"recipe/{ref.path}" for ref in genesis.recipe.files if not (run / "recipe" / ref.path).is_file()]
    anchors, damaged = _anchors(run, entries)
    missing += damaged
    return Status(
        path=run,
        run_id=genesis.run_id,
        key=genesis.key,
        recipe=genesis.recipe.program() if genesis.recipe is not None else None,
        entries=len(entries),
        root=root,
        step=states[-1].step if states else 0,
        steps=genesis.configuration.steps if genesis.configuration is not None else None,
        finished=any(isinstance(entry, Final) for entry in entries),  # a key may change after it
        committed=len(states),
        kept=len(states) - len(gone),
        missing_steps=missing_steps,
        thinned=len(gone) - len(missing_steps),
        bytes=_size(run),
        self_check=None if genesis.foreign else int(checked) if checked.isdecimal() else 0,
        seed_source=start.source if start is not None else None,
        beacon=genesis.beacon,
        anchors=anchors,
        held=held,
        missing=tuple(missing),
    )


def _anchors(run: Path, entries: Sequence[Entry]) -> tuple[Anchored, list[str]]:
    """What was anchored, and what of it cannot be read."""
    book = AnchorBook(run)
    kept: list[Kept] = []
    damaged: list[str] = []
    trouble = None
    for size, source, _ in book.names():
        try:
            filed = book.find(size, source)
        except EvidenceError as error:
            damaged.append(str(error))
            continue
        if filed is not None:  # it may go while this looks
            kept.append(Kept(source, filed))
    try:
        trouble = book.trouble()
    except EvidenceError as error:
        damaged.append(str(error))
    by: dict[tuple[str, str], list[bool]] = {}
    for one in kept:
        by.setdefault((one.filed.receipt.kind, _called(one)), []).append(one.final)
    newest = max((one.filed.head_size for one in kept), default=0)
    covered = [entry.step for entry in entries[:newest] if isinstance(entry, CheckpointEntry)]
    sources = tuple(AnchoredBy(name, kind, sum(all_), len(all_) - sum(all_)) for (kind, name), all_ in by.items())
    step = (covered[-1] if covered else 0) if kept else None
    return Anchored(len({one.filed.head_size for one in kept}), step, sources, trouble), damaged


def _called(one: Kept) -> str:
    """What the prover calls the source."""
    network = one.filed.receipt.body.get("network")
    return network if isinstance(network, str) else one.source.removeprefix("rfc3161-")


def _size(folder: Path) -> int:
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(here) / name).lstat().st_size
            except FileNotFoundError:
                continue  # A file that a writer has just renamed.
    return total
