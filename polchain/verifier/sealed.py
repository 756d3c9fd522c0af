"""Sealed claims: IntactClaim -> Question, and the Opening that answers it -> Answered.

A sealed claim discloses no tensors. The verifier draws on it as on any other (`challenge`), and asks for what the picks
take: the states that they open with, the last state, the samples of their steps. What comes back is checked here, byte
by byte, against the log and the genesis; from then on the claim is one that discloses these states, and is replayed and
judged like any other.

Which segments are picked follows from the sealed claim alone, so that what is disclosed cannot change it. And a prover
who may choose the challenge chooses one that misses what he forged: an answer counts only to a challenge file that the
verifier names as his own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import overload

from polchain.core.claim import checkpoint_name, manifest_name
from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry
from polchain.core.genesis import DatasetRef
from polchain.core.manifest import MANIFEST_LIMIT, Manifest, check_manifest
from polchain.core.multiproof import check_inclusions
from polchain.core.opening import Opening
from polchain.core.place import Place
from polchain.core.question import MAX_SAMPLES, Question, read_question
from polchain.core.rows import FileRow
from polchain.core.salts import salted_leaf
from polchain.core.samples import unpack_samples
from polchain.errors import ChallengeError, FormatError, UsageError
from polchain.storage.checkpoints import read_tensors
from polchain.training.dataset import SAMPLE_LIMIT, sample_leaf
from polchain.training.held import Held
from polchain.verifier.behaviour import behaviour_steps, other_batches
from polchain.verifier.challenge import Challenge, draw_challenge
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.policy import Policy
from polchain.verifier.survey import Survey, survey

__all__ = ["Answered", "Leaves", "admit", "ask", "read_answer", "unasked"]


class Leaves(Sequence[bytes]):
    """The leaf hashes of the disclosed samples, by index; of the others there is none."""

    def __init__(self, count: int, known: Mapping[int, bytes]) -> None:
        self._count = count
        self._known = known

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        return self._known.get(index, b"")  # equal to no leaf hash


@dataclass(frozen=True, slots=True)
class Answered:
    """A challenge and its answer, checked.

    Attributes:
        intact: the claim, with the disclosed states.
        challenge: what is to be replayed.
        held: the disclosed samples; None where the data has to be at hand.
        leaves: their leaf hashes.
        missing: why the verdict is INCONCLUSIVE whatever is replayed.
        files: what no recipe may see.
    """

    intact: IntactClaim
    challenge: Challenge
    held: Held | None
    leaves: Leaves | None
    missing: tuple[str, ...]
    files: tuple[Path, ...]


def ask(
    intact: IntactClaim,
    seed: bytes,
    policy: Policy,
    *,
    full: bool = False,
    around: Sequence[int] = (),
    closings: bool = False,
    samples: bool = True,
) -> tuple[Question, Challenge]:
    """What to ask a prover for, and the draw that it follows from.

    Args:
        intact: the claim.
        seed: 32 bytes; the verifier's own fresh randomness, unless the draw is to be public.
        policy: what the verifier demands.
        full: ask for every segment.
        around: steps of states in dispute.
        closings: ask for the states that the picks close with, too: without them a difference convicts nobody.
        samples: ask for the samples; False where the data is at hand.

    Raises:
        UsageError: there is nothing to replay, or a budget that the fixed picks do not fit into.
    """
    genesis = intact.genesis
    if genesis.recipe is None or intact.order is None or not intact.segments:
        raise UsageError("there is nothing to challenge: the run is foreign, or has no recorded steps")
    figures = Question(
        origin=intact.head.origin,
        size=intact.head.size,
        root=Digest("sha256", intact.head.root),
        seed=seed,
        draws=policy.draws,
        top_updates=policy.top_updates,
        fraction=policy.fraction,
        confidence=policy.confidence,
        segments=(),
        states=(),
        samples=samples,
        budget=policy.budget,
        full=full,
        around=tuple(sorted(set(around))),
    )
    challenge = _draw(intact, figures)
    segments = sorted((pick.segment for pick in challenge.picks), key=lambda segment: segment.index)
    wanted = {segment.opening.step: segment.opening for segment in segments}
    wanted |= {segment.closing.step: segment.closing for segment in segments if closings}
    wanted[intact.checkpoints[-1].step] = intact.checkpoints[-1]
    others = set(chain.from_iterable(other_batches(intact, seed))) if samples else set()
    question = replace(
        figures,
        segments=tuple((segment.first, segment.last) for segment in segments),
        states=tuple(sorted(step for step, entry in wanted.items() if intact.claim.checkpoint(entry.state) is None)),
        other_samples=tuple(sorted(others)) if len(others) <= MAX_SAMPLES else (),
    )
    return question, challenge


def admit(intact: IntactClaim, opening: Opening, own: bytes | None, policy: Policy, *files: Path) -> Answered:
    """Check an opening against the claim and the challenge.

    Args:
        intact: the claim that was challenged.
        opening: the prover's answer.
        own: the challenge file that the verifier drew and kept; None where he names none.
        policy: what the verifier demands.
        files: what no recipe may see, besides the opening.

    Raises:
        ChallengeError: the challenge, or the answer, is of another run, head or challenge, asks for something else than
            its seed draws, or holds what was not asked for.
        FormatError, ManifestError, InclusionError: a state or a sample is not the one that was committed.
    """
    question = opening.question
    if own is not None:
        question = Question.decode(own)
        _check_about(question, intact.head.origin, intact.head.size, intact.head.root, "the challenge", "the claim's")
        _check_about(
            opening.question, question.origin, question.size, question.root.value, "the opening", "the challenge's"
        )
        if opening.challenge != own:
            raise ChallengeError(
                f"the opening answers another challenge, {opening.question.digest}: yours is {question.digest}",
                hint="send the prover the challenge that you drew, and verify with what comes back",
            )
    _check_about(question, intact.head.origin, intact.head.size, intact.head.root, "the opening", "the claim's")
    challenge = _draw(intact, question)
    drawn = {(pick.segment.first, pick.segment.last) for pick in challenge.picks}
    if drawn != set(question.segments):
        raise ChallengeError(
            "the challenge does not ask for the segments that its seed draws from this claim",
            hint="draw it with this claim and this version: `polchain challenge`",
        )
    places = _states(intact, opening, question)
    disclosed = replace(intact, claim=intact.claim.plus(places))
    held, leaves = _samples(intact, opening, question)
    missing = [*_missing(question, own, policy), *_unanswered(disclosed, question, held)]
    return Answered(disclosed, challenge, held, leaves, tuple(missing), (opening.path, *files))


def unasked(challenge: Challenge, seen: Survey, intact: IntactClaim) -> list[str]:
    """The segments that a screen flags only now, when their states are shown, and that nobody asked for."""
    picked = {pick.segment.index for pick in challenge.picks}
    return [
        f"{intact.segments[flag.segment]}: a screen flags what was not asked for ({flag.reason}): draw again with "
        f"--around {intact.segments[flag.segment].first}"
        for flag in seen.flags
        if flag.segment not in picked
    ]


def _draw(intact: IntactClaim, question: Question) -> Challenge:
    """The challenge that a question's seed and figures draw from a claim, as `verify` draws it."""
    seen = survey(intact)
    # Where no state is shown, only the entries' own sizes are there to be ranked.
    measured = len(seen.unmeasured) < len(seen.updates)
    try:
        return draw_challenge(
            intact,
            question.seed,
            question.draws,
            updates=seen.updates if measured else [sizes[:1] for sizes in seen.updates],
            top_updates=question.top_updates,
            flagged=seen.flagged,
            disputed=question.around,
            full=question.full,
            budget=question.budget,
            reserved=behaviour_steps(intact),
        )
    except UsageError as error:
        if question.segments:  # a file's figures, not the caller's
            raise ChallengeError(f"the challenge cannot be drawn from this claim: {error}") from error
        raise


