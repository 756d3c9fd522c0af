"""Anchoring a run while it grows.

A source that is down is asked again after 1 s, 2 s, 4 s ... 60 s, and does not keep the others waiting. What is wrong
meanwhile is written down in the run (`AnchorBook.set_trouble`), where `polchain status` finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polchain.core.entries import CheckpointEntry, Final, parse_entry
from polchain.errors import AnchorUnavailableError, PolchainError, RunLockedError
from polchain.prover.anchored import AnchorBook
from polchain.prover.anchoring import upgrade_from
from polchain.prover.anchorlog import Published, opened, source_of
from polchain.prover.sources import Sources, attempt
from polchain.prover.waiting import not_final
from polchain.storage.headfile import read_head
from polchain.storage.ledger import Ledger

__all__ = ["Events", "Follower"]

PAUSE = 1.0
UPGRADE_PAUSE = 12.0  # one of Ethereum's slots
FIRST_RETRY = 1.0
LONGEST_RETRY = 60.0


@dataclass(frozen=True, slots=True)
class Events:
    """Who wants to know, and who may end it.

    Attributes:
        published: called with each receipt when it is new or has become final.
        problem: called with what fails, once until it changes.
        sleep: waits for so many seconds; True ends the following at once.
        ended: True makes one last attempt, and ends.
    """

    published: Callable[[Published], None]
    problem: Callable[[str], None]
    sleep: Callable[[float], bool]
    ended: Callable[[], bool] = lambda: False


@dataclass(slots=True)
class _Retry:
    """When a source is asked again."""

    at: float = 0.0
    delay: float = FIRST_RETRY

    def later(self, longest: float = LONGEST_RETRY) -> None:
        self.delay = min(self.delay, longest)
        self.at = time.monotonic() + self.delay
        self.delay = min(2 * self.delay, longest)


@dataclass(slots=True)
class Follower:
    """Anchors a run while it grows: `follow`.

    Attributes:
        every: how many steps after the last anchored head the next one is anchored.
        wait: whether to stay until the last head is final.
        timeout: the most seconds to stay for that.
    """

    run: Path
    sources: Sources
    every: int
    events: Events
    wait: bool = False
    timeout: float = 3600.0
    _steps: list[int] = field(default_factory=list)  # the step that each entry leaves the run at
    _finished: bool = False
    _seen: bytes = b""
    _retries: dict[str, _Retry] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)
    _pending: bool = True  # whether a receipt may still become final, as far as it was looked
    _found: dict[tuple[int, str], Published] = field(default_factory=dict)

    def follow(self) -> list[Published]:
        """Anchor the newest head whenever it is due, and the last one when the run is finished; then end.

        Meanwhile the pending receipts are brought up to date. A source that cannot be reached is asked again later.

        Returns:
            What was anchored, as it is now.

        Raises:
            AnchorUnavailableError: with `wait`, the last head is not final in time.
            And what `attempt` raises; it is written down as the run's trouble.
        """
        try:
            return self._follow()
        except PolchainError as error:
            self._problems[""] = str(error)
            self._write_trouble()
            raise

    def _follow(self) -> list[Published]:
        deadline: float | None = None
        while True:
            # Asked first: what was committed before it ended is then seen below.
            last = self.events.ended()
            self._look()
            self._publish(last)
            if last:
                break
            self._upgrade()
            if self._finished and not self._due(last=True):
                if not (self.wait and self._pending):
                    break
                deadline = deadline or time.monotonic() + self.timeout
                if time.monotonic() >= deadline and self.sources.network is not None:
                    raise not_final(self.sources.network.name, self.timeout, self._said())
            if self.events.sleep(PAUSE):
                break
        return self.found

    @property
    def found(self) -> list[Published]:
        """What was anchored or brought up to date until now."""
        return list(self._found.values())

    def _look(self) -> None:
        """Read what was committed since; the same head.note means that nothing was."""
        seen = read_head(self.run)
        if seen and seen == self._seen:
            return
        with Ledger(self.run) as ledger:
            for data in ledger.entries(len(self._steps)):
                if len(self._steps) == ledger.size:
                    break
                entry = parse_entry(data)
                before = self._steps[-1] if self._steps else 0
                self._steps.append(entry.step if isinstance(entry, CheckpointEntry) else before)
                self._finished = self._finished or isinstance(entry, Final)
        self._seen = seen

    def _due(self, *, last: bool = False) -> list[str]:
        """The sources that are to have the newest head now."""
        anchored = dict.fromkeys(self.sources.names(), 0)
        for size, source, _ in AnchorBook(self.run).names():
            source = source.removesuffix("-batch") if source.startswith("ethereum-") else source
            if source in anchored:
                anchored[source] = max(anchored[source], size)
        newest = len(self._steps)
        return [
            source
            for source, size in anchored.items()
            if size < newest and (last or self._finished or self._steps[-1] - self._step_at(size) >= self.every)
        ]

    def _step_at(self, size: int) -> int:
        return self._steps[size - 1] if size else 0

    def _publish(self, last: bool) -> None:
        now = time.monotonic()
        names = [name for name in self._due(last=last) if last or self._retry(name).at <= now]
        if not names:
            return
        try:
            done = attempt([self.run], self.sources, names)
        except RunLockedError:
            return  # by somebody who anchors it too, and will be done soon
        for failure in done.failed:
            self._fail(failure.source, str(failure.error))
        for name in set(names) - {failure.source for failure in done.failed}:
            self._succeed(name)
        self._take(done.published)
        if done.published:
            self._pending = True
            self._retries.pop("upgrade", None)
        self._write_trouble()

    def _upgrade(self) -> None:
        """Ask about pending receipts; now and then, because blocks take their time."""
        retry = self._retry("upgrade")
        if self.sources.network is None or not self._pending or retry.at > time.monotonic():
            return
        names = (source_of(self.sources.network), source_of(self.sources.network, batch=True))
        try:
            with opened([self.run]) as [log]:
                self._take(upgrade_from(log, self.sources.anchor()))
                kept = log.book.receipts()
        except RunLockedError:
            return
        except AnchorUnavailableError as error:
            self._fail("upgrade", str(error))
        else:
            self._problems.pop("upgrade", None)
            retry.later(UPGRADE_PAUSE)
            self._pending = any(one.source in names and not one.final for one in kept)
        self._write_trouble()

    def _take(self, published: Sequence[Published]) -> None:
        for one in published:
            before = self._found.get((one.size, one.source))
            self._found[one.size, one.source] = one
            if before is None or before.final != one.final:
                self.events.published(one)

    def _retry(self, name: str) -> _Retry:
        return self._retries.setdefault(name, _Retry())

    def _fail(self, name: str, what: str) -> None:
        self._retry(name).later()
        if what not in self._problems.values():
            self.events.problem(what)
        self._problems[name] = what

    def _succeed(self, name: str) -> None:
        self._retries.pop(name, None)
        self._problems.pop(name, None)

    def _write_trouble(self) -> None:
        AnchorBook(self.run).set_trouble(self._said() or None)

    def _said(self) -> str:
        return "; ".join(dict.fromkeys(self._problems.values()))
