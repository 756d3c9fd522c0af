"""The challenge: which segments are replayed, drawn so that anyone can redraw it.

r steps are drawn, independent and uniform over all steps, with replacement, from

    BLAKE3(key = seed, tag challenge + root of the head), read as u64 little-endian, 8 bytes a try;
    a try at or above the largest multiple of the number of steps is skipped

and the segments that hold them are replayed. Always replayed, without adding confidence: the first and the last
segment, the Q largest updates (in size, relative to the weights, and of what else crosses steps), what a screen
flagged, the two segments around a state in dispute, and every segment that holds more than 1 % of the steps.

The seed is the verifier's own fresh randomness; or, so that anyone can draw it, it comes from a block that nobody knew
before the log was published (`public_seed`).

**A budget** caps the steps that are replayed. r is then settled before anything is drawn: the largest r that fits even
if every draw hits another of the longest segments. Drawing until the next one does not fit would be no honest sample:
whoever forges the longest segments would have them left out. No pick is ever dropped for its cost.
"""

from __future__ import annotations

import bisect
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from polchain.core.digest import blake3_keyed, tag
from polchain.errors import BudgetError, UsageError
from polchain.verifier.integrity import IntactClaim, Segment

__all__ = ["Challenge", "Pick", "draw_challenge", "draw_steps", "draws_within", "public_seed"]

LONG_SHARE = 0.01
DRAWN = "drawn"


@dataclass(frozen=True, slots=True)
class Pick:
    """A segment to replay, and why."""

    segment: Segment
    reasons: tuple[str, ...]

    @property
    def fixed(self) -> bool:
        """Whether it would be replayed whatever is drawn."""
        return any(reason != DRAWN for reason in self.reasons)


