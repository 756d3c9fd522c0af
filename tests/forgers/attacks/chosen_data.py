"""Chosen data: the training is real, what it was trained on was picked so that it leads to the stolen weights.

adversarial_batches    of many batches that could be next, the one whose step ends nearest to the target
data_forging           samples that are optimised until their gradient points at the target
data_subtraction       half of the samples is never used

`searched_batches` and `forged_pixels` are the first two for a recipe with more than a network and an optimizer, where
they aim by the direction of a step alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.published_check import PublishedCheck, Sample, one_thread, settings_of, tensors_of
from benchmarks.seeded_check import Learner, SeededCheck
from polchain.core.manifest import Snapshot
from tests.forgers.forge import Forgery, Workshop, with_rows

CANDIDATES = 16
ROUNDS = 40
FORGED_STEPS = 15


@one_thread()
def adversarial_batches(shop: Workshop, check: PublishedCheck) -> Forgery:
    """Search batches, and train on them."""
    dice = random.Random(shop.seed)
    learner = _Learner(check, shop)
    chosen: list[list[int]] = []
    for _ in range(shop.stops()[-1]):
        tries = [dice.sample(range(len(check.samples)), check.batch_size) for _ in range(CANDIDATES)]
        found = [learner.gradient(*learner.batch(check.samples, indices)) for indices in tries]
        best = min(range(CANDIDATES), key=lambda i: learner.missed(found[i]))
        learner.step(found[best])
        chosen.append(tries[best])
    return _trained_on(shop, chosen)


def data_subtraction(shop: Workshop) -> Forgery:
    """Train on the first half of the samples only."""
    dice = random.Random(shop.seed)
    half = shop.order.samples // 2
    return _trained_on(shop, [dice.sample(range(half), shop.order.batch_size) for _ in range(shop.stops()[-1])])


@one_thread()
def data_forging(shop: Workshop, check: PublishedCheck) -> Forgery:
    """Optimise the samples of each step; at most an epoch, for each sample has one place in it."""
    steps = shop.stops()[-1]
    assert steps <= shop.order.steps_per_epoch
    samples: list[Sample] = list(check.samples)
    learner = _Learner(check, shop)
    template = shop.last()
    states: list[Snapshot] = [learner.start]
    torch.manual_seed(int.from_bytes(shop.seed[:7], "little"))
    for step in range(steps):
        indices = shop.order.indices(step)
        wanted = learner.wanted(1 / (steps - step))
        images, labels = learner.batch(samples, indices)
        images = torch.rand_like(images).requires_grad_()
        tuner = torch.optim.Adam([images], lr=0.1)
        for _ in range(ROUNDS):
            tuner.zero_grad()
            gradient = learner.gradient(images, labels, graph=True)
            sum(((gradient[name] - wanted[name]) ** 2).sum() for name in wanted).backward()  # type: ignore[union-attr]
            tuner.step()
        images = images.detach()
        for place, index in enumerate(indices):
            samples[index] = (images[place].clone(), samples[index][1])
        learner.step(learner.gradient(images, labels))
        if step + 1 in shop.stops():
            states.append(with_rows(template, learner.rows()))
    return Forgery(shop, states, samples=samples)


@one_thread()
def searched_batches(shop: Workshop, check: SeededCheck, candidates: int = 3) -> Forgery:
    """Search batches, and train on them."""
    dice, target = random.Random(shop.seed), shop.target()
    learner = Learner(check, shop.initial(), shop.seed)
    chosen: list[list[int]] = []
    for _ in range(shop.stops()[-1]):
        tries = [dice.sample(range(len(check.samples)), check.batch_size) for _ in range(candidates)]
        scores = []
        for indices in tries:
            gradients = torch.autograd.grad(learner.loss(learner.batch(indices)), list(learner.parameters.values()))
            scores.append(float(learner.toward(target, gradients)))
        chosen.append(tries[max(range(candidates), key=scores.__getitem__)])
        learner.learn(learner.batch(chosen[-1]))
    return _trained_on(shop, chosen)


@one_thread()
def forged_pixels(shop: Workshop, check: SeededCheck, rounds: int = 6) -> Forgery:
    """Optimise the images of each step; at most an epoch."""
    stops, target, template = shop.stops(), shop.target(), shop.last()
    assert stops[-1] <= shop.order.steps_per_epoch
    samples: list[Sample] = list(check.samples)
    check = replace(check, samples=samples)
    states: list[Snapshot] = [shop.initial()]
    for first, last in pairwise(stops):
        learner = Learner(check, states[-1], shop.seed)
        for step in range(first, last):
            indices = shop.order.indices(step)
            labels = torch.tensor([samples[i][1] for i in indices])
            images = torch.stack([samples[i][0] for i in indices]).requires_grad_()
            tuner = torch.optim.Adam([images], lr=0.1)
            for _ in range(rounds):
                tuner.zero_grad()
                seen = torch.stack([learner.seen((image, 0), place)[0] for place, image in enumerate(images)])
                loss = learner.loss([seen, labels])
                gradients = torch.autograd.grad(loss, list(learner.parameters.values()), create_graph=True)
                (-learner.toward(target, gradients)).backward()
                tuner.step()
            for place, index in enumerate(indices):
                samples[index] = (images[place].detach().clone(), samples[index][1])
            learner.learn(learner.batch(indices))
        rows = {name: p.detach().clone() for name, p in learner.parameters.items()}
        for name, p in learner.parameters.items():
            rows[f"{shop.slot(name)}/momentum_buffer"] = learner.optimizer.state[p]["momentum_buffer"].clone()
        states.append(shop.scheduled(with_rows(template, rows), last))
    return Forgery(shop, states, samples=samples)


def short(shop: Workshop) -> Workshop:
    """The same forger with a run of less than an epoch."""
    assert shop.genesis.recipe is not None
    assert shop.configuration is not None
    return replace(
        shop,
        ref=replace(shop.genesis.recipe, arguments=("--steps", str(FORGED_STEPS))),
        configuration=replace(shop.configuration, steps=FORGED_STEPS),
    )


def write_samples(samples: Sequence[Sample], folder: Path) -> None:
    """Samples as the file that the recipe reads; whoever reads it gets the same bits."""
    table = np.array([[*(image.flatten() * 16).tolist(), label] for image, label in samples], dtype=np.float32)
    np.savetxt(folder / "digits.csv.gz", table, delimiter=",", fmt="%.9g")


def _trained_on(shop: Workshop, chosen: list[list[int]]) -> Forgery:
    stops = shop.stops()
    with shop.worker() as worker:
        first, _ = worker.initial(shop.seed)
        found = worker.replay(shop.seed, 0, stops[-1], chosen, first, stops=len(stops) - 1)
    shown = [chosen[a:b] for a, b in pairwise(stops)]
    return Forgery(
        shop, [first, *(c.snapshot for c in found.closings)], [None, *(c.loss for c in found.closings)], shown
    )


class _Learner:
    """SGD with momentum by hand, on the recipe's network, with the target in sight."""

    def __init__(self, check: PublishedCheck, shop: Workshop) -> None:
        self.start = shop.initial()
        self.target = shop.target()
        settings = settings_of(self.start)
        self.rate, self.mu = float(settings["lr"]), float(settings["momentum"])  # type: ignore[arg-type]
        self.model = check.network()
        self.model.load_state_dict({n.removeprefix("model/"): t for n, t in tensors_of(self.start).items()})
        self.parameters = {f"model/{name}": p for name, p in self.model.named_parameters()}
        self.velocity = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def batch(self, samples: Sequence[Sample], indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return torch.stack([samples[i][0] for i in indices]), torch.tensor([samples[i][1] for i in indices])

    def gradient(self, images: Tensor, labels: Tensor, *, graph: bool = False) -> dict[str, Tensor]:
        loss = F.cross_entropy(self.model(images), labels)
        found = torch.autograd.grad(loss, list(self.parameters.values()), create_graph=graph)
        return dict(zip(self.parameters, found, strict=True))

    def missed(self, gradient: dict[str, Tensor]) -> float:
        """How far the target would be after this step."""
        return sum(
            float((p.detach() - self.rate * (self.mu * self.velocity[n] + gradient[n]) - self.target[n]).square().sum())
            for n, p in self.parameters.items()
        )

    def wanted(self, share: float) -> dict[str, Tensor]:
        """The gradient that would take the weights this share of the way."""
        return {
            n: ((p - self.target[n]) * share / self.rate - self.mu * self.velocity[n]).detach()
            for n, p in self.parameters.items()
        }

    def step(self, gradient: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.velocity[name].mul_(self.mu).add_(gradient[name])
                p.sub_(self.velocity[name], alpha=self.rate)

    def rows(self) -> dict[str, Tensor]:
        weights = {name: p.detach().clone() for name, p in self.parameters.items()}
        moments = {f"{n.replace('model/', 'optimizer/')}/momentum_buffer": v.clone() for n, v in self.velocity.items()}
        return {**weights, **moments}
