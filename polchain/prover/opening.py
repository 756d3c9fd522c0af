"""The answer to a challenge: of a run, exactly what was asked (`core.opening`).

A challenge is a stranger's file. Before anything is disclosed it must be about a head that this run has signed; then
the states are those that it lists, and the samples those of the steps that it lists, and of the further ones by index.
How much that is of the run is returned, for the prover to look at before he sends it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

from polchain.core import merkle
from polchain.core.claim import checkpoint_name
from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, Start, leaf_data, parse_entry
from polchain.core.manifest import Manifest
from polchain.core.multiproof import prove_inclusions
from polchain.core.opening import write_opening
from polchain.core.question import Question
from polchain.core.salts import commit_leaves
from polchain.core.samples import pack_samples
from polchain.errors import (
    ChallengeError,
    CheckpointMissingError,
    DatasetError,
    MissingFileError,
    PolchainError,
    StorageError,
    UsageError,
)
from polchain.prover.privacy import kept_secret
from polchain.prover.thinned import left_out, what_helps
from polchain.prover.thinning import Regenerator
from polchain.storage.checkpoints import CheckpointStore, read_tensors
from polchain.storage.ledger import Ledger
from polchain.training.fingerprint import setting_of
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder, run_seed
from polchain.training.worker import Worker

__all__ = ["Answer", "respond"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was disclosed.

    Attributes:
        path: the opening.
        challenge: the digest of the challenge that it answers.
        segments, of_segments: how many segments were asked for, and how many the log has.
        states: how many states it discloses; missing: the steps of those that it does not.
        samples, of_samples: how many samples it discloses, and how many the dataset has.
        private: whether with each of them goes the salt that keeps it from being guessed.
        bytes: its length.
    """

    path: Path
    challenge: Digest
    segments: int
    of_segments: int
    states: int
    missing: tuple[int, ...]
    samples: int
    of_samples: int
    bytes: int
    private: bool = False


