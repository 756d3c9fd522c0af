"""The recorder: what a prover's session does with its seed, its state and its checkpoints.

    copy | -> hash -> store (durable) -> append (durable, signed) -> acknowledged

All but the copy is done behind the training, by a `Scribe`.

A run that exists is resumed: the last state that was kept is put back, and every entry after it must come out the same.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from polchain.core.entries import CheckpointEntry, Start, parse_entry
from polchain.core.genesis import Genesis, RecipeRef
from polchain.core.manifest import check_manifest
from polchain.core.task import departures
from polchain.errors import (
    CheckpointMissingError,
    DatasetError,
    NotReproducedError,
    RecipeChangedError,
    RecipeError,
    UsageError,
)
from polchain.prover.launch import Launch
from polchain.prover.privacy import choose_secret, keep_secret, kept_secret
from polchain.prover.scribe import Scribe
from polchain.prover.seed import draw, make_start, seed_of
from polchain.prover.selfcheck import SelfCheck
from polchain.prover.settings import RunSettings
from polchain.prover.thinned import note_thinning
from polchain.storage.checkpoints import CheckpointStore, write_durably
from polchain.storage.database import DATABASE
from polchain.storage.keyfile import PassphraseSource, read_key
from polchain.storage.ledger import Ledger
from polchain.training.dataset import Commitment, MapDataset, data_dir
from polchain.training.fingerprint import differences, fingerprint
from polchain.training.host import Options, Stretch
from polchain.training.leaves import KEPT
from polchain.training.program import find_program
from polchain.training.randomness import BatchOrder
from polchain.training.session import Session
from polchain.training.snapshot import borrow
from polchain.training.state import TrainingState

__all__ = ["Recorder"]

log = logging.getLogger("polchain")

MANY_SAMPLES = 20_000  # fewer are read before anybody wonders


class Recorder:
    """The host of a session that is recorded (see `session.Host`)."""

    witnesses = False

    def __init__(self, folder: Path, launch: Launch | None = None) -> None:
        self.folder = folder.resolve()
        self.launch = launch or Launch()
        self.store = CheckpointStore(self.folder)
        self.ledger: Ledger | None = None
        self._check: SelfCheck | None = None
        self._scribe: Scribe | None = None
        self._prepared = 0.0  # seconds in which the program reads its data and builds what it attaches

    def begin(self, options: Options) -> tuple[bytes, MapDataset]:
        """Start or find the run: its genesis must be the one that this script would write."""
        self.program = find_program(options.files)
        begun = time.monotonic()
        try:
            dataset = options.dataset()
            commitment = self._commit(dataset)
        except OSError as error:
            raise DatasetError(
                f"the data cannot be read: {error}", hint="say where it is with --data FOLDER or POLCHAIN_DATA"
            ) from error
        self._prepared = time.monotonic() - begun
        settings = self.launch.settings or replace(RunSettings.read(self.folder), **_as_started(self.program.ref))
        key = read_key(settings.key_file, PassphraseSource.from_environment())
        if not (self.folder / DATABASE).exists():
            half = self.launch.address
            secret = choose_secret(self.folder, self.launch)
            genesis = Genesis(
                run_id=half.run_id if half is not None else secrets.token_bytes(16),
                key=key.public,
                recovery=self.launch.recovery,
                ethereum=half.bind(key) if half is not None else None,
                beacon=half.beacon if half is not None else None,
                recipe=self.program.ref,
                dataset=commitment.ref(secret),
                configuration=options.configuration,
                task=self.launch.task.digest if self.launch.task is not None else None,
            )
            self._check_task(genesis)
            self._write_recipe()
            if secret is not None:
                keep_secret(self.folder, secret)  # before a genesis that names it is signed
            self.ledger = Ledger.create(self.folder, genesis, key)
        else:
            self.ledger = Ledger(self.folder, key)
        # Of an older run too: a kill may have come between its ledger and its settings. An existing file is left alone.
        self._store_every = settings.store_every or options.store_every
        replace(settings, store_every=self._store_every).write(self.folder)
        if self._store_every:
            note_thinning(self.ledger, self._store_every)
        self._check_same(commitment, options)
        draw(self.ledger, self.launch.task.seed if self.launch.task is not None else None)
        if self.launch.stop_at_genesis:
            self._stop()
        self.seed = seed_of(self.ledger, own=self.launch.own_seed)
        self.order, self._order_behind = (
            BatchOrder(self.seed, len(dataset), options.configuration.batch_size) for _ in range(2)
        )
        self._prepared -= time.monotonic()  # until it attaches
        return self.seed, dataset

    def _commit(self, dataset: MapDataset) -> Commitment:
        """Read every sample; what was kept of an earlier reading counts only where the user says so."""

        def progress(done: int) -> None:
            if self.launch.on_sample is not None and len(dataset) >= MANY_SAMPLES:
                self.launch.on_sample(done, len(dataset))

        kept = os.environ.get(KEPT)
        return Commitment.of(dataset, progress, kept=Path(kept) if kept else None)

    def attached(self, session: Session) -> Stretch:
        """Record step 0, or put back the last state that was kept."""
        assert self.ledger is not None
        steps = session.configuration.steps
        here = fingerprint(session.state.device().type, session.configuration.precision)
        log_entries = [parse_entry(data) for data in self.ledger.entries()]
        start = next((e for e in log_entries if isinstance(e, Start)), None)
        if start is None:
            start = make_start(self.ledger, here, own=self.launch.own_seed)
            self.ledger.append(start)
        elif differences(start.fingerprint, here):
            raise NotReproducedError(
                "the run was started with another setting: " + "; ".join(differences(start.fingerprint, here)),
                hint=f"export OMP_NUM_THREADS={start.fingerprint.get('threads')} and use the same machine and versions",
            )
        self._prepared += time.monotonic()
        self._check = SelfCheck(self.program, start.fingerprint, data_dir(), self.seed, self.ledger, self._prepared)
        committed = [e for e in log_entries if isinstance(e, CheckpointEntry)]
        scribe = Scribe(
            self.ledger,
            self.store,
            self._order_behind,
            self._check,
            self._show_progress,
            every=self._store_every,
            steps=steps,
        )
        first = self._put_back(session, committed, scribe) if committed else 0
        self._scribe = scribe
        scribe.start()
        if not committed:
            self.checkpoint(0, session.state, None)
            scribe.line.drain()
        return Stretch(first, max(steps, first))

    def _put_back(self, session: Session, committed: Sequence[CheckpointEntry], scribe: Scribe) -> int:
        """Go on from the last state that was kept; returns its step."""
        assert self._check is not None
        at = self._last_kept(committed)
        step = committed[at].step
        snapshot = self.store.get(committed[at].state)
        session.rewind(snapshot, step)
        check_manifest(borrow(session.state).snapshot().manifest, committed[at].roots)
        scribe.go_on(committed, at, snapshot)
        if step >= session.configuration.steps:
            log.info("already finished: %d of %d steps", step, session.configuration.steps)
        else:
            log.info("resuming at step %d", step)
        self._check.catch_up(committed[: at + 1], self.store, self.order)
        self._show_progress(step)
        return step

    def indices(self, step: int) -> Sequence[int]:
        """The dataset indices of a step."""
        return self.order.indices(step)

    def sample(self, index: int, encoding: bytes) -> None:
        """Samples are not kept."""

    def checkpoint(self, step: int, state: TrainingState, loss: float | None) -> None:
        """Copy the state; the rest follows behind. What has failed there since is raised here.

        Raises:
            PolchainError: a part of the state cannot be recorded; or what failed behind.
        """
        assert self._scribe is not None
        self._scribe.copy(step, state, loss)

    def finished(self) -> None:
        """Append the final entry, once."""
        assert self._scribe is not None
        self._scribe.finish()

    def close(self, failed: bool) -> None:
        """Record what was copied, and give the ledger back.

        After a failure nothing that was copied is lost; a self-check is broken off, and made up for by whoever resumes.

        Raises:
            PolchainError: what failed behind, where nothing was raised yet.
        """
        if self._scribe is not None and not self._scribe.line.here:
            return  # all of it belongs to the process that this one was forked from
        try:
            if self._scribe is not None:
                self._scribe.close(failed)
        finally:
            # Where this was interrupted while it waited, the thread may still be writing: it ends with the process.
            if self._scribe is None or self._scribe.line.ended:
                if self._check is not None:
                    self._check.close()
                if self.ledger is not None:
                    self.ledger.close()

    def _last_kept(self, committed: Sequence[CheckpointEntry]) -> int:
        """The last state to go on from; before a self-check that is due still, where its states were not stored."""
        assert self._check is not None
        last = len(committed) - 1
        for number, (before, after) in enumerate(pairwise(committed), start=1):
            stored = self.store.has(before.state) and self.store.has(after.state)
            if self._check.due(number, after.step) and not stored:
                last = number - 1
                break
        for index in range(last, -1, -1):
            if self.store.has(committed[index].state):
                return index
        raise CheckpointMissingError(
            "none of the run's checkpoints is there to go on from", hint=f"restore {self.folder / 'checkpoints'}"
        )

    def _check_same(self, commitment: Commitment, options: Options) -> None:
        assert self.ledger is not None
        genesis = self.ledger.genesis
        if genesis.recipe is None or genesis.dataset is None:
            raise UsageError(f"the run at {self.folder} is a foreign one", hint="record into another folder")
        if genesis.recipe.program() != self.program.ref.program():
            raise RecipeChangedError(
                f"the run at {self.folder} was started with another recipe: {_what_changed(genesis, self.program.ref)}",
                hint=self._other_folder("put the recipe back as it was, or record into another folder"),
            )
        if genesis.configuration != options.configuration:
            raise RecipeChangedError(
                f"the run at {self.folder} was started with another configuration",
                hint=self._other_folder("steps, batch_size, every and precision are those of the genesis"),
            )
        if genesis.dataset != commitment.ref(kept_secret(self.folder, genesis.dataset)):
            raise DatasetError(
                "the data is not the data that the run committed to",
                hint="point POLCHAIN_DATA at the same data, or record into another folder",
            )

    def _check_task(self, genesis: Genesis) -> None:
        """See, before anything is signed, that this is what was ordered."""
        task = self.launch.task
        found = departures(task, genesis, None) if task is not None else ()
        if found:
            raise RecipeError(
                f"this is not what the task orders: {', '.join(found)}",
                hint="the script, its arguments and its data are those of whoever ordered it, and where the task has "
                "salts, so is the secret: --data-secret FILE",
            )

    def _other_folder(self, hint: str) -> str:
        """The hint, or, where nothing was trained yet, that nothing is lost by starting again."""
        assert self.ledger is not None
        trained = any(
            isinstance(entry, CheckpointEntry) and entry.step > 0 for entry in map(parse_entry, self.ledger.entries())
        )
        return hint if trained else f"nothing was trained yet: remove {self.folder} and start again"

    def _write_recipe(self) -> None:
        for name, text in self.program.files.items():
            write_durably(self.folder / "recipe" / name, text)

    def _show_progress(self, step: int) -> None:
        assert self.ledger is not None
        assert self.ledger.genesis.configuration is not None
        if self.launch.on_checkpoint is not None:
            self.launch.on_checkpoint(step, self.ledger.genesis.configuration.steps)

    def _stop(self) -> NoReturn:
        assert self.ledger is not None
        if self.launch.on_genesis is not None:
            self.launch.on_genesis(self.ledger)
        self.close(failed=False)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _as_started(ref: RecipeRef) -> dict[str, Any]:
    """How this script was started by hand, so that `polchain train RUN` can go on with it."""
    script = ref.entry if ref.module else str(Path(sys.modules["__main__"].__file__ or ref.entry).resolve())
    return {"script": script, "module": ref.module, "arguments": ref.arguments}


def _what_changed(genesis: Genesis, now: RecipeRef) -> str:
    assert genesis.recipe is not None
    then = {ref.path: ref.digest for ref in genesis.recipe.files}
    current = {ref.path: ref.digest for ref in now.files}
    changed = sorted(path for path in then.keys() | current.keys() if then.get(path) != current.get(path))
    if changed:
        return ", ".join(changed[:3])
    if genesis.recipe.arguments != now.arguments:
        return f"arguments {' '.join(genesis.recipe.arguments) or '(none)'}, now {' '.join(now.arguments) or '(none)'}"
    return "another entry point"
