r"""The leaf hashes of a dataset: 32 bytes a sample, computed piece by piece, by several processes if asked for.

    .polchain-leaves    "polchain-leaves/v1\n", u64 little-endian number of samples, then the leaf hashes so far

With a file to keep them in, what was interrupted goes on there: some of what is kept is computed again, and where one
differs all is. The file is the prover's own convenience, and nobody's evidence: a leaf that is wrong shows when its
sample is opened or replayed.
"""

from __future__ import annotations

import os
import random
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Protocol, overload

from polchain.core.merkle import Hash
from polchain.errors import StorageError, UsageError

__all__ = ["WORKERS", "Leaves", "Source", "hash_samples"]

WORKERS: Final = "POLCHAIN_DATA_WORKERS"
PIECE: Final = 4096
AGAIN: Final = 64
_MAGIC: Final = b"polchain-leaves/v1\n"
_COUNT: Final = struct.Struct("<Q")


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
        kept: where to keep what is done until all is; removed then.

    Raises:
        StorageError: the disk refused the file.
        Whatever the dataset raises.
    """
    size = len(source)
    leaves = _kept(kept, source, leaf_of) if kept is not None else bytearray()
    with _Journal(kept, size, leaves) as journal:
        for piece in _pieces(source, leaf_of, len(leaves) // 32, _workers() if workers is None else workers):
            leaves += piece
            journal.add(piece)
            if progress is not None:
                progress(len(leaves) // 32)
    if kept is not None:
        kept.unlink(missing_ok=True)
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


def _kept(path: Path, source: Source, leaf_of: Callable[[Any], Hash]) -> bytearray:
    """What was kept earlier, if it is of a dataset that has the same length and, where one looks, the same samples."""
    head = _MAGIC + _COUNT.pack(len(source))
    with suppress(OSError):
        data = path.read_bytes()
        done = min((len(data) - len(head)) // 32, len(source))
        leaves = bytearray(data[len(head) : len(head) + 32 * max(done, 0)])
        if data.startswith(head) and done > 0:
            some = {0, done - 1, *random.sample(range(done), min(AGAIN, done))}
            if all(leaf_of(source[index]) == leaves[32 * index : 32 * index + 32] for index in some):
                return leaves
    return bytearray()


class _Journal:
    """The file that leaves are kept in, if there is one."""

    def __init__(self, path: Path | None, size: int, leaves: bytearray) -> None:
        self._path, self._file = path, None
        if path is not None:
            try:
                self._file = path.open("wb")
                self._file.write(_MAGIC + _COUNT.pack(size) + leaves)
            except OSError as error:
                raise self._refused(error) from error

    def add(self, piece: bytes) -> None:
        """Keep a piece."""
        if self._file is not None:
            try:
                self._file.write(piece)
                self._file.flush()
            except OSError as error:
                raise self._refused(error) from error

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write {self._path}: {error.strerror}", hint="free some space, then go on")