def respond(
    run: Path,
    challenge: bytes,
    out: Path,
    *,
    data: Path,
    samples: bool = True,
    closings: bool = True,
    allow_missing: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Answer:
    """Write the opening that answers a challenge.

    Args:
        run: the run's folder.
        challenge: the challenge file's bytes.
        out: the opening; nothing may be there.
        data: the folder with the dataset; read if samples are disclosed, or states are trained again.
        samples: whether to disclose samples where they are asked for; False if the verifier has the data.
        closings: whether to disclose states that are asked for only to compare with; where replay is exact the log's
            roots do as well. The last state is disclosed in any case.
        allow_missing: leave out states that the run no longer has; their draws stay unanswered.
        progress: told what is being done.

    Raises:
        UsageError: there is something at `out`, or the run has no recipe.
        ChallengeError: the challenge is about another run, or about a head that this run does not have.
        CheckpointMissingError: a state is not there; its step is named.
        NotReproducedError: this machine does not give a state again that was left out of the run.
        DatasetError: the data is not the one that was committed.
        DataSecretError: samples of private data are asked for, and the secret is not in the run's folder.
        FormatError, ManifestError: the challenge is none, or the run is damaged.
        StorageError: the disk refused; nothing is left.
    """
    tell = progress or (lambda what: None)
    question = Question.decode(challenge)
    if os.path.lexists(out):
        raise UsageError(f"there is something at {out} already", hint="an opening is written to a new file")
    with Ledger(run) as ledger:
        entries = _entries(ledger, question)
        out_of_run, logged = left_out(ledger), list(ledger.entries())
        start = next((entry for entry in entries if isinstance(entry, Start)), None)
        if ledger.genesis.recipe is None or ledger.genesis.dataset is None or start is None:
            raise UsageError("a foreign run cannot be replayed, so that there is nothing to answer")
        genesis = ledger.genesis
        seed = run_seed(start.value, merkle.leaf_hash(leaf_data(next(ledger.entries()))), start.source)
    checkpoints = {entry.step: entry for entry in entries if isinstance(entry, CheckpointEntry)}
    _check_asked(question, sorted(checkpoints))
    tell("reading states")
    opened = {first for first, _ in question.segments} | {max(checkpoints)}
    steps = [step for step in question.states if closings or step in opened]
    again = _Again(run, logged, data, out_of_run, tell)
    states, missing = _states(CheckpointStore(run), steps, checkpoints, allow_missing, again)
    encodings: dict[int, bytes] = {}
    proof: list[bytes] = []
    disclosed = samples and question.samples
    dataset, configuration = genesis.dataset, genesis.configuration
    assert dataset is not None
    assert configuration is not None
    salts: list[bytes] | None = None
    if disclosed:
        tell("reading samples")
        secret = kept_secret(run, dataset)
        order = BatchOrder(seed, dataset.samples, configuration.batch_size)
        wanted = set(question.other_samples)
        for first, last in question.segments:
            wanted.update(chain.from_iterable(order.batches(first, last)))
        if max(wanted) >= dataset.samples:
            raise ChallengeError(f"the challenge asks for sample {max(wanted)}, the dataset has {dataset.samples}")
        assert genesis.recipe is not None
        program = Program(genesis.recipe, _recipe(run, [ref.path for ref in genesis.recipe.files]))
        with Worker(program, setting_of(start.fingerprint), data) as worker:
            leaves, encodings = worker.read_samples(sorted(wanted))
        if commit_leaves(leaves, secret) != dataset:
            raise DatasetError(
                "the data read here is not the data that the run committed to", hint="point --data at the run's own"
            )
        if secret is not None:
            salts = [secret.salt(index, leaves[index]) for index in sorted(wanted)]
            leaves = tuple(secret.leaves(leaves))
        proof = prove_inclusions(leaves, sorted(wanted))
    partial = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.partial")
    scratch = partial.with_suffix(".states")
    try:
        with again:
            states |= again.write(scratch)
        tell("writing")
        packed = list(pack_samples(encodings)) if disclosed else None
        size = write_opening(partial, challenge, states, packed, proof, salts)
        partial.rename(out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return Answer(
        path=out,
        challenge=question.digest,
        segments=len(question.segments),
        of_segments=len(checkpoints) - 1,
        states=len(states),
        missing=missing,
        samples=len(encodings),
        of_samples=dataset.samples,
        bytes=size,
        private=salts is not None,
    )


def _entries(ledger: Ledger, question: Question) -> list[object]:
    """The entries that the challenge is about.

    Raises:
        ChallengeError: it is about another run, or about a head that this run has not signed.
    """
    if question.origin != ledger.origin:
        raise ChallengeError(f"the challenge is about another run, {question.origin}: this one is {ledger.origin}")
    frontier = merkle.Frontier()
    found: list[object] = []
    for number, data in enumerate(ledger.entries()):
        if number == question.size:
            break
        frontier.append(merkle.leaf_hash(leaf_data(data)))
        found.append(parse_entry(data))
    if (frontier.size, frontier.root()) != (question.size, question.root.value):
        raise ChallengeError(
            f"the challenge is about a head of {question.size} entries with root {question.root}, "
            "which this run has not signed"
        )
    return found


def _check_asked(question: Question, steps: list[int]) -> None:
    pairs = set(pairwise(steps))
    for pair in question.segments:
        if pair not in pairs:
            raise ChallengeError(
                f"the challenge asks for steps {pair[0]} to {pair[1]}, which are no segment of this run"
            )
    allowed = {step for pair in question.segments for step in pair} | {steps[-1]}
    other = next((step for step in question.states if step not in allowed), None)
    if other is not None:
        raise ChallengeError(f"the challenge asks for the state of step {other}, which it does not replay from or to")


def _states(
    store: CheckpointStore,
    steps: list[int],
    checkpoints: dict[int, CheckpointEntry],
    allow_missing: bool,
    again: _Again,
) -> tuple[dict[Digest, tuple[Manifest, Path]], tuple[int, ...]]:
    states: dict[Digest, tuple[Manifest, Path]] = {}
    missing: list[int] = []
    for step in steps:
        state = checkpoints[step].state
        path = store.folder / checkpoint_name(state)
        try:
            manifest = store.manifest(state)
            read_tensors(path, manifest)
        except CheckpointMissingError as error:
            if again.take(state):
                continue
            if not allow_missing:
                raise CheckpointMissingError(
                    f"the state of step {step} is not there: {error}",
                    hint="restore it, or leave it out with --allow-missing: the verdict is then INCONCLUSIVE",
                ) from error
            missing.append(step)
            continue
        except PolchainError as error:
            raise type(error)(f"step {step}: {error}", hint=what_helps(error)) from error
        states[state] = (manifest, path)
    return states, tuple(missing)


class _Again:
    """The states that the run has left out on purpose: trained again before they are disclosed."""

    def __init__(
        self, run: Path, entries: Sequence[bytes], data: Path, out: Mapping[Digest, int], tell: Callable[[str], None]
    ) -> None:
        self.out, self.tell = out, tell
        self._regenerator = Regenerator(run, entries, data)
        self._wanted: list[Digest] = []

    def __enter__(self) -> _Again:
        return self

    def __exit__(self, *_: object) -> None:
        self._regenerator.close()

    def take(self, state: Digest) -> bool:
        """Note that a state is wanted; False where it is none that was left out."""
        if state not in self.out:
            return False
        self._wanted.append(state)
        return True

    def write(self, folder: Path) -> dict[Digest, tuple[Manifest, Path]]:
        """Train them again, into a folder.

        Raises:
            NotReproducedError: this machine gives another state than the log says.
        """
        store, found = CheckpointStore(folder), {}
        for state in sorted(dict.fromkeys(self._wanted), key=lambda state: self.out[state]):
            self.tell(f"training again to step {self.out[state]}")
            snapshot = self._regenerator.state(state)
            store.put(snapshot)
            found[state] = (snapshot.manifest, folder / checkpoint_name(state))
        return found


def _recipe(run: Path, names: list[str]) -> dict[str, bytes]:
    try:
        return {name: (run / "recipe" / name).read_bytes() for name in names}
    except OSError as error:
        raise MissingFileError(f"the run's recipe is not there: {error}", hint="put it back as it was") from error
