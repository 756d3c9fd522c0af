"""The leaf hashes of a dataset: 32 bytes a sample, computed piece by piece, by several processes if asked for.

With a file to keep them in (`journal`), what was interrupted goes on there: some of what is kept is computed again, and
where one differs all is. That finds another dataset, and not one sample that was changed in between. So it has to be
asked for, by whoever knows that the data stays as it is. The file is the prover's own convenience, and nobody's
evidence: a leaf that is wrong shows when its sample is opened or replayed, and then its prover is the one who loses.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Protocol, overload

from polchain.core.merkle import Hash
from polchain.errors import DatasetError, UsageError
from polchain.training.journal import Journal

__all__ = ["KEPT", "WORKERS", "Leaves", "Source", "hash_samples"]

WORKERS: Final = "POLCHAIN_DATA_WORKERS"
KEPT: Final = "POLCHAIN_DATA_KEPT"
PIECE: Final = 4096
AGAIN: Final = 64


class Source(Protocol):
    """A dataset: a length, and a sample by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Leaves(Sequence[Hash]):
    """Leaf hashes, one after the other in one buffer."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)

    def __len__(self) -> int:
        return len(self._data) // 32

    @overload
    def __getitem__(self, index: int) -> Hash: ...

    @overload
    def __getitem__(self, index: slice) -> Leaves: ...

    def __getitem__(self, index: int | slice) -> Hash | Leaves:
        found = range(len(self))[index]
        if isinstance(found, int):
            return bytes(self._data[32 * found : 32 * found + 32])
        if found.step != 1:
            raise UsageError("leaves are cut in one piece")
        return Leaves(self._data[32 * found.start : 32 * max(found.start, found.stop)])

    def __iter__(self) -> Iterator[Hash]:
        return (bytes(self._data[at : at + 32]) for at in range(0, len(self._data), 32))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Leaves):
            return self._data == other._data
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))


def hash_samples(
    source: Source,
    leaf_of: Callable[[Any], Hash],
    *,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
    kept: Path | None = None,
) -> Leaves:
    """The leaf hash of every sample, each read once.

    Args:
        source: the dataset.
        leaf_of: the leaf hash of a sample.
        progress: called with how many are done.
        workers: forked processes that read it; None takes POLCHAIN_DATA_WORKERS, else none. A dataset that holds an
            open file cannot be read by several processes at once.
        kept: where to keep what is done until all is; removed then. Only for data that nobody changes in between.

    Raises:
        StorageError: the disk refused the file.
        UsageError: it is no such file.
        Whatever the dataset raises.
    """
    size, leaves = len(source), bytearray()
    with Journal(kept, size, PIECE) if kept is not None else nullcontext() as journal:
        if journal is not None:
            if not _same(journal.leaves, source, leaf_of):
                journal.drop()
            leaves = journal.leaves
        for piece in _pieces(source, leaf_of, len(leaves) // 32, _workers() if workers is None else workers):
            leaves += piece
            if journal is not None:
                journal.add(piece)
            if progress is not None:
                progress(len(leaves) // 32)
        if journal is not None:
            journal.remove()
    return Leaves(leaves)


def _pieces(source: Source, leaf_of: Callable[[Any], Hash], first: int, workers: int) -> Iterator[bytes]:
    size = len(source)
    starts = range(first, size, PIECE)
    if workers < 1 or len(starts) < 2:
        for start in starts:
            yield _hash(source, leaf_of, start, min(start + PIECE, size))
        return
    # Forked after this: the dataset need not be picklable, nor the caller's main module importable.
    global _shared
    _shared = source, leaf_of
    try:
        with ProcessPoolExecutor(workers, get_context("fork"), _begin) as pool:
            waiting: deque[tuple[int, Future[bytes | None]]] = deque()
            for start in (*starts, *[size] * 2 * workers):
                if start < size:
                    waiting.append((start, pool.submit(_hash_shared, start, min(start + PIECE, size))))
                if len(waiting) > 2 * workers or (start == size and waiting):
                    at, future = waiting.popleft()
                    # What went wrong there goes wrong here, where it can be raised whole.
                    yield future.result() or _hash(source, leaf_of, at, min(at + PIECE, size))
    except BrokenProcessPool as error:
        raise DatasetError(
            "a process that reads the data was ended, as where memory runs out",
            hint=f"set {WORKERS} to fewer processes, or leave it out",
        ) from error
    finally:
        _shared = None


def _hash(source: Source, leaf_of: Callable[[Any], Hash], start: int, end: int) -> bytes:
    return b"".join([leaf_of(source[index]) for index in range(start, end)])


def _begin() -> None:
    import torch

    # A forked child cannot use the threads that torch had.
    torch.set_num_threads(1)


def _hash_shared(start: int, end: int) -> bytes | None:
    assert _shared is not None
    try:
        return _hash(*_shared, start, end)
    except Exception:
        return None


_shared: tuple[Source, Callable[[Any], Hash]] | None = None


def _workers() -> int:
    text = os.environ.get(WORKERS, "0")
    if not text.isdecimal() or int(text) > 256:
        raise UsageError(f"{WORKERS} is not a number of processes: {text[:20]!a}")
    return int(text)


def _same(leaves: bytearray, source: Source, leaf_of: Callable[[Any], Hash]) -> bool:
    """Whether leaves that were kept are, where one looks, those of the samples."""
    done = len(leaves) // 32
    some = {0, done - 1, *random.sample(range(done), min(AGAIN, done))} if done else set()
    return all(leaf_of(source[index]) == leaves[32 * index : 32 * index + 32] for index in some)
