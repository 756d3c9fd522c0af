"""`polchain.record`: five lines that turn a training loop into evidence.

One script, four modes. Run by hand it starts a run, trains, or resumes; `polchain init` runs it up to `record` and
stops; a verifier's child replays a segment of it (see `training.child`); `enabled=False` seeds and orders, and writes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polchain.errors import UsageError
from polchain.prover.launch import Launch
from polchain.training import loop
from polchain.training.batches import Augment, Collate
from polchain.training.child import current_host
from polchain.training.dataset import MapDataset
from polchain.training.host import Every, Host, Options, configure
from polchain.training.recipe import Recipe
from polchain.training.session import Session

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Launch", "launch", "record", "train"]


# How this process was started; replaced by `launch.run_script`.
launch = Launch()


def record(
    path: str | Path,
    *,
    data: MapDataset | Callable[[], MapDataset],
    batch_size: int,
    steps: int,
    every: Every = 50,
    augment: Augment | None = None,
    collate: Collate | None = None,
    precision: str = "fp32",
    parent: object | None = None,
    files: Sequence[str | Path] = (),
    store_every: int | None = None,
    enabled: bool = True,
) -> Session:
    """Record a training run: a context manager that gives the session.

    Args:
        path: the run's folder.
        data: a map-style dataset, or a function that makes one and reads only under `polchain.data_dir()`.
        batch_size: samples in a step.
        steps: the most steps that the run will have.
        every: the checkpointing interval k, or pairs (from step, k).
        augment: changes a sample by a generator: `augment(sample, generator)`.
        collate: makes a batch of samples; torch's default where None.
        precision: fp32, tf32, bf16 or fp64.
        parent: not yet supported; must be None.
        files: more text files that belong to the recipe.
        store_every: commit at every checkpoint, but store a state only every so many steps; None to store every one.
        enabled: False seeds and orders the same way, but writes nothing.

    Raises:
        RecipeError: the recipe does something that could not be replayed; it is named.
        UnavailableError: key, data, disk, or the run's folder.
    """
    if parent is not None:
        raise UsageError("a run that continues another one (parent=) is not supported yet")
    if store_every is not None and (type(store_every) is not int or store_every < 1):
        # What is no int would be stored by as one number and noted as another.
        raise UsageError(f"store_every is {store_every!r}; it is a whole number of steps, at least 1")
    configuration = configure(steps, batch_size, every, precision)
    child = current_host()
    if child is not None:
        configuration = child.adapted(configuration)
    options = Options(data, configuration, augment, collate, tuple(Path(file) for file in files), store_every or 0)
    return Session(_host(launch.run or Path(path), enabled), options)


def train(recipe: type[Recipe] | Recipe, path: str | Path, *, enabled: bool = True) -> nn.Module:
    """Train a Recipe and record it; returns the trained model.

    Raises:
        RecipeError, UnavailableError: as `record`.
    """
    made = recipe() if isinstance(recipe, type) else recipe
    augment = None if type(made).augment is Recipe.augment else made.augment
    session = record(
        path,
        data=made.dataset,
        batch_size=made.batch_size,
        steps=made.steps,
        every=made.every,
        augment=augment,
        collate=made.collate,
        precision=made.precision,
        enabled=enabled,
    )
    with session as run:
        model = loop.run(made, run)
        for name, value in made.evaluate(model).items():
            run.report(name, value)
    return model


def _host(path: Path, enabled: bool) -> Any:
    child = current_host()
    if child is not None:
        return child
    # Here, because a child needs neither a ledger nor keys.
    from polchain.prover.recorder import Recorder
    from polchain.prover.seed import SeedOnly

    if not enabled:
        return SeedOnly(path)
    launch.begun = True
    host: Host = Recorder(path, launch)
    return host
