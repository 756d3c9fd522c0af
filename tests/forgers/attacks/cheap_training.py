"""Cheap training: real training, but not the one that the recipe asks for.

    lazy          every second batch, with twice the learning rate; the checkpoints in between are interpolated
    imprecise     in bfloat16, where the recipe says fp32

He signs the honest recipe. Whoever allows for rounding with an absolute delta allows for this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.published_check import weights_of
from polchain.core.manifest import Snapshot
from polchain.training.fingerprint import setting_of
from polchain.training.program import Program
from tests.claims import DATA
from tests.forgers import warm
from tests.forgers.forge import Forgery, Workshop, with_rows

FASTER = {"lr=0.05": "lr=0.1"}
ASKED = "loss = F.cross_entropy(model(images), labels)"


@dataclass(frozen=True)
class _Run:
    states: list[Snapshot]
    losses: list[float | None]


def lazy(shop: Workshop, faster: Mapping[str, str] = FASTER) -> Forgery:
    """Half of the steps; `faster` is what he changes in the recipe's text."""
    stops = shop.stops()
    k, half = stops[1], stops[-1] // 2
    run = _train(shop, faster, list(shop.order.batches(0, stops[-1]))[::2][:half], half // k)
    states, losses = [run.states[0]], [run.losses[0]]
    for before, after, loss in zip(run.states, run.states[1:], run.losses[1:], strict=False):
        there = weights_of(after)
        middle = {name: value.lerp(there[name], 0.5) for name, value in weights_of(before).items()}
        states += [with_rows(after, middle), after]
        losses += [loss, loss]
    states = [shop.scheduled(state, stop, shop.peak) for state, stop in zip(states, stops, strict=True)]
    return Forgery(shop, states, losses)


def imprecise(shop: Workshop, asked: str = ASKED) -> Forgery:
    """All steps, in half the bits."""
    stops = shop.stops()
    cheap = f"with __import__('torch').autocast('cpu', dtype=__import__('torch').bfloat16):\n                {asked}"
    run = _train(shop, {asked: cheap}, list(shop.order.batches(0, stops[-1])), len(stops) - 1)
    return Forgery(shop, run.states, run.losses)


def _train(shop: Workshop, changes: Mapping[str, str], batches: list[list[int]], stops: int) -> _Run:
    """Train with the recipe's text changed."""
    assert shop.files is not None
    assert shop.genesis.recipe is not None
    files = dict(shop.files)
    for old, new in changes.items():
        files = {name: text.replace(old.encode(), new.encode()) for name, text in files.items()}
    assert files != shop.files
    with warm.KeptWorker(Program(shop.genesis.recipe, files), setting_of(shop.start.fingerprint), DATA) as worker:
        first, _ = worker.initial(shop.seed)
        found = worker.replay(shop.seed, 0, len(batches), batches, first, stops=stops)
    return _Run([first, *(c.snapshot for c in found.closings)], [None, *(c.loss for c in found.closings)])
