"""The Recipe: a training program without its loop.

    class Digits(polchain.Recipe):
        batch_size, steps, every = 64, 400, 10
        def dataset(self): ...
        def model(self): ...
        def optimizer(self, model): ...
        def loss(self, model, batch): ...

    if __name__ == "__main__":
        polchain.train(Digits, "runs/digits")

It is recorded through the same `polchain.record` as a script: `loop.run` is the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from polchain.errors import UsageError
from polchain.training.dataset import MapDataset

__all__ = ["Recipe"]


class Recipe:
    """What a user writes instead of a script. Keyword arguments replace the attributes of the same name.

    Attributes:
        batch_size, steps, every: samples in a step, steps in the run, checkpointing interval k.
        accumulation: pieces that a batch is cut into; gradients add up over them.
        clip: the largest gradient norm, or None.
        precision: fp32, tf32, bf16 (autocast) or fp64.
        schedule_per: whether the scheduler is stepped once per "step" or once per "epoch".
        workers: loader processes.
        device: where the model is put; empty for CUDA where there is one, else the CPU.
    """

    batch_size: int = 64
    steps: int = 1000
    every: int | Sequence[tuple[int, int]] = 50
    accumulation: int = 1
    clip: float | None = None
    precision: str = "fp32"
    schedule_per: str = "step"
    workers: int = 0
    device: str = ""
    settable: ClassVar[frozenset[str]] = frozenset(
        {"batch_size", "steps", "every", "accumulation", "clip", "precision", "schedule_per", "workers", "device"}
    )

    def __init__(self, **changes: Any) -> None:
        for name, value in changes.items():
            if name not in self.settable and not hasattr(type(self), name):
                raise UsageError(f"{type(self).__name__} has no {name}")
            setattr(self, name, value)

    def dataset(self) -> MapDataset:
        """The map-style dataset, read only under `polchain.data_dir()`."""
        raise NotImplementedError(f"{type(self).__name__}.dataset")

    def model(self) -> nn.Module:
        """A new model; its initial weights come from the run's seed."""
        raise NotImplementedError(f"{type(self).__name__}.model")

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """A new optimizer over the model's parameters."""
        raise NotImplementedError(f"{type(self).__name__}.optimizer")

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The scalar loss of a batch."""
        raise NotImplementedError(f"{type(self).__name__}.loss")

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """A scheduler of the step (or epoch) alone, or None."""
        return None

    def augment(self, sample: Any, generator: torch.Generator) -> Any:
        """One sample, changed at random by this generator."""
        return sample

    def collate(self, samples: list[Any]) -> Any:
        """A batch from samples."""
        return torch.utils.data.default_collate(samples)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures of the trained model, by name; empty for none."""
        return {}
