"""What a session is asked for, and whom it serves.

Options       what `record` was called with
Stretch       the steps that a host wants run
Host          where the seed comes from, and where checkpoints go
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from polchain.core.genesis import PRECISIONS, Configuration
from polchain.errors import RecipeError, UsageError
from polchain.training.batches import Augment, Collate
from polchain.training.dataset import MapDataset
from polchain.training.state import TrainingState

if TYPE_CHECKING:
    from polchain.training.session import Session

__all__ = ["Every", "Host", "Options", "Stretch", "configure"]

Every = int | Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Options:
    """What `record` was called with, checked.

    Attributes:
        data: a map-style dataset, or a function that makes one.
        configuration: steps, batch size, interval schedule, precision.
        augment, collate: what happens to samples, and how they become a batch.
        files: more files that belong to the recipe, besides the script and what it imports from its folder.
        store_every: steps from one stored state to the next; 0 to store every one.
    """

    data: MapDataset | Callable[[], MapDataset]
    configuration: Configuration
    augment: Augment | None = None
    collate: Collate | None = None
    files: tuple[Path, ...] = ()
    store_every: int = 0

    def dataset(self) -> MapDataset:
        """The dataset itself; a function is called here."""
        found: Any = self.data
        if isinstance(found, str | bytes | bytearray | Path):
            raise RecipeError(
                f"data is a {type(found).__name__}: polchain opens no files",
                hint="read it in a function, and pass that",
            )
        if isinstance(found, type) or not hasattr(found, "__getitem__"):
            if not callable(found):
                raise RecipeError(f"data is a {type(found).__name__}: neither a map-style dataset nor a function")
            found = found()
        if not hasattr(found, "__len__") or not hasattr(found, "__getitem__"):
            raise RecipeError(
                f"data is a {type(found).__name__}, which has no length or no items by index",
                hint="pass a map-style dataset, or a function that makes one",
            )
        dataset: MapDataset = found
        return dataset


@dataclass(frozen=True, slots=True)
class Stretch:
    """The steps to run, `first` to `last` (excluded); the state after them is a checkpoint, whatever the schedule says.

    `shown` is a step on the way whose state the host wants as well, without a loss: 0 for none.
    """

    first: int
    last: int
    shown: int = 0


class Host(Protocol):
    """Where a session's seed comes from and where its checkpoints go."""

    def begin(self, options: Options) -> tuple[bytes, MapDataset]:
        """The run's seed, and the dataset to read samples from."""

    def attached(self, session: Session) -> Stretch:
        """The objects are known: restore them or record them, and say which steps to run."""

    def indices(self, step: int) -> Sequence[int]:
        """The dataset indices of a step."""

    def sample(self, index: int, encoding: bytes) -> None:
        """A sample was used. Called only where `witnesses` is true."""

    @property
    def witnesses(self) -> bool:
        """Whether `sample` wants to be called."""

    def checkpoint(self, step: int, state: TrainingState, loss: float | None) -> None:
        """The state after `step` steps, a checkpoint or the one to show: its objects, which are trained on as soon as
        this returns. May not return."""

    def finished(self) -> None:
        """All steps were run."""

    def close(self, failed: bool) -> None:
        """The `with` block was left."""


def configure(steps: int, batch_size: int, every: Every, precision: str) -> Configuration:
    """The configuration of a run, from `record`'s arguments.

    Raises:
        UsageError: an argument is out of range.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    pairs = ((0, every),) if isinstance(every, int) else tuple((int(start), int(k)) for start, k in every)
    smallest = min((k for _, k in pairs), default=0)
    for name, value in (("steps", steps), ("batch_size", batch_size), ("every", smallest)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it is at least 1")
    return Configuration(steps, batch_size, pairs, precision, deterministic=True)
