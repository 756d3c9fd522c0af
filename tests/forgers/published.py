"""The published check, written from the paper (Jia et al. 2021, algorithm 2 and section V), for the forgers to beat.

Of each epoch the Q largest updates are trained again; each must come within delta of the claimed weights. What the
training starts from is believed: weights, optimizer state *and* learning rate are those of the checkpoint. Only
parameters are compared. `exact_parameters` is the same with delta = 0 and every segment: stricter than anything that
was published, and still only parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from polchain.core.manifest import Snapshot
from tests.forgers.forge import settings_of, tensors_of
from tests.scripts import digits

Batches = Sequence[Sequence[int]]


@dataclass
class PublishedVerifier:
    """Somebody who checks a run of `digits.py` as the paper says.

    Attributes:
        optimizer: which one the recipe has: sgd or adam.
        samples: the dataset.
    """

    optimizer: str
    samples: Sequence[tuple[torch.Tensor, int]]

    def train(self, opening: Snapshot, batches: Batches) -> dict[str, torch.Tensor]:
        """The parameters after these batches, with everything else as the checkpoint says."""
        model = digits.network()
        weights = tensors_of(opening)
        model.load_state_dict({name.removeprefix("model/"): tensor for name, tensor in weights.items()})
        optimizer = digits.optimizer_of(self.optimizer, model)
        optimizer.param_groups[0].update(_as_lists(settings_of(opening)))
        for name, tensor in tensors_of(opening, "optimizer").items():
            parameter, _, part = name.removeprefix("optimizer/").rpartition("/")
            optimizer.state[model.get_parameter(parameter)][part] = tensor
        for batch in batches:
            images = torch.stack([self.samples[i][0] for i in batch])
            labels = torch.tensor([self.samples[i][1] for i in batch])
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        return {f"model/{name}": value.detach().clone() for name, value in model.named_parameters()}

    def errors(self, states: Sequence[Snapshot], batches: Sequence[Batches], picked: Sequence[int]) -> list[float]:
        """l2 distance between trained and claimed parameters, for each picked segment."""
        return [gap(self.train(states[i], batches[i]), tensors_of(states[i + 1])) for i in picked]

    def accepts(self, states: Sequence[Snapshot], batches: Sequence[Batches], *, delta: float, top: int = 2) -> bool:
        """The published verdict."""
        per_epoch = max(1, len(self.samples) // (digits.BATCH * len(batches[0])))
        picked: list[int] = []
        for first in range(0, len(batches), per_epoch):
            epoch = range(first, min(first + per_epoch, len(batches)))
            sizes = {i: gap(tensors_of(states[i]), tensors_of(states[i + 1])) for i in epoch}
            picked += sorted(epoch, key=lambda i: -sizes[i])[:top]
        return all(error <= delta for error in self.errors(states, batches, picked))

    def exact_parameters(self, states: Sequence[Snapshot], batches: Sequence[Batches]) -> bool:
        """Whether every segment gives the claimed parameters, bit for bit."""
        return all(error == 0.0 for error in self.errors(states, batches, range(len(batches))))


def gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """l2 distance over all parameters."""
    return float(torch.sqrt(sum(((a[name].double() - b[name].double()) ** 2).sum() for name in b)))


def _as_lists(settings: dict[str, object]) -> dict[str, object]:
    """Rows `betas/0`, `betas/1` back to a tuple."""
    plain = {name: value for name, value in settings.items() if "/" not in name}
    for name in sorted({name.partition("/")[0] for name in settings if "/" in name}):
        parts = sorted((key, value) for key, value in settings.items() if key.startswith(f"{name}/"))
        plain[name] = tuple(value for _, value in parts)
    return plain
