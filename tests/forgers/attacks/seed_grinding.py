"""Seed grinding: the seed is the prover's own, so he draws many and keeps the one that begins luckiest.

What follows is honest training; nothing that he signs is false.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from benchmarks.published_check import PublishedCheck, tensors_of
from tests.forgers.forge import Forgery, Workshop


def grind(victim: Workshop, check: PublishedCheck, tries: int) -> tuple[Workshop, Sequence[float]]:
    """The luckiest of so many workshops, which differ in their seed value alone; and the first losses of all."""
    return measure([Workshop(victim.victim, victim.key, victim.run_id) for _ in range(tries)], check)


def measure(shops: Sequence[Workshop], check: PublishedCheck) -> tuple[Workshop, Sequence[float]]:
    """The workshop whose initial weights have the smallest loss, and the losses of all."""
    with shops[0].worker() as worker:
        losses = [_first_loss(check, tensors_of(worker.initial(shop.seed)[0])) for shop in shops]
    return shops[min(range(len(shops)), key=lambda i: losses[i])], losses


def forge(shop: Workshop) -> Forgery:
    """Honest training."""
    return Forgery(shop, *shop.train(shop.stops()[-1]))


def _first_loss(check: PublishedCheck, weights: dict[str, torch.Tensor]) -> float:
    model = check.network()
    model.load_state_dict({name.removeprefix("model/"): value for name, value in weights.items()})
    images = torch.stack([image for image, _ in check.samples])
    with torch.no_grad():
        return float(F.cross_entropy(model(images), torch.tensor([label for _, label in check.samples])))
