"""A giant segment: tiny honest segments, and one huge forged one among them.

Somebody who draws *segments* has little chance to draw it. Its opening state carries a planted momentum buffer (see
`state_injection`) that makes the jump reproducible for whoever believes the checkpoint; after it the forger trains on
from the stolen weights, honestly.
"""

from __future__ import annotations

from dataclasses import replace

from tests.forgers.attacks.state_injection import TINY_RATE, aimed
from tests.forgers.forge import Forgery, Workshop, with_rows

STEPS = 160
GIANT = (80, 140)
EVERY = f"0:1,{GIANT[0]}:{GIANT[1] - GIANT[0]},{GIANT[1]}:1"
ARGUMENTS = ("--steps", str(STEPS), "--every", EVERY)


def forge(shop: Workshop) -> Forgery:
    """A run with that schedule, whose giant segment was never trained."""
    first, last = GIANT
    states, losses = shop.train(first)
    arrived = with_rows(states[-1], shop.target())
    states[-1] = aimed(states[-1], shop.target(), states[-1], "sgd", {"lr": TINY_RATE}, last - first)
    with shop.worker() as worker:
        tail, said = shop.go_on(worker, arrived, last, STEPS)
    return Forgery(shop, [*states, arrived, *tail], [*losses, losses[-1], *said])


def workshop(shop: Workshop) -> Workshop:
    """A forger whose recipe has that schedule."""
    assert shop.genesis.recipe is not None
    assert shop.configuration is not None
    interval = tuple((int(a), int(b)) for a, _, b in (part.partition(":") for part in EVERY.split(",")))
    return Workshop(
        shop.victim,
        shop.key,
        shop.run_id,
        shop.value,
        ref=replace(shop.genesis.recipe, arguments=ARGUMENTS),
        configuration=replace(shop.configuration, steps=STEPS, interval=interval),
    )
