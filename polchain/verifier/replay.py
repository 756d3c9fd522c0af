"""Replay: Challenge -> Reproductions.

Each picked segment is trained again from its claimed opening state, in a child that sees nothing else of the claim,
and the state it closes with is compared, group by group, with what the log commits to. Where the verifier has
calibrated this machine against the prover's, a segment is replayed together with the next one, and compared within tau
(`units`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from polchain.core.manifest import Snapshot
from polchain.errors import (
    CheckpointMissingError,
    DatasetError,
    NotReproducedError,
    PolchainError,
    WorkerError,
)
from polchain.training.dataset import check_leaves
from polchain.training.distance import distance, norm, worst_tensor
from polchain.training.parts import false_row, initial_gap, same_schedule
from polchain.verifier.behaviour import shown_step
from polchain.verifier.bench import Bench, batches_of, bounds_of, run_segment, state_of
from polchain.verifier.challenge import Challenge, Pick
from polchain.verifier.doubts import examine_segment, set_by_the_loop
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.regeneration import Regenerated, false_update, is_disclosed, keep, regenerate
from polchain.verifier.tau import Tolerance
from polchain.verifier.tolerance import NOISE_FACTOR, Fingerprint, comparable, false_setting, other_versions
from polchain.verifier.units import examine_unit

__all__ = ["UNREPLAYED", "Outcome", "Reproduction", "replay", "replay_initial", "replay_pick"]

INITIAL_TOLERANCE = 1e-3
# How the reason begins where a replay came to no end: it was stopped, or the recipe failed.
UNREPLAYED = "could not be replayed"


class Outcome(Enum):
    """What came of one challenged segment, or of the initial state."""

    EXACT = "reproduced exactly"
    WITHIN = "reproduced within tau"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """One replayed segment against what the prover claimed.

    Attributes:
        pick: the segment and why it was picked; None for the initial state.
        outcome: what came of it.
        rho: |replayed - claimed| / |replayed update|, dimensionless; NaN where nothing was replayed.
        seconds: wall time.
        start: of these, until the opening state was put back: a process, the sandbox, the recipe, the data; and what
            training again to a state took that is not disclosed.
        reason: what differs or is missing; empty where it was reproduced.
        shown: the state on the way through the first segment that the tests of behaviour need.
        ended: the last state of the log, where it was reproduced and the claim does not disclose it.
        earlier: whether it was replayed in an earlier sitting of this verification.
        tau: what a calibration tolerates of the part of the state that rho is of; NaN where none was applied.
        noise: the largest honest error that the calibration has for it, or that was measured here before a conviction.
    """

    pick: Pick | None
    outcome: Outcome
    rho: float
    seconds: float
    reason: str = ""
    shown: Snapshot | None = field(default=None, repr=False, compare=False)
    ended: Snapshot | None = field(default=None, repr=False, compare=False)
    earlier: bool = False
    tau: float = math.nan
    noise: float = math.nan
    start: float = 0.0

    @property
    def name(self) -> str:
        """What was replayed, in words."""
        return "initial state" if self.pick is None else str(self.pick.segment)


def replay_initial(
    intact: IntactClaim,
    bench: Bench,
    claimed: Fingerprint,
    tolerated: Callable[[Fingerprint], Tolerance | None] = lambda here: None,
) -> Reproduction:
    """Build the initial state from the seed, in a child that is shown no state, and compare.

    Args:
        intact: the claim.
        bench: the children that replay its program.
        claimed: the execution fingerprint that the claim states.
        tolerated: what a calibration tolerates, once the fingerprint of what computes here is known.
    """
    assert intact.seed is not None
    entry = intact.checkpoints[0]
    bounds = bounds_of(intact, entry)
    try:
        built, here = bench.worker().initial(intact.seed, bounds)
        bench.here = here
    except DatasetError:
        raise
    except PolchainError as error:
        return Reproduction(None, Outcome.INCONCLUSIVE, math.nan, 0.0, f"the initial state could not be built: {error}")
    if built.manifest.roots() == entry.roots:
        return Reproduction(None, Outcome.EXACT, 0.0, 0.0)
    planted = _planted_state(intact, built)
    if planted:
        return Reproduction(None, Outcome.REFUTED, math.nan, 0.0, planted)
    state = state_of(intact, entry)
    if state is None:
        return Reproduction(
            None, Outcome.INCONCLUSIVE, math.nan, 0.0, "differs, and the initial state is not disclosed"
        )
    tolerance = tolerated(here)
    if tolerance is not None and not false_row(state, built) and same_schedule(state.manifest, built.manifest):
        apart = initial_gap(state, built)
        if apart <= tolerance.initial:
            return Reproduction(None, Outcome.WITHIN, apart, 0.0, tau=tolerance.initial, noise=tolerance.apart)
    row = worst_tensor(state, built)
    length = norm(built)
    gap = distance(state, built).l2 / length if length > 0 else math.inf
    if gap > INITIAL_TOLERANCE and not _obstacles(intact, claimed, here):
        try:
            # Another process and another setting: neither hash order nor rounding may be what differs.
            again, _ = bench.worker(bench.setting.others()[0]).initial(intact.seed, bounds)
        except PolchainError as error:
            reason = f"differs, and the initial state could not be built twice: {error}"
            return Reproduction(None, Outcome.INCONCLUSIVE, gap, 0.0, reason)
        if NOISE_FACTOR * distance(built, again).l2 < gap * length:
            reason = f"the initial weights are not the ones that the seed gives: {row} differs, {gap:.2g} of their norm"
            return Reproduction(None, Outcome.REFUTED, gap, 0.0, reason)
    return Reproduction(None, Outcome.INCONCLUSIVE, gap, 0.0, f"the initial state is not regenerated: {row} differs")


def _planted_state(intact: IntactClaim, built: Snapshot) -> str:
    """What the claim's optimizer holds at step 0 where the recipe's new one holds nothing, in words; else empty."""
    claimed = intact.claim.manifest(intact.checkpoints[0].state)
    if claimed is None or intact.genesis.parent is not None or built.manifest.group("optimizer"):
        return ""
    rows = claimed.group("optimizer")
    if not rows:
        return ""
    setting = false_setting(claimed, built.manifest)
    return f"the optimizer state at step 0 is not empty: {rows[0].name}" + (
        f"; step 0: the optimizer's {setting}" if setting else ""
    )


def replay(
    intact: IntactClaim,
    challenge: Challenge,
    bench: Bench,
    leaves: Sequence[bytes],
    claimed: Fingerprint,
    tolerance: Tolerance | None = None,
) -> Iterator[Reproduction]:
    """Replay the picked segments, one after the other; stops after the first that convicts the prover.

    Args:
        intact: the claim.
        challenge: what to replay.
        bench: the children that replay its program.
        leaves: the leaf hashes of the committed dataset.
        claimed: the execution fingerprint that the claim states.
        tolerance: what a calibration tolerates between the prover's machine and this one; None where nothing is.

    Raises:
        DatasetError: the data at hand is not the data that was committed.
    """
    for pick in challenge.picks:
        found = replay_pick(intact, pick, bench, leaves, claimed, tolerance)
        yield found
        if found.outcome is Outcome.REFUTED:
            return


def replay_pick(
    intact: IntactClaim,
    pick: Pick,
    bench: Bench,
    leaves: Sequence[bytes],
    claimed: Fingerprint,
    tolerance: Tolerance | None = None,
) -> Reproduction:
    """Replay one picked segment, and compare. The arguments are those of `replay`.

    Raises:
        DatasetError: the data at hand is not the data that was committed.
    """
    if tolerance is None:
        return _replay_one(intact, pick, bench, leaves, claimed)
    return _replay_unit(intact, pick, bench, leaves, claimed, tolerance)


def _replay_unit(
    intact: IntactClaim,
    pick: Pick,
    bench: Bench,
    leaves: Sequence[bytes],
    claimed: Fingerprint,
    tolerance: Tolerance,
) -> Reproduction:
    unit = examine_unit(intact, pick.segment, bench, tolerance, leaves)
    # A closing state that is not shown has a stated size to be held to, which the replay of the segment alone does.
    if unit.within and is_disclosed(intact, pick.segment.closing):
        if unit.exact:
            return Reproduction(pick, Outcome.EXACT, 0.0, unit.seconds, shown=unit.shown)
        return Reproduction(
            pick, Outcome.WITHIN, unit.rho, unit.seconds, shown=unit.shown, tau=unit.tau, noise=unit.noise
        )
    # By itself it may be exact after all, or so far off that it convicts.
    alone = _replay_one(intact, pick, bench, leaves, claimed)
    seconds = unit.seconds + alone.seconds
    honest = tolerance.noise(pick.segment.first, pick.segment.steps)
    if honest is not None and alone.rho <= NOISE_FACTOR * honest.largest and alone.outcome is Outcome.REFUTED:
        # This machine is quieter than honest ones were seen to be.
        return replace(alone, outcome=Outcome.INCONCLUSIVE, seconds=seconds, reason=unit.reason, noise=honest.largest)
    if alone.outcome is not Outcome.INCONCLUSIVE:
        return replace(alone, seconds=seconds)
    reason = f"{unit.reason}; alone it {alone.reason}" if alone.reason.startswith("differs") else unit.reason
    return Reproduction(pick, Outcome.INCONCLUSIVE, unit.rho, seconds, reason, tau=unit.tau, noise=unit.noise)


def _replay_one(
    intact: IntactClaim, pick: Pick, bench: Bench, leaves: Sequence[bytes], claimed: Fingerprint
) -> Reproduction:
    segment = pick.segment
    began = time.monotonic()
    try:
        shown = state_of(intact, segment.opening)
        opened = Regenerated(shown) if shown is not None else regenerate(intact, segment, bench)
        before = time.monotonic() - began if shown is None else 0.0
    except (CheckpointMissingError, NotReproducedError) as error:
        return Reproduction(pick, Outcome.INCONCLUSIVE, math.nan, 0.0, str(error))
    except WorkerError as error:
        return Reproduction(pick, Outcome.INCONCLUSIVE, math.nan, 0.0, f"{UNREPLAYED}: {error}")
    if opened.false:
        return Reproduction(pick, Outcome.REFUTED, math.nan, before, opened.false)
    opening = opened.state
    try:
        result = run_segment(intact, segment, bench.worker(), opening, shown_step(segment))
        indices = [i for batch in batches_of(intact, segment) for i in batch]
        check_leaves(indices, result.samples, leaves)
    except DatasetError:
        raise
    except PolchainError as error:
        return Reproduction(pick, Outcome.INCONCLUSIVE, math.nan, 0.0, f"{UNREPLAYED}: {error}")
    obstacles = _obstacles(intact, claimed, result.fingerprint)

    if result.opening.roots() != segment.opening.roots:
        setting = false_setting(opening.manifest, result.opening)
        if setting and not obstacles and not set_by_the_loop(intact, segment, bench):
            return Reproduction(
                pick, Outcome.REFUTED, math.nan, result.seconds, f"step {segment.first}: the optimizer's {setting}"
            )
        row = worst_tensor(opening, Snapshot(result.opening, {}))
        return Reproduction(
            pick, Outcome.INCONCLUSIVE, math.nan, result.seconds,
            f"the opening state is another one after it was put back: {row}",
        )  # fmt: skip

    closing = result.closings[-1]
    if closing.snapshot.manifest.roots() == segment.closing.roots:
        false = false_update(intact, segment, opening, closing.snapshot)
        if false:
            return Reproduction(pick, Outcome.REFUTED, 0.0, before + result.seconds, false)
        # Not a conviction: what a loop logs may depend on more than the state (a best value so far).
        if closing.loss != segment.closing.loss:
            reason = f"the state is reproduced, the logged loss {segment.closing.loss} is not: {closing.loss}"
            return Reproduction(pick, Outcome.INCONCLUSIVE, 0.0, result.seconds, reason)
        keep(intact, segment.closing, closing.snapshot, bench)
        last = segment.last == intact.steps and not is_disclosed(intact, segment.closing)
        return Reproduction(
            pick, Outcome.EXACT, 0.0, before + result.seconds, shown=result.shown, start=before + result.start,
            ended=closing.snapshot if last else None,
        )  # fmt: skip

    state = state_of(intact, segment.closing)
    if state is None:
        reason = f"differs, and the state of step {segment.last} is not disclosed"
        return Reproduction(pick, Outcome.INCONCLUSIVE, math.nan, result.seconds, reason)
    other_cpu = claimed.get("cpu") != result.fingerprint.get("cpu")
    found = examine_segment(intact, segment, bench, opening, state, closing.snapshot, obstacles, other_cpu)
    outcome = Outcome.REFUTED if found.refuted else Outcome.INCONCLUSIVE
    return Reproduction(pick, outcome, found.rho, result.seconds, found.reason, noise=found.noise)


def _obstacles(intact: IntactClaim, claimed: Fingerprint, here: Fingerprint) -> list[str]:
    recipe = intact.genesis.recipe
    return [*comparable(claimed, here), *other_versions(recipe.imports if recipe is not None else ())]
