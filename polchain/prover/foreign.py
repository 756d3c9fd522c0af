"""Foreign runs: the loop is somebody else's, the log is polchain's.

    init_foreign(folder, key)               a genesis without recipe, dataset or configuration
    commit(folder, path, step, key=...)     read the checkpoint -> store (durable) -> append (durable, signed)
    watch(folder, directory, key=...)       the same for each new complete checkpoint, in rising order of steps

Nothing can be replayed here. The log still says that a state was there, after which one, under whose key, and, once its
heads are anchored, since when.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from polchain.core.entries import CheckpointEntry, Final, Update, chain_base, extend_chain, parse_entry
from polchain.core.genesis import Genesis
from polchain.core.keys import PrivateKey, PublicKey
from polchain.core.manifest import Snapshot
from polchain.core.note import TreeHead, open_head
from polchain.errors import (
    CheckpointMissingError,
    ConflictError,
    FormatError,
    ManifestError,
    MissingFileError,
    UsageError,
)
from polchain.prover.candidates import MAX_STEP, Candidate, Patience, find_candidates, look_at
from polchain.prover.preregister import AddressHalf
from polchain.prover.settings import RunSettings
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger
from polchain.training.distance import is_parameter, update_size
from polchain.training.foreign import Foreign, check_mapping, read_foreign

__all__ = ["Committed", "commit", "init_foreign", "watch"]

log = logging.getLogger("polchain")

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint that is in the log.

    Attributes:
        head: the signed head that covers it.
        entry: its entry.
        step: its step.
        repeated: True where it was there before, and nothing was appended.
        remarks: what has to be said about how it was read, one sentence each.
    """

    head: TreeHead
    entry: CheckpointEntry
    step: int
    repeated: bool
    remarks: tuple[str, ...]


def init_foreign(
    folder: Path,
    key: PrivateKey,
    *,
    settings: RunSettings | None = None,
    address: AddressHalf | None = None,
    recovery: PublicKey | None = None,
) -> Ledger:
    """Start a foreign run; returns its ledger, open for writing.

    Raises:
        UsageError: there is a run already.
        SignatureError: the address signed for another log.
        StorageError: the disk refused.
    """
    settings = settings or RunSettings.read(folder)
    genesis = Genesis(
        run_id=address.run_id if address is not None else secrets.token_bytes(16),
        key=key.public,
        recovery=recovery,
        ethereum=address.bind(key) if address is not None else None,
    )
    ledger = Ledger.create(folder, genesis, key)
    settings.write(folder)
    return ledger


def commit(
    folder: Path,
    path: Path,
    step: int,
    *,
    key: PrivateKey,
    mapping: Mapping[str, str] | None = None,
    store: bool = True,
    loss: float | None = None,
) -> Committed:
    """Commit a checkpoint file or folder that a foreign loop has saved. Durable when this returns.

    Args:
        folder: the run's folder.
        path: the checkpoint.
        step: the step it was saved at; steps only rise.
        key: the run's private key.
        mapping: groups for keys that are not recognised: {"net": "model"}.
        store: False keeps the rows and no tensors: the state can be matched later, but never be shown.
        loss: the mean loss since the last checkpoint.

    Raises:
        UsageError: polchain owns the run's loop, the run has ended, a later step is committed already, the mapping is
            wrong, or no model is recognised in a checkpoint that was opened.
        ConflictError: another state is committed at this step.
        MissingFileError, FormatError: the checkpoint is not there, or damaged.
        StorageError, RunLockedError, KeyMismatchError, RolledBackError: the run cannot be written to.
    """
    if isinstance(step, bool) or not 0 <= step <= MAX_STEP:
        raise UsageError(f"step {step} is not from 0 to {MAX_STEP}")
    if loss is not None and not math.isfinite(loss):
        raise UsageError(f"a loss of {loss} cannot be recorded", hint="leave it out")
    with Ledger(folder, key) as ledger:
        _check_step(_committed(ledger), step)
        return _append(ledger, _read(path, mapping), step, key=key, store=store, loss=loss)


def _read(path: Path, mapping: Mapping[str, str] | None) -> Foreign:
    foreign = read_foreign(path, mapping)
    if foreign.unrecognised:
        more = ", ..." if len(foreign.unrecognised) > SHOWN else ""
        keys = ", ".join(foreign.unrecognised[:SHOWN]) + more
        problem = f"no model is recognised in {path.name}, which has {keys}"
        raise UsageError(problem, hint="--map KEY=model says where it is")
    return foreign


def _committed(ledger: Ledger) -> list[CheckpointEntry]:
    if not ledger.genesis.foreign:
        raise UsageError(
            f"polchain owns the loop of the run at {ledger.folder}, and commits for it",
            hint="`polchain init RUN --foreign` makes a run for checkpoints of another loop",
        )
    entries = [parse_entry(data) for data in ledger.entries(1)]
    if any(isinstance(entry, Final) for entry in entries):
        raise UsageError(
            f"the run at {ledger.folder} has ended", hint="begin another one with `polchain init --foreign`"
        )
    return [entry for entry in entries if isinstance(entry, CheckpointEntry)]


def _check_step(committed: list[CheckpointEntry], step: int) -> None:
    if committed and step < committed[-1].step and all(entry.step != step for entry in committed):
        raise UsageError(
            f"step {step} lies before step {committed[-1].step}, which is committed already",
            hint="commit in rising order of steps: nothing can be put between signed entries",
        )


