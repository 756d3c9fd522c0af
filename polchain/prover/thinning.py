"""States that are not stored (see `thinned`): they are trained again where somebody asks; and `polchain thin`.

regenerate    replay from the last stored state before, segment by segment; each state must be the log's to the bit
thin          see first that all of it can be regenerated, then remove it
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from polchain.core import merkle
from polchain.core.claim import checkpoint_name, manifest_name
from polchain.core.digest import Digest, blake3
from polchain.core.entries import CheckpointEntry, Entry, Start, leaf_data, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.manifest import Snapshot
from polchain.errors import (
    CheckpointMissingError,
    FormatError,
    MissingFileError,
    NotReproducedError,
    PolchainError,
    StorageError,
    UsageError,
)
from polchain.prover.thinned import is_stored, left_out, note_thinning
from polchain.storage.checkpoints import CheckpointStore, sync_folder
from polchain.storage.database import DATABASE
from polchain.storage.ledger import Ledger
from polchain.storage.lock import locked
from polchain.storage.runs import no_run
from polchain.training.distance import worst_tensor
from polchain.training.fingerprint import differences, setting_of
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder, run_seed
from polchain.training.worker import Worker

__all__ = ["Regenerator", "Thinned", "thin"]


class Regenerator:
    """Trains again the states that a run has left out. A context manager; it starts a process when one is needed.

    Args:
        run: the run's folder.
        entries: the run's, from its genesis on.
        data: the folder with the dataset.
    """

    def __init__(self, run: Path, entries: Sequence[bytes], data: Path) -> None:
        parsed = [parse_entry(entry) for entry in entries]
        self.run, self.data, self.store = run, data, CheckpointStore(run)
        self.checkpoints = [entry for entry in parsed if isinstance(entry, CheckpointEntry)]
        self._start = next((entry for entry in parsed if isinstance(entry, Start)), None)
        genesis = parsed[0]
        assert isinstance(genesis, Genesis)
        self._genesis = genesis
        self._leaf = merkle.leaf_hash(leaf_data(entries[0]))
        self._numbers = {entry.state: number for number, entry in reversed(list(enumerate(self.checkpoints)))}
        self._worker: Worker | None = None
        self._last: tuple[int, Snapshot] | None = None

    def __enter__(self) -> Regenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._last = None
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def state(self, state: Digest) -> Snapshot:
        """A state that is not stored, trained again from the last one before it that is.

        Raises:
            CheckpointMissingError: none before it is stored.
            NotReproducedError: this machine gives another state than the log says; where, and what differs.
            DatasetError, MissingFileError, WorkerError: data, recipe or a working process are missing.
        """
        number = self._numbers[state]
        first, snapshot = self._opening(number)
        for at in range(first, number):
            snapshot = self._segment(self.checkpoints[at], self.checkpoints[at + 1], snapshot)
        # The next one that is asked for is likely to follow.
        self._last = number, snapshot
        return snapshot

    def between(self, first: int, last: int) -> Iterator[CheckpointEntry]:
        """Train from the stored state of checkpoint `first` to the state of `last`; each on the way when it was equal.

        Raises:
            As `state`.
        """
        snapshot = self.store.get(self.checkpoints[first].state)
        for at in range(first, last):
            snapshot = self._segment(self.checkpoints[at], self.checkpoints[at + 1], snapshot)
            yield self.checkpoints[at + 1]
        self.store.get(self.checkpoints[last].state)  # it stays: so it must be whole, too

    def _opening(self, number: int) -> tuple[int, Snapshot]:
        """The nearest state that is there, of those up to this one."""
        lowest = -1
        if self._last is not None and self._last[0] <= number:
            lowest = self._last[0]
        for at in range(number, lowest, -1):
            if self.store.has(self.checkpoints[at].state):
                return at, self.store.get(self.checkpoints[at].state)
        if self._last is not None and lowest >= 0:
            return self._last
        raise CheckpointMissingError(
            f"no state before step {self.checkpoints[number].step} is there to train on from",
            hint=f"restore {checkpoint_name(self.checkpoints[0].state)}, the first",
        )

    def _segment(self, before: CheckpointEntry, after: CheckpointEntry, opening: Snapshot) -> Snapshot:
        worker, seed, order = self._tools()
        where = f"steps {before.step} to {after.step}"
        try:
            batches = list(order.batches(before.step, after.step))
            done = worker.replay(seed, before.step, after.step, batches, opening)
        except PolchainError as error:
            raise type(error)(f"{where} cannot be trained again: {error}", hint=error.hint) from error
        closing = done.closings[-1]
        if done.opening.roots() != before.roots:
            row = worst_tensor(opening, Snapshot(done.opening, {}))
            what = f"the state of step {before.step} is another one after it was put back: {row}"
            raise self._differs(what, done.fingerprint)
        if closing.snapshot.manifest.roots() != after.roots:
            rows = Snapshot(self.store.manifest(after.state), {})
            row = worst_tensor(rows, closing.snapshot)
            raise self._differs(f"{where} give another state here than the log says: first {row}", done.fingerprint)
        return closing.snapshot

    def _differs(self, what: str, here: Mapping[str, str | int | bool]) -> NotReproducedError:
        assert self._start is not None
        apart = differences(self._start.fingerprint, here)
        hint = (
            f"the run was recorded elsewhere: {'; '.join(apart)}" if apart else "`polchain fsck` checks what is there"
        )
        return NotReproducedError(what, hint=hint)

    def _tools(self) -> tuple[Worker, bytes, BatchOrder]:
        genesis, start = self._genesis, self._start
        if genesis.recipe is None or genesis.dataset is None or genesis.configuration is None or start is None:
            raise UsageError("a foreign run cannot be trained again")
        if self._worker is None:
            program = Program(genesis.recipe, _recipe(self.run, genesis))
            self._worker = Worker(program, setting_of(start.fingerprint), self.data)
            self._seed = run_seed(start.value, self._leaf, start.source)
            self._order = BatchOrder(self._seed, genesis.dataset.samples, genesis.configuration.batch_size)
        return self._worker, self._seed, self._order


@dataclass(frozen=True, slots=True)
class Thinned:
    """What thinning has done.

    Attributes:
        path: the run's folder.
        every: the interval, in steps.
        kept, removed: how many states are stored now, and how many were removed.
        replayed: how many steps were trained again first; steps: of how many that now are trained again when needed.
        widest: the most steps from one state that is stored to the next.
        freed: bytes.
        lost: the steps whose states are not there, though nothing left them out.
    """

    path: Path
    every: int
    kept: int
    removed: int
    replayed: int
    steps: int
    widest: int
    freed: int
    lost: tuple[int, ...] = ()


def thin(
    run: Path,
    every: int,
    data: Path,
    *,
    sample: int | None = None,
    dry_run: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Thinned:
    """Remove the tensors of states that can be trained again, after it was seen that they can.

    Each stretch between two states that stay is trained again once; only when every state on the way and the one at its
    end are the log's to the bit, are those on the way removed. An interruption leaves whole stretches, thinned or not.

    Args:
        run: the run's folder.
        every: the steps from one state that stays to the next.
        data: the folder with the dataset.
        sample: how many stretches to train again, drawn at random; None for all of them. With a sample nothing is
            removed before all of it was seen, and what was not drawn is trusted to be as the rest: but the states that
            stay are read.
        dry_run: only say what would be removed.
        on_step: called with the steps that were trained again, and of how many.

    Raises:
        UsageError: a foreign run, or an interval that is none.
        NotReproducedError: this machine gives other states than the log says: nothing that depends on it is removed.
        CheckpointMissingError, EvidenceError: the run is damaged: `fsck`.
        RunLockedError: another process is writing to the run.
    """
    if every < 1 or (sample is not None and sample < 1):
        raise UsageError("an interval and a sample are 1 at least")
    if not (run / DATABASE).exists():
        raise no_run(run)
    with locked(run), Ledger(run) as ledger:
        if ledger.genesis.foreign:
            raise UsageError(
                "a foreign run cannot be trained again, so that none of its states can be removed",
                hint="`polchain commit --no-store` keeps no tensors in the first place",
            )
        entries = list(ledger.entries())
        ledger.check()
        left = left_out(ledger)
        stretches = _stretches([parse_entry(entry) for entry in entries], every, CheckpointStore(run))
        chosen = [] if dry_run else stretches
        if sample is not None and sample < len(chosen):
            chosen = secrets.SystemRandom().sample(chosen, sample)
        total = sum(stretch.steps for stretch in chosen)
        replayed = freed = 0
        gone: set[Digest] = set()
        with Regenerator(run, entries, data) as again:
            for stretch in chosen:
                for entry in again.between(stretch.first, stretch.last):
                    if on_step is not None:
                        on_step(replayed + entry.step - again.checkpoints[stretch.first].step, total)
                replayed += stretch.steps
                if sample is None:
                    note_thinning(ledger, every)
                    freed += _remove(run, stretch.removed)
                    gone.update(stretch.removed)
        if dry_run:
            gone.update(state for stretch in stretches for state in stretch.removed)
            freed = sum((run / checkpoint_name(state)).stat().st_size for state in gone)
        elif sample is not None:
            for number in {number for stretch in stretches for number in (stretch.first, stretch.last)}:
                again.store.get(again.checkpoints[number].state)
            note_thinning(ledger, every)
            for stretch in stretches:
                freed += _remove(run, stretch.removed)
                gone.update(stretch.removed)
        out = left | left_out(ledger)
    store = CheckpointStore(run)
    there = {entry.state for entry in again.checkpoints if store.has(entry.state)} - gone
    at = [entry.step for entry in again.checkpoints if entry.state in there]
    widest = max((after - before for before, after in pairwise(at)), default=0)
    lost = tuple(entry.step for entry in again.checkpoints if entry.state not in there | gone | out.keys())
    steps = sum(stretch.steps for stretch in stretches)
    return Thinned(run, every, len(there), len(gone), replayed, steps, widest, freed, lost)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Two states that stay, by number, and the states between them that are there and would go."""

    first: int
    last: int
    steps: int
    removed: tuple[Digest, ...]


