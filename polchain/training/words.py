"""What a replaying process prints: a pipe that is emptied while its answers are awaited.

The end of it is kept, for error messages; the rest is dropped. Each job has a pipe of its own, so that its last words
are its own, and no job can read what another one said.
"""

from __future__ import annotations

import os

__all__ = ["KEPT", "Words", "printable"]

KEPT = 1024 * 1024
SHOWN = 500
PIECE = 65_536


class Words:
    """A pipe to print into. `writer` is the child's end.

    Args:
        kept: how many bytes of the end are kept.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = max(kept, 1)
        self._said = bytearray()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.open = True

    def fileno(self) -> int:
        """The reading end, to be waited for."""
        return self._reader

    def drain(self) -> None:
        """Take what is there, but no more at a time than is kept: who prints without end would be listened to so."""
        taken = 0
        while self.open and taken < self._kept:
            try:
                piece = os.read(self._reader, PIECE)
            except BlockingIOError:
                return
            taken += len(piece)
            self._said += piece
            del self._said[: max(0, len(self._said) - self._kept)]
            self.open = bool(piece)

    def last(self) -> str:
        """The last line that was printed, as something to append to a message; empty where nothing was."""
        self.drain()
        lines = [line for line in self._said[-4096:].decode("utf-8", "replace").splitlines() if line.strip()]
        said = printable(lines[-1]) if lines else ""
        return f"; its last words: {said[:SHOWN]}" if said else ""

    def hand_over(self) -> None:
        """Close the writing end here: the child has it."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        """Close what is open here."""
        self.hand_over()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        self.open = False


def printable(text: str) -> str:
    """A stranger's text without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
