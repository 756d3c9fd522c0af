"""State injection: planted optimizer state carries honest initial weights to the stolen ones.

    SGD     learning rate 1e-9, momentum buffer -d / (lr * sum mu^j): the gradients no longer matter
    Adam    v = 1e24, step = 1e6, m = -d / sum(lr * b1^j / sqrt(v * b2^j)): true gradients fall below float rounding

d is the way from here to the stolen weights, divided by the segments that are left.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmarks.published_check import PublishedCheck, settings_of, tensors_of
from polchain.core.manifest import Scalar, Snapshot
from tests.forgers.forge import Forgery, Workshop, with_rows

TINY_RATE = 1e-9


class Injector:
    """A forger who leads weights to the stolen ones by planted optimizer state alone."""

    def __init__(self, shop: Workshop, optimizer: str, check: PublishedCheck) -> None:
        self.optimizer = optimizer
        self.check = check
        self.shop = shop
        self.template = shop.last()
        self.target = tensors_of(self.template)
        self.batches = shop.batches()

    def lead(self, states: list[Snapshot], settings: Mapping[str, Scalar]) -> list[Snapshot]:
        """Go on from the last of these states, in the segments that are left, to the stolen weights.

        Every segment is truly run from its planted opening state, so that whoever runs it again gets the same weights.
        """
        segments = len(self.batches)
        states = [*states[:-1], self.plant(states[-1], settings, len(states) - 1, segments - len(states) + 1)]
        for segment in range(len(states) - 1, segments):
            weights = self.check.train(states[-1], self.batches[segment])
            left = max(1, segments - segment - 1)
            states.append(self.plant(with_rows(self.template, weights), settings, segment + 1, left))
        return states

    def plant(self, state: Snapshot, settings: Mapping[str, Scalar], number: int, segments: int) -> Snapshot:
        """The optimizer state that moves these weights by 1/segments of what is left in the segment with this number.

        Where no segment is left, that of the last one stays.
        """
        steps = len(self.batches[min(number, len(self.batches) - 1)])
        return aimed(state, self.target, self.template, self.optimizer, settings, steps, 1 / segments)


def aimed(
    state: Snapshot,
    target: Mapping[str, torch.Tensor],
    template: Snapshot,
    optimizer: str,
    settings: Mapping[str, Scalar],
    steps: int,
    share: float = 1.0,
) -> Snapshot:
    """A state whose optimizer moves its weights by this share of the way to the target, in so many steps.

    What `settings` does not say is as it is in `template`.
    """
    planted: dict[str, torch.Tensor] = {}
    honest = settings_of(template)
    rate = float(settings.get("lr", honest["lr"]))  # type: ignore[arg-type]
    for name, value in tensors_of(state).items():
        d = (target[name].double() - value.double()) * share
        row = name.replace("model/", "optimizer/")
        if optimizer == "sgd":
            mu = float(honest["momentum"])  # type: ignore[arg-type]
            planted[f"{row}/momentum_buffer"] = (-d / (rate * sum(mu**j for j in range(1, steps + 1)))).float()
        else:
            b1, b2, v = 0.9, 0.999, 1e24
            reach = sum(rate * b1**j / (v * b2**j) ** 0.5 for j in range(1, steps + 1))
            planted[f"{row}/exp_avg"] = (-d / reach).float()
            planted[f"{row}/exp_avg_sq"] = torch.full_like(value, v)
            planted[f"{row}/step"] = torch.tensor(1e6)
    return with_rows(state, planted, {f"schedule/settings/0/{key}": value for key, value in settings.items()})


def forge_sgd(shop: Workshop, check: PublishedCheck) -> Forgery:
    """From honest initial weights, with a planted momentum buffer and learning rate."""
    return Forgery(shop, Injector(shop, "sgd", check).lead([shop.initial()], {"lr": TINY_RATE}))


def forge_adam(shop: Workshop, check: PublishedCheck) -> Forgery:
    """From honest initial weights, with planted moments under honest settings."""
    return Forgery(shop, Injector(shop, "adam", check).lead([shop.initial()], {}))