@dataclass(frozen=True, slots=True)
class Challenge:
    """The segments to replay.

    Attributes:
        seed: 32 bytes that the draw follows from.
        draws: the drawn steps, in the order drawn.
        picks: the segments, the fixed picks first.
        budget: the share of the run's steps that replays may cost; None where nothing caps them.
        reserved: steps that are replayed besides: the tests of behaviour.
        costs: the steps that it takes to replay each segment, where that is more than its own.
    """

    seed: bytes
    draws: tuple[int, ...]
    picks: tuple[Pick, ...]
    budget: float | None = None
    reserved: int = 0
    costs: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Steps to replay, all picks together."""
        return sum(pick.segment.steps for pick in self.picks)

    @property
    def cost(self) -> int:
        """Steps that count against a budget."""
        return sum(_cost(pick.segment, self.costs) for pick in self.picks) + self.reserved


def draw_challenge(
    intact: IntactClaim,
    seed: bytes,
    draws: int,
    *,
    updates: Sequence[Sequence[float]] = (),
    top_updates: int = 5,
    flagged: Mapping[int, Sequence[str]] | None = None,
    disputed: Sequence[int] = (),
    full: bool = False,
    budget: float | None = None,
    reserved: int = 0,
    costs: Sequence[int] = (),
) -> Challenge:
    """Draw the segments to replay. Pure: the same arguments give the same challenge.

    Args:
        intact: the claim.
        seed: 32 bytes; the verifier's own fresh randomness, unless the draw is to be public.
        draws: r, the steps to draw; with a budget, as many as fit.
        updates: for each segment the size of its update and that size relative to the weights, as measured from the
            disclosed states; where there are none, the sizes that the entries claim.
        top_updates: Q.
        flagged: segments that a screen wants replayed, and why.
        disputed: steps of the states that somebody disputes.
        full: replay every segment.
        budget: the most that all replays may cost, as a share of the run's steps.
        reserved: steps that are replayed besides, within the budget: the tests of behaviour.
        costs: the steps that it takes to replay each segment, where that is more than its own (`units`).

    Raises:
        UsageError: a budget that not even the fixed picks fit into, or that is to replay everything; a disputed state
            that is none of the claim's.
    """
    if full and budget is not None:
        raise UsageError(
            "a budget caps the replays, and --full replays everything: one of them",
            hint="leave out --full, or the budget of the command line or the policy",
        )
    segments = intact.segments
    reasons = _fixed_picks(intact, updates, top_updates, flagged or {}, disputed)
    if full:
        for segment in segments:
            reasons.setdefault(segment.index, []).append("all are replayed")
    fixed = list(reasons)
    if budget is not None:
        draws = _draws_for(intact, set(fixed), reserved, budget, draws, costs)
    drawn = draw_steps(seed, intact.head.root, draws, intact.steps)
    starts = [segment.first for segment in segments]
    for step in drawn:
        why = reasons.setdefault(bisect.bisect_right(starts, step) - 1, [])
        if DRAWN not in why:
            why.append(DRAWN)
    late = sorted(reasons.keys() - set(fixed))
    picks = tuple(Pick(segments[index], tuple(reasons[index])) for index in (*fixed, *late))
    return Challenge(seed, drawn, picks, budget, reserved, tuple(costs))


def draw_steps(seed: bytes, root: bytes, draws: int, steps: int) -> tuple[int, ...]:
    """`draws` of so many steps, independent and uniform, with replacement; `root` is the one that the head signs."""
    if steps == 0:
        return ()
    ceiling = 2**64 // steps * steps
    found: list[int] = []
    length = draws + 16
    while True:
        stream = blake3_keyed(seed, tag("challenge") + root, 8 * length)
        tries = struct.unpack(f"<{length}Q", stream)
        found = [number % steps for number in tries if number < ceiling][:draws]
        if len(found) == draws:
            return tuple(found)
        length *= 2


def draws_within(lengths: Iterable[int], room: int, wanted: int) -> int:
    """The most draws that cannot cost more than `room` steps, whatever they hit; settled before anything is drawn.

    Args:
        lengths: steps of each segment that is not replayed in any case; one that is costs nothing more.
        room: the steps that drawn segments may cost together.
        wanted: the draws to make at least where everything fits.
    """
    ordered = sorted(lengths, reverse=True)
    for count, length in enumerate(ordered):
        room -= length
        if room < 0:
            return count
    return max(wanted, len(ordered))


def public_seed(block_hash: bytes, genesis_leaf: bytes) -> bytes:
    """The seed of a draw that anyone can make: of the block 64 after the first final anchor of the log's last head.

    BLAKE3(key = block hash, tag public-challenge + leaf hash of the run's genesis). Nobody knew that block when the
    log was published, and nobody can choose among several; so the prover may know the draw now, and so may anybody.

    Args:
        block_hash: the block's hash. That it is that block's is for whoever asks a node or pins it to say.
        genesis_leaf: the leaf hash of the genesis (`merkle.leaf_hash(leaf_data(entry))`).

    Raises:
        UsageError: either is not 32 bytes.
    """
    if len(genesis_leaf) != 32:
        raise UsageError(f"a leaf hash is 32 bytes, not {len(genesis_leaf)}")
    return blake3_keyed(block_hash, tag("public-challenge") + genesis_leaf)


def _fixed_picks(
    intact: IntactClaim,
    updates: Sequence[Sequence[float]],
    top_updates: int,
    flagged: Mapping[int, Sequence[str]],
    disputed: Sequence[int],
) -> dict[int, list[str]]:
    """The segments that are replayed whatever is drawn, and why, in the order in which they are replayed."""
    segments = intact.segments
    reasons: dict[int, list[str]] = {}

    def pick(index: int, reason: str) -> None:
        why = reasons.setdefault(index, [])
        if reason not in why:
            why.append(reason)

    if not segments:
        return reasons
    pick(0, "first")
    pick(len(segments) - 1, "last")
    for step in disputed:
        around = [segment.index for segment in segments if step in (segment.first, segment.last)]
        if not around:
            raise UsageError(f"no checkpoint of the claim is at step {step}, which is said to be in dispute")
        for index in around:
            pick(index, "in dispute")
    sizes: list[Sequence[float]] = list(updates) or [(_claimed(segment), 0.0) for segment in segments]
    for measure in range(len(sizes[0]) if sizes else 0):
        ranked = sorted(range(len(segments)), key=lambda i: (-sizes[i][measure], i))
        for index in ranked[:top_updates]:
            pick(index, "largest updates")
    for index in sorted(flagged):
        for reason in flagged[index]:
            pick(index, f"screen: {reason}")
    for segment in segments:
        if segment.steps > LONG_SHARE * intact.steps:
            pick(segment.index, "long")
    return reasons


def _cost(segment: Segment, costs: Sequence[int]) -> int:
    return costs[segment.index] if costs else segment.steps


def _draws_for(
    intact: IntactClaim, fixed: set[int], reserved: int, budget: float, wanted: int, costs: Sequence[int]
) -> int:
    """How many draws a budget has room for.

    Raises:
        UsageError: not even the fixed picks fit; the least budget is named.
    """
    # Rounded: 0.07 of 100 steps are 7, and not the 7.000000000000001 that floats make it.
    most = math.floor(round(budget * intact.steps, 6))
    spent = reserved + sum(_cost(segment, costs) for segment in intact.segments if segment.index in fixed)
    others = [_cost(segment, costs) for segment in intact.segments if segment.index not in fixed]
    if spent > most:
        enough = spent + sum(sorted(others, reverse=True)[:wanted])
        hint = (
            f"--budget {_percent(enough / intact.steps)} has room for the {wanted} draws that the policy demands"
            if enough <= intact.steps
            else "leave the budget out: so short a run is replayed whole, or nearly"
        )
        raise BudgetError(
            f"what is replayed in any case costs {spent} of the run's {intact.steps} steps, the budget is {most}: "
            f"the least budget is {_percent(spent / intact.steps)}",
            hint=hint,
        )
    return draws_within(others, most - spent, wanted)


def _percent(share: float) -> str:
    """A share in percent, rounded up: as much is enough."""
    return f"{math.ceil(round(share * 1e4, 6)) / 100:g}%"


def _claimed(segment: Segment) -> float:
    return segment.closing.update.l2 if segment.closing.update is not None else 0.0
