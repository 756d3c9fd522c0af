"""What was published of a log: head.note, and the heads that were anchored. A ledger without one of them is older.

head.note is a small file that is replaced after every append, whole at each moment.

Renaming over a file makes ext4 write the new one out at once (`auto_da_alloc`), which costs as much as the commit
before it. Exchanging the two names is as atomic and does not: the file may be behind after a power loss, never torn.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from polchain.core.claim import HEADS
from polchain.core.note import TreeHead
from polchain.errors import ChainError, EvidenceError, RolledBackError, StorageError
from polchain.storage.database import Database

__all__ = ["HEAD", "check_published", "mend_head", "replace_file", "write_head"]

HEAD: Final = "head.note"

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2  # linux/fs.h


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


def mend_head(folder: Path, db: Database, size: int, open_head: Callable[[bytes], TreeHead]) -> None:
    """Put the head of `size` entries, the last one, into head.note, where that is behind.

    Raises:
        ChainError: the ledger has no such head.
        FormatError, SignatureError: head.note is not a head of this log.
        RolledBackError: it is ahead of the ledger.
        StorageError: the disk refused.
    """
    path, note = folder / HEAD, db.head(size)
    if note is None:
        raise ChainError(f"no head of size {size}")
    published = path.read_bytes() if path.exists() else b""
    if published == note:
        return
    if published:
        try:
            head = open_head(published)
        except EvidenceError as error:
            raise type(error)(
                f"{path} is not a head of this log: {error}",
                hint="restore it; it shows whether the ledger is the newest",
            ) from error
        if head.size > size or db.head(head.size) != published:
            raise RolledBackError(
                f"{HEAD} signs {head.size} entries which this ledger of {size} does not hold",
                hint="the ledger was put back to an older state: restore the newest; signing on would fork the log",
            )
    write_head(folder, note)


def write_head(folder: Path, note: bytes) -> None:
    """Replace head.note. Not synced: the database is the durable copy, and a note that is behind is mended.

    Raises:
        StorageError: the disk refused.
    """
    try:
        replace_file(os.path.join(folder, HEAD), note)
    except OSError as error:
        raise StorageError(f"cannot write {folder / HEAD}: {error.strerror}") from error


def replace_file(path: Path | str, data: bytes) -> None:
    """Put `data` in the place of a file, atomically and without waiting for the disk.

    Raises:
        OSError: the disk refused; the old file is as it was.
    """
    name = os.fspath(path)
    partial = os.path.join(os.path.dirname(name), f".{os.path.basename(name)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        written = os.write(descriptor, data)
    finally:
        os.close(descriptor)
    if written != len(data):
        raise OSError(0, "no room for all of it")
    if (
        _exchange is not None
        and _exchange(_AT_FDCWD, os.fsencode(partial), _AT_FDCWD, os.fsencode(name), _RENAME_EXCHANGE) == 0
    ):
        os.unlink(partial)
    else:
        os.rename(partial, name)  # none there yet, or a file system that exchanges nothing


def _find_exchange() -> Callable[..., int] | None:
    try:
        found = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    found.restype = ctypes.c_int
    return found


_exchange = _find_exchange()
