"""The full check of a log: each entry parses and carries the root before it, and each head signs the tree it ends.

An Ed25519 verification takes as long as all the rest together and holds Python's lock, so that a long log is checked by
several processes. Each is handed a stretch of entries and the tree before it; the tree is built here, once, from the
entries' bytes alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final, TypeAlias

from polchain.core.entries import leaf_data, prev_of
from polchain.core.keyline import KeyLine
from polchain.core.merkle import Frontier, leaf_hash
from polchain.core.note import HeadForm
from polchain.core.tiles import Edge
from polchain.errors import ChainError, PolchainError, StorageError

__all__ = ["Checked", "check_entries"]

Row: TypeAlias = tuple[bytes, bytes]

STRETCH: Final = 2048
# Below so many entries, starting processes costs more than it saves.
ALONE: Final = 20_000
MAX_PROCESSES: Final = 16


@dataclass(slots=True)
class Checked:
    """What was found on the way.

    Attributes:
        size: how many entries.
        tiles: of the tree, by level and number.
        suspects: the entries whose bytes can be a key change's.
    """

    size: int = 0
    tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)
    suspects: list[int] = field(default_factory=list)


def check_entries(
    rows: Iterable[Row], keys: KeyLine, origin: str, size: int, progress: Callable[[int, int], None] | None = None
) -> Checked:
    """Check entries, each with the note of the head that ends with it.

    Args:
        rows: the entries' bytes and the notes, in order.
        keys: who signs the heads.
        origin: whose log this is.
        size: how many entries to expect, which decides about processes.
        progress: called with how many entries were handed on, and of how many.

    Raises:
        ChainError, FormatError, SignatureError: which entry is wrong, and how; the first one.
        StorageError: a process that checks ended by itself.
    """
    processes = min(len(os.sched_getaffinity(0)), MAX_PROCESSES)
    if size < ALONE or processes < 2:
        return _walk(rows, lambda *stretch: _check_stretch(keys, origin, *stretch), lambda: None, size, progress)
    # Forked: a library's caller may have no main module that can be imported again.
    with ProcessPoolExecutor(processes, get_context("fork"), _begin, (keys, origin)) as pool:
        waiting: deque[tuple[Future[bool], tuple[int, Sequence[bytes], list[Row]]]] = deque()

        def finish(most: int = 0) -> None:
            while len(waiting) > most:
                future, stretch = waiting.popleft()
                if not future.result():
                    _check_stretch(keys, origin, *stretch)  # raises, here

        def hand_on(*stretch: object) -> None:
            waiting.append((pool.submit(_holds, *stretch), stretch))  # type: ignore[arg-type]
            finish(2 * processes)

        try:
            return _walk(rows, hand_on, finish, size, progress)
        except BrokenProcessPool as error:
            raise StorageError("a process that checks the log was ended", hint="is there memory enough?") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _walk(
    rows: Iterable[Row],
    check: Callable[..., None],
    finish: Callable[[], None],
    size: int,
    progress: Callable[[int, int], None] | None,
) -> Checked:
    """Cut the log into stretches, each with its number and the tree before it."""
    found, edge, frontier = Checked(), Edge(), Frontier()
    held: list[Row] = []
    before = frontier.subtrees

    def flush() -> None:
        if held:
            check(found.size - len(held), before, held)
            if progress is not None:
                progress(found.size, size)

    try:
        for row in rows:
            leaf = leaf_hash(leaf_data(row[0]))
            frontier.append(leaf)
            for level, number, hashes in edge.append(leaf):
                found.tiles[level, number] = hashes
            if b'"kind":"r' in row[0]:
                found.suspects.append(found.size)
            held.append(row)
            found.size += 1
            if len(held) == STRETCH:
                flush()
                before, held = frontier.subtrees, []
    finally:
        # What is wrong before the row that cannot be read comes first.
        flush()
        finish()
    return found


def _check_stretch(keys: KeyLine, origin: str, first: int, before: Sequence[bytes], rows: Iterable[Row]) -> None:
    frontier = Frontier.of(first, before)
    root = frontier.root()
    signer, form = None, None
    for number, (data, note) in enumerate(rows, start=first):
        if prev_of(data) != root:
            raise ChainError(f"entry {number} does not follow the one before it")
        frontier.append(leaf_hash(leaf_data(data)))
        size, root = number + 1, frontier.root()
        if form is None or keys.signer(size) is not signer:
            signer = keys.signer(size)
            form = HeadForm(origin, signer)
        if form.holds(note, size, root):
            continue
        head = keys.open(note, origin)
        if (head.size, head.root) != (size, root):
            raise ChainError(f"the head of size {size} signs another tree")


def _begin(keys: KeyLine, origin: str) -> None:
    global _log
    _log = keys, origin


def _holds(first: int, before: Sequence[bytes], rows: list[Row]) -> bool:
    """Whether a stretch is right; what is wrong is said where it can be raised whole."""
    assert _log is not None
    try:
        _check_stretch(*_log, first, before, rows)
    except PolchainError:
        return False
    return True


_log: tuple[KeyLine, str] | None = None