def _check_about(question: Question, origin: str, size: int, root: bytes, what: str, whose: str) -> None:
    if question.origin != origin:
        raise ChallengeError(f"{what} is about another run, {question.origin}: {whose} is {origin}")
    if (question.size, question.root.value) != (size, root):
        raise ChallengeError(
            f"{what} is about another head of this log, of {question.size} entries with root {question.root}: "
            f"{whose} has {size}, with root sha256:{root.hex()}",
            hint="a challenge and its answer belong to one claim: draw anew if the claim was exported again",
        )


def _missing(question: Question, own: bytes | None, policy: Policy) -> Iterator[str]:
    if own is None:
        yield (
            "whoever answered may have drawn the challenge himself, so that it misses what he forged: name the file "
            "that you drew with --challenge"
        )
    if policy.top_updates > question.top_updates:
        yield f"the policy has the {policy.top_updates} largest updates replayed, {question.top_updates} were asked for"


def _states(intact: IntactClaim, opening: Opening, question: Question) -> dict[str, Place]:
    """The disclosed states, each checked against the entry that commits to it."""
    entries = {entry.step: entry for entry in intact.checkpoints}
    asked: dict[str, CheckpointEntry] = {}
    for step in question.states:
        if step not in entries:
            raise ChallengeError(f"the challenge asks for a state of step {step}, and the log has none")
        entry = entries[step]
        asked |= {manifest_name(entry.state): entry, checkpoint_name(entry.state): entry}
    for name, place in opening.places.items():
        if name not in asked:
            raise ChallengeError(f"the opening holds {name}, which was not asked for")
        entry = asked[name]
        if name == manifest_name(entry.state):
            manifest = Manifest.decode(place.read(name, MANIFEST_LIMIT))
            check_manifest(manifest, entry.roots)
            if any(isinstance(row, FileRow) for row in manifest.rows):
                raise FormatError(f"step {entry.step}: an unopened file in the state of a recorded run")
            if checkpoint_name(entry.state) not in opening.places:
                raise FormatError(f"step {entry.step}: rows without tensors")
            read_tensors(opening.places[checkpoint_name(entry.state)], manifest)
        elif manifest_name(entry.state) not in opening.places:
            raise FormatError(f"step {entry.step}: tensors without rows")
    return dict(opening.places)


