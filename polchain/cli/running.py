"""What `polchain init` and `polchain train` share: how a run and its script are named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Arguments", "Folder", "Module", "Recipe", "StoreEvery", "data_of", "run_exists"]

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="the run's folder", show_default=False)]
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="[-- ARGS]", help="the script's own arguments", show_default=False)
]
Recipe = Annotated[
    str | None, typer.Option("--recipe", metavar="SCRIPT", help="the training script", show_default=False)
]
StoreEvery = Annotated[
    int | None,
    typer.Option(
        "--store-every",
        metavar="STEPS",
        min=1,
        help="store a state only that often; the log has every commit's",
        show_default=False,
    ),
]
Module = Annotated[bool, typer.Option("--module", help="SCRIPT is a module's name, as for `python -m`")]


def run_exists(run: Path) -> bool:
    """Whether there is a run in the folder."""
    from polchain.storage.database import DATABASE

    return (run / DATABASE).exists()


def data_of(run: Path, data: Path | None) -> Path | None:
    """The data's folder: the flag, `POLCHAIN_DATA`, else the run's own setting."""
    from polchain.prover.settings import RunSettings

    return data or RunSettings.read(run).data
