"""What goes wrong in a recording, at a given moment; `play` is called by a script before it records."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from polchain.errors import StorageError
from polchain.prover import scribe, selfcheck
from polchain.storage import checkpoints, ledger


def refuse() -> None:
    raise StorageError("the disk refuses")


DO: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "refuse": refuse,
    "die": lambda: (_ for _ in ()).throw(SystemExit(0)),
    "slow": lambda: time.sleep(0.15),
    "": lambda: None,
}
# And which time it is the checkpoint of step 4.
MOMENTS = {
    "before the copy": (scribe, "copy_state", 3),
    "between copy and hash": (scribe.Scribe, "_record", 3),
    "between hash and store": (checkpoints.CheckpointStore, "put", 3),
    "in the middle of the store": (checkpoints.Path, "rename", 11),
    "between store and append": (ledger.Ledger, "append", 4),
    "between append and check": (scribe.Scribe, "_note_held", 3),
}


def play(at: str, do: str, checked: bool = False) -> None:
    """Do something when it comes to this moment at step 4, or, if it is slow, at every step."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not checked:  # a self-check starts a process
        selfcheck.SelfCheck.due = lambda *_: False  # type: ignore[method-assign]
    if not at:
        return
    owner, name, when = MOMENTS[at]
    plain, count = getattr(owner, name), 0

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count == when or do == "slow":
            DO[do]()
        return plain(*arguments, **keywords)

    setattr(owner, name, wrapped)
