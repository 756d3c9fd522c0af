"""Where a run's seed comes from: its own draw; the block 64 after its genesis, which names a beacon; or its task."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from polchain.core import merkle
from polchain.core.entries import Start, encode_entry, leaf_data, parse_entry
from polchain.errors import AnchorUnavailableError, UsageError
from polchain.prover.anchored import AnchorBook
from polchain.storage.database import DATABASE
from polchain.storage.ledger import Ledger
from polchain.training.dataset import MapDataset
from polchain.training.host import Options, Stretch
from polchain.training.randomness import BatchOrder, run_seed
from polchain.training.session import Session
from polchain.training.state import TrainingState

__all__ = ["SeedOnly", "draw", "make_start", "seed_of"]

DRAWN = "seed"  # the ledger's private note with the value that was drawn


def draw(ledger: Ledger, assigned: bytes | None = None) -> None:
    """Draw a run's own value, once, before `start` publishes it: a crash in between changes nothing.

    Args:
        ledger: the run's.
        assigned: the task's seed, which is used instead.

    Raises:
        StorageError: the disk refused.
    """
    if ledger.note(DRAWN) is None:
        ledger.set_note(DRAWN, (assigned or secrets.token_bytes(32)).hex())


def seed_of(ledger: Ledger, *, own: bool = False) -> bytes:
    """A run's seed: from its `start` entry, else from its beacon's block, else from the value drawn for it.

    Args:
        ledger: the run's.
        own: use the value drawn for it, even if the genesis names a beacon.

    Raises:
        UsageError: the run has no seed yet.
        AnchorUnavailableError: its beacon's block is not known yet.
    """
    leaf = merkle.leaf_hash(leaf_data(encode_entry(ledger.genesis)))
    for data in ledger.entries(1):
        entry = parse_entry(data)
        if isinstance(entry, Start):
            return run_seed(entry.value, leaf, entry.source)
        break
    if ledger.genesis.beacon is not None and not own:
        evidence = AnchorBook(ledger.folder).beacon()
        if evidence is not None:
            return run_seed(evidence.value, leaf, "beacon")
        raise AnchorUnavailableError(
            "the genesis names a beacon: the seed comes from the block 64 after it, which is not known here yet",
            hint=f"`polchain train {ledger.folder} --wait-beacon` waits for it; with --own-seed it draws one at once",
        )
    value = ledger.note(DRAWN)
    if value is None:
        raise UsageError("the run has no seed yet", hint="run its script once")
    return run_seed(bytes.fromhex(value), leaf, _source(ledger))


def make_start(ledger: Ledger, here: Mapping[str, str | int | bool], *, own: bool = False) -> Start:
    """The `start` entry of a run that `seed_of` gives the seed of, on a machine with this fingerprint.

    Raises:
        AnchorError: the beacon's block is not the one that it must be.
    """
    evidence = None if own or ledger.genesis.beacon is None else AnchorBook(ledger.folder).beacon()
    if evidence is None:
        return Start(ledger.root, _source(ledger), bytes.fromhex(ledger.note(DRAWN) or ""), here)
    from polchain.prover.preregister import beacon_ref

    ref = beacon_ref(ledger.folder, evidence)
    return Start(ledger.root, "beacon", evidence.value, here, ref)


def _source(ledger: Ledger) -> str:
    """Where a seed comes from that is no beacon's."""
    return "task" if ledger.genesis.task is not None else "prover"


class SeedOnly:
    """The host of `record(enabled=False)`: the same seed and order, nothing written."""

    witnesses = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, options: Options) -> tuple[bytes, MapDataset]:
        """The seed of the run in the folder, else a fresh one."""
        self.seed = secrets.token_bytes(32)
        if (self.folder / DATABASE).exists():
            with Ledger(self.folder) as ledger:
                self.seed = seed_of(ledger)
        dataset = options.dataset()
        self.order = BatchOrder(self.seed, len(dataset), options.configuration.batch_size)
        return self.seed, dataset

    def attached(self, session: Session) -> Stretch:
        """All steps."""
        return Stretch(0, session.configuration.steps)

    def indices(self, step: int) -> Sequence[int]:
        """The dataset indices of a step."""
        return self.order.indices(step)

    def sample(self, index: int, encoding: bytes) -> None:
        """Samples are not kept."""

    def checkpoint(self, step: int, state: TrainingState, loss: float | None) -> None:
        """Nothing is written."""

    def finished(self) -> None:
        """Nothing is written."""

    def close(self, failed: bool) -> None:
        """Nothing is open."""
