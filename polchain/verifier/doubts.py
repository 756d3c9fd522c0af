"""Doubts: what is looked into before a difference convicts a prover.

    the same segment again, in the same setting        a verifier that does not reproduce itself convicts nobody
    and in two other settings                          its own noise on this very segment (see `tolerance`)
    the training straight from step 0                  what was carried unattached is there when nothing is cut
    where a setting first departs from the recipe      a loop that sets a learning rate by hand is careless, no liar

An honest prover who is convicted is the second-worst thing that a verifier can do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from polchain.core.digest import Digest
from polchain.core.manifest import Manifest, Snapshot
from polchain.errors import DatasetError, PolchainError
from polchain.training.distance import worst_tensor
from polchain.verifier.bench import Bench, bounds_of, run_segment, state_of
from polchain.verifier.integrity import IntactClaim, Segment
from polchain.verifier.tolerance import Examination, examine, false_setting, largest_error

__all__ = ["examine_segment", "set_by_the_loop"]

STRAIGHT_SEGMENTS = 200


def examine_segment(
    intact: IntactClaim,
    segment: Segment,
    bench: Bench,
    opening: Snapshot,
    claimed: Snapshot,
    first: Snapshot,
    obstacles: list[str],
    other_cpu: bool,
) -> Examination:
    """Decide what a segment is whose replay, `first`, does not give the claimed closing state."""

    def again() -> Snapshot:
        return run_segment(intact, segment, bench.worker(), opening).closings[-1].snapshot

    def elsewhere() -> list[Snapshot]:
        found = []
        for setting in bench.setting.others():
            worker = bench.worker(setting)
            try:
                found.append(run_segment(intact, segment, worker, opening).closings[-1].snapshot)
            except PolchainError:
                continue  # a setting that this machine does not have: examine() counts those it got
        return found

    try:
        result = examine(opening, claimed, first, again, elsewhere, obstacles, other_cpu=other_cpu)
    except PolchainError as error:
        rho, _ = largest_error(opening, claimed, first)
        return Examination(False, rho, math.nan, f"differs, and a second replay failed: {error}")
    if result.refuted and _straight(intact, segment, bench) == segment.closing.roots:
        reason = "reproduced only when trained straight from step 0: something crosses steps that was not attached"
        return replace(result, refuted=False, reason=reason)
    if result.refuted and _worth_straight(segment) and not _has_samples(intact, segment, bench):
        # A sealed claim: what tells carelessness from a lie was never asked for.
        reason = "differs, and training straight from step 0 takes samples that are not disclosed"
        return replace(result, refuted=False, reason=reason)
    return replace(result, reason=f"{result.reason} (first {worst_tensor(claimed, first)})")


def _straight(intact: IntactClaim, segment: Segment, bench: Bench) -> Mapping[str, Digest] | None:
    """The state roots that training straight from step 0 to the segment's end gives; None where that was not tried.

    A careless prover is no liar: what he forgot to attach is there when nothing is cut. Tried only up to as many steps
    as STRAIGHT_SEGMENTS such segments have, lest a liar make his conviction cost a whole training.
    """
    if not _worth_straight(segment):
        return None
    opening = state_of(intact, intact.checkpoints[0])
    if opening is None or intact.seed is None or intact.order is None:
        return None
    try:
        batches = list(intact.order.batches(0, segment.last))
        bounds = bounds_of(intact, *intact.checkpoints[:2], segment.closing)
        stops = segment.index + 1
        result = bench.worker().replay(intact.seed, 0, segment.last, batches, opening, stops, bounds)
    except PolchainError:
        return None
    return result.closings[-1].snapshot.manifest.roots()


def _worth_straight(segment: Segment) -> bool:
    return segment.last <= STRAIGHT_SEGMENTS * segment.steps


def _has_samples(intact: IntactClaim, segment: Segment, bench: Bench) -> bool:
    assert intact.order is not None
    return bench.held is None or bench.held.has(list(intact.order.batches(0, segment.last)))


def set_by_the_loop(intact: IntactClaim, segment: Segment, bench: Bench) -> bool:
    """Whether the program itself made a setting that its objects, rebuilt and stepped, do not have.

    A loop that sets a learning rate by hand in the middle of training cannot be replayed from there on, but it is no
    lie. So the checkpoint where the setting first departs is looked for, and the segment that ends there is replayed:
    where it gives the claimed state, the loop did it.
    """
    try:
        return _loop_departs(intact, segment, bench)
    except DatasetError:
        raise
    except PolchainError:
        return True  # what cannot be looked into convicts nobody


def _loop_departs(intact: IntactClaim, segment: Segment, bench: Bench) -> bool:
    segments = intact.segments
    good, bad = -1, segment.index
    while bad - good > 1:
        middle = (good + bad) // 2
        opening = state_of(intact, segments[middle].opening)
        if opening is None:
            return True
        if false_setting(opening.manifest, _opened(intact, segments[middle], bench, opening)):
            bad = middle
        else:
            good = middle
    if good < 0:
        return False
    opening = state_of(intact, segments[good].opening)
    if opening is None:
        return True
    result = run_segment(intact, segments[good], bench.worker(), opening)
    return result.closings[-1].snapshot.manifest.roots() == segments[good].closing.roots


def _opened(intact: IntactClaim, segment: Segment, bench: Bench, opening: Snapshot) -> Manifest:
    assert intact.seed is not None
    bounds = bounds_of(intact, segment.opening)
    return bench.worker().replay(intact.seed, segment.first, segment.first, [], opening, bounds=bounds).opening
