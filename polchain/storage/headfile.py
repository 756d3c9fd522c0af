"""A small file that is replaced after every append, whole at each moment.

Renaming over a file makes ext4 write the new one out at once (`auto_da_alloc`), which costs as much as the commit
before it. Exchanging the two names is as atomic and does not: the file may be behind after a power loss, never torn.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["replace_file"]

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2  # linux/fs.h


def replace_file(path: Path, data: bytes) -> None:
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
