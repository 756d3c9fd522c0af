"""Glue: an honest prefix of one's own, and the victim's own states from there on.

The victim's half is honest training too, on the batches of the victim's seed. A prover who names his batches names
those; at the joint a planted momentum buffer (see `state_injection`) carries the one half to the other.
"""

from __future__ import annotations

from itertools import pairwise

from polchain.core.entries import CheckpointEntry
from tests.forgers.attacks.state_injection import TINY_RATE, aimed
from tests.forgers.forge import Forgery, Workshop, weights_of


def forge(shop: Workshop, joint: int, *, planted: bool = True) -> Forgery:
    """Own states up to number `joint`, the victim's from `joint` + 1 on; a splice is the same without the glue."""
    theirs, stops = shop.states(), shop.stops()
    assert shop.stolen.order is not None
    own, losses = shop.train(stops[joint])
    steps = stops[joint + 1] - stops[joint]
    if planted:
        own[-1] = aimed(shop, own[-1], weights_of(theirs[joint + 1]), stops[joint], steps, rate=TINY_RATE)
    said = [entry.loss for entry in shop.stolen.checkpoints if isinstance(entry, CheckpointEntry)]
    batches = [list(shop.stolen.order.batches(a, b)) for a, b in pairwise(stops)]
    shown = [*shop.batches()[: joint + 1], *batches[joint + 1 :]]
    seeds = [shop.seed] * (joint + 1) + [shop.stolen.order.seed] * (len(stops) - joint - 2)
    return Forgery(shop, [*own, *theirs[joint + 1 :]], [*losses, *said[joint + 1 :]], shown, seeds)
