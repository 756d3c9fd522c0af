"""State injection: planted optimizer state carries honest initial weights to the stolen ones.

    SGD     learning rate 1e-9, momentum buffer -d / (lr * sum mu^j): the gradients no longer matter
    Adam    v = 1e24, step = 1e6, m = -d / sum(lr * b1^j / sqrt(v * b2^j)): true gradients fall below float rounding

d is the way from here to the stolen weights, divided by the segments that are left.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmarks.published_check import PublishedCheck, settings_of, weights_of
from polchain.core.manifest import Snapshot
from tests.forgers.forge import Forgery, Workshop, with_rows

TINY_RATE = 1e-9


class Injector:
    """A forger who leads weights to the stolen ones by planted optimizer state alone."""

    def __init__(self, shop: Workshop, check: PublishedCheck) -> None:
        self.check = check
        self.shop = shop
        self.template = shop.last()
        self.target = weights_of(self.template)
        self.batches = shop.batches()
        self.stops = shop.stops()

    def lead(self, states: list[Snapshot], rate: float | None = None) -> list[Snapshot]:
        """Go on from the last of these states, in the segments that are left, to the stolen weights.

        Every segment is truly run from its planted opening state, so that whoever runs it again gets the same weights.
        """
        segments = len(self.batches)
        states = [*states[:-1], self.plant(states[-1], rate, len(states) - 1, segments - len(states) + 1)]
        for segment in range(len(states) - 1, segments):
            weights = self.check.train(states[-1], self.batches[segment])
            left = max(1, segments - segment - 1)
            states.append(self.plant(with_rows(self.template, weights), rate, segment + 1, left))
        return states

    def plant(self, state: Snapshot, rate: float | None, number: int, segments: int) -> Snapshot:
        """The optimizer state that moves these weights by 1/segments of what is left in the segment with this number.

        Where no segment is left, that of the last one stays.
        """
        from_here = min(number, len(self.batches) - 1)
        steps = self.stops[from_here + 1] - self.stops[from_here]
        planted = aimed(self.shop, state, self.target, self.stops[from_here], steps, 1 / segments, rate=rate)
        return self.shop.scheduled(planted, self.stops[number], rate)


def aimed(
    shop: Workshop,
    state: Snapshot,
    target: Mapping[str, torch.Tensor],
    step: int,
    steps: int,
    share: float = 1.0,
    *,
    rate: float | None = None,
) -> Snapshot:
    """A state of this step whose optimizer moves its weights by this share of the way to the target, in so many steps.

    `rate` is the learning rate that he plants (the peak of a schedule), None for the recipe's own.
    """
    planted: dict[str, torch.Tensor] = {}
    settings = settings_of(state)
    rates = shop.rates(step, steps, rate)
    for name, value in weights_of(state).items():
        d = (target[name].double() - value.double()) * share
        row = shop.slot(name)
        if "momentum" in settings:
            mu = float(settings["momentum"])  # type: ignore[arg-type]
            ahead = 2 if settings.get("nesterov") else 1
            reach = sum(each * mu**j for j, each in enumerate(rates, start=ahead))
            planted[f"{row}/momentum_buffer"] = (-d / reach).float()
        else:
            b1, b2, v = float(settings["betas/0"]), float(settings["betas/1"]), 1e24  # type: ignore[arg-type]
            reach = sum(each * b1**j / (v * b2**j) ** 0.5 for j, each in enumerate(rates, start=1))
            planted[f"{row}/exp_avg"] = (-d / reach).float()
            planted[f"{row}/exp_avg_sq"] = torch.full_like(value, v)
            planted[f"{row}/step"] = torch.tensor(1e6)
    return shop.scheduled(with_rows(state, planted), step, rate)


def forge_sgd(shop: Workshop, check: PublishedCheck) -> Forgery:
    """From honest initial weights, with a planted momentum buffer and learning rate."""
    return Forgery(shop, Injector(shop, check).lead([shop.initial()], TINY_RATE))


def forge_adam(shop: Workshop, check: PublishedCheck) -> Forgery:
    """From honest initial weights, with planted moments under honest settings."""
    return Forgery(shop, Injector(shop, check).lead([shop.initial()]))
