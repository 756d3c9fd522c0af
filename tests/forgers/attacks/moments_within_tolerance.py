"""Moments within tolerance: every parameter is what training gives, and the momentum is altered at the joints.

A checker with a tolerance lets moments differ a little, as it lets weights. So the forger trains honestly, and at every
checkpoint adds to the momentum a push towards the weights he wants, as large as the tolerance allows. No weight of that
checkpoint is touched; the next segment is trained honestly from there, and carries the push into the weights. Whoever
replays segment after segment from the claimed states finds every one of them within tolerance.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from benchmarks.published_check import tensors_of, weights_of
from polchain.core.manifest import Snapshot
from tests.forgers.forge import Forgery, Workshop, with_rows


def pushed(shop: Workshop, state: Snapshot, before: Snapshot, share: float) -> Snapshot:
    """The state with its momentum pushed towards the stolen weights: by `share` of what the segment moved it."""
    earlier, moments, target = tensors_of(before, "optimizer"), tensors_of(state, "optimizer"), shop.target()
    made = {}
    for name, value in weights_of(state).items():
        row = next(r for r in (f"{shop.slot(name)}/{end}" for end in ("momentum_buffer", "exp_avg")) if r in moments)
        momentum = moments[row]
        moved = (momentum - earlier.get(row, torch.zeros_like(momentum))).norm()
        away = value - target[name]
        made[row] = momentum + share * moved * away / away.norm().clamp_min(1e-12)  # a step goes against its momentum
    return with_rows(state, made)


def forge(shop: Workshop, share: float) -> Forgery:
    """The run; at each joint, `share` of what the segment before moved the momentum is added to it."""
    stops = shop.stops()
    losses: list[float | None] = [None]
    with shop.worker() as worker:
        states = [worker.initial(shop.seed)[0]]
        for first, last in pairwise(stops):
            [closing], said = shop.go_on(worker, states[-1], first, last)
            states.append(pushed(shop, closing, states[-1], share) if last < stops[-1] else closing)
            losses += said
    return Forgery(shop, states, losses)