def _samples(intact: IntactClaim, opening: Opening, question: Question) -> tuple[Held | None, Leaves | None]:
    dataset = intact.genesis.dataset
    if opening.samples is None or dataset is None or intact.order is None:
        return None, None
    asked = set(question.other_samples)
    for first, last in question.segments:
        asked.update(chain.from_iterable(intact.order.batches(first, last)))
    if not question.samples:
        raise ChallengeError("the opening holds samples, which were not asked for")
    encodings = unpack_samples(opening.samples.map(), most=len(asked), limit=SAMPLE_LIMIT)
    extra = next((index for index in encodings if index not in asked), None)
    if extra is not None:
        raise ChallengeError(f"the opening holds sample {extra}, which was not asked for")
    leaves = {index: sample_leaf(bytes(encoding)) for index, encoding in encodings.items()}
    check_inclusions(_committed(dataset, leaves, opening.salts), opening.proof, dataset.samples, dataset.root.value)
    return Held(dataset.samples, encodings), Leaves(dataset.samples, leaves)


def _committed(dataset: DatasetRef, plain: dict[int, bytes], salts: Sequence[bytes] | None) -> dict[int, bytes]:
    """The disclosed samples' leaf hashes as they are in the committed tree: salted where the data is private."""
    if dataset.salts is None:
        if salts is not None:
            raise ChallengeError("the opening holds salts, and the data is not private: it has none")
        return plain
    if salts is None or len(salts) != len(plain):
        raise FormatError(f"the data is private: {len(plain)} samples take as many salts, not {len(salts or ())}")
    return {index: salted_leaf(salt, plain[index]) for index, salt in zip(sorted(plain), salts, strict=True)}


def _unanswered(intact: IntactClaim, question: Question, held: Held | None) -> Iterator[str]:
    """What was asked for and is not disclosed, where no replay says so: one that cannot be begun, or compared, does."""
    last = intact.checkpoints[-1]
    if last.step in question.states and intact.claim.checkpoint(last.state) is None:
        yield f"the last state, of step {last.step}, was asked for, and is not disclosed"
    if held is not None and not held.has([question.other_samples]):
        yield "samples that the tests of behaviour take were asked for, and are not disclosed"


def read_answer(intact: IntactClaim, opening: Path, challenge: Path | None, policy: Policy) -> Answered:
    """Read an opening, and the verifier's own challenge, and check them (`admit`).

    Raises:
        MissingFileError: one of them cannot be read.
        EvidenceError: as `admit`.
    """
    own = read_question(challenge) if challenge is not None else None
    return admit(intact, Opening.read(opening), own, policy, *([challenge] if challenge is not None else []))