def _stretches(entries: Sequence[Entry], every: int, store: CheckpointStore) -> list[_Stretch]:
    checkpoints = [entry for entry in entries if isinstance(entry, CheckpointEntry)]
    there = {entry.state for entry in checkpoints if store.has(entry.state)}
    # Of those that are there, whatever left the others out: or two intervals would leave what is common to both. The
    # last state stays in a run that goes on, too: it is where it goes on from.
    stay = {checkpoints[-1].state} if checkpoints else set()
    before: int | None = None
    for entry in checkpoints:
        if entry.state in there:
            if is_stored(before, entry.step, every):
                stay.add(entry.state)
            before = entry.step
    found = []
    staying = [number for number, entry in enumerate(checkpoints) if entry.state in there and entry.state in stay]
    for first, end in pairwise(staying):
        between = dict.fromkeys(entry.state for entry in checkpoints[first + 1 : end])
        gone = tuple(state for state in between if state in there and state not in stay)
        if gone:
            found.append(_Stretch(first, end, checkpoints[end].step - checkpoints[first].step, gone))
    return found


def _remove(run: Path, states: Sequence[Digest]) -> int:
    freed = 0
    try:
        for state in states:
            path = run / checkpoint_name(state)
            if not (run / manifest_name(state)).is_file() or not path.is_file():
                continue
            freed += path.stat().st_size
            path.unlink()
        sync_folder(run / "checkpoints")
    except OSError as error:
        raise StorageError(f"cannot remove a state from {run}: {error.strerror}") from error
    return freed


def _recipe(run: Path, genesis: Genesis) -> Mapping[str, bytes]:
    texts = {}
    for ref in genesis.recipe.files if genesis.recipe is not None else ():
        try:
            text = (run / "recipe" / ref.path).read_bytes()
        except OSError as error:
            raise MissingFileError(f"the run's recipe is not there: {error}", hint="put it back as it was") from error
        if len(text) != ref.size or blake3(text) != ref.digest:
            raise FormatError(f"the run's recipe/{ref.path} was changed", hint="put it back as it was")
        texts[ref.path] = text
    return texts
