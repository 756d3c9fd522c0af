"""Moments within tolerance: every parameter is what training gives, and the momentum is altered at the joints.

A checker with a tolerance lets moments differ a little, as it lets weights. So the forger trains honestly, and at every
checkpoint adds to the momentum a push towards the weights he wants, as large as the tolerance allows. No weight of that
checkpoint is touched; the next segment is trained honestly from there, and carries the push into the weights. Whoever
replays segment after segment from the claimed states finds every one of them within tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from polchain.core.manifest import Snapshot
from polchain.training.worker import Worker
from tests.forgers.forge import Workshop, tensors_of, with_rows


def pushed(state: Snapshot, before: Snapshot, target: Mapping[str, torch.Tensor], share: float) -> Snapshot:
    """The state with its momentum pushed towards the target: by `share` of what the segment moved it."""
    moments, earlier = tensors_of(state, "optimizer"), tensors_of(before, "optimizer")
    weights = tensors_of(state)
    made = {}
    for name, momentum in moments.items():
        moved = (momentum - earlier.get(name, torch.zeros_like(momentum))).norm()
        away = weights[_parameter(name)] - target[_parameter(name)]
        made[name] = momentum + share * moved * away / away.norm().clamp_min(1e-12)  # a step goes against its momentum
    return with_rows(state, made)


def forge(
    shop: Workshop, worker: Worker, target: Mapping[str, torch.Tensor], share: float, *, at: int | None = None
) -> tuple[list[Snapshot], list[float | None]]:
    """The states of such a run, and its honest losses; with `at`, only that checkpoint's momentum is altered."""
    assert shop.configuration is not None
    state, _ = worker.initial(shop.seed)
    states, losses, step = [state], [None], 0
    found: list[float | None] = list(losses)
    while step < shop.configuration.steps:
        last = shop.configuration.next_checkpoint(step)
        closing = worker.replay(shop.seed, step, last, list(shop.order.batches(step, last)), state).closings[-1]
        altered = last < shop.configuration.steps and at in (None, len(states))
        state = pushed(closing.snapshot, state, target, share) if altered else closing.snapshot
        states.append(state)
        found.append(closing.loss)
        step = last
    return states, found


def _parameter(moment: str) -> str:
    return "model/" + moment.removeprefix("optimizer/").rpartition("/")[0]
