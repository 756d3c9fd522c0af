"""The challenge: which segments are replayed, drawn so that anyone can redraw it.

r steps are drawn, independent and uniform over all steps, with replacement, from

    BLAKE3(key = seed, tag challenge + root of the head), read as u64 little-endian, 8 bytes a try;
    a try at or above the largest multiple of the number of steps is skipped

and the segments that hold them are replayed. Always replayed, without adding confidence: the first and the last
segment, the Q largest updates (in size, and relative to the weights), and every segment that holds more than 1 % of
the steps.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from polchain.core.digest import blake3_keyed, tag
from polchain.verifier.integrity import IntactClaim, Segment

__all__ = ["Challenge", "Pick", "draw_challenge", "draw_steps"]

LONG_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Pick:
    """A segment to replay, and why."""

    segment: Segment
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Challenge:
    """The segments to replay.

    Attributes:
        seed: 32 bytes that the draw follows from.
        draws: the drawn steps, in the order drawn.
        picks: the segments, the fixed picks first.
    """

    seed: bytes
    draws: tuple[int, ...]
    picks: tuple[Pick, ...]

    @property
    def steps(self) -> int:
        """Steps to replay, all picks together."""
        return sum(pick.segment.steps for pick in self.picks)


def draw_challenge(
    intact: IntactClaim,
    seed: bytes,
    draws: int,
    *,
    updates: Sequence[tuple[float, float]] = (),
    top_updates: int = 5,
    full: bool = False,
) -> Challenge:
    """Draw the segments to replay. Pure: the same arguments give the same challenge.

    Args:
        intact: the claim.
        seed: 32 bytes; the verifier's own fresh randomness, unless the draw is to be public.
        draws: r, the steps to draw.
        updates: for each segment the size of its update and that size relative to the weights, as measured from the
            disclosed states; where there are none, the sizes that the entries claim.
        top_updates: Q.
        full: replay every segment.
    """
    segments = intact.segments
    reasons: dict[int, list[str]] = {}

    def pick(index: int, reason: str) -> None:
        reasons.setdefault(index, []).append(reason)

    if segments:
        pick(0, "first")
        pick(len(segments) - 1, "last")
        sizes = list(updates) or [(_claimed(segment), 0.0) for segment in segments]
        for measure in (0, 1):
            ranked = sorted(range(len(segments)), key=lambda i: (-sizes[i][measure], i))
            for index in ranked[:top_updates]:
                if "largest updates" not in reasons.get(index, []):
                    pick(index, "largest updates")
        for segment in segments:
            if full:
                pick(segment.index, "all are replayed")
            elif segment.steps > LONG_SHARE * intact.steps:
                pick(segment.index, "long")
    fixed = list(reasons)
    drawn = draw_steps(seed, intact.head.root, draws, intact.steps)
    starts = [segment.first for segment in segments]
    for step in drawn:
        index = bisect.bisect_right(starts, step) - 1
        if "drawn" not in reasons.get(index, []):
            pick(index, "drawn")
    late = sorted(index for index in reasons if index not in fixed)
    order = [*dict.fromkeys(fixed), *late]
    return Challenge(seed, drawn, tuple(Pick(segments[i], tuple(reasons[i])) for i in order))


def _claimed(segment: Segment) -> float:
    return segment.closing.update.l2 if segment.closing.update is not None else 0.0


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
