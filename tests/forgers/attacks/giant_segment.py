"""A giant segment: tiny honest segments, and one huge forged one among them.

Somebody who draws *segments* has little chance to draw it. Its opening state carries a planted momentum buffer (see
`state_injection`) that makes the jump reproducible for whoever believes the checkpoint; after it the forger trains on
from the stolen weights, honestly.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from tests.forgers.attacks.state_injection import TINY_RATE, aimed
from tests.forgers.forge import Forgery, Workshop, with_rows

STEPS = 160
GIANT = (80, 140)


def forge(shop: Workshop) -> Forgery:
    """A run with that schedule, whose giant segment was never trained."""
    first, last = max(pairwise(shop.stops()), key=lambda ends: ends[1] - ends[0])
    states, losses = shop.train(first)
    arrived = shop.scheduled(with_rows(states[-1], shop.stolen_model()), last)
    states[-1] = aimed(shop, states[-1], shop.target(), first, last - first, rate=TINY_RATE)
    with shop.worker() as worker:
        tail, said = shop.go_on(worker, arrived, last, shop.stops()[-1])
    return Forgery(shop, [*states, arrived, *tail], [*losses, losses[-1], *said])


def workshop(shop: Workshop, steps: int = STEPS, giant: tuple[int, int] = GIANT) -> Workshop:
    """A forger whose recipe has that schedule."""
    every = f"0:1,{giant[0]}:{giant[1] - giant[0]},{giant[1]}:1"
    assert shop.genesis.recipe is not None
    assert shop.configuration is not None
    interval = tuple((int(a), int(b)) for a, _, b in (part.partition(":") for part in every.split(",")))
    return replace(
        shop,
        ref=replace(shop.genesis.recipe, arguments=("--steps", str(steps), "--every", every)),
        configuration=replace(shop.configuration, steps=steps, interval=interval),
    )
