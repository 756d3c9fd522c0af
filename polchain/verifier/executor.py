"""The executor: picked segments on a pool of warm processes, on one machine.

    lane      a thread with a bench: a child of its own, that is warm and knows no recipe between segments
    order     segments begin in the order in which they were picked; they end in any. What is returned is what one lane
              would have found: the results in the order of the picks, up to the first that ends the verification
    end       that one stops what has not begun. Whatever was picked before it has begun, and is awaited
    again     what came to no end beside others (out of memory, out of time) is tried once more, alone
    growth    where nobody says how many, a second lane opens only when it is worth its start, and then as many as fit

So neither the verdict nor its report depends on how many lanes there are, or on which is the fastest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from polchain.errors import PolchainError, WorkerError
from polchain.verifier.bench import Bench
from polchain.verifier.capacity import Capacity
from polchain.verifier.challenge import Pick
from polchain.verifier.replay import Reproduction

__all__ = ["Done", "Executor"]

log = logging.getLogger("polchain")

TICK = 0.5
# A child takes two or three seconds to start, and nearly as many of a core.
WORTH = 10.0
PATIENCE = 30.0
GRACE = 0.1


@dataclass(frozen=True, slots=True)
class Done:
    """What came of one pick.

    Attributes:
        item: the result.
        last: whether nothing that was picked after it need be replayed.
        again: whether it came to no end, which may be the others' fault where there were any.
    """

    item: Reproduction
    last: bool = False
    again: bool = False


Work = Callable[[Pick, Bench], Done]


class Executor:
    """Replays picks on several benches at a time.

    Args:
        bench: the first lane's bench, which is kept.
        another: makes the bench of another lane: its number, and how many there are to be.
        capacity: how many lanes this machine bears.
    """

    def __init__(self, bench: Bench, another: Callable[[int, int], Bench], capacity: Capacity) -> None:
        self.bench = bench
        self.another = another
        self.capacity = capacity

    def run(
        self,
        picks: Sequence[Pick],
        work: Work,
        kept: Mapping[int, Reproduction] | None = None,
        arrived: Callable[[Reproduction], None] = lambda _: None,
    ) -> list[Reproduction]:
        """Replay picks; the results in their order, up to the first that ends it.

        Args:
            picks: what to replay, in order.
            work: replays one of them on a bench; called from other threads.
            kept: results that are known already, by the index of their segment.
            arrived: called with each new result as it comes, from the caller's thread.

        Raises:
            Exception: what `work` raised for the first pick for which it raised anything.
        """
        known = {n: Done(kept[p.segment.index]) for n, p in enumerate(picks) if kept and p.segment.index in kept}
        board = _Board(picks, work, known)
        if min(self.capacity.most, board.left) > 1:
            self._on_lanes(board, arrived)
        for number in board.unfinished():  # all of them, or those that came to no end beside others
            board.put(number, board.attempt(number, self.bench), alone=True)
            _tell(board, number, arrived)
            if board.ended(number):
                break
        return board.results()

    def _on_lanes(self, board: _Board, arrived: Callable[[Reproduction], None]) -> None:
        lanes: list[_Lane] = []
        most = min(self.capacity.most, board.left)
        try:
            self._open(lanes, board, most if self.capacity.asked is not None else 1)
            while not board.over():
                with suppress(Empty):
                    number, outcome = board.arrivals.get(timeout=TICK)
                    board.put(number, outcome, alone=len(lanes) == 1)
                    _tell(board, number, arrived)
                if len(lanes) < most and board.worth_another(len(lanes)):
                    fitting = min(most, self.capacity.lanes(self.bench.peak))
                    self._open(lanes, board, fitting)
                    most = fitting
        finally:
            board.stop()
            for lane in lanes:
                lane.join(GRACE)  # most have nothing to do any more, and a child that is interrupted has to start again
                if lane.is_alive():  # it still starts, or replays what nobody needs any more
                    lane.bench.interrupt()
            for lane in lanes:
                lane.join()
                lane.bench.reset()

    def _open(self, lanes: list[_Lane], board: _Board, wanted: int) -> None:
        for number in range(len(lanes), wanted):
            bench = self.another(number, wanted) if number else self.bench
            lanes.append(_Lane(bench, board, number))
            lanes[-1].start()


class _Board:
    """What has begun, what came of it, and where it ends. Lanes and the caller's thread share it."""

    def __init__(self, picks: Sequence[Pick], work: Work, known: Mapping[int, Done]) -> None:
        self.picks = picks
        self.work = work
        self.arrivals: SimpleQueue[tuple[int, Done | BaseException]] = SimpleQueue()
        self._done: dict[int, Done | BaseException] = dict(known)
        self._pending = [number for number in range(len(picks)) if number not in known]
        self._again: set[int] = set()
        self._begun: dict[int, float] = {}
        self._spent = [0, 0.0]  # steps that were replayed, seconds that they took
        self._end = len(picks)  # nothing from here on needs to be replayed
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """How many have not begun."""
        return len(self._pending)

    def take(self) -> int | None:
        """The next pick to replay; None where there is none."""
        with self._lock:
            if not self._pending or self._pending[0] >= self._end:
                return None
            number = self._pending.pop(0)
            self._begun[number] = time.monotonic()
            return number

    def attempt(self, number: int, bench: Bench) -> Done | BaseException:
        """Replay a pick; an error that it raises is an outcome too."""
        try:
            return self.work(self.picks[number], bench)
        except Exception as error:
            return error

    def put(self, number: int, outcome: Done | BaseException, *, alone: bool) -> None:
        """Note what came of a pick; `alone` where nothing else was replayed beside it."""
        with self._lock:
            begun = self._begun.pop(number, None)
        if not alone and (outcome.again if isinstance(outcome, Done) else isinstance(outcome, PolchainError)):
            self._again.add(number)
            return
        self._again.discard(number)
        self._done[number] = outcome
        if begun is not None:
            self._spent[0] += self.picks[number].segment.steps
            self._spent[1] += time.monotonic() - begun
        if isinstance(outcome, BaseException) or outcome.last:
            with self._lock:
                self._end = min(self._end, number + 1)

    def done(self, number: int) -> Done | None:
        """What came of a pick, where it came to an end."""
        outcome = self._done.get(number)
        return outcome if isinstance(outcome, Done) else None

    def ended(self, number: int) -> bool:
        """Whether nothing after this pick need be replayed."""
        return number + 1 >= self._end

    def over(self) -> bool:
        """Whether the lanes have nothing to do any more."""
        return all(n in self._done or n in self._again for n in range(self._end))

    def unfinished(self) -> list[int]:
        """The picks up to the end of which nothing came yet, in order."""
        return [number for number in range(self._end) if number not in self._done]

    def stop(self) -> None:
        """Let nothing more begin on a lane."""
        with self._lock:
            self._pending.clear()

    def worth_another(self, lanes: int) -> bool:
        """Whether what has not begun takes so long that another lane is worth its start."""
        with self._lock:
            steps = sum(self.picks[number].segment.steps for number in self._pending if number < self._end)
            running = dict(self._begun)
        if not steps:
            return False
        done, seconds = self._spent
        if not done:
            # Nothing has ended yet: it takes at least as long as it has taken.
            now = time.monotonic()
            seconds = max((now - begun for begun in running.values()), default=0.0)
            if seconds < PATIENCE:
                return False
            done = max(self.picks[number].segment.steps for number in running)
        return steps * seconds / done / lanes > WORTH

    def results(self) -> list[Reproduction]:
        """The results up to the end, in the order of the picks.

        Raises:
            Exception: what was raised for the last of them.
        """
        found = []
        for number in range(self._end):
            outcome = self._done[number]
            if isinstance(outcome, BaseException):
                raise outcome
            found.append(outcome.item)
        return found


class _Lane(threading.Thread):
    """One bench, and picks as long as there are any."""

    def __init__(self, bench: Bench, board: _Board, number: int) -> None:
        super().__init__(name=f"polchain-lane-{number}", daemon=True)
        self.bench = bench
        self.board = board
        self.number = number

    def run(self) -> None:
        if self.number:
            try:
                self.bench.worker().warm()  # before it takes a pick that another lane would begin at once
            except WorkerError as error:
                log.info("one replaying process less: %s", error)
                return
        while (number := self.board.take()) is not None:
            self.board.arrivals.put((number, self.board.attempt(number, self.bench)))


def _tell(board: _Board, number: int, arrived: Callable[[Reproduction], None]) -> None:
    done = board.done(number)
    if done is not None:
        arrived(done.item)
