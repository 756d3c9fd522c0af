"""The published check, written from the paper (Jia et al. 2021, algorithm 2 and section V), for forgers to beat.

    initial weights    a two-sample Kolmogorov-Smirnov test per tensor, against a fresh draw of the recipe's own
    training           of each epoch the Q largest updates are trained again; each must come within delta, an absolute
                       distance, of the claimed weights

What the training starts from is believed: weights, optimizer state *and* learning rate are those of the checkpoint; so
are the order of the batches and the samples. Only parameters are compared. `exact_parameters` is the same with
delta = 0 and every segment: stricter than anything that was published, and still only parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polchain.core.manifest import Snapshot
from polchain.core.rows import Scalar, ScalarRow, group_of
from polchain.training.tensors import tensor_from

__all__ = [
    "Batches",
    "PublishedCheck",
    "Sample",
    "gap",
    "one_thread",
    "same_distribution",
    "settings_of",
    "tensors_of",
    "weights_of",
]

Batches = Sequence[Sequence[int]]
Sample = tuple[Tensor, int]

TOP = 2
INIT_P = 0.01


@dataclass(frozen=True)
class PublishedCheck:
    """Somebody who checks a run of a classifier as the paper says.

    Attributes:
        network: builds the recipe's model.
        optimizer: builds the recipe's optimizer for it.
        samples: the dataset, as the prover shows it.
        batch_size: samples in a step.
    """

    network: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    samples: Sequence[Sample]
    batch_size: int

    def train(self, opening: Snapshot, batches: Batches) -> dict[str, Tensor]:
        """The parameters after these batches, with everything else as the checkpoint says."""
        model = self.network()
        weights = tensors_of(opening)
        model.load_state_dict({name.removeprefix("model/"): tensor for name, tensor in weights.items()})
        optimizer = self.optimizer(model)
        optimizer.param_groups[0].update(_as_lists(settings_of(opening)))
        for name, tensor in tensors_of(opening, "optimizer").items():
            parameter, _, part = name.removeprefix("optimizer/").rpartition("/")
            optimizer.state[model.get_parameter(parameter)][part] = tensor
        with one_thread():
            for batch in batches:
                images = torch.stack([self.samples[i][0] for i in batch])
                labels = torch.tensor([self.samples[i][1] for i in batch])
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
        return {f"model/{name}": value.detach().clone() for name, value in model.named_parameters()}

    def errors(self, states: Sequence[Snapshot], batches: Sequence[Batches], picked: Sequence[int]) -> list[float]:
        """l2 distance between trained and claimed parameters, for each picked segment."""
        return [gap(self.train(states[i], batches[i]), weights_of(states[i + 1])) for i in picked]

    def largest(self, states: Sequence[Snapshot], batches: Sequence[Batches], top: int = TOP) -> list[int]:
        """The segments that are checked: of each epoch those with the largest updates."""
        per_epoch = max(1, len(self.samples) // self.batch_size)
        epochs: dict[int, list[int]] = {}
        step = 0
        for index, segment in enumerate(batches):
            epochs.setdefault(step // per_epoch, []).append(index)
            step += len(segment)
        sizes = [gap(weights_of(a), weights_of(b)) for a, b in pairwise(states)]
        return [i for epoch in epochs.values() for i in sorted(epoch, key=lambda i: -sizes[i])[:top]]

    def starts_well(self, initial: Snapshot) -> bool:
        """Whether no tensor of the initial weights looks as if it were drawn from another distribution."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            fresh = {f"model/{name}": value.detach() for name, value in self.network().named_parameters()}
        return all(same_distribution(value, fresh[name]) for name, value in tensors_of(initial).items())

    def accepts(self, states: Sequence[Snapshot], batches: Sequence[Batches], *, delta: float, top: int = TOP) -> bool:
        """The published verdict on the training; that on the initial weights is `starts_well`."""
        return all(error <= delta for error in self.errors(states, batches, self.largest(states, batches, top)))

    def exact_parameters(self, states: Sequence[Snapshot], batches: Sequence[Batches]) -> bool:
        """Whether every segment gives the claimed parameters, bit for bit."""
        return all(error == 0.0 for error in self.errors(states, batches, range(len(batches))))


def tensors_of(state: Snapshot, group: str = "model") -> dict[str, Tensor]:
    """Copies of a state's tensors, by the names of their rows."""
    return {
        row.name: tensor_from(bytearray(state.buffers[row.name]), row.dtype, row.shape)
        for row in state.manifest.tensors()
        if group_of(row.name) == group
    }


def weights_of(state: Snapshot) -> dict[str, Tensor]:
    """Copies of a model's parameters, without the buffers, by the names of their rows."""
    kept = {row.name for row in state.manifest.tensors() if row.role == "parameter"}
    return {name: tensor for name, tensor in tensors_of(state).items() if name in kept}


def settings_of(state: Snapshot, group: int = 0) -> dict[str, Scalar]:
    """The settings of a state's parameter group (the first, where none is said), as the checkpoint has them."""
    prefix = f"schedule/settings/{group}/"
    return {
        row.name.removeprefix(prefix): row.value
        for row in state.manifest.group("schedule")
        if isinstance(row, ScalarRow) and row.name.startswith(prefix)
    }


def gap(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """l2 distance over all parameters."""
    return math.sqrt(sum(float(((a[name].double() - b[name].double()) ** 2).sum()) for name in b))


def same_distribution(a: Tensor, b: Tensor, p: float = INIT_P) -> bool:
    """Whether a two-sample Kolmogorov-Smirnov test does not reject at level p (asymptotic critical value)."""
    left, right = a.flatten().sort().values, b.flatten().sort().values
    both = torch.cat([left, right])
    steps = [torch.searchsorted(x, both, right=True).double() / len(x) for x in (left, right)]
    n, m = len(left), len(right)
    return float((steps[0] - steps[1]).abs().max()) <= math.sqrt(-math.log(p / 2) / 2 * (n + m) / (n * m))


@contextmanager
def one_thread() -> Iterator[None]:
    """The runs that are checked were recorded with one thread, and the setting decides the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_lists(settings: Mapping[str, Scalar]) -> dict[str, object]:
    """Rows `betas/0`, `betas/1` back to a tuple."""
    plain: dict[str, object] = {name: value for name, value in settings.items() if "/" not in name}
    for name in sorted({name.partition("/")[0] for name in settings if "/" in name}):
        parts = sorted((key, value) for key, value in settings.items() if key.startswith(f"{name}/"))
        plain[name] = tuple(value for _, value in parts)
    return plain
