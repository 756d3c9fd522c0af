"""Where a file of a claim lies: a file of its own in a folder, or a stretch of an archive.

Both are read the same way: nothing is followed, nothing is waited for, and nothing longer than its limit is read.
"""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from polchain.core.archive import Member, open_plain
from polchain.core.digest import Digest, blake3, blake3_of
from polchain.core.genesis import FileRef
from polchain.errors import FormatError, MissingFileError

__all__ = ["Place", "hash_file"]

PIECE = 16 * 1024 * 1024
LINES = 1024 * 1024
WINDOW = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """The bytes of one file.

    Attributes:
        path: the file that they lie in.
        member: which stretch of it, where it is an archive; None for all of it.
    """

    path: Path
    member: Member | None = None

    def read(self, name: str, limit: int) -> bytes:
        """The bytes; `name` is for messages.

        Raises:
            MissingFileError: there is no such file, or it cannot be read.
            FormatError: not a plain file, over the limit, or it changed meanwhile.
        """
        with self._opened(name) as (file, size):
            if size > limit:
                raise FormatError(f"{name} is {size} bytes, over the limit of {limit}")
            data = file.read(size if self.member is not None else size + 1)
        if len(data) != size or (self.member is not None and zlib.crc32(data) != self.member.crc):
            raise FormatError(f"{name} changed while the claim was read")
        return data

    def lines(self, name: str, limit: int, longest: int) -> Iterator[bytes]:
        """The lines, without their newlines, a piece of the file at a time; `name` is for messages.

        Args:
            limit: bytes of the file.
            longest: bytes of a line.

        Raises:
            MissingFileError: there is no such file, or it cannot be read.
            FormatError: not a plain file, over a limit, the last line is not ended, or it changed meanwhile.
        """
        with self._opened(name) as (file, size):
            if size > limit:
                raise FormatError(f"{name} is {size} bytes, over the limit of {limit}")
            start = file.tell()
            file.seek(start + max(size - 1, 0))
            if file.read(1) != b"\n":
                raise FormatError(f"{name}: the last line is not ended")
            file.seek(start)
            left, crc, rest, number = size, 0, b"", 0
            while left and (piece := file.read(min(left, LINES))):
                left -= len(piece)
                if self.member is not None:
                    crc = zlib.crc32(piece, crc)
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if len(line) > longest:
                        raise FormatError(f"{name}: entry {number} is over {longest} bytes")
                    yield line
                    number += 1
                if len(rest) > longest:
                    raise FormatError(f"{name}: entry {number} is over {longest} bytes")
            if left or rest or (file.read(1) if self.member is None else crc != self.member.crc):
                raise FormatError(f"{name} changed while the claim was read")

    def check(self, ref: FileRef, listing: str, *, hashed: bool = True) -> None:
        """Compare length and digest with what a listing says; in an archive also the checksum.

        Raises:
            MissingFileError: it is not there.
            FormatError: it is another file.
        """
        try:
            found = self.path.lstat() if self.member is None else self.path.stat()
            if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
                raise FormatError(f"{ref.path} is not a plain file")
            size = found.st_size if self.member is None else self.member.size
            same = size == ref.size and (not hashed or self._digest() == ref.digest)
        except OSError as error:
            raise MissingFileError(
                f"{ref.path} is listed in {listing}, but is not there, or cannot be read", hint="ask the prover for it"
            ) from error
        if not same:
            raise FormatError(f"{ref.path} is not the file that {listing} lists: it was changed or damaged")

    def map(self) -> memoryview:
        """The bytes, mapped and not read.

        Raises:
            OSError: the file cannot be opened or mapped.
        """
        with self.path.open("rb") as file:
            whole = os.fstat(file.fileno()).st_size
            at, size = (0, whole) if self.member is None else (self.member.offset, self.member.size)
            if at + size > whole:
                raise OSError(0, "it is cut short")
            if not size:
                return memoryview(b"")
            before = at % mmap.ALLOCATIONGRANULARITY
            view = mmap.mmap(file.fileno(), before + size, access=mmap.ACCESS_READ, offset=at - before)
            return memoryview(view)[before:]

    def _digest(self) -> Digest | None:
        """BLAKE3 of the bytes; None where the archive's own checksum is another."""
        if self.member is None:
            return hash_file(self.path)
        crc = 0
        with self.map() as data:
            for start in range(0, len(data), PIECE):
                crc = zlib.crc32(data[start : start + PIECE], crc)
            return blake3(data) if crc == self.member.crc else None

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        try:
            file = open_plain(self.path, os.O_NOFOLLOW if self.member is None else 0)
        except OSError as error:
            raise MissingFileError(
                f"{name} is not in the claim, or cannot be read", hint="ask the prover for it"
            ) from error
        if file is None:
            raise FormatError(f"{name} is not a plain file")
        with file:
            size = os.fstat(file.fileno()).st_size
            if self.member is not None:
                size = self.member.size
                file.seek(self.member.offset)
            yield file, size


def hash_file(path: Path) -> Digest:
    """BLAKE3 of a file's bytes, as `b3sum` prints it."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return blake3(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return blake3_of(_pieces(view))


def _pieces(view: mmap.mmap) -> Iterator[memoryview]:
    """A mapped file in large pieces, each of them let go: its pages would count as this process's."""
    for start in range(0, len(view), WINDOW):
        with memoryview(view) as data, data[start : start + WINDOW] as piece:
            yield piece
        view.madvise(mmap.MADV_DONTNEED, start, min(WINDOW, len(view) - start))
