"""Units: how a segment is compared on a calibrated pair of machines.

    unit       the picked segment and the next one (for the last, the one before), from the claimed opening state, and
               replayed straight through: the replay goes on from its own state, not from the one claimed at the joint
    joint, end what each segment adds to parameters, buffers and `extra` is within tau of what it is claimed to add;
               relative to that segment's own movement, so that a large one hides nothing in the small one that follows
    moments    within their own tau, and what they differ by counts by its effect: the next segment's parameters were
               trained from the replay's moments here, and from the claimed ones by the prover
    the rest   counters, integers, booleans, shapes and the set of rows are equal; settings but for their last bits
    loss       the logged mean is near; it convicts nobody

So whoever alters what he claims at a joint is off at the end, and whoever does it everywhere is held to the drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from polchain.core.entries import CheckpointEntry, Start
from polchain.core.manifest import Snapshot
from polchain.errors import DatasetError, PolchainError, WorkerError
from polchain.training.dataset import check_leaves
from polchain.training.parts import errors_between, false_row, same_schedule
from polchain.training.rho import PARTS, Errors
from polchain.training.worker import Closing, Replayed
from polchain.verifier.behaviour import shown_step
from polchain.verifier.bench import Bench, bounds_of, state_of
from polchain.verifier.calibration import Fingerprint
from polchain.verifier.integrity import IntactClaim, Segment
from polchain.verifier.policy import Policy
from polchain.verifier.soundness import check_drift
from polchain.verifier.survey import Survey
from polchain.verifier.tau import Road, Tolerance, find_tolerance

__all__ = [
    "Calibrated",
    "UnitFinding",
    "drift_of",
    "examine_unit",
    "loss_is_near",
    "same_opening",
    "unit_of",
    "unit_steps",
]

# The mean loss of a segment whose every state is within a hundredth of an update.
LOSS_SHARE = 0.05
LOSS_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class UnitFinding:
    """What came of a unit.

    Attributes:
        exact: the picked segment's closing roots were equal, without any tolerance.
        within: nothing differs by more than is tolerated.
        rho: of the part and the end where it is largest against what is tolerated, dimensionless.
        tau: what is tolerated there.
        noise: the largest honest error that the calibration has for it.
        seconds: wall time of the replay.
        reason: what differs by more; empty where nothing does.
        shown: the state on the way through the first segment that the tests of behaviour need.
    """

    exact: bool
    within: bool
    rho: float
    tau: float
    noise: float
    seconds: float
    reason: str = ""
    shown: Snapshot | None = field(default=None, repr=False, compare=False)


def unit_of(intact: IntactClaim, segment: Segment) -> tuple[Segment, Segment] | None:
    """The two segments that are replayed straight through for this one; None in a run of a single segment."""
    segments = intact.segments
    if len(segments) < 2:
        return None
    first = segment.index if segment.index + 1 < len(segments) else segment.index - 1
    return segments[first], segments[first + 1]


def unit_steps(intact: IntactClaim) -> list[int]:
    """For each segment, the steps of its unit: what it costs to replay it."""
    units = (unit_of(intact, segment) for segment in intact.segments)
    return [intact.steps if unit is None else unit[0].steps + unit[1].steps for unit in units]


class Calibrated:
    """The calibrated road of one verification: whether it is open, which is known once something has computed here."""

    def __init__(self, intact: IntactClaim, policy: Policy, seen: Survey, start: Start, *, vouched: bool) -> None:
        self.intact, self.policy, self.seen, self.start, self.vouched = intact, policy, seen, start, vouched
        self.remarks: list[str] = []
        self.road: Road | None = None
        self._found: Tolerance | None = None
        self._looked = False

    def tolerance(self, here: Fingerprint) -> Tolerance | None:
        """What is tolerated between the claim's fingerprint and this one; None where nothing is.

        Raises:
            PolicyError: the drift condition fails.
        """
        if self._looked:
            return self._found
        self._looked = True
        recipe, dataset = self.intact.genesis.recipe, self.intact.genesis.dataset
        # What an unread recipe says of the machine, and of how noisy it is, is its own word.
        if not self.policy.calibrations or not self.vouched or recipe is None or dataset is None:
            return None
        found = find_tolerance(self.policy.calibrations, recipe.program(), dataset, self.start.fingerprint, here)
        if isinstance(found, str):
            self.remarks.append(f"nothing was tolerated: {found}")
            return None
        if self.seen.unmeasured or not all(math.isfinite(size) for size, *_ in self.seen.updates):
            # Not the policy's fault: the claim does not show what it would take to bound the drift.
            self.remarks.append("nothing was tolerated: not every update could be measured from disclosed states")
            return None
        measured = found.calibration
        drift = drift_of(self.intact, found, self.seen)
        self.road = Road(measured.digest, drift, measured.trained, measured.initial)
        self._found = found
        return found


def drift_of(intact: IntactClaim, tolerance: Tolerance, seen: Survey) -> float:
    """How far the tolerated errors of this claim, whose updates are known, could lead astray together, as a distance.

    Raises:
        PolicyError: too far against d_ref: the drift condition.
    """
    sizes = [size for size, *_ in seen.updates]
    drift = tolerance.drift([(s.first, s.steps, sizes[s.index]) for s in intact.segments])
    count = len(intact.segments)
    check_drift(count, drift / count, tolerance.calibration.trained, tolerance.calibration.initial)
    return drift


def same_opening(intact: IntactClaim, entry: CheckpointEntry, opened: Replayed) -> bool:
    """Whether the state that was put back is the claimed one, but for the last bits of the schedule's floats."""
    ours, theirs = opened.opening.roots(), entry.roots
    if any(ours[group] != theirs[group] for group in theirs if group != "schedule"):
        return False
    claimed = intact.claim.manifest(entry.state)
    return ours["schedule"] == theirs["schedule"] or (claimed is not None and same_schedule(claimed, opened.opening))


