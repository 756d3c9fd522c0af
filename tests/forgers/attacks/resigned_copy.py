"""The re-signed copy: the victim's whole run under another key, with the batches that the new seed gives."""

from __future__ import annotations

from itertools import pairwise

from polchain.core.entries import CheckpointEntry
from tests.claims import entries_of
from tests.forgers.forge import Forgery, Workshop


def forge(shop: Workshop) -> Forgery:
    """The victim's states and losses; to the published check, the victim's batches too."""
    assert shop.stolen.order is not None
    stops = shop.stops()
    losses = [entry.loss for entry in entries_of(shop.victim) if isinstance(entry, CheckpointEntry)]
    shown = [list(shop.stolen.order.batches(a, b)) for a, b in pairwise(stops)]
    return Forgery(shop, shop.states(), losses, shown, [shop.stolen.order.seed] * len(shown))
