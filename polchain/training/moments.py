"""What an optimizer's own recursion allows, element by element, between two states.

    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2        from m = v = 0

Whatever the gradients g are, |m| <= R sqrt(v) and a step is at most lr R (`reach`), and v shrinks by b2 a step at most.
Nothing is trained here: what is measured is how far a state goes beyond what any gradients could have done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import ScalarRow, TensorRow
from polchain.training.tensors import tensor_from

__all__ = ["beyond_moments", "beyond_steps", "lost_moment", "reach", "slowest_decay"]

# By which settings an optimizer's state decays, a step; a state of another name is taken to be kept for ever.
DECAYS: Mapping[str, tuple[str, ...]] = {
    "momentum_buffer": ("momentum",),
    "exp_avg": ("betas/0",),
    "exp_avg_sq": ("betas/1",),
    "exp_inf": ("betas/1",),
    "square_avg": ("alpha", "rho"),
    "grad_avg": ("alpha",),
    "acc_delta": ("rho",),
}
PRECISE = frozenset({"F32", "F64"})
# Below these a gradient's square is no normal number in single precision: then v may be flushed to 0 where m is not.
LEAST_FIRST = 1e-18
LEAST_SECOND = 1e-36
LEAST = 1e-300
PIECE = 1 << 22
# A multiplication and an addition, each rounded in single precision, with room to spare.
ROUNDING = 2.0**-21


def reach(b1: float, b2: float) -> float:
    """R: the most that |m_hat| / sqrt(v_hat) can be, after any number of steps and whatever the gradients were.

    After t steps from zero, with q = b1^2 / b2, by Cauchy and Schwarz over the weights b2^j of v:

        |m| <= (1 - b1) sum b1^j |g_j| <= (1 - b1) sqrt(sum q^j) sqrt(v / (1 - b2))

    and sum q^j = (1 - q^t) / (1 - q) for q < 1. The bias corrections multiply this by sqrt(1 - b2^t) / (1 - b1^t), and
    (1 - q^t)(1 - b2^t) <= (1 - b1^t)^2, because q^t + b2^t >= 2 b1^t. So for every t

        |m_hat| / sqrt(v_hat) <= R = (1 - b1) / sqrt((1 - b2)(1 - q))        7.27 for b1 = 0.9, b2 = 0.999

    and the same R bounds |m| / sqrt(v). Kingma and Ba (2015), section 2.1, have (1 - b1) / sqrt(1 - b2) = 3.16 for a
    gradient that is zero but for the last step; gradients that grow by b1 / b2 a step reach R. Infinite where q >= 1:
    there no bound holds for every t.
    """
    if not (0.0 <= b1 < 1.0 and 0.0 < b2 < 1.0) or b1 * b1 >= b2:
        return math.inf
    return (1.0 - b1) / math.sqrt((1.0 - b2) * (1.0 - b1 * b1 / b2))


def beyond_steps(before: Snapshot, after: Snapshot, row: str, step: float, decay: float, steps: int) -> float:
    """The largest |after - before| over what `steps` steps allow; above 1 where they cannot have done it.

    A step moves by `step` at most, and weight decay by `decay` times the weight, which is nowhere on the way larger
    than at the beginning plus all steps together. Weights are rounded at every step.
    """
    if not (math.isfinite(step) and math.isfinite(decay)):
        return 0.0
    far = steps * step
    share = steps * (decay + ROUNDING)
    return max(
        (
            _largest((new - old).abs() / (far + share * (old.abs() + far)).clamp_min(LEAST))
            for old, new in _pieces((before, row), (after, row))
        ),
        default=0.0,
    )


def beyond_moments(state: Snapshot, first: str, second: str, most: float) -> float:
    """The largest |m| / (R sqrt(v)), where `most` is R; above 1 where no gradients give these moments."""
    if not math.isfinite(most):
        return 0.0
    worst = 0.0
    for m, v in _pieces((state, first), (state, second)):
        size = m.abs()
        allowed = (most * v.clamp_min(0.0).sqrt()).clamp_min(LEAST)
        worst = max(worst, _largest(size.masked_fill_(size < LEAST_FIRST, 0.0) / allowed))
    return worst


def lost_moment(before: Snapshot, after: Snapshot, row: str, keep: float, steps: int) -> float:
    """The largest keep^steps v_before / v_after; above 1 where a second moment shrank faster than it can."""
    factor = keep**steps * max(0.0, 1.0 - steps * ROUNDING)
    worst = 0.0
    for old, new in _pieces((before, row), (after, row)):
        least = old * factor
        worst = max(worst, _largest(least.masked_fill_(least < LEAST_SECOND, 0.0) / new.clamp_min(LEAST)))
    return worst


def slowest_decay(state: Manifest) -> float:
    """The factor a step by which the optimizer's slowest moment forgets, 0 to 1; 0 where it has no state at all.

    Half of what is put into a moment still acts after log(1/2) / log(factor) steps.
    """
    kinds = {
        row.name.rpartition("/")[2] for row in state.group("optimizer") if isinstance(row, TensorRow) and row.shape
    }
    settings: dict[str, list[float]] = {}
    for row in state.group("schedule"):
        if isinstance(row, ScalarRow) and isinstance(row.value, int | float):
            _, _, name = row.name.removeprefix("schedule/settings/").partition("/")
            settings.setdefault(name, []).append(float(row.value))
    slowest = 0.0
    for kind in kinds:
        found = [value for name in DECAYS.get(kind, ()) for value in settings.get(name, ())]
        slowest = max(slowest, *found) if found and all(0.0 <= value <= 1.0 for value in found) else 1.0
    return slowest


def _pieces(*rows: tuple[Snapshot, str]) -> Iterator[tuple[torch.Tensor, ...]]:
    """The rows side by side, in double precision, some elements at a time.

    Nothing where one is missing, of another shape, or rounded too coarsely to say anything.
    """
    flat: list[torch.Tensor] = []
    shapes = set()
    for state, name in rows:
        row = state.manifest[name] if name in state.manifest else None  # noqa: SIM401
        if not isinstance(row, TensorRow) or row.dtype not in PRECISE:
            return
        shapes.add(row.shape)
        flat.append(tensor_from(state.buffers[name], row.dtype, row.shape).reshape(-1))
    if len(shapes) != 1:
        return
    for at in range(0, flat[0].numel(), PIECE):
        yield tuple(tensor[at : at + PIECE].to(torch.float64) for tensor in flat)


def _largest(ratios: torch.Tensor) -> float:
    """The largest element; infinite where one is no number, for that is beyond everything."""
    largest = float(ratios.max())
    return math.inf if math.isnan(largest) else largest
