"""The published check (see `published_check`) of a recipe that has more than a network and an optimizer.

A schedule, norms with running figures, tied weights, clipped gradients; dropout and augmentation, whose random bits are
seeded for each step. What the paper leaves open is answered in the forger's favour: the schedule goes on from the
numbers that the checkpoint says, and the seed of each segment's randomness is the prover's word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import default_collate

from benchmarks.published_check import (
    INIT_P,
    Batches,
    PublishedCheck,
    gap,
    one_thread,
    same_distribution,
    settings_of,
    tensors_of,
    weights_of,
)
from polchain.core.manifest import Snapshot
from polchain.core.rows import ScalarRow
from polchain.training.batches import Augment
from polchain.training.randomness import derive_key, generator, seed_everything

__all__ = ["Learner", "SeededCheck"]


@dataclass(frozen=True)
class SeededCheck(PublishedCheck):
    """The same check of such a recipe.

    Attributes:
        scheduler: builds the schedule for the optimizer.
        loss: of the model on a batch.
        augment: what happens to a sample.
        clip: the largest norm of a step's gradients.
        seeds: of the randomness of each segment.
    """

    scheduler: Callable[[torch.optim.Optimizer], LambdaLR]
    loss: Callable[[nn.Module, Any], Tensor]
    augment: Augment | None
    clip: float | None
    seeds: Sequence[bytes] = ()

    def train(self, opening: Snapshot, batches: Batches, seed: bytes | None = None) -> dict[str, Tensor]:
        """The parameters after these batches, with everything else as the checkpoint says."""
        learner = Learner(self, opening, self.seeds[0] if seed is None else seed)
        with one_thread():
            for indices in batches:
                learner.learn(learner.batch(indices))
        return {name: value.detach().clone() for name, value in learner.parameters.items()}

    def errors(self, states: Sequence[Snapshot], batches: Sequence[Batches], picked: Sequence[int]) -> list[float]:
        """l2 distance between trained and claimed parameters, for each picked segment."""
        return [gap(self.train(states[i], batches[i], self.seeds[i]), weights_of(states[i + 1])) for i in picked]

    def starts_well(self, initial: Snapshot) -> bool:
        """The test of the initial weights, its level shared among the tensors: a deep network has many."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            fresh = parameters_of(self.network())
        found = weights_of(initial)
        return all(same_distribution(found[name], fresh[name].detach(), INIT_P / len(fresh)) for name in fresh)


class Learner:
    """A model that is trained from what a checkpoint says: weights, moments, settings, schedule."""

    def __init__(self, check: SeededCheck, opening: Snapshot, seed: bytes) -> None:
        self.check, self.seed = check, seed
        self.model = check.network()
        held = {name.removeprefix("model/"): tensor for name, tensor in tensors_of(opening).items()}
        self.model.load_state_dict(held, strict=False)  # of tied weights it has one
        self.parameters = parameters_of(self.model)
        self.optimizer = check.optimizer(self.model)
        self.schedule = check.scheduler(self.optimizer)
        for number, group in enumerate(self.optimizer.param_groups):
            said = settings_of(opening, number)
            group.update({name: said[name] for name in ("lr", "initial_lr", "weight_decay") if name in said})
        for name, tensor in tensors_of(opening, "optimizer").items():
            parameter, _, part = name.removeprefix("optimizer/").rpartition("/")
            self.optimizer.state[self.model.get_parameter(parameter)][part] = tensor
        rows = {row.name: row.value for row in opening.manifest.group("schedule") if isinstance(row, ScalarRow)}
        self.schedule.last_epoch = self.step = int(rows["schedule/scheduler/last_epoch"])  # type: ignore[arg-type]
        count = len(self.optimizer.param_groups)
        self.schedule.base_lrs = [rows[f"schedule/scheduler/base_lrs/{i}"] for i in range(count)]  # type: ignore[misc]
        self.optimizer._opt_called = True  # type: ignore[attr-defined]

    def batch(self, indices: Sequence[int]) -> Any:
        """The batch of the next step."""
        return default_collate([self.seen(self.check.samples[i], place) for place, i in enumerate(indices)])

    def seen(self, sample: Any, place: int) -> Any:
        """A sample as the model sees it at this place of the next step."""
        if self.check.augment is None:
            return sample
        return self.check.augment(sample, generator(derive_key(self.seed, "augment", self.step, place)))

    def loss(self, batch: Any) -> Tensor:
        """The loss of the next step, with its dropout."""
        seed_everything(derive_key(self.seed, "step", self.step))
        return self.check.loss(self.model, batch)

    def learn(self, batch: Any) -> None:
        """Take the next step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(batch).backward()
        if self.check.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.check.clip)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1

    def toward(self, target: dict[str, Tensor], gradients: Sequence[Tensor]) -> Tensor:
        """How well a step against these gradients leads to the target: the cosine, 1 at best."""
        ways = [p.detach() - target[name] for name, p in self.parameters.items()]
        along = sum((g * w).sum() for g, w in zip(gradients, ways, strict=True))
        length = math.sqrt(sum(float(w.square().sum()) for w in ways))
        return along / (length * torch.stack([g.square().sum() for g in gradients]).sum().sqrt() + 1e-12)


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters by the names of their rows: of tied ones the first in the alphabet."""
    found: dict[str, Tensor] = {}
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False)):
        if not any(parameter is other for other in found.values()):
            found[f"model/{name}"] = parameter
    return found
