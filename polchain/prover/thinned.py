"""Fewer states than commits: which of a run's states are stored.

    every commit     its entry in the log, its rows in manifests/
    stored           the tensors of the first state, of the last, and of the first at or after each multiple of M steps;
                     afterwards: of the first that is there
    left out         those between: trained again where somebody asks (`thinning`); the log says whether they are right

M may be chosen before (`store_every`) or afterwards (`thin`). Each M that a run was thinned by is in a private note of
its ledger before anything is left out or removed. A state that is missing for another reason is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, Entry, Final, parse_entry
from polchain.errors import DatasetError, NotReproducedError, PolchainError
from polchain.storage.ledger import Ledger

__all__ = ["THINNED", "Thinning", "is_stored", "left_out", "note_thinning", "what_helps"]

THINNED = "thinned"  # the ledger's private note


def is_stored(before: int | None, step: int, every: int) -> bool:
    """Whether the state of a step is stored where every so many steps one is; `before` is the checkpoint before it."""
    return before is None or every < 1 or step // every > before // every


@dataclass(frozen=True, slots=True)
class Thinning:
    """By what a run was thinned: each interval, in steps."""

    intervals: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Thinning:
        """Read what `encode` wrote; nothing where it is something else: then what is missing is missing."""
        try:
            found = json.loads(text or "[]")
            return cls(tuple(sorted({int(each) for each in found if int(each) > 0})))
        except (ValueError, TypeError, OverflowError, RecursionError):
            return cls()

    def encode(self) -> str:
        """As the ledger keeps it."""
        return json.dumps(self.intervals)

    def by(self, every: int) -> Thinning:
        """The same, and by this one."""
        return Thinning(tuple(sorted({*self.intervals, every})))

    def left_out(self, entries: Sequence[Entry]) -> dict[Digest, int]:
        """The states that were left out on purpose, if they are not there, and the step of each."""
        checkpoints = [entry for entry in entries if isinstance(entry, CheckpointEntry)]
        finished = any(isinstance(entry, Final) for entry in entries)
        out: dict[Digest, int] = {}
        stored: set[Digest] = set()
        before: int | None = None
        for entry in checkpoints:
            last = finished and entry is checkpoints[-1]
            if last or all(is_stored(before, entry.step, every) for every in self.intervals):
                stored.add(entry.state)
            else:
                out.setdefault(entry.state, entry.step)
            before = entry.step
        return {state: step for state, step in out.items() if state not in stored}


def note_thinning(ledger: Ledger, every: int) -> None:
    """Write down that a run is thinned by this interval, before anything is left out.

    Raises:
        StorageError: the disk refused.
    """
    now = Thinning.parse(ledger.note(THINNED))
    if now.by(every) != now:
        ledger.set_note(THINNED, now.by(every).encode())


def left_out(ledger: Ledger) -> dict[Digest, int]:
    """The states that a run may have left out on purpose, and the step of each."""
    thinning = Thinning.parse(ledger.note(THINNED))
    if not thinning.intervals:
        return {}
    return thinning.left_out([parse_entry(data) for data in ledger.entries()])


def what_helps(error: PolchainError) -> str:
    """The hint where a state of the run cannot be had."""
    if isinstance(error, DatasetError):
        return "states that were left out are trained again: say where the data is, with --data FOLDER"
    if isinstance(error, NotReproducedError) and error.hint:
        return error.hint
    return "`polchain fsck` names all that is damaged"
