"""rho by part of the state, as plain numbers; `parts` measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["PARTS", "Errors", "worst"]

PARTS = ("parameters", "buffers", "optimizer", "extra")


@dataclass(frozen=True, slots=True)
class Errors:
    """rho of each part, dimensionless; 0 where it is equal or empty, infinite where it is not finite or nothing moved.

    Attributes:
        parameters, buffers, optimizer, extra: rho.
        tensor: the tensor with the largest of them.
    """

    parameters: float = 0.0
    buffers: float = 0.0
    optimizer: float = 0.0
    extra: float = 0.0
    tensor: str = ""

    def of(self, part: str) -> float:
        """rho of a part, by its name."""
        return {
            "parameters": self.parameters,
            "buffers": self.buffers,
            "optimizer": self.optimizer,
            "extra": self.extra,
        }[part]

    @classmethod
    def by_part(cls, rho: Callable[[str], float], tensor: str = "") -> Errors:
        """From the rho of each part."""
        parameters, buffers, optimizer, extra = (rho(part) for part in PARTS)
        return cls(parameters, buffers, optimizer, extra, tensor)

    @property
    def largest(self) -> float:
        """The largest rho of all parts."""
        return max(self.of(part) for part in PARTS)


def worst(first: Errors, second: Errors) -> Errors:
    """The larger rho of each part."""
    named = first if first.largest >= second.largest else second
    return Errors.by_part(lambda part: max(first.of(part), second.of(part)), named.tensor)
