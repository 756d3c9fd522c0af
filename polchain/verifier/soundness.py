"""What a sample of replayed steps proves, as pure functions.

**The step bound.** If a share f of the *steps* was not computed as claimed, r steps drawn independently and uniformly,
with replacement, all fall outside it with probability

    (1 - f)^r

whatever the interval schedule is: a step is drawn, and the segment that holds it is replayed whole. This is the
theorem behind VERIFIED. It says that steps were computed; it does not say that no weight was edited.

**The swap bound.** Swapping in weights at distance D needs unreplayed segments whose updates, recomputed from the
disclosed states, sum to D at least (the triangle inequality). If every such set holds a share s of the steps, a swap
passes with probability at most

    (1 - s)^r

That is a theorem for a given D. Which D a thief needs is a guess: half the smaller of the way from the initial to the
final weights and, where it was measured, d_ref, the distance of two independent trainings of the recipe. Half of it,
and only over parameters that move at all, because networks have symmetries: a heuristic, and called one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from polchain.core.encoding import JSON
from polchain.errors import PolicyError

__all__ = [
    "Bound",
    "Swap",
    "cheapest_swap",
    "check_drift",
    "draws_needed",
    "escape_probability",
    "supported_fraction",
    "swap_bound",
    "swap_distance",
]

MOST_DRAWS = 1_000_000
# Sums of measured sizes are floats: the bounds below give way by this much, to the side that claims less.
ROUNDING = 1e-9
DRIFT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Bound:
    """The step bound of a verification.

    Attributes:
        draws: r, the steps drawn and answered.
        fraction: f, the forged share that the policy wants caught.
        confidence: c, the least probability of catching it.
        escape: (1 - f)^r, the probability that a forged share f was missed; 0 where every step was replayed.
        replayed: steps replayed, however they were picked.
        steps: steps of the run.
    """

    draws: int
    fraction: float
    confidence: float
    escape: float
    replayed: int
    steps: int

    @property
    def complete(self) -> bool:
        """Whether every step was replayed."""
        return self.steps > 0 and self.replayed == self.steps

    @property
    def met(self) -> bool:
        """Whether the policy's demand holds: escape <= 1 - confidence."""
        return self.steps > 0 and self.escape <= 1.0 - self.confidence

    @property
    def supported(self) -> float:
        """The least forged share that these draws catch with the policy's confidence; 0 where all was replayed."""
        return 0.0 if self.complete else supported_fraction(self.draws, self.confidence)

    @property
    def support(self) -> str:
        """The same in words."""
        if self.complete or self.draws == 0:
            return "every step was replayed" if self.complete else "no draw, so no share is supported"
        return f"{_draws(self.draws)} support f = {_upwards(self.supported)} at confidence {100 * self.confidence:g} %"

    def __str__(self) -> str:
        if self.steps == 0:
            return "the log has no steps"
        if self.complete:
            return f"all {self.steps} steps were replayed"
        escape = f"{self.draws} draws; a forged share of {self.fraction:.3g} escapes with probability {self.escape:.2g}"
        if not self.met:
            return f"not met: {escape}, where at most {1 - self.confidence:.2g} was asked for; {self.support}"
        return (
            f"at least {100 * (1 - self.fraction):g} % of the steps were computed, "
            f"confidence {_percent(1 - self.escape)} % ({escape})"
        )

    def to_json(self) -> dict[str, JSON]:
        """Floats as decimal strings."""
        return {
            "draws": self.draws,
            "fraction": repr(self.fraction),
            "confidence": repr(self.confidence),
            "escape": repr(self.escape),
            "supported": repr(self.supported),
            "replayed_steps": self.replayed,
            "met": self.met,
            "sentence": str(self),
        }


@dataclass(frozen=True, slots=True)
class Swap:
    """The swap bound of a verification, or why there is none.

    Attributes:
        distance: D, how far the swapped-in weights are taken to be.
        share: s, the share of the steps that such a swap needs at least, unreplayed; 1 where there are not so many.
        escape: (1 - s)^r, the probability that it was missed.
        draws: r.
        reason: why there is no such bound; empty where there is. The numbers are then NaN.
    """

    distance: float
    share: float
    escape: float
    draws: int
    reason: str = ""

    @classmethod
    def unchecked(cls, reason: str) -> Swap:
        """No bound, and why."""
        return cls(math.nan, math.nan, math.nan, 0, reason)

    @property
    def checked(self) -> bool:
        """Whether there is a bound."""
        return not self.reason

    def within(self, limit: float | None) -> bool:
        """Whether a policy's limit on the escape holds; None is no limit."""
        return limit is None or (self.checked and self.escape <= limit)

    def __str__(self) -> str:
        if not self.checked:
            return f"not checked: {self.reason}"
        if self.share >= 1.0:
            return f"no weights {self.distance:.3g} away fit into what may go unreplayed (a heuristic distance)"
        if not self.draws:
            return f"weights {self.distance:.3g} away pass, for no draw was answered (a heuristic distance)"
        return (
            f"weights {self.distance:.3g} away take at least {100 * self.share:.3g} % of the steps to swap in, and pass"
            f" {_draws(self.draws)} with probability at most {self.escape:.2g} (a heuristic distance)"
        )

    def to_json(self) -> dict[str, JSON]:
        """Floats as decimal strings; `nan` where there is no bound."""
        return {
            "checked": self.checked,
            "distance": repr(self.distance),
            "share": repr(self.share),
            "escape": repr(self.escape),
            "sentence": str(self),
        }


