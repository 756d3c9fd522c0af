"""`polchain anchor RUN --every N` beside a training: begun before it, never waited for while it trains.

It is begun by the process that then turns into the training (`cli.launching`), and gets the keystore's passphrase
through its standard input: whatever the script imports never has it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from polchain.cli import output

__all__ = ["follow", "wait_for"]

LOG = "anchors/follower.log"
# How long the end of a training waits for its last head to be sent; it need not be final.
PATIENCE = 15.0
LAST_WORDS = 5.0
PAUSE = 0.1


def follow(run: Path, words: Sequence[str], passphrase: bytes | None) -> int:
    """Start the command of these words beside this process; returns its process id.

    Args:
        run: the run's folder; it may not be there yet.
        words: what follows `polchain`.
        passphrase: what it reads from its standard input; None for nothing.
    """
    (run / LOG).parent.mkdir(parents=True, exist_ok=True)
    with (run / LOG).open("wb") as log:
        # A session of its own: an interrupt is meant for the training, whose end it then sees.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "polchain.cli.app", *words, "--until-parent-ends", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(passphrase or b"")
    process.returncode = 0  # It outlives this object: whoever waits for it knows its number.
    return process.pid


def wait_for(follower: int, run: Path) -> None:
    """Give it a moment to send the last head, and say where it could not; then it ends in any case."""
    code = _ended(follower, PATIENCE)
    if code is None:
        os.kill(follower, signal.SIGTERM)
        if _ended(follower, LAST_WORDS) is None:
            # What it was about to send is in the journal.
            os.kill(follower, signal.SIGKILL)
            _ended(follower, LAST_WORDS)
        output.note("the last head is not anchored yet: `polchain status` says why; `polchain anchor` publishes it")
    elif code:
        output.note(f"the last head is not anchored: {run / LOG} says why; `polchain anchor` publishes it")


def _ended(follower: int, patience: float) -> int | None:
    """Its exit status, once it has ended; None if it has not in time."""
    until = time.monotonic() + patience
    while True:
        try:
            pid, status = os.waitpid(follower, os.WNOHANG)
        except ChildProcessError:
            return 0  # The script has waited for it.
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(PAUSE)
