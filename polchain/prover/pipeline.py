"""A thread that works behind another, in order, on what it is handed.

    training   acquire() ── fill the room ── put(work) ── goes on               ... drain()
    behind                                   work done, one after the other ... release(room)

There are so many rooms and no more: who asks for one while all are in use waits, and how long is counted (`held`).
What fails behind ends the thread, and is raised in the other one by whatever it calls next. A thread that is gone
without a word is noticed as well. In a process that was forked off there is no such thread: every call says so.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from polchain.errors import UnavailableError

__all__ = ["HELD", "Held", "Pipeline"]

log = logging.getLogger("polchain")

HELD = "held"  # the ledger's private note
LOOK = 0.5  # seconds between two looks at whether the thread is there

Room = TypeVar("Room")


@dataclass(frozen=True, slots=True)
class Held:
    """How long a training had to wait for what is behind it.

    Attributes:
        commits: how many of its commits waited.
        seconds: for how long, together.
    """

    commits: int = 0
    seconds: float = 0.0

    def and_for(self, seconds: float) -> Held:
        """One more."""
        return Held(self.commits + 1, self.seconds + seconds)

    def encode(self) -> str:
        """As the ledger keeps it; `parse` is the inverse."""
        return json.dumps({"commits": self.commits, "seconds": round(self.seconds, 3)})

    @classmethod
    def parse(cls, text: str | None) -> Held:
        """Read what `encode` wrote; nothing where it is something else."""
        try:
            value = json.loads(text or "{}")
            return cls(int(value["commits"]), float(value["seconds"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return cls()


class Pipeline(Generic[Room]):
    """Does work in a thread of its own.

    Args:
        rooms: what there is to be filled.
        prepare: called in the thread before anything else.
        held: how long was waited before.
    """

    def __init__(self, rooms: Sequence[Room], prepare: Callable[[], None], held: Held | None = None) -> None:
        self.held = held or Held()
        self._rooms = deque(rooms)
        self._work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._ready = self._closing = self._ended = self._raised = False
        self._failure: BaseException | None = None
        self._process = os.getpid()
        # A daemon: what is not acknowledged may be lost with the process, and a process must be able to end.
        self._thread = threading.Thread(target=self._run, args=(prepare,), name="polchain-recorder", daemon=True)

    @property
    def here(self) -> bool:
        """Whether this is the process that the thread is in."""
        return os.getpid() == self._process

    @property
    def ended(self) -> bool:
        """Whether the thread does nothing any more."""
        return self._ended or not self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; it is prepared when this returns."""
        self._thread.start()
        self._await(lambda: self._ready)

    def acquire(self) -> Room:
        """A room, as soon as one is free.

        Raises:
            BaseException: what failed behind, whatever it was.
            UnavailableError: the thread is gone, or in another process.
        """
        begun = time.monotonic()
        full = not self._rooms
        self._await(lambda: bool(self._rooms))
        if full:
            self.held = self.held.and_for(time.monotonic() - begun)
        return self._rooms.popleft()

    def release(self, room: Room) -> None:
        """A room may be filled again."""
        with self._changed:
            self._rooms.append(room)
            self._changed.notify_all()

    def put(self, work: Callable[[], None]) -> None:
        """Have this done, after what was put before.

        Raises:
            BaseException, UnavailableError: as `acquire`.
        """
        self._await(lambda: True)
        with self._changed:
            self._work.append(work)
            self._changed.notify_all()

    def drain(self, *, counted: bool = False) -> None:
        """Wait until everything is done.

        Args:
            counted: count the time as `acquire` does.

        Raises:
            BaseException, UnavailableError: as `acquire`.
        """
        begun = time.monotonic()
        self._await(lambda: not self._work)
        if counted:
            self.held = self.held.and_for(time.monotonic() - begun)

    def close(self, *, quiet: bool) -> None:
        """Have what was put done, then end the thread.

        Args:
            quiet: another error is on its way already, which this must not hide: what failed behind is logged.

        Raises:
            BaseException, UnavailableError: as `acquire`, unless that was raised before.
        """
        if not self.here:
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        known = self._failure is not None and self._raised
        try:
            self._await(lambda: self._ended)
        except BaseException as error:
            if self._failure is None:  # an interruption, while this waited
                raise
            if not (known or quiet):
                raise
            if not known:
                log.error("what is recorded behind the training failed as well: %s", error)

    def _await(self, ready: Callable[[], bool]) -> None:
        if not self.here:  # before the lock, which nobody would ever give back there
            raise UnavailableError(
                "this process was forked from the one that records, and cannot record itself",
                hint="go on with the loop in the process that entered `record`",
            )
        with self._changed:
            while self._failure is None and not ready():
                if self.ended:
                    self._failure = _gone("has ended without a word")
                    break
                self._changed.wait(LOOK)
            if self._failure is not None:
                self._raised = True
                raise self._failure

    def _run(self, prepare: Callable[[], None]) -> None:
        try:
            prepare()
            with self._changed:
                self._ready = True
                self._changed.notify_all()
            while (work := self._next()) is not None:
                work()
                del work
                with self._changed:
                    self._work.popleft()
                    self._changed.notify_all()
        except Exception as error:
            self._failure = error
        except BaseException as error:  # which would end the other thread as if somebody had wished it
            self._failure = _gone(f"was ended by {type(error).__name__}")
        finally:
            with self._changed:
                self._ended = True
                self._work.clear()
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._work and not self._closing:
                self._changed.wait()
            return self._work[0] if self._work else None


def _gone(how: str) -> UnavailableError:
    return UnavailableError(f"the thread that records {how}", hint="start again: the run goes on after its last entry")