def _append(
    ledger: Ledger, foreign: Foreign, step: int, *, key: PrivateKey, store: bool, loss: float | None
) -> Committed:
    committed = _committed(ledger)
    snapshot = foreign.snapshot
    state = snapshot.manifest.state()
    shelf = CheckpointStore(ledger.folder)
    same = next((entry for entry in committed if entry.step == step), None)
    if same is not None and same.state != state:
        raise ConflictError(
            f"another state is committed at step {step}: {same.state}, and this one is {state}",
            hint="what is signed stays: commit the other state at its own step, or begin another run",
        )
    # The blob before the entry: an entry whose state was lost by a power cut could not be shown.
    if store:
        shelf.put(snapshot)
    else:
        shelf.put_manifest(snapshot.manifest)
    if same is not None:
        return Committed(open_head(ledger.head(), ledger.origin, key.public), same, step, True, foreign.remarks)
    last = committed[-1] if committed else None
    update, remarks = _update(shelf, last, snapshot)
    entry = CheckpointEntry(
        prev=ledger.root,
        step=step,
        roots=snapshot.manifest.roots(),
        chain=extend_chain(last.chain.value if last else chain_base(ledger.genesis), state),
        update=update,
        loss=loss,
    )
    return Committed(ledger.append(entry), entry, step, False, (*foreign.remarks, *remarks))


def _update(
    shelf: CheckpointStore, last: CheckpointEntry | None, snapshot: Snapshot
) -> tuple[Update | None, list[str]]:
    """The size of the update since the last checkpoint, where both have the same parameters; else why not."""
    if last is None or not any(map(is_parameter, snapshot.manifest.tensors())):
        return None, []
    try:
        update = update_size(shelf.get(last.state), snapshot)
    except CheckpointMissingError:
        return None, [f"the size of the update is not recorded: the state of step {last.step} was not kept"]
    except (ManifestError, FormatError) as error:
        return None, [f"the size of the update is not recorded: the state of step {last.step} is damaged: {error}"]
    if not (math.isfinite(update.l2) and math.isfinite(update.linf)):
        return None, [
            f"the size of the update is not recorded: step {last.step} has other parameters, or one is not finite"
        ]
    return update, []


def watch(
    folder: Path,
    directory: Path,
    *,
    key: PrivateKey,
    mapping: Mapping[str, str] | None = None,
    settle: float = 2.0,
    once: bool = False,
    store: bool = True,
    on_commit: Callable[[Committed], None] | None = None,
) -> int:
    """Commit new complete checkpoints as they appear directly under a directory, until interrupted; returns how many.

    They are committed by rising step: one waits for those of lower steps that are still being written. Steps that are
    committed are left alone, and so, with a warning, is what cannot be read, what lies before the last committed step,
    and a second candidate for one step.

    Args:
        folder: the run's folder.
        directory: where the loop saves its checkpoints (see `candidates`).
        key: the run's private key.
        mapping, store: as `commit` takes them.
        settle: seconds for which a complete checkpoint has not changed.
        once: commit what is complete after one settling time, then return.
        on_commit: told of each commit.

    Raises:
        MissingFileError: no such directory, or no run.
        UsageError: polchain owns the run's loop, the run has ended, or the mapping names no group.
        StorageError, RunLockedError, KeyMismatchError, RolledBackError: the run cannot be written to.
    """
    check_mapping(mapping or {})
    with Ledger(folder, key) as ledger:
        _committed(ledger)
    find_candidates(directory)  # Before it is announced.
    if not once:
        log.info("watching %s; end it with Ctrl-C", directory)
    patience = Patience(settle)
    count = 0
    try:
        for turn in itertools.count():
            candidates = patience.see(find_candidates(directory))
            patience.see_nameless(directory)
            for candidate in candidates:
                if not patience.settled(candidate):
                    break
                if not _is_next(folder, candidate, patience):
                    continue
                foreign = _read_candidate(candidate, mapping, patience)
                if foreign is None:
                    continue
                if look_at(candidate.path) != candidate.look:
                    break
                with Ledger(folder, key) as ledger:
                    committed = _append(ledger, foreign, candidate.step, key=key, store=store, loss=None)
                patience.taken[candidate.step] = candidate.path
                count += 1
                if on_commit is not None:
                    on_commit(committed)
            if once and turn:
                break
            time.sleep(settle if once else min(1.0, max(0.02, settle / 2)))
    except KeyboardInterrupt:
        log.info("stopped watching %s", directory)
    return count


def _is_next(folder: Path, candidate: Candidate, patience: Patience) -> bool:
    with Ledger(folder) as ledger:
        committed = _committed(ledger)
    if any(entry.step == candidate.step for entry in committed):
        taken = patience.taken.get(candidate.step, candidate.path)
        if taken != candidate.path:
            patience.give_up(candidate, f"step {candidate.step} is committed already, from {taken.name}")
        return False
    try:
        _check_step(committed, candidate.step)
    except UsageError as error:
        patience.give_up(candidate, error)
        return False
    return True


def _read_candidate(candidate: Candidate, mapping: Mapping[str, str] | None, patience: Patience) -> Foreign | None:
    try:
        return _read(candidate.path, mapping)
    except (FormatError, ManifestError, MissingFileError, UsageError) as error:
        patience.give_up(candidate, f"{error}; {error.hint}" if error.hint else error)
        return None
