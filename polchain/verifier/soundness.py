"""What a sample of replayed steps proves, as pure functions.

If a share f of the *steps* was not computed as claimed, r steps drawn independently and uniformly, with replacement,
all fall outside it with probability

    (1 - f)^r

whatever the interval schedule is: a step is drawn, and the segment that holds it is replayed whole. This is the
theorem behind VERIFIED. It says that steps were computed; it does not say that no weight was edited.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from polchain.errors import PolicyError

__all__ = ["Bound", "draws_needed", "escape_probability", "supported_fraction"]

MOST_DRAWS = 1_000_000


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

    def __str__(self) -> str:
        if self.steps == 0:
            return "the log has no steps"
        if self.complete:
            return f"all {self.steps} steps were replayed"
        escape = f"{self.draws} draws; a forged share of {self.fraction:.3g} escapes with probability {self.escape:.2g}"
        if not self.met:
            return f"not met: {escape}, where at most {1 - self.confidence:.2g} was asked for"
        return (
            f"at least {100 * (1 - self.fraction):g} % of the steps were computed, "
            f"confidence {100 * (1 - self.escape):.4g} % ({escape})"
        )


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
    return 1.0 if draws < 1 else 1.0 - (1.0 - confidence) ** (1.0 / draws)


def check_fraction(value: float) -> None:
    """Raises PolicyError unless 0 < value < 1."""
    if not 0.0 < value < 1.0:
        raise PolicyError(
            f"{value!r} is not between 0 and 1", hint="fraction and confidence are shares, such as 0.05 and 0.99"
        )