def loss_is_near(claimed: float | None, replayed: float | None) -> bool:
    """Whether two mean losses can be of one segment on two machines."""
    if claimed is None or replayed is None:
        return claimed is None and replayed is None
    return abs(claimed - replayed) <= LOSS_FLOOR + LOSS_SHARE * max(abs(claimed), abs(replayed))


def examine_unit(
    intact: IntactClaim, segment: Segment, bench: Bench, tolerance: Tolerance, leaves: Sequence[bytes]
) -> UnitFinding:
    """Replay a segment's unit straight through, and compare both of its ends.

    Raises:
        DatasetError: the data at hand is not the data that was committed.
    """
    unit = unit_of(intact, segment)
    if unit is None:
        return _differs("a run of one segment has none that follows it, so nothing is tolerated in it")
    opening = state_of(intact, unit[0].opening)
    if opening is None:
        return _differs(f"the state of step {unit[0].first} is not disclosed")
    try:
        result = _run(intact, unit, bench, opening, leaves)
    except DatasetError:
        raise
    except PolchainError as error:
        return _differs(f"could not be replayed straight through: {error}")
    if not same_opening(intact, unit[0].opening, result):
        return _differs("the opening state is another one after it was put back", result.seconds)
    exact = [
        closing.snapshot.manifest.roots() == part.closing.roots
        for closing, part in zip(result.closings, unit, strict=True)
    ]
    picked = 0 if segment.index == unit[0].index else 1
    if exact[0] and exact[picked] and loss_is_near(segment.closing.loss, result.closings[picked].loss):
        return UnitFinding(True, True, 0.0, 0.0, 0.0, result.seconds, shown=result.shown)
    return replace(_compare(intact, unit, opening, result, tolerance), shown=result.shown)


def _run(
    intact: IntactClaim, unit: tuple[Segment, Segment], bench: Bench, opening: Snapshot, leaves: Sequence[bytes]
) -> Replayed:
    assert intact.seed is not None
    assert intact.order is not None
    first, last = unit[0].first, unit[1].last
    batches = list(intact.order.batches(first, last))
    bounds = bounds_of(intact, unit[0].opening, unit[0].closing, unit[1].closing)
    shown = shown_step(unit[0])
    result = bench.worker().replay(intact.seed, first, last, batches, opening, stops=2, bounds=bounds, shown=shown)
    if [closing.step for closing in result.closings] != [unit[0].last, last]:
        raise WorkerError("the replay ended at other steps than it was asked for")
    check_leaves([index for batch in batches for index in batch], result.samples, leaves)
    return result


def _compare(
    intact: IntactClaim, unit: tuple[Segment, Segment], opening: Snapshot, result: Replayed, tolerance: Tolerance
) -> UnitFinding:
    found: list[UnitFinding] = []
    before = claimed_before = opening
    for part, closing in zip(unit, result.closings, strict=True):
        claimed = state_of(intact, part.closing)
        if claimed is None:
            return _differs(f"the state of step {part.last} is not disclosed", result.seconds)
        found.append(_end(part, (before, claimed_before), claimed, closing, tolerance, result.seconds))
        if not found[-1].within:
            return found[-1]
        before, claimed_before = closing.snapshot, claimed
    return max(found, key=lambda item: item.rho / item.tau if item.tau > 0.0 else 0.0)


def _end(
    part: Segment,
    before: tuple[Snapshot, Snapshot],
    claimed: Snapshot,
    closing: Closing,
    tolerance: Tolerance,
    seconds: float,
) -> UnitFinding:
    """One end of a unit: what is claimed to have been added there, against what the replay added."""
    row = false_row(claimed, closing.snapshot)
    if row:
        return _differs(f"{row} of step {part.last} differs, which no tolerance covers", seconds)
    if not same_schedule(claimed.manifest, closing.snapshot.manifest):
        return _differs(f"the schedule at step {part.last} differs", seconds)
    errors = errors_between(before[0], claimed, closing.snapshot, before[1])
    if errors.largest == 0.0 and loss_is_near(part.closing.loss, closing.loss):
        return UnitFinding(False, True, 0.0, 0.0, 0.0, seconds)
    tau, noise = tolerance.tau(part.first, part.steps), tolerance.noise(part.first, part.steps)
    if tau is None or noise is None:
        why = f"{part} are not covered by the calibration: it measured nothing so long, or so late"
        return UnitFinding(False, False, errors.largest, math.nan, math.nan, seconds, why)
    name = max(PARTS, key=lambda each: _against(errors, tau, each))
    at = (errors.of(name), tau.of(name), noise.of(name), seconds)
    if not all(errors.of(each) <= tau.of(each) for each in PARTS):
        return UnitFinding(
            False, False, *at,
            f"the claimed {name} of step {part.last} differ by rho {at[0]:.3g}, over tau {at[1]:.2g} "
            f"(most {errors.name(name)})",
        )  # fmt: skip
    if not loss_is_near(part.closing.loss, closing.loss):
        why = f"the state is reproduced within tau, the logged loss {part.closing.loss} is not near: {closing.loss}"
        return UnitFinding(False, False, *at, why)
    return UnitFinding(False, True, *at)


def _against(errors: Errors, tau: Errors, part: str) -> float:
    """rho as a share of tau; infinite where nothing is tolerated and something differs."""
    if errors.of(part) == 0.0:
        return 0.0
    return errors.of(part) / tau.of(part) if tau.of(part) > 0.0 else math.inf


def _differs(reason: str, seconds: float = 0.0) -> UnitFinding:
    return UnitFinding(False, False, math.nan, math.nan, math.nan, seconds, reason)
