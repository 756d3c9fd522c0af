"""rho by part of the state, as plain numbers; `parts` measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["PARTS", "Errors", "worst"]

PARTS = ("parameters", "tensors", "buffers", "optimizer", "extra")


@dataclass(frozen=True, slots=True)
class Errors:
    """rho of each part, dimensionless; 0 where it is equal or empty, infinite where it is not finite or nothing moved.

    Attributes:
        parameters: of the model's floating parameters, all together.
        tensors: of each of them alone, the worst.
        buffers, optimizer, extra: of the model's floating buffers, of moments, of what else crosses steps; the worst of
            all together and each alone.
        names: for each part the tensor with the largest, in the order of PARTS; not part of what is compared.
    """

    parameters: float = 0.0
    tensors: float = 0.0
    buffers: float = 0.0
    optimizer: float = 0.0
    extra: float = 0.0
    names: tuple[str, ...] = field(default=(), compare=False)

    def of(self, part: str) -> float:
        """rho of a part, by its name."""
        return {
            "parameters": self.parameters,
            "tensors": self.tensors,
            "buffers": self.buffers,
            "optimizer": self.optimizer,
            "extra": self.extra,
        }[part]

    @classmethod
    def by_part(cls, rho: Callable[[str], float], name: Callable[[str], str] = lambda part: "") -> Errors:
        """From the rho of each part."""
        parameters, tensors, buffers, optimizer, extra = (rho(part) for part in PARTS)
        return cls(parameters, tensors, buffers, optimizer, extra, tuple(name(part) for part in PARTS))

    def name(self, part: str) -> str:
        """The tensor of a part that differs most; empty where that is not known."""
        return self.names[PARTS.index(part)] if self.names else ""

    @property
    def largest(self) -> float:
        """The largest rho of all parts."""
        return max(self.of(part) for part in PARTS)


def worst(first: Errors, second: Errors) -> Errors:
    """The larger rho of each part."""

    def larger(part: str) -> Errors:
        return first if first.of(part) >= second.of(part) else second

    return Errors.by_part(lambda part: larger(part).of(part), lambda part: larger(part).name(part))
