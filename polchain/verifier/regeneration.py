"""Thinned opening states, of which a claim has the rows alone: regenerated from the last disclosed state before.

Segment by segment, in the same room as any other replay. Each state on the way must be the one that the log commits to,
to the bit: then it is that state, whoever shows it. Otherwise the segment stays unanswered, which convicts nobody:
what differs may be the machine. What a challenge asked for and its opening does not hold is unanswered in any case.

    stretch    the segments from one disclosed state to the next; its picks are replayed in their order, one after the
               other, so that what one has come to need not be trained again for the next
    cost       of a segment, against a budget: from the disclosed state before it, as if it were the only one picked
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polchain.core.claim import checkpoint_name, manifest_name
from polchain.core.entries import CheckpointEntry
from polchain.core.manifest import Snapshot
from polchain.errors import CheckpointMissingError, DatasetError, NotReproducedError, PolchainError, WorkerError
from polchain.training.distance import update_size
from polchain.verifier.bench import Bench, run_segment, state_of
from polchain.verifier.challenge import Pick
from polchain.verifier.integrity import IntactClaim, Segment
from polchain.verifier.survey import false_sizes

__all__ = ["Regenerated", "false_update", "is_disclosed", "keep", "regenerate", "replay_costs", "stretches"]


@dataclass(frozen=True, slots=True)
class Regenerated:
    """The state that a segment opens with.

    Attributes:
        state: the state; it is the log's.
        false: what the entries on the way say of their updates, and what is not so, in words; empty where all is.
    """

    state: Snapshot
    false: str = ""


def regenerate(intact: IntactClaim, segment: Segment, bench: Bench) -> Regenerated:
    """The state that a segment opens with, from the nearest state before it that is there.

    Raises:
        CheckpointMissingError: no state before it is disclosed, either.
        NotReproducedError: training on from the last one that is does not give the states of the log here.
        WorkerError: a replay on the way came to no end.
        DatasetError: the data cannot be read.
    """
    missing = f"the state of step {segment.first} is not disclosed"
    if not bench.regenerates or intact.claim.manifest(segment.opening.state) is None:
        raise CheckpointMissingError(missing)
    at, state = _nearest(intact, segment, bench)
    if state is None:
        raise CheckpointMissingError(missing)
    where = f"{missing}, and training again from step {intact.segments[at].first}"
    for part in intact.segments[at : segment.index]:
        try:
            closing = run_segment(intact, part, bench.worker(), state).closings[-1].snapshot
        except DatasetError:
            raise
        except PolchainError as error:
            raise WorkerError(f"{where} came to no end: {error}", hint=error.hint) from error
        if closing.manifest.roots() != part.closing.roots:
            raise NotReproducedError(f"{where} gives another state at step {part.last} than the log says")
        false = false_update(intact, part, state, closing)
        if false:
            return Regenerated(closing, false)
        state = closing
        keep(intact, part.closing, state, bench)
    return Regenerated(state)


def keep(intact: IntactClaim, entry: CheckpointEntry, state: Snapshot, bench: Bench) -> None:
    """Keep a state that was reproduced and is not disclosed, in place of the one before: the next pick may need it."""
    if bench.regenerates and not is_disclosed(intact, entry):
        bench.last = entry.state, state


def false_update(intact: IntactClaim, segment: Segment, before: Snapshot, after: Snapshot) -> str:
    """What a segment's entry says of its update, where the states, which are the log's, say otherwise; else empty.

    Of states that are both disclosed the survey has said so already.
    """
    if is_disclosed(intact, segment.opening) and is_disclosed(intact, segment.closing):
        return ""
    return "; ".join(false_sizes(segment.closing, update_size(before, after)))


def replay_costs(intact: IntactClaim) -> tuple[int, ...]:
    """For each segment the steps that it takes to replay it, from the last disclosed state before it; empty where
    that is its own opening state, everywhere."""
    begun = _beginnings(intact)
    if all(begun[segment.index] == segment.first for segment in intact.segments):
        return ()
    return tuple(segment.last - begun[segment.index] for segment in intact.segments)


def stretches(intact: IntactClaim, picks: Sequence[Pick]) -> tuple[list[Pick], dict[int, int]]:
    """The picks with those of one stretch together and rising; and the steps that each takes after the one before it.

    Stretches come in the order of their first picks, so the first pick of all stays the first where it opens the run.
    """
    begun = _beginnings(intact)
    together: dict[int, list[Pick]] = {}
    for pick in picks:
        together.setdefault(begun[pick.segment.index], []).append(pick)
    ordered: list[Pick] = []
    steps: dict[int, int] = {}
    for first, members in together.items():
        at = first
        for pick in sorted(members, key=lambda pick: pick.segment.index):
            ordered.append(pick)
            steps[pick.segment.index] = pick.segment.last - at
            at = pick.segment.last
    return ordered, steps


def is_disclosed(intact: IntactClaim, entry: CheckpointEntry) -> bool:
    """Whether a claim, or the opening that was added to it, has a state's rows and tensors."""
    places = intact.claim.places
    return manifest_name(entry.state) in places and checkpoint_name(entry.state) in places


def _nearest(intact: IntactClaim, segment: Segment, bench: Bench) -> tuple[int, Snapshot | None]:
    """The nearest segment up to this one whose opening state is disclosed, or was reproduced just now; and that."""
    for at in range(segment.index, -1, -1):
        entry = intact.segments[at].opening
        if bench.last is not None and bench.last[0] == entry.state:
            return at, bench.last[1]
        if is_disclosed(intact, entry):
            return at, state_of(intact, entry)
    return segment.index, None


def _beginnings(intact: IntactClaim) -> list[int]:
    """For each segment the step of the nearest disclosed state up to its opening; its own where there is none."""
    found: list[int] = []
    shown: int | None = None
    for segment in intact.segments:
        if is_disclosed(intact, segment.opening):
            shown = segment.first
        found.append(segment.first if shown is None else shown)
    return found
