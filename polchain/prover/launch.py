"""Running a training script for `polchain init` and `polchain train`, as Python itself would run it.

The process holds nothing but the script: `__main__`, sys.argv and sys.path[0] are what `python SCRIPT ARGS` or
`python -m MODULE ARGS` gives. What the command line wants different reaches `polchain.record` as a `Launch`.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.errors import RecipeError

if TYPE_CHECKING:
    from polchain.core.keys import PublicKey
    from polchain.core.task import Task
    from polchain.prover.preregister import AddressHalf
    from polchain.prover.settings import RunSettings
    from polchain.storage.ledger import Ledger

__all__ = ["Launch", "run_script"]


@dataclass(slots=True)
class Launch:
    """How this process was started by `polchain init` or `polchain train`; empty for a script run by hand.

    Attributes:
        run: the run's folder, in place of the path that the script names.
        stop_at_genesis: write the genesis and end.
        settings: what a new run's polchain.toml is to say.
        address: the Ethereum address that a new run's genesis is to bind.
        task: what a new run is for; its seed is the task's.
        recovery: the key that may revoke a new run's.
        private: salt a new run's data, with a secret that is drawn.
        data_secret: the file of the secret to salt it with instead; None for none.
        own_seed: draw the seed, though the genesis names a beacon.
        on_genesis: called before the end that `stop_at_genesis` makes.
        on_checkpoint: called with the step and the run's steps: where training begins, and after each checkpoint.
        on_sample: called with how many of a large dataset's samples were read, and of how many.
        begun: set by `record`, so that a script that never records is noticed.
    """

    run: Path | None = None
    stop_at_genesis: bool = False
    settings: RunSettings | None = None
    address: AddressHalf | None = None
    task: Task | None = None
    recovery: PublicKey | None = None
    private: bool = False
    data_secret: Path | None = None
    own_seed: bool = False
    on_genesis: Callable[[Ledger], None] | None = None
    on_checkpoint: Callable[[int, int], None] | None = None
    on_sample: Callable[[int, int], None] | None = None
    begun: bool = False


def run_script(script: str, *, module: bool, arguments: Sequence[str], launch: Launch) -> int:
    """Run a script, or with `module` a module by its name; returns the exit status that it chose.

    What the script raises is raised here.

    Raises:
        RecipeError: it ended well, but never recorded.
    """
    from polchain.prover import record

    record.launch = launch
    folder = Path.cwd() if module else Path(script).resolve().parent
    if not os.environ.get("PYTHONSAFEPATH"):
        sys.path.insert(0, str(folder))
    sys.argv = [script, *arguments]
    status = 0
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        status = _status(error)
    if status == 0 and not launch.begun:
        raise RecipeError(
            f"{script} ended without recording anything",
            hint="train inside `with polchain.record(...) as run:`, at the script's top level or in its main()",
        )
    return status


def _status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1
