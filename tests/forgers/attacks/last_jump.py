"""The last jump: an honest run whose last checkpoint holds the stolen weights."""

from __future__ import annotations

from collections.abc import Sequence

from polchain.core.manifest import Snapshot
from tests.forgers.forge import Forgery, Workshop, with_rows


def forge(shop: Workshop) -> Forgery:
    """Train honestly, and put the stolen weights at the end."""
    return at_the_end_of(shop, *shop.train(shop.stops()[-1]))


def at_the_end_of(shop: Workshop, states: Sequence[Snapshot], losses: Sequence[float | None]) -> Forgery:
    """The stolen weights at the end of a run that was trained honestly."""
    return Forgery(shop, [*states[:-1], with_rows(states[-1], shop.stolen_model())], losses)
