"""The answers to one job, each a stranger's word.

What ends a job early is named: the program's own error, the time, a limit of its room, a signal, or nonsense on the
stream. Whatever comes, a job that was fenced in is ended when its answers are closed. Its room takes a while to come
down; whoever asked for the job waits for that before another one is begun.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import polchain.errors as errors
from polchain.core.encoding import Fields
from polchain.core.genesis import Configuration
from polchain.core.manifest import Manifest, Snapshot
from polchain.errors import DatasetError, FormatError, PolchainError, RecipeError, WorkerError
from polchain.training.fence import Room
from polchain.training.wire import Bounds, Message, Reduce, receive
from polchain.training.words import Words, printable

__all__ = ["Answers", "Closing", "fingerprint_of", "rows_of"]

REPORT_SECONDS = 20.0
REPORT_LIMIT = 4096
NO_BLOBS = Bounds.of(0, 0)
EXCESS = {
    "memory": ("the recipe used more memory than it may, and was stopped", "raise the limit with --memory"),
    "tasks": (
        "the recipe started more processes and threads than it may, and was stopped",
        "the policy's [sandbox] has the limit",
    ),
}


@dataclass(frozen=True, slots=True)
class Closing:
    """A state that the replay arrived at, and the mean loss on the way."""

    step: int
    snapshot: Snapshot
    loss: float | None


class Answers:
    """One job's answers. A context manager: leaving it ends the job.

    Args:
        folder: the job's own folder, removed at the end; None in a room, which has its own.
        timeout: seconds for the whole job.
        voice: what goes before an error that the child reports.
        words: what the job prints.
        stop: ends the whole replaying process, for who knows what it is doing.
        ended: is given the room when everything in it was ended, to be closed before another job begins.

    Attributes:
        peak: bytes that the job had in memory at most, once it has ended in a room; 0 where nobody counted.
    """

    def __init__(
        self,
        folder: Path | None,
        timeout: float,
        voice: str,
        words: Words,
        stop: Callable[[], None],
        ended: Callable[[Room], None],
    ) -> None:
        self.stream, self._theirs = socket.socketpair()
        # A child that is still busy with an earlier job reads nothing.
        self.stream.settimeout(timeout)
        self.words = words
        self.room: Room | None = None
        self._folder = folder
        self._voice = voice
        self._stop = stop
        self._ended = ended
        self._deadline = time.monotonic() + timeout
        self._said_why = False
        self.peak = 0
        self._reader = self._writer = -1
        self._report: str | None = None

    def fence_in(self, room: Room) -> None:
        """Have the job done in this room, which is closed with the answers."""
        self.room = room
        self._reader, self._writer = os.pipe()

    def descriptors(self) -> list[int]:
        """What the replaying process is handed: stream, words; for a room, where to report, and its first process."""
        fence = [] if self.room is None else [self._writer, self.room.init]
        return [self._theirs.fileno(), self.words.writer, *fence]

    def hand_over(self) -> None:
        """Close here what the other side has now: only then does a stream end when it ends there."""
        self._theirs.close()
        self.words.hand_over()
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.room is not None:
                self._end_room()
            elif kind is not None and not self._said_why:
                self._stop()
        finally:
            self.close()
        if isinstance(error, FormatError):
            raise WorkerError(f"the replaying process talked nonsense: {error}") from error

    def close(self) -> None:
        """Close everything, and end the job where it has a room."""
        self.hand_over()
        self.stream.close()
        self.words.close()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        if self.room is not None:
            self.room.end()
            self._ended(self.room)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def draft(self) -> Configuration:
        """The configuration that the program asked `record` for."""
        return Configuration.parse(self.expect("draft").fields().fields("configuration"))

    def expect(
        self,
        kind: str,
        bounds: Bounds | None = NO_BLOBS,
        each: Reduce | None = None,
    ) -> Message:
        """The next answer, of this type.

        Args:
            kind: the type.
            bounds: the most that it may be; None for what the format allows.
            each: what to keep of each blob.

        Raises:
            PolchainError: the child says what went wrong.
            WorkerError: it says something else, too much, or nothing.
        """
        try:
            message = receive(self.stream, bounds=bounds, deadline=self._deadline, words=self.words, each=each)
        except WorkerError as error:
            raise WorkerError(f"{error}{self.why()}{self.words.last()}", hint=error.hint or self._hint()) from error
        if message.type == "error":
            reported = _reported(message, self._voice)
            self._said_why = True
            raise reported
        if message.type != kind:
            raise WorkerError(f"the replaying process sent {printable(message.type)!r} instead of {kind!r}")
        return message

    def go_on(self) -> None:
        """Have the job go on after the state that it has shown."""
        with contextlib.suppress(OSError):  # it has ended, and the next answer says so
            self.stream.sendall(b".")

    def why(self) -> str:
        """How a fenced job ended, as something to append to a message. Ends it."""
        if self.room is None:
            return ""
        report = self._end_room()
        what, _, more = report.partition(" ")
        if what in EXCESS:
            return f": {EXCESS[what][0]}"
        if what == "refused":
            return f": the sandbox could not be entered: {printable(more)}"
        status = more.partition(" ")[0]
        if what == "ended" and status == str(-signal.SIGXCPU):
            return ": the recipe used more CPU time than it may, and was stopped"
        if what == "ended" and status.startswith("-") and int(status) != -signal.SIGKILL:
            return f": it was ended by signal {status[1:]}"
        return ""

    def _hint(self) -> str:
        return EXCESS.get(self._report or "", ("", ""))[1]

    def _end_room(self) -> str:
        """End the job's room, and wait until the process that kept it is gone too; how it says that the job ended."""
        if self._report is not None:
            return self._report
        assert self.room is not None
        self.hand_over()
        # Whatever has ended by itself says so first; whatever is still there is ended now.
        said = self._hear(0.0)
        self.room.end()
        said = said or self._hear(REPORT_SECONDS)
        if not said:
            self._stop()  # the keeper is stuck, or gone: so is who forked it
        self._report = said.partition(b"\n")[0].decode("utf-8", "replace")
        what, *numbers = self._report.split(" ")
        if what == "ended" and len(numbers) == 2:
            self.peak = int(numbers[1])
        return self._report

    def _hear(self, seconds: float) -> bytes:
        heard = b""
        end = time.monotonic() + seconds
        while self._reader >= 0 and not heard.endswith(b"\n"):
            waiting = select.poll()
            waiting.register(self._reader, select.POLLIN)
            ready = waiting.poll(max(0.0, 1000 * (end - time.monotonic())))
            piece = os.read(self._reader, REPORT_LIMIT) if ready else b""
            if not piece:
                break
            heard += piece
        return heard


def rows_of(message: Message) -> Manifest:
    """The rows that a message holds.

    Raises:
        WorkerError: there are none.
    """
    try:
        return Manifest.decode(bytes(message.blobs[0]))
    except (PolchainError, IndexError) as error:
        raise WorkerError(f"the replaying process sent rows that are none: {error}") from error


def fingerprint_of(fields: Fields) -> dict[str, str | int | bool]:
    """The execution fingerprint that a message holds.

    Raises:
        FormatError: it is none.
    """
    found: dict[str, str | int | bool] = {}
    for name, value in fields.dict("fingerprint").items():
        if not isinstance(value, str | int | bool):
            raise FormatError("a fingerprint holds strings and numbers")
        found[name] = value
    return found


def _reported(message: Message, voice: str) -> PolchainError:
    fields = message.fields()
    kind, text, hint = fields.str("kind"), fields.str("text", max_length=4096), fields.str("hint")
    # Only these can be a recipe's fault; whatever else it claims is a broken recipe.
    known: type[PolchainError] = {"DatasetError": DatasetError}.get(kind, RecipeError)
    if kind == "ManifestError":
        known = errors.ManifestError
    return known(voice + printable(text), hint=printable(hint))
