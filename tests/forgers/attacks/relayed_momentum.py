"""Relayed momentum: one forged step, and honest training carries the weights to the stolen ones.

The forger trains honestly up to a joint. There he plants a momentum buffer and nothing else: the weights stay those of
the honest training, so the update of the forged segment is as small as any. The segments after it are trained
honestly, under the recipe's own learning rate, from the planted state; the momentum alone carries them away. Their
updates are the largest of the run, and each of them replays exactly. Whoever ranks updates of weights alone never looks
at the forged one.

What the momentum lacks for the gradients on its way is found by trying: run to the end, add what was missed, again.
"""

from __future__ import annotations

from benchmarks.published_check import gap, settings_of, tensors_of
from polchain.core.manifest import Snapshot
from tests.forgers.forge import Forgery, Workshop, with_rows

ROUNDS = 6


def forge(shop: Workshop, joint: int) -> Forgery:
    """Plant the momentum in the state that closes segment `joint` - 1 (it is the state with the number `joint`)."""
    target, stops = shop.target(), shop.stops()
    with shop.worker() as worker:
        first, _ = worker.initial(shop.seed)
        head, losses = shop.go_on(worker, first, 0, stops[joint])
        states = [first, *head]
        honest = states[joint]
        settings = settings_of(honest)
        rate, mu = float(settings["lr"]), float(settings["momentum"])  # type: ignore[arg-type]
        reach = rate * sum(mu**j for j in range(1, stops[-1] - stops[joint] + 1))
        planted = {
            f"optimizer/{name.removeprefix('model/')}/momentum_buffer": -(target[name] - value) / reach
            for name, value in tensors_of(honest).items()
        }
        best: tuple[float, Snapshot, list[Snapshot], list[float | None]] | None = None
        for _ in range(ROUNDS):
            opening = with_rows(honest, planted)
            tail, said = shop.go_on(worker, opening, stops[joint], stops[-1])
            end = tensors_of(tail[-1])
            missed = gap(end, target)
            if best is None or missed < best[0]:
                best = missed, opening, tail, said
            for name in end:
                row = f"optimizer/{name.removeprefix('model/')}/momentum_buffer"
                planted[row] = planted[row] - 0.5 * (target[name] - end[name]) / reach
    assert best is not None
    _, opening, tail, said = best
    return Forgery(shop, [*states[:joint], opening, *tail], [None, *losses, *said])
