"""Blindfold: large honest steps for whoever looks at the largest, small forged ones for the rest.

forge           two honest steps an epoch, blown up by a planted momentum so that they are the largest; all other
                steps lie on the way to the stolen weights
forge_a_few     an honest run in which a few small steps were never computed
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from benchmarks.published_check import gap, tensors_of, weights_of
from polchain.core.manifest import Snapshot
from tests.forgers.attacks.state_injection import aimed
from tests.forgers.forge import Forgery, Workshop, with_rows

HONEST = 2
BLOWN_UP = 4.0


def forge(shop: Workshop) -> Forgery:
    """A run with a checkpoint each step that ends at the stolen weights; its first epoch is honest."""
    stops, target, template = shop.stops(), shop.target(), shop.last()
    epoch = shop.order.steps_per_epoch
    with shop.worker() as worker:
        states, losses = [worker.initial(shop.seed)[0]], [None]
        said: list[float | None] = list(losses)
        while len(states) < len(stops):
            done = len(states) - 1
            if done % epoch == 0:
                # At step 0 no momentum can be planted: the first epoch is honest.
                honest = epoch if done == 0 else HONEST
                if done:
                    left = len(stops) - 1 - done
                    # Their momentum alone moves the weights by a few times the steps that are to be forged.
                    states[-1] = aimed(shop, states[-1], target, done, 1, BLOWN_UP / left)
                found, more = shop.go_on(worker, states[-1], done, done + honest)
                states += found
                said += more
            else:
                left = len(stops) - 1 - done
                states.append(shop.scheduled(_toward(states[-1], target, 1 / left, template), done + 1))
                said.append(said[-1])
    states[-1] = with_rows(states[-1], shop.stolen_model())
    return Forgery(shop, states, said)


def forge_a_few(shop: Workshop, forged: Collection[int]) -> Forgery:
    """An honest run with a checkpoint each step, of which these steps were never computed: each is half as long as the
    honest one before it, and toward the stolen weights."""
    stops, target = shop.stops(), shop.target()
    cuts = [*sorted(forged), stops[-1]]
    with shop.worker() as worker:
        states: list[Snapshot] = [worker.initial(shop.seed)[0]]
        losses: list[float | None] = [None]
        for cut in cuts:
            found, said = shop.go_on(worker, states[-1], len(states) - 1, cut)
            states, losses = [*states, *found], [*losses, *said]
            if cut != stops[-1]:
                here = weights_of(states[-1])
                length = gap(here, weights_of(states[-2]))
                forged_one = _toward(states[-1], target, 0.5 * length / gap(here, target), states[-1])
                states.append(shop.scheduled(forged_one, len(states)))
                losses.append(losses[-1])
    return Forgery(shop, states, losses)


def _toward(state: Snapshot, target: dict[str, Tensor], share: float, template: Snapshot) -> Snapshot:
    """A state with its weights moved by this share of the way, and the optimizer rows of a trained one."""
    here = weights_of(state)
    kept = tensors_of(state if tensors_of(state, "optimizer") else template, "optimizer")
    return with_rows(state, {**{name: value.lerp(target[name], share) for name, value in here.items()}, **kept})
