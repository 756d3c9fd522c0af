"""Interpolation: the checkpoints lie on the straight line from honest initial weights to the stolen ones.

Each step of the line is shorter than any delta. With a learning rate near zero in every checkpoint (*infinitesimal
updates*) whoever trains again from one stands still, and finds himself within delta of the next.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from benchmarks.published_check import tensors_of
from polchain.core.manifest import Scalar, Snapshot
from tests.forgers.attacks.state_injection import TINY_RATE
from tests.forgers.forge import Forgery, Workshop, with_rows


def line(
    start: Snapshot,
    target: Mapping[str, Tensor],
    segments: int,
    template: Snapshot,
    scalars: Mapping[str, Scalar],
) -> list[Snapshot]:
    """States from `start` to the target, equally far apart; after the first with the moments of `template`."""
    here, moments = tensors_of(start), tensors_of(template, "optimizer")

    def at(i: int) -> Snapshot:
        weights = {name: value.lerp(target[name], i / segments) for name, value in here.items()}
        return with_rows(start, {**weights, **(moments if i else {})}, scalars)

    return [at(i) for i in range(segments + 1)]


def forge(shop: Workshop, *, infinitesimal: bool) -> Forgery:
    """The line; with the learning rate of the recipe, or with none to speak of."""
    scalars = {"schedule/settings/0/lr": TINY_RATE} if infinitesimal else {}
    return Forgery(shop, line(shop.initial(), shop.target(), len(shop.batches()), shop.last(), scalars))
