"""Rank-matched initial weights: drawn right, then permuted to lie near the stolen ones.

In each tensor the smallest drawn value goes where the stolen weights have their smallest, and so on. No test of a
distribution can tell: these are the very values that were drawn. What is left of the way is walked in a straight line,
in so few and short steps that nobody's delta is touched.
"""

from __future__ import annotations

import torch

from benchmarks.published_check import weights_of
from tests.forgers.attacks.interpolation import line
from tests.forgers.attacks.state_injection import TINY_RATE
from tests.forgers.forge import Forgery, Workshop, with_rows


def matched(drawn: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The drawn values, in the order of the target's."""
    found = torch.empty_like(drawn).flatten()
    found[target.flatten().argsort()] = drawn.flatten().sort().values
    return found.view_as(drawn)


def forge(shop: Workshop) -> Forgery:
    """Permute the initial weights of his own seed, and walk on from there."""
    drawn, target = shop.initial(), shop.target()
    start = with_rows(drawn, {name: matched(value, target[name]) for name, value in weights_of(drawn).items()})
    return Forgery(shop, line(shop, start, TINY_RATE))
