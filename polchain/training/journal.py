r"""Leaf hashes of a dataset that is being read, kept so that whoever was interrupted need not read it again.

    "polchain-leaves/v1\n", u64 samples, u64 leaves in a piece        little-endian
    piece, check    one after the other; check = SHA-256(check before, piece), the first before: of what is above

Only whole pieces with the right check count: what was torn by a power loss is read again. The checks are against
accidents alone. Whether the leaves are those of this dataset, the file cannot tell: see `leaves.hash_samples`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from pathlib import Path
from typing import Final

from polchain.errors import StorageError, UsageError

__all__ = ["Journal"]

MAGIC: Final = b"polchain-leaves/v1\n"
_SIZES: Final = struct.Struct("<QQ")


class Journal:
    """The file, open and locked.

    Attributes:
        leaves: those that were kept.
    """

    def __init__(self, path: Path, samples: int, piece: int) -> None:
        """Open it, or make it.

        Args:
            samples: how many samples the dataset has; what was kept of another number is dropped.
            piece: how many leaves are added at a time.

        Raises:
            StorageError: the disk refused.
            UsageError: there is something else at that path, or another process keeps its leaves there.
        """
        self._path, self._piece = path, 32 * piece
        self._head = MAGIC + _SIZES.pack(samples, piece)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._refused(error) from error
        self._file = os.fdopen(descriptor, "r+b")
        try:
            self.leaves = self._read()
        except OSError as error:
            self._file.close()
            raise self._refused(error) from error
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> bytearray:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process keeps its leaves in {self._path}", hint="name another file") from None
        begun = self._file.read(len(self._head))
        if begun and not begun.startswith(MAGIC) and not MAGIC.startswith(begun):
            raise UsageError(f"{self._path} is no file of leaf hashes", hint="it is left as it is: name another file")
        leaves, self._check = bytearray(), hashlib.sha256(self._head).digest()
        while begun == self._head and len(record := self._file.read(self._piece + 32)) == self._piece + 32:
            check = hashlib.sha256(self._check + record[:-32]).digest()
            if check != record[-32:]:
                break
            leaves += record[:-32]
            self._check = check
        self._cut(len(self._head) + len(leaves) // self._piece * (self._piece + 32) if leaves else 0)
        return leaves

    def _cut(self, at: int) -> None:
        self._file.truncate(at)
        self._file.seek(at)
        if at == 0:
            self._file.write(self._head)
            self._file.flush()

    def drop(self) -> None:
        """Forget what was kept: it is of other samples.

        Raises:
            StorageError: the disk refused.
        """
        self.leaves, self._check = bytearray(), hashlib.sha256(self._head).digest()
        try:
            self._cut(0)
        except OSError as error:
            raise self._refused(error) from error

    def add(self, piece: bytes) -> None:
        """Keep a piece; the last one, where it is shorter, is not kept.

        Raises:
            StorageError: the disk refused.
        """
        if len(piece) == self._piece:
            self._check = hashlib.sha256(self._check + piece).digest()
            try:
                self._file.write(piece + self._check)
                self._file.flush()
            except OSError as error:
                raise self._refused(error) from error

    def remove(self) -> None:
        """All is done."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write {self._path}: {error.strerror}", hint="free some space, then go on")
