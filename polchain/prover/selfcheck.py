"""The self-check: the first segments are replayed from their rows alone, in a fresh process, as soon as recorded.

    after segment 1    it is replayed, and its closing state is opened once: what is nondeterministic, and what
                       does not survive being put back (hand-set learning rates), shows here
    after segment 2    it is replayed: what crossed the joint without being attached shows here

Whatever does not reproduce would be INCONCLUSIVE at best in front of a verifier; better to stop at step 20.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from polchain.core.entries import CheckpointEntry
from polchain.core.manifest import GROUPS, Manifest, Snapshot
from polchain.errors import NotReproducedError, PolchainError
from polchain.storage.ledger import Ledger
from polchain.training.distance import worst_tensor
from polchain.training.fingerprint import setting_of
from polchain.training.randomness import BatchOrder
from polchain.training.worker import Closing, Program, Worker

__all__ = ["SelfCheck"]

log = logging.getLogger("polchain")
SEGMENTS = 2
NOTE = "self-check"


class SelfCheck:
    """Replays the first two segments of a run, once in its life."""

    def __init__(
        self, program: Program, fingerprint: Mapping[str, str | int | bool], data: Path, seed: bytes, ledger: Ledger
    ) -> None:
        self.seed = seed
        self.ledger = ledger
        self.done = int(ledger.note(NOTE) or "0")
        self.worker: Worker | None = None
        self.program, self.setting, self.data = program, setting_of(fingerprint), data

    def segment(
        self, before: CheckpointEntry, after: CheckpointEntry, opening: Snapshot, closing: Snapshot, order: BatchOrder
    ) -> None:
        """Check a segment that was just recorded, where it is one of the first.

        Raises:
            NotReproducedError: it does not replay; the state group and the tensor are named.
        """
        if self.done >= SEGMENTS:
            return
        if self.worker is None:
            self.worker = Worker(self.program, self.setting, self.data)
        batches = list(order.batches(before.step, after.step))
        try:
            replayed = self.worker.replay(self.seed, before.step, after.step, batches, opening)
            if replayed.opening.roots() != before.roots:
                self._refuse_opening(before, opening, replayed.opening)
            if replayed.closings[-1].snapshot.manifest.roots() != after.roots:
                again = self.worker.replay(self.seed, before.step, after.step, batches, opening)
                self._refuse(before, after, closing, replayed.closings[-1], again.closings[-1])
            if after.loss is not None and replayed.closings[-1].loss != after.loss:
                raise NotReproducedError(
                    f"steps {before.step} to {after.step} give the same state again, but another loss was logged",
                    hint="log the loss of the step and nothing that depends on the clock",
                )
            if self.done == 0:
                opened = self.worker.replay(self.seed, after.step, after.step, [], closing).opening
                if opened.roots() != after.roots:
                    self._refuse_opening(after, closing, opened)
        except NotReproducedError:
            raise
        except PolchainError as error:
            raise NotReproducedError(
                f"the first segment cannot be replayed in a fresh process: {error}",
                hint=error.hint or "a recipe is its script, what it imports from its own folder, and its data",
            ) from error
        self.done += 1
        self.ledger.set_note(NOTE, str(self.done))
        log.info("steps %d to %d replay exactly in a fresh process", before.step, after.step)
        if self.done >= SEGMENTS:
            self.close()

    def close(self) -> None:
        """End the replaying process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def _refuse(
        self, before: CheckpointEntry, after: CheckpointEntry, ours: Snapshot, first: Closing, second: Closing
    ) -> None:
        row = worst_tensor(ours, first.snapshot)
        groups = _groups(first.snapshot.manifest, after)
        where = f"steps {before.step} to {after.step} do not replay: {groups} differ, first {row}"
        if first.snapshot.manifest.roots() != second.snapshot.manifest.roots():
            raise NotReproducedError(
                f"{where}; two replays differ as well, so an operator or the loop is not deterministic",
                hint="the loop may not depend on the clock, on threads, or on generators that polchain does not seed",
            )
        raise NotReproducedError(
            f"{where}; two replays agree, so something that crosses steps was not attached",
            hint="attach whatever the loop carries from step to step: run.attach(..., name=object)",
        )

    def _refuse_opening(self, entry: CheckpointEntry, ours: Snapshot, opened: Manifest) -> None:
        row = worst_tensor(ours, Snapshot(opened, {}))
        hint = "every setting follows from the recipe and the step: let a scheduler change it, and attach the scheduler"
        if not row.startswith("schedule/"):
            hint = "what is attached must come back as it was when its rows are copied in"
        raise NotReproducedError(
            f"the state of step {entry.step} is another one after it was put back: {row}", hint=hint
        )


def _groups(found: Manifest, claimed: CheckpointEntry) -> str:
    roots = found.roots()
    return ", ".join(group for group in GROUPS if roots[group] != claimed.roots[group])