def escape_probability(fraction: float, draws: int) -> float:
    """(1 - f)^r: the probability that a forged share `fraction` of the steps is missed by `draws` draws."""
    check_fraction(fraction)
    return (1.0 - fraction) ** draws


def draws_needed(fraction: float, confidence: float) -> int:
    """The least r with (1 - f)^r <= 1 - c.

    Raises:
        PolicyError: a number outside (0, 1), or more draws than anybody would make.
    """
    check_fraction(fraction)
    check_fraction(confidence)
    estimate = math.log1p(-confidence) / math.log1p(-fraction)
    if not estimate < MOST_DRAWS:
        raise PolicyError(
            f"a share of {fraction!r} at a confidence of {confidence!r} needs over {MOST_DRAWS:,} draws",
            hint="ask for a larger fraction, or replay all with --full",
        )
    draws = max(1, math.ceil(estimate))
    # The logarithms may be off by one either way.
    while draws > 1 and (1.0 - fraction) ** (draws - 1) <= 1.0 - confidence:
        draws -= 1
    while (1.0 - fraction) ** draws > 1.0 - confidence:
        draws += 1
    return draws


def supported_fraction(draws: int, confidence: float) -> float:
    """The least forged share f that `draws` draws catch with this confidence: 1 - (1 - c)^(1/r); 1 for no draws."""
    check_fraction(confidence)
    return 1.0 if draws < 1 else -math.expm1(math.log1p(-confidence) / draws)


def swap_distance(travelled: float, reference: float | None = None) -> float:
    """D: half the smaller of the way from the initial to the final weights and, where it was measured, d_ref.

    Both over parameters with a non-zero gradient: those whose rows changed during the run (`Survey.moved`). What never
    changes adds nothing to the first; of d_ref it is to be left out, for two initialisations differ in it.
    """
    return 0.5 * (travelled if reference is None else min(travelled, reference))


def cheapest_swap(segments: Iterable[tuple[int, float]], distance: float) -> float:
    """Steps that any set of these segments holds at least, if its updates sum to `distance`; infinite if none does.

    The cheapest set is a knapsack. This is its fractional relaxation (Dantzig 1957): segments by falling update per
    step, the last one in part. It is never above the true minimum, and below it by less than that one segment.

    Args:
        segments: (steps, size of the update) of each segment that may go unreplayed.
        distance: D.
    """
    usable = [(steps, size) for steps, size in segments if size > 0.0]
    if math.fsum(size for _, size in usable) < distance * (1.0 - ROUNDING):
        return math.inf
    missing = distance * (1.0 - ROUNDING)
    found = 0.0
    for steps, size in sorted(usable, key=lambda item: item[0] / item[1]):
        if missing <= size:
            return (found + steps * max(missing, 0.0) / size) * (1.0 - ROUNDING)
        found += steps
        missing -= size
    return found * (1.0 - ROUNDING)


def swap_bound(segments: Iterable[tuple[int, float]], steps: int, distance: float, draws: int) -> Swap:
    """The probability at most that weights at this distance were swapped in and missed.

    Args:
        segments: (steps, size of the update) of each segment that is not always replayed: a forger has no others.
        steps: steps of the run.
        distance: D.
        draws: r.
    """
    if not (distance > 0.0 and math.isfinite(distance)):
        return Swap.unchecked(f"the weights went {distance:.3g} from the initial to the final state")
    share = min(1.0, cheapest_swap(segments, distance) / steps)
    return Swap(distance, share, 0.0 if share >= 1.0 else (1.0 - share) ** draws, draws)


def check_drift(segments: int, drift: float, reference: float, initial: float) -> None:
    """Refuse a tolerance that adds up: n tolerated drifts must stay under a tenth of what training adds to chance.

    Args:
        segments: n.
        drift: the largest error that is tolerated in one segment, as a distance.
        reference: d_ref, the distance of two independent trainings of the recipe.
        initial: the distance of two of its initialisations, which d_ref holds too and training has not earned.

    Raises:
        PolicyError: with the figures; also where d_ref adds nothing at all, so that it measures nothing.
    """
    added = reference - initial
    if not segments * drift < DRIFT_SHARE * added:
        raise PolicyError(
            f"{segments} segments with a tolerated drift of {drift:.3g} each may drift by {segments * drift:.3g}; "
            f"a tenth of what d_ref ({reference:.3g}) adds to the distance of two initialisations ({initial:.3g}) is "
            f"{DRIFT_SHARE * added:.3g}",
            hint="tolerate less, or demand exact replay",
        )


def check_fraction(value: float, name: str = "fraction") -> None:
    """Raises PolicyError unless 0 < value < 1."""
    if not 0.0 < value < 1.0:
        raise PolicyError(
            f"{name}: {value!r} is not between 0 and 1",
            hint="fraction and confidence are shares, such as 0.05 and 0.99",
        )


def _draws(count: int) -> str:
    return f"{count} draw" if count == 1 else f"{count} draws"


def _upwards(share: float) -> str:
    """Three digits, rounded up: what is printed is supported."""
    scale = 10.0 ** (2 - math.floor(math.log10(share)))
    return f"{math.ceil(share * scale) / scale:.3g}"


def _percent(share: float) -> str:
    """Four digits, but never 100 for what is less."""
    text = f"{100 * share:.4g}"
    return "over 99.99" if text == "100" and share < 1.0 else text
