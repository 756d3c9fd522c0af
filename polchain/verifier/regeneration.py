"""Thinned opening states, of which a claim has the rows alone: regenerated from the last disclosed state before.

Segment by segment, in the same room as any other replay. Each state on the way must be the one that the log commits to,
to the bit: then it is that state, whoever shows it. Otherwise the segment stays unanswered, which convicts nobody:
what differs may be the machine. What a challenge asked for and its opening does not hold is unanswered in any case.
"""

from __future__ import annotations

from polchain.core.manifest import Snapshot
from polchain.errors import CheckpointMissingError, DatasetError, NotReproducedError, PolchainError
from polchain.verifier.bench import Bench, run_segment, state_of
from polchain.verifier.integrity import IntactClaim, Segment

__all__ = ["regenerate", "replay_costs"]


def regenerate(intact: IntactClaim, segment: Segment, bench: Bench) -> Snapshot:
    """The state that a segment opens with.

    Raises:
        CheckpointMissingError: no state before it is disclosed, either.
        NotReproducedError: training on from the last one that is does not give the states of the log here.
        DatasetError: the data cannot be read.
    """
    missing = f"the state of step {segment.first} is not disclosed"
    at = _disclosed_before(intact, segment)
    state = state_of(intact, intact.segments[at].opening)
    if state is None or not bench.regenerates or intact.claim.manifest(segment.opening.state) is None:
        raise CheckpointMissingError(missing)
    where = f"{missing}, and training again from step {intact.segments[at].first}"
    for part in intact.segments[at : segment.index]:
        try:
            state = run_segment(intact, part, bench.worker(), state).closings[-1].snapshot
        except DatasetError:
            raise
        except PolchainError as error:
            raise NotReproducedError(f"{where} came to no end: {error}", hint=error.hint) from error
        if state.manifest.roots() != part.closing.roots:
            raise NotReproducedError(f"{where} gives another state at step {part.last} than the log says")
    return state


def replay_costs(intact: IntactClaim) -> tuple[int, ...]:
    """For each segment the steps that it takes to replay it, from the last disclosed state before it; empty where
    that is its own opening state, everywhere."""
    if all(_is_disclosed(intact, segment.index) for segment in intact.segments):
        return ()
    return tuple(
        segment.last - intact.segments[_disclosed_before(intact, segment)].first for segment in intact.segments
    )


def _disclosed_before(intact: IntactClaim, segment: Segment) -> int:
    """The nearest segment up to this one whose opening state is disclosed; its own where none is."""
    at = segment.index
    while at > 0 and not _is_disclosed(intact, at):
        at -= 1
    return at if _is_disclosed(intact, at) else segment.index


def _is_disclosed(intact: IntactClaim, index: int) -> bool:
    entry = intact.segments[index].opening
    return intact.claim.manifest(entry.state) is not None and intact.claim.checkpoint(entry.state) is not None
