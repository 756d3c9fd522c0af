"""What was published of a log: head.note, and the heads that were anchored. A ledger without one of them is older.

head.note is a small file that is written over after every append, as the database beside it is: it lies in one sector,
which a disk writes whole, and one call writes it. Only a reader may see half of it, for an instant: `read_head` reads
again. Whatever changes names (a new file, renamed or exchanged) makes the next commit wait for the journal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path
from typing import Final

from polchain.core.claim import HEADS
from polchain.core.note import TreeHead
from polchain.errors import ChainError, EvidenceError, RolledBackError, StorageError
from polchain.storage.database import Database

__all__ = ["HEAD", "HeadFile", "check_published", "mend_head", "read_head"]

HEAD: Final = "head.note"

_SECTOR: Final = 512  # bytes that a disk writes whole
_TRIES: Final = 9
_PAUSE: Final = 0.001  # seconds: longer than a few appends
_LIMIT: Final = 65_537  # bytes: a note is 65,536 at most


def check_published(folder: Path, db: Database, size: int) -> None:
    """Compare with every head that was published: a ledger without one of them is older than it.

    Raises:
        RolledBackError: the ledger does not hold one.
    """
    for path in sorted((folder / "heads").glob("*.note")):
        match = HEADS.fullmatch(f"heads/{path.name}")
        if match is not None and db.head(int(match[1])) != path.read_bytes():
            raise RolledBackError(
                f"heads/{path.name} was published, and this ledger of {size} entries does not hold it",
                hint="the ledger was put back to an older state: restore the newest; signing on would fork the log",
            )


def mend_head(file: HeadFile, db: Database, size: int, open_head: Callable[[bytes], TreeHead]) -> None:
    """Put the head of `size` entries, the last one, into head.note, where that is behind.

    Raises:
        ChainError: the ledger has no such head.
        FormatError, SignatureError: head.note is not a head of this log.
        RolledBackError: it is ahead of the ledger.
        StorageError: it cannot be read, or the disk refused.
    """
    note = db.head(size)
    if note is None:
        raise ChainError(f"no head of size {size}")
    published = read_head(file.path.parent)
    if published == note:
        return
    if published:
        try:
            head = open_head(published)
        except EvidenceError as error:
            raise type(error)(
                f"{file.path} is not a head of this log: {error}",
                hint="restore it; it shows whether the ledger is the newest",
            ) from error
        if head.size > size or db.head(head.size) != published:
            raise RolledBackError(
                f"{HEAD} signs {head.size} entries which this ledger of {size} does not hold",
                hint="the ledger was put back to an older state: restore the newest; signing on would fork the log",
            )
    file.write(note)


class HeadFile:
    """A run's head.note, for the one process that writes there.

    Attributes:
        path: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / HEAD
        self._name = os.fsencode(self.path)
        self._partial = os.fsencode(folder / f".{HEAD}.partial")

    def write(self, note: bytes) -> None:
        """Put a head into it. Not synced: the database is the durable copy, and a note behind is mended.

        Raises:
            StorageError: the disk refused; the old note is as it was, but for a disk that fails in the middle of it.
        """
        try:
            if not self._overwrite(note):
                self._replace(note)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from error

    def _overwrite(self, note: bytes) -> bool:
        """Write into the file that is there; False where it is not a file of this length."""
        try:
            descriptor = os.open(self._name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False  # `_replace` says what is wrong, if anything is
        try:
            # Not `fstat`: once a file's time was asked for, the next write changes it, and a commit waits for that.
            if os.lseek(descriptor, 0, os.SEEK_END) != len(note) or len(note) > _SECTOR:
                return False
            return os.pwrite(descriptor, note, 0) == len(note)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def _replace(self, note: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._partial)
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            written = os.write(descriptor, note)
        finally:
            os.close(descriptor)
        if written != len(note):
            raise OSError(ENOSPC, "no room for all of it")
        os.rename(self._partial, self._name)


def read_head(folder: Path) -> bytes:
    """A run's head.note, empty where there is none; read until it is the same twice, as it may be written meanwhile.

    Raises:
        StorageError: it cannot be read.
    """
    found, before = b"", None
    for number in range(_TRIES):
        time.sleep(_PAUSE if number > 1 else 0.0)
        try:
            descriptor = os.open(folder / HEAD, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StorageError(f"cannot read {folder / HEAD}: {error.strerror}") from error
        try:
            found = os.read(descriptor, _LIMIT)
        except OSError as error:
            raise StorageError(f"cannot read {folder / HEAD}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        if found == before:
            break
        before = found
    return found
