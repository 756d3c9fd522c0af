"""What was published of a log: head.note, and the heads that were anchored. A ledger without one of them is older.

head.note is a small file that is replaced after every append, whole at each moment.

Renaming over a file makes ext4 write the new one out at once (`auto_da_alloc`), which costs as much as the commit
before it. Exchanging the two names is as atomic and does not: the file may be behind after a power loss, never torn.
The file that gave up the name is the spare one, into which the next head is written: making one and removing it costs
more than all the rest.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path
from stat import S_ISREG
from typing import Final

from polchain.core.claim import HEADS
from polchain.core.note import TreeHead
from polchain.errors import ChainError, EvidenceError, RolledBackError, StorageError
from polchain.storage.database import Database

__all__ = ["HEAD", "HeadFile", "check_published", "mend_head", "read_head"]

HEAD: Final = "head.note"
SPARE: Final = ".head.note.spare"

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2  # linux/fs.h
_SECTOR: Final = 512  # bytes that a disk writes whole
_TRIES: Final = 9


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
        StorageError: the disk refused.
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
        self._spare = os.fsencode(folder / SPARE)

    def write(self, note: bytes) -> None:
        """Replace it, whole at each moment. Not synced: the database is the durable copy, and a note behind is mended.

        Raises:
            StorageError: the disk refused; the old note is as it was.
        """
        try:
            if not self._reuse(note):
                self._create(note)
            if _exchange is None or _exchange(_AT_FDCWD, self._spare, _AT_FDCWD, self._name, _RENAME_EXCHANGE) != 0:
                os.rename(self._spare, self._name)  # none there yet, or a file system that exchanges nothing
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Remove the spare file, which the next writer would use or replace."""
        with suppress(OSError):
            os.unlink(self._spare)

    def _reuse(self, note: bytes) -> bool:
        """Write into the spare file; False where it is not a file of this length with this one name."""
        try:
            descriptor = os.open(self._spare, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False  # `_create` says what is wrong, if anything is
        try:
            found = os.fstat(descriptor)
            # Linked elsewhere, as by a backup, it is somebody's old head; within one sector it is not torn.
            if (found.st_nlink, found.st_size) != (1, len(note)) or not S_ISREG(found.st_mode) or len(note) > _SECTOR:
                return False
            return os.write(descriptor, note) == len(note)
        finally:
            os.close(descriptor)

    def _create(self, note: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._spare)
        descriptor = os.open(self._spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            written = os.write(descriptor, note)
        finally:
            os.close(descriptor)
        if written != len(note):
            raise OSError(ENOSPC, "no room for all of it")


def read_head(folder: Path) -> bytes:
    """A run's head.note, empty where there is none.

    Raises:
        OSError: it cannot be read.
    """
    # A file that was opened two appends ago is written again: what is read twice is whole.
    last = None
    for _ in range(_TRIES):
        try:
            found = (folder / HEAD).read_bytes()
        except FileNotFoundError:
            return b""
        if found == last:
            break
        last = found
    return found


def _find_exchange() -> Callable[..., int] | None:
    try:
        found = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    found.restype = ctypes.c_int
    return found


_exchange = _find_exchange()
