"""`polchain anchor RUN --every N` beside a training: begun by it, never waited for while it trains."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from polchain.cli import output
from polchain.cli.launching import Orders

__all__ = ["Follower", "hand_over"]

LOG = "anchors/follower.log"
# How long the end of a training waits for its last head to be sent; it need not be final.
PATIENCE = 30.0


class Follower:
    """The process that anchors a run while this one trains it."""

    def __init__(self, run: Path, orders: Orders) -> None:
        self.run = run
        kept = (orders.descriptor,) if orders.descriptor >= 0 else ()
        (run / LOG).parent.mkdir(exist_ok=True)
        with (run / LOG).open("wb") as log:
            # A session of its own: an interrupt is meant for the training, whose end it then sees.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "polchain.cli.app", *orders.follower],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=kept,
                start_new_session=True,
            )
        for descriptor in kept:
            os.close(descriptor)

    def wait(self) -> None:
        """Give it a moment to send the last head, and say where it could not."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            code = None
        if code:
            output.note(f"the last head is not anchored: {self.run / LOG} says why; `polchain anchor` publishes it")
        elif code is None:
            output.note("the last head is not anchored yet: `polchain status` says why; `polchain anchor` publishes it")


def hand_over(passphrase: bytes) -> int:
    """A descriptor that a child process reads the passphrase from."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(passphrase)
    os.set_inheritable(reader, True)
    return reader
