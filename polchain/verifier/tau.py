"""tau: what may differ between two machines that were calibrated, and by how much.

Of each part of the state (`training.parts`), in a segment that opens at a step and has a length:

    tau = ten times the largest error of this pair, in this phase, at the least length measured that is no shorter,
          and never more than 0.01 (moments: 0.1, since they count by their effect on the parameters)

A pair is two fingerprints that the calibration names. They have to be equal, in every field, to what the claim states
and to what computes here, but for polchain's version and Python's last number. Two equal ones must agree bit for bit.
A segment that is longer than all that were measured, or later, is not covered.

**Drift.** Tolerated errors add up. A segment may end tau of its update away. So may the next, for moments that were
altered at the joint; and what is planted in moments decays by `memory` a step, and acts on all later updates meanwhile:

    drift <- drift + (carried + tau) update          carried <- (carried + tau) memory^steps
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polchain.core.digest import Digest
from polchain.core.encoding import JSON
from polchain.core.genesis import DatasetRef
from polchain.training.rho import Errors, worst
from polchain.verifier.calibration import Calibration, Fingerprint, Point, same_fingerprint

__all__ = ["CAPS", "FACTOR", "ROOM", "Road", "Tolerance", "find_tolerance", "tolerance_between"]

FACTOR = 10.0
# What is advised keeps this far from the caps.
ROOM = 5.0
CAPS: Mapping[str, float] = {"parameters": 0.01, "tensors": 0.01, "buffers": 0.01, "optimizer": 0.1, "extra": 0.01}
# Another way to compute a normal distribution differs in the last bits of a weight, and in no more.
INITIAL_CAP = 1e-6


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What one calibrated pair may differ by.

    Attributes:
        calibration: where it comes from.
        points: the pair's measurements.
        apart: how far their initial states were apart, over the size of the state.
    """

    calibration: Calibration
    points: tuple[Point, ...]
    apart: float

    def noise(self, first: int, steps: int) -> Errors | None:
        """The largest honest errors of segments of that length, or the next longer one, in that phase.

        None where nothing so long was measured in that phase, or the steps are beyond those that were trained.

        Args:
            first: the step that the segment opens at.
            steps: its length.
        """
        if first + steps > self.calibration.steps or steps < 1:
            return None
        late = self.calibration.late
        phase = [p for p in self.points if (p.first >= late) == (first >= late) and p.steps >= steps]
        if not phase:
            return None
        length = min(point.steps for point in phase)
        found = Errors()
        for point in phase:
            if point.steps == length:
                found = worst(found, point.errors)
        return found

    def tau(self, first: int, steps: int) -> Errors | None:
        """What is tolerated of each part in a segment; None where nothing is."""
        noise = self.noise(first, steps)
        if noise is None:
            return None
        return Errors.by_part(lambda part: min(FACTOR * noise.of(part), CAPS[part]))

    @property
    def initial(self) -> float:
        """How far the initial state may be from the one that this machine makes, over its size."""
        return min(FACTOR * self.apart, INITIAL_CAP)

    def drift(self, segments: Sequence[tuple[int, int, float]]) -> float:
        """How far these segments may lead astray together, if each uses all that is tolerated; infinite if unbounded.

        Args:
            segments: (first step, steps, size of the update) of each, in order.
        """
        carried = total = 0.0
        for first, steps, update in segments:
            tau = self.tau(first, steps)
            # Of a segment that is not covered nothing is tolerated, but what was carried there acts.
            carried += tau.parameters if tau is not None else 0.0
            total += carried * update
            carried *= self.calibration.memory**steps
        return total if math.isfinite(total) else math.inf


@dataclass(frozen=True, slots=True)
class Road:
    """The calibrated road of one verification: what was tolerated, and on whose word.

    Attributes:
        digest: of the calibration.
        drift: how far all that is tolerated could lead the claim astray, as a distance.
        trained: d_ref.
        initial: the part of it that the inits alone account for.
    """

    digest: Digest
    drift: float
    trained: float
    initial: float

    def __str__(self) -> str:
        return (
            f"{self.digest}; what it tolerates could add up to a drift of {self.drift:.3g}, where two trainings end "
            f"{self.trained:.3g} apart and begin {self.initial:.3g} apart"
        )

    def to_json(self) -> dict[str, JSON]:
        """Floats as decimal strings."""
        return {
            "digest": str(self.digest),
            "drift": repr(self.drift),
            "trained": repr(self.trained),
            "initial": repr(self.initial),
        }


def find_tolerance(
    calibrations: Sequence[Calibration], program: Digest, dataset: DatasetRef, claimed: Fingerprint, here: Fingerprint
) -> Tolerance | str:
    """What is tolerated of a claim on this machine by the calibrations that the verifier named; or why nothing is."""
    if not calibrations:
        return "no calibration was given"
    why = "no calibration is of this recipe and these data"
    for calibration in calibrations:
        if (calibration.program, calibration.dataset) != (program, dataset):
            continue
        found = tolerance_between(calibration, claimed, here)
        if isinstance(found, Tolerance):
            return found
        why = found
    return why


def tolerance_between(calibration: Calibration, claimed: Fingerprint, here: Fingerprint) -> Tolerance | str:
    """What is tolerated between a claim's fingerprint and this machine's, or why nothing is."""
    if same_fingerprint(claimed, here):
        return "the claim was recorded with the very setting that computes here, where bits reproduce"
    theirs = [i for i, found in enumerate(calibration.fingerprints) if same_fingerprint(found, claimed)]
    ours = [i for i, found in enumerate(calibration.fingerprints) if same_fingerprint(found, here)]
    if not theirs or not ours:
        which = "the prover's machine and setting" if not theirs else "this machine and setting"
        return f"the calibration does not name {which}"
    pairs = {(min(one, other), max(one, other)) for one in theirs for other in ours}
    points = tuple(point for point in calibration.points if point.pair in pairs)
    if not points:
        return "the calibration has no measurement between the prover's setting and this one"
    apart = [point.rho for point in calibration.initials if point.pair in pairs]
    return Tolerance(calibration, points, max(apart, default=0.0))
