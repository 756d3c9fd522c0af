"""Withheld state: the jump lies across a checkpoint that is committed to and not shown.

A claim need not disclose every state. The size of an update is recomputed where both of its states are there; beside a
hidden one the entry's own word is all there is. So the forger trains honestly up to a checkpoint, hides it, goes on
from the stolen weights after the next one, and says that both updates were tiny. Nobody can replay the segment between;
whoever does not draw it, and believes the sizes that are stated, has nothing to hold against him.
"""

from __future__ import annotations

from dataclasses import replace

from polchain.core.entries import CheckpointEntry, Entry, Update
from tests.forgers.forge import Forgery, Workshop, with_rows

SAID = Update(1e-3, 1e-4)


def forge(shop: Workshop, hidden: int) -> Forgery:
    """Hide the state with this number; from the next one on the weights are the stolen ones, trained on honestly."""
    stops = shop.stops()
    states, losses = shop.train(stops[hidden])
    resumed = shop.scheduled(with_rows(states[-1], shop.stolen_model()), stops[hidden + 1])
    with shop.worker() as worker:
        tail, said = shop.go_on(worker, resumed, stops[hidden + 1], stops[-1])

    def small(entry: Entry) -> Entry:
        if isinstance(entry, CheckpointEntry) and entry.step in stops[hidden : hidden + 2]:
            return replace(entry, update=SAID)
        return entry

    return Forgery(
        shop, [*states, resumed, *tail], [*losses, losses[-1], *said], edit=small, withheld=frozenset({hidden})
    )
