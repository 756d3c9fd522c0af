"""Interpolation: the checkpoints lie on the straight line from honest initial weights to the stolen ones.

Each step of the line is shorter than any delta. With a learning rate near zero in every checkpoint (*infinitesimal
updates*) whoever trains again from one stands still, and finds himself within delta of the next.
"""

from __future__ import annotations

import torch

from benchmarks.published_check import tensors_of
from polchain.core.manifest import Snapshot
from tests.forgers.attacks.state_injection import TINY_RATE
from tests.forgers.forge import Forgery, Workshop, with_rows


def line(shop: Workshop, start: Snapshot, rate: float | None = None) -> list[Snapshot]:
    """States from `start` to the stolen ones, equally far apart; after the first with the victim's last moments."""
    here, target, stops = tensors_of(start), shop.stolen_model(), shop.stops()
    moments = tensors_of(shop.last(), "optimizer")

    def at(i: int) -> Snapshot:
        share = i / (len(stops) - 1)
        model = {
            name: value.lerp(target[name], share) if value.is_floating_point() else torch.tensor(stops[i])
            for name, value in here.items()
        }
        counts = {name: torch.tensor(float(stops[i])) for name in moments if name.endswith("/step")}
        state = with_rows(start, {**model, **(moments if i else {}), **(counts if i else {})})
        return shop.scheduled(state, stops[i], rate)

    return [at(i) for i in range(len(stops))]


def forge(shop: Workshop, *, infinitesimal: bool) -> Forgery:
    """The line; with the learning rate of the recipe, or with none to speak of."""
    return Forgery(shop, line(shop, shop.initial(), TINY_RATE if infinitesimal else None))
