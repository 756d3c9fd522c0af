"""Which folder is meant by a run, and what to say where there is none."""

from __future__ import annotations

import os
from pathlib import Path

from polchain.core.claim import LISTING
from polchain.errors import MissingFileError, UsageError
from polchain.storage.database import DATABASE

__all__ = ["SETTINGS", "find_run", "no_run"]

SETTINGS = "polchain.toml"


def no_run(folder: Path) -> MissingFileError:
    """What to raise where there is no ledger: a claim looks like a run to whoever mixes them up."""
    if (folder / LISTING).is_file():
        return MissingFileError(
            f"{folder} is a claim, not a run", hint="`polchain verify` checks claims; `log` and `show` read them"
        )
    if folder.is_file():
        return MissingFileError(f"{folder} is a file, not a run", hint="a run is the folder that `polchain init` makes")
    return MissingFileError(f"no run at {folder}", hint="`polchain init RUN` makes one")


def find_run(argument: Path | None) -> Path:
    """The run meant: the argument, `POLCHAIN_RUN`, or the nearest folder upwards with a `polchain.toml` and a ledger.

    Raises:
        UsageError: none of them.
    """
    if argument is not None:
        return argument
    if os.environ.get("POLCHAIN_RUN"):
        return Path(os.environ["POLCHAIN_RUN"])
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / SETTINGS).exists() and (folder / DATABASE).exists():
            return folder
    raise UsageError("which run?", hint="name its folder, or set POLCHAIN_RUN")
