"""The self-check: segments are replayed from their rows alone, in a fresh process, as soon as they are recorded.

    before segment 1             the initial state is built again
    after segment 1              it is replayed, and its closing state is opened once: what is nondeterministic, and
                                 what does not survive being put back (hand-set learning rates), shows here
    after segment 2              it is replayed: what crossed the joint without being attached shows here
    after 4, 8, 16, ... and last what only changes later on (an unfrozen layer, a mode) shows here

They are replayed behind the training, before anything later is recorded. Where both would share cores, the training
waits meanwhile: threads that spin for each other's cores take longer beside each other than in turn. A replay that
takes far longer than the training took for the same steps is ended: a recipe that waits for something there would wait
for ever.

Whatever does not reproduce would be INCONCLUSIVE or worse in front of a verifier: better to stop at step 20. A failure
is kept in the ledger, and an interrupted check is made up for, so that typing the command again forgets nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from polchain.core.entries import CheckpointEntry
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import GROUPS
from polchain.errors import NotReproducedError, PolchainError, WorkerError
from polchain.prover.status import CHECKED, FAILED
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger
from polchain.training.distance import worst_tensor
from polchain.training.fingerprint import setting_of
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder
from polchain.training.worker import Closing, Replayed, Worker

__all__ = ["SelfCheck"]

log = logging.getLogger("polchain")

# A replay begins with imports that were there before `record`, and shares the machine with the training.
LEAST_SECONDS = 180.0
TIMES = 20.0
BYTES_A_SECOND = 50e6  # of the state, which is sent, put back and hashed
LIMIT = "self-check-limit"
UNKNOWN_SECONDS = 3600.0

Result = TypeVar("Result")


def limit_of(took: float, size: int) -> float:
    """The most seconds that the replay of a segment may take.

    Args:
        took: seconds from `record` to its first batch, and of the segment's steps in training.
        size: bytes of the state.
    """
    return LEAST_SECONDS + TIMES * took + size / BYTES_A_SECOND


class SelfCheck:
    """Replays the segments of a run that are due, each once in its life.

    Args:
        program, fingerprint, data, seed: what the run is.
        ledger: the run's, where it is noted how far the checks are.
        prepared: seconds that the program took from `record` to the attached objects.

    Raises:
        NotReproducedError: on construction, where a check of this run has failed before.
    """

    def __init__(
        self,
        program: Program,
        fingerprint: Mapping[str, str | int | bool],
        data: Path,
        seed: bytes,
        ledger: Ledger,
        prepared: float = 0.0,
    ) -> None:
        failed = ledger.note(FAILED)
        if failed is not None:
            raise NotReproducedError(
                f"this run has failed its self-check: {failed}",
                hint=f"mend the recipe, remove {ledger.folder} (or name another folder), and start again",
            )
        self.seed = seed
        self.ledger = ledger
        self.prepared = prepared
        self.checked = int(ledger.note(CHECKED) or "0")
        self.worker: Worker | None = None
        self._stopped = False
        self.program, self.setting, self.data = program, setting_of(fingerprint), data

    def catch_up(self, entries: Sequence[CheckpointEntry], store: CheckpointStore, order: BatchOrder) -> None:
        """Make up for the checks that an interruption has cut off, as far as the states were kept.

        Raises:
            NotReproducedError: as `segment`.
        """
        for number, (before, after) in enumerate(pairwise(entries), start=1):
            if self.due(number, after.step):  # those whose states are not stored are trained again, and checked then
                self.segment(number, before, after, store.get(before.state), store.get(after.state), order)

    def segment(
        self,
        number: int,
        before: CheckpointEntry,
        after: CheckpointEntry,
        opening: Snapshot,
        closing: Snapshot,
        order: BatchOrder,
        took: float | None = None,
    ) -> None:
        """Check segment `number` (from 1), which was just recorded, where it is due.

        Args:
            number: which one.
            before, after: its entries.
            opening, closing: its states.
            order: of the run's batches.
            took: seconds of its steps in training; None where another process trained them.

        Raises:
            NotReproducedError: it does not replay; the state group and the tensor are named.
            WorkerError: the replay died, or took far longer than the training.
        """
        if self._stopped or not self.due(number, after.step):
            return
        if took is not None:  # whoever makes up for this check waits no longer than this one does
            size = sum(row.size for row in opening.manifest.tensors())
            self.ledger.set_note(LIMIT, str(round(limit_of(self.prepared + took, size))))
        try:
            self._check(number, before, after, opening, closing, list(order.batches(before.step, after.step)))
        except NotReproducedError as error:
            self.ledger.set_note(FAILED, str(error))
            raise
        except WorkerError:
            if self._stopped:
                return  # made up for when the run is resumed
            raise  # says nothing about the recipe
        except PolchainError as error:
            raise NotReproducedError(
                f"steps {before.step} to {after.step} cannot be replayed in a fresh process: {error}",
                hint=error.hint or "a recipe is its script, what it imports from its own folder, and its data",
            ) from error
        self.checked = number
        self.ledger.set_note(CHECKED, str(number))
        level = logging.INFO if number <= 2 else logging.DEBUG
        log.log(level, "steps %d to %d replay exactly in a fresh process", before.step, after.step)

    def close(self) -> None:
        """End the replaying process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def stop(self) -> None:
        """From another thread: the run is being left; the check under way is broken off, and no other begun."""
        self._stopped = True
        if self.worker is not None:
            self.worker.interrupt()

    @property
    def crowds(self) -> bool:
        """Whether a replay and the training have more threads than there are cores."""
        return not self.setting.cuda and 2 * self.setting.threads > len(os.sched_getaffinity(0))

    def due(self, number: int, step: int) -> bool:
        """Whether segment `number` (from 1), which ends after `step` steps, is checked, and was not yet."""
        configuration = self.ledger.genesis.configuration
        last = configuration is not None and step == configuration.steps
        return number > self.checked and (last or number & (number - 1) == 0)

    def _check(
        self,
        number: int,
        before: CheckpointEntry,
        after: CheckpointEntry,
        opening: Snapshot,
        closing: Snapshot,
        batches: Sequence[Sequence[int]],
    ) -> None:
        if self.worker is None:
            self.worker = Worker(self.program, self.setting, self.data)
            if self._stopped:
                self.worker.interrupt()
        worker, steps = self.worker, f"steps {before.step} to {after.step}"
        worker.timeout = self._limit()
        if number == 1:
            built, _ = self._ended("the initial state", lambda: worker.initial(self.seed, tensors=False))
            if built.manifest.roots() != before.roots:
                raise NotReproducedError(
                    f"the initial state is another one in a fresh process: {worst_tensor(opening, built)}",
                    hint="build it inside `record`: no environment variable, clock or order of a set may matter",
                )

        def replay() -> Replayed:
            return worker.replay(self.seed, before.step, after.step, batches, opening, tensors=False)

        replayed = self._ended(steps, replay)
        if replayed.opening.roots() != before.roots:
            self._refuse_opening(before, opening, replayed.opening)
        if replayed.closings[-1].snapshot.manifest.roots() != after.roots:
            again = self._ended(steps, replay)
            self._refuse(before, after, closing, replayed.closings[-1], again.closings[-1])
        if replayed.closings[-1].loss != after.loss:
            raise NotReproducedError(
                f"steps {before.step} to {after.step} give the same state again, but another loss was logged",
                hint="log the loss of the step and nothing that depends on the clock or on earlier steps",
            )
        if number == 1:
            opened = self._ended(
                f"the state of step {after.step}",
                lambda: worker.replay(self.seed, after.step, after.step, [], closing).opening,
            )
            if opened.roots() != after.roots:
                self._refuse_opening(after, closing, opened)

    def _limit(self) -> float:
        return float(self.ledger.note(LIMIT) or UNKNOWN_SECONDS)

    def _ended(self, what: str, job: Callable[[], Result]) -> Result:
        """What this job gives.

        Raises:
            WorkerError: the child died; or the job did not end in time, and what it was about is said.
        """
        assert self.worker is not None
        begun, most = time.monotonic(), self.worker.timeout
        try:
            return job()
        except WorkerError as error:
            if self._stopped or time.monotonic() - begun < most:
                raise
            raise WorkerError(
                f"the self-check of {what} did not end in {most:.0f} s, far longer than the training took",
                hint="a recipe may wait for no terminal, environment variable or other process: a replay has none; "
                "where only the machine was busy, start the run again, and the check is made up for",
            ) from error

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
