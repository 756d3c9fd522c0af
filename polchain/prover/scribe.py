"""The scribe: records what the training thread copies, behind it.

    training    copy the state
    behind      hash -> measure the update -> store (durable) -> append (durable, signed) -> acknowledged -> check

There are two rooms for states. One holds the state before until the update is measured; so there are two states in
memory at most, and a training that is faster than its recording waits for a room, or for a self-check that needs its
cores. An entry is acknowledged when it is durable: what was copied and is not yet appended is lost with the process,
and trained again by whoever resumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from polchain.core.entries import CheckpointEntry, Final, chain_base, encode_entry, extend_chain
from polchain.core.manifest import Snapshot
from polchain.errors import NotReproducedError
from polchain.prover.pipeline import HELD, Held, Pipeline
from polchain.prover.selfcheck import SelfCheck
from polchain.prover.thinned import is_stored
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger
from polchain.training.aside import one_thread, settle
from polchain.training.distance import update_size
from polchain.training.randomness import BatchOrder, batch_digest
from polchain.training.snapshot import Copied, Room, copy_state
from polchain.training.state import TrainingState

__all__ = ["Scribe"]


class Scribe:
    """Appends a run's checkpoints in a thread of its own.

    Args:
        ledger: the run's, which only this thread writes to from now on.
        store: where states go.
        order: the run's, for this thread alone: an epoch's order takes long to compute, and one is kept.
        check: the run's self-check.
        every: how many steps there are from one stored state to the next; 0 for every state.
        steps: of the whole run.
        shown: called with each step that was recorded, by the thread behind.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: CheckpointStore,
        order: BatchOrder,
        check: SelfCheck,
        shown: Callable[[int], None],
        *,
        every: int = 0,
        steps: int = 0,
    ) -> None:
        self.every, self.steps = every, steps
        self.ledger, self.store, self.order, self.check, self.shown = ledger, store, order, check, shown
        self._noted = Held.parse(ledger.note(HELD))
        self.line: Pipeline[Room] = Pipeline((Room(), Room()), settle, self._noted)
        self._number = self._copied = -1  # of the last checkpoint, from 0; and of the last that was copied
        self._tail: CheckpointEntry | None = None
        self._last: Snapshot | None = None
        self._room: Room | None = None  # the last state's
        self._pending: list[CheckpointEntry] = []
        self._since = time.monotonic()  # when the training went on

    def go_on(self, committed: Sequence[CheckpointEntry], at: int, snapshot: Snapshot) -> None:
        """Before the start: the last state is that of entry `at`, and those after it must come out the same."""
        self._number = self._copied = at
        self._tail, self._last = committed[at], snapshot
        self._pending = list(committed[at + 1 :])

    def start(self) -> None:
        """Start the thread, with one torch thread for good: its sums are as the training's, and stall nobody."""
        with one_thread():
            self.line.start()

    def copy(self, step: int, state: TrainingState, loss: float | None) -> None:
        """Copy the state after `step` steps as soon as there is room, and have it recorded.

        Waits until it is recorded and checked where a self-check follows that would share cores with the training.

        Raises:
            PolchainError: a part of it cannot be recorded; or what has failed behind since.
        """
        took = time.monotonic() - self._since
        copied = copy_state(state, self.line.acquire())
        self.line.put(lambda: self._record(step, copied, loss, took))
        self._copied += 1
        if self._copied and self.check.crowds and self.check.due(self._copied, step):
            self.line.drain(counted=True)
        self._since = time.monotonic()

    def finish(self) -> None:
        """Wait until everything is recorded, then append the final entry, once.

        Raises:
            PolchainError: what has failed behind.
        """
        self.line.drain()
        self._note_held()
        last = self.ledger.entry(self.ledger.size - 1)
        if isinstance(last, CheckpointEntry):
            self.ledger.append(Final(self.ledger.root, last.step, last.roots, last.chain))

    def close(self, failed: bool) -> None:
        """Record what was copied and end the thread; after a failure without self-checks.

        Raises:
            PolchainError: what failed behind, unless the training knows it, or has failed by itself.
        """
        if failed:
            self.check.stop()
        self.line.close(quiet=failed)

    def _record(self, step: int, copied: Copied, loss: float | None, took: float) -> None:
        """Keep the state, then append its entry; entries that exist must come out the same.

        `took` is how many seconds the training took for the steps since the state before.
        """
        before, opening, emptied = self._tail, self._last, self._room
        snapshot = copied.snapshot(opening)
        entry = self._entry(step, snapshot, loss)
        number = self._number + 1
        due = before is not None and self.check.due(number, step)
        if not (due and before is not None and not self.store.has(before.state)):
            # The state before is needed no more; a check reads it again.
            opening = None
            self._release(emptied)
        if self._pending:
            expected = self._pending.pop(0)
            if encode_entry(entry) != encode_entry(expected):
                raise NotReproducedError(
                    f"training again from the last kept state does not give the entry of step {step} that was signed",
                    hint="restore the missing checkpoints; or end this run here and start a new one",
                )
            self._keep(snapshot, before, step)
        else:
            self._keep(snapshot, before, step)
            self.ledger.append(entry)
        self._number, self._tail, self._last, self._room = number, entry, snapshot, copied.room
        self._note_held()
        if due and before is not None:
            begun_with = opening or self.store.get(before.state)
            self.check.segment(number, before, entry, begun_with, snapshot, self.order, took)
            if opening is not None:
                self._release(emptied)
        self.shown(step)

    def _entry(self, step: int, snapshot: Snapshot, loss: float | None) -> CheckpointEntry:
        before = self._tail
        update = None
        if before is not None and self._last is not None:
            update = update_size(self._last, snapshot)
        return CheckpointEntry(
            prev=self._pending[0].prev if self._pending else self.ledger.root,
            step=step,
            roots=snapshot.manifest.roots(),
            chain=extend_chain(
                before.chain.value if before is not None else chain_base(self.ledger.genesis), snapshot.manifest.state()
            ),
            batches=batch_digest(list(self.order.batches(before.step if before is not None else 0, step))),
            update=update,
            loss=loss,
        )

    def _keep(self, snapshot: Snapshot, before: CheckpointEntry | None, step: int) -> None:
        if step >= self.steps or is_stored(before.step if before is not None else None, step, self.every):
            self.store.put(snapshot)
        else:
            self.store.put_manifest(snapshot.manifest)

    def _release(self, room: Room | None) -> None:
        if room is not None:
            self.line.release(room)

    def _note_held(self) -> None:
        """Write down, for `polchain status`, how long the training has waited, where it has since."""
        if self.line.held != self._noted:
            self._noted = self.line.held
            self.ledger.set_note(HELD, self._noted.encode())
