"""Relayed momentum: one forged step, and honest training carries the weights to the stolen ones.

The forger trains honestly up to a joint. There he plants a momentum buffer and nothing else: the weights stay those of
the honest training, so the update of the forged segment is as small as any. The segments after it are trained
honestly, under the recipe's own learning rate, from the planted state; the momentum alone carries them away. Their
updates are the largest of the run, and each of them replays exactly. Whoever ranks updates of weights alone never looks
at the forged one.

What the momentum lacks for the gradients on its way is found by trying: run to the end, add what was missed, again.
"""

from __future__ import annotations

from benchmarks.published_check import gap, weights_of
from polchain.core.manifest import Snapshot
from tests.forgers.attacks.state_injection import aimed
from tests.forgers.forge import Forgery, Workshop

ROUNDS = 6


def forge(shop: Workshop, joint: int) -> Forgery:
    """Plant the momentum in the state that closes segment `joint` - 1 (it is the state with the number `joint`)."""
    target, stops = shop.target(), shop.stops()
    with shop.worker() as worker:
        first, _ = worker.initial(shop.seed)
        head, losses = shop.go_on(worker, first, 0, stops[joint])
        states = [first, *head]
        honest = states[joint]
        aim, steps = dict(target), stops[-1] - stops[joint]
        best: tuple[float, Snapshot, list[Snapshot], list[float | None]] | None = None
        for _ in range(ROUNDS):
            opening = aimed(shop, honest, aim, stops[joint], steps)
            tail, said = shop.go_on(worker, opening, stops[joint], stops[-1])
            end = weights_of(tail[-1])
            missed = gap(end, target)
            if best is None or missed < best[0]:
                best = missed, opening, tail, said
            aim = {name: value + 0.5 * (target[name] - end[name]) for name, value in aim.items()}
    assert best is not None
    _, opening, tail, said = best
    return Forgery(shop, [*states[:joint], opening, *tail], [None, *losses, *said])
