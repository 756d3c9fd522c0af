"""What a policy says of disputes, as its table `[dispute]`:

distance = 0.001                  the most that a tensor may differ, relative, to count as the same model
bases = ["base.safetensors"]      weight files of public models, from the policy's folder: nobody's work
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from polchain.errors import PolicyError

__all__ = ["Terms"]

DISTANCE: Final = 1e-3
MAX_BASES: Final = 64


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a dispute.

    Attributes:
        distance: the most that a tensor may differ, relative.
        bases: weight files of public models.
    """

    distance: float = DISTANCE
    bases: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.distance < 1.0:
            raise PolicyError(f"dispute.distance is {self.distance!r}: not between 0 and 1")

    @classmethod
    def parse(cls, value: object, folder: Path) -> Terms:
        """Read the policy's table; paths are from `folder`.

        Raises:
            PolicyError: an unknown name, or a value of the wrong kind.
        """
        if not isinstance(value, dict):
            raise PolicyError("[dispute] is a table")
        unknown = sorted(value.keys() - {"distance", "bases"})
        if unknown:
            raise PolicyError(f"[dispute]: unknown name {unknown[0]!r}", hint="known: bases, distance")
        distance = value.get("distance", DISTANCE)
        if isinstance(distance, bool) or not isinstance(distance, int | float):
            raise PolicyError("dispute.distance is a number")
        bases = value.get("bases", [])
        if not isinstance(bases, list) or not all(isinstance(item, str) for item in bases) or len(bases) > MAX_BASES:
            raise PolicyError(f"dispute.bases is a list of at most {MAX_BASES} files")
        return cls(float(distance), tuple(folder / item for item in bases))
