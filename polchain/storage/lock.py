"""The lock of a run: one process writes to it, and not what that forks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polchain.errors import RunLockedError, StorageError

__all__ = ["give_back", "locked", "take"]

LOCK = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every writer out of a run for a while.

    Raises:
        RunLockedError: another process is writing to it.
        StorageError: the disk refused.
    """
    descriptor = take(folder)
    try:
        yield
    finally:
        give_back(descriptor)


def take(folder: Path) -> int:
    """Lock a run; returns the descriptor that holds the lock.

    Raises:
        RunLockedError: another process is writing to it.
        StorageError: the disk refused.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot write in {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise RunLockedError(f"another process is writing to {folder}", hint="wait for it to end, or stop it") from None
    _held.add(descriptor)
    return descriptor


def give_back(descriptor: int) -> None:
    """Unlock a run; nothing happens where this process does not hold that lock."""
    if descriptor in _held:
        _held.remove(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was just forked may not have closed its copy yet
        os.close(descriptor)


def _forget() -> None:
    """In a forked child: a loader's workers outlive a killed trainer by seconds, and must not hold its lock."""
    while _held:
        os.close(_held.pop())


_held: set[int] = set()
os.register_at_fork(after_in_child=_forget)
