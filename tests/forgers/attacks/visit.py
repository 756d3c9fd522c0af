"""A visit: an honest log that holds the stolen weights at one checkpoint in its middle, and goes on as if nothing was.

Whoever disputes a model only has to find it in the log, somewhere. For the published check the forger plants the
optimizer states that jump there and back; `plain`, he does not bother.
"""

from __future__ import annotations

from benchmarks.published_check import weights_of
from tests.forgers.attacks.state_injection import TINY_RATE, aimed
from tests.forgers.forge import Forgery, Workshop, with_rows


def forge(shop: Workshop, number: int, *, plain: bool) -> Forgery:
    """Visit the stolen weights in the state with this number."""
    stops = shop.stops()
    states, losses = shop.train(stops[-1])
    after = weights_of(states[number + 1])
    states[number] = with_rows(states[number], shop.stolen_model())
    if not plain:
        for at, target in ((number - 1, shop.target()), (number, after)):
            states[at] = aimed(shop, states[at], target, stops[at], stops[at + 1] - stops[at], rate=TINY_RATE)
    return Forgery(shop, states, losses)
