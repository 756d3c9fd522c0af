"""The canonical zip: a folder's files as one file, the same bytes for the same files.

    for each file, by the UTF-8 bytes of its name:   local header, name, padding, the bytes as they are
    for each file, in that order:                    directory entry, name
    end record                                       no comment; nothing follows it

stored, never compressed; time 1980-01-01 00:00; flags UTF-8 alone; no attributes, so no links and no folders. The
padding, an extra field of zeros, has each file begin at a multiple of 64, so that tensors can be mapped where they
are. Zip64 fields stand where a number does not fit, and nowhere else.

Names, lengths and checksums say all of it. So a reader takes just these from the directory, makes every other byte
himself, and compares: whatever else a container may hold (comments, gaps, a second entry over the same bytes, headers
that contradict the directory, an archive before or behind this one) is a difference, and is refused.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from polchain.core.genesis import safe_path
from polchain.errors import FormatError, MissingFileError, StorageError

__all__ = ["Member", "is_archive", "open_plain", "read_archive", "write_archive"]

LOCAL = struct.Struct("<4s5H3I2H")
ENTRY = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")
MAGIC, ENTRY_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END64_MAGIC, LOCATOR_MAGIC = b"PK\x06\x06", b"PK\x06\x07"

ALIGNMENT: Final = 64
PADDING: Final = 0x6C70
ZIP64: Final = 1
UTF8: Final = 1 << 11
ENCRYPTED: Final = 1
TIME, DATE = 0, 1 << 5 | 1
SHORT, LONG = 2**16 - 1, 2**32 - 1
VERSION, VERSION64 = 20, 45

DIRECTORY_LIMIT = 512 * 1024 * 1024
MAX_MEMBERS = 1_000_001
PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its path.
        size: bytes.
        crc: the CRC-32 of its bytes.
        header: where its header begins.
        offset: where its bytes begin.
    """

    name: str
    size: int
    crc: int
    header: int
    offset: int

    @property
    def end(self) -> int:
        """Where the next one's header begins."""
        return self.offset + self.size


def is_archive(path: Path) -> bool:
    """Whether a file begins as an archive does. Nothing more is looked at."""
    try:
        file = open_plain(path)
    except OSError:
        return False
    if file is None:
        return False
    with file:
        return file.read(4) in (MAGIC, END_MAGIC)


def read_archive(path: Path) -> tuple[Member, ...]:
    """The members of a canonical archive, by name. Of their bytes nothing is read: `Place` compares those.

    Raises:
        MissingFileError: no such file.
        FormatError: not a canonical archive; the first thing that is wrong is named.
    """
    try:
        file = open_plain(path)
        if file is None:
            raise FormatError(f"{path.name!a} is not a plain file")
        with file:
            return _Reader(file, os.fstat(file.fileno()).st_size, ascii(path.name)).members()
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror}") from error


def open_plain(path: Path, flags: int = 0) -> BinaryIO | None:
    """Open a file to read, if it is a plain one: who opens a pipe waits for ever.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")


def write_archive(out: Path, files: Iterable[tuple[str, Path | Sequence[bytes | memoryview]]]) -> tuple[Member, ...]:
    """Write the canonical archive of these files, whose bytes are in a file or given; durable when this returns.

    Raises:
        FormatError: a name that no member may have, or one given twice.
        StorageError: the disk refused; what was written is left for the caller to remove.
    """
    ordered = sorted(files, key=lambda item: item[0].encode())
    names = [safe_path(name) for name, _ in ordered]
    if len(set(names)) != len(names) or len(names) > MAX_MEMBERS:
        raise FormatError(f"an archive holds each name once, and at most {MAX_MEMBERS}")
    members: list[Member] = []
    try:
        with out.open("xb") as file:
            at = 0
            for name, source in ordered:
                size = source.stat().st_size if isinstance(source, Path) else sum(len(part) for part in source)
                place = _placed(name, size, 0, at)
                file.seek(place.offset)
                member = replace(place, crc=_copy(file, source, size, name))
                file.seek(at)
                file.write(_local(member))
                members.append(member)
                at = member.end
            file.seek(at)
            file.write(_directory(members))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}", hint="is there room?") from error
    return tuple(members)


def _copy(file: BinaryIO, source: Path | Sequence[bytes | memoryview], size: int, name: str) -> int:
    crc = done = 0
    if isinstance(source, Path):
        with source.open("rb") as original:
            while piece := original.read(PIECE):
                crc, done = zlib.crc32(piece, crc), done + file.write(piece)
    else:
        for part in source:
            crc, done = zlib.crc32(part, crc), done + file.write(part)
    if done != size:
        raise StorageError(f"{name} changed while it was packed")
    return crc


def _placed(name: str, size: int, crc: int, header: int) -> Member:
    """A member whose header begins there."""
    unplaced = Member(name, size, crc, header, 0)
    return replace(unplaced, offset=header + len(_local(unplaced)))


def _local(member: Member) -> bytes:
    """A member's header, name and padding."""
    name = member.name.encode()
    big = member.size >= LONG
    extra = struct.pack("<2H2Q", ZIP64, 16, member.size, member.size) if big else b""
    gap = -(member.header + LOCAL.size + len(name) + len(extra)) % ALIGNMENT
    if gap:
        gap += ALIGNMENT if gap < 4 else 0  # a field has a head of four bytes
        extra += struct.pack("<2H", PADDING, gap - 4) + bytes(gap - 4)
    size, version = min(member.size, LONG), VERSION64 if big else VERSION
    head = LOCAL.pack(MAGIC, version, UTF8, 0, TIME, DATE, member.crc, size, size, len(name), len(extra))
    return head + name + extra


def _entry(member: Member) -> bytes:
    """A member's entry in the directory."""
    name = member.name.encode()
    wide = [member.size, member.size] if member.size >= LONG else []
    wide += [member.header] if member.header >= LONG else []
    extra = struct.pack(f"<2H{len(wide)}Q", ZIP64, 8 * len(wide), *wide) if wide else b""
    size, version = min(member.size, LONG), VERSION64 if wide else VERSION
    head = ENTRY.pack(
        ENTRY_MAGIC, version, version, UTF8, 0, TIME, DATE, member.crc, size, size, len(name), len(extra),
        0, 0, 0, 0, min(member.header, LONG),
    )  # fmt: skip
    return head + name + extra


def _directory(members: Sequence[Member]) -> bytes:
    """The directory and the end record, which begin where the last member ends."""
    entries = b"".join(map(_entry, members))
    count, size, at = len(members), len(entries), members[-1].end if members else 0
    end = b""
    if count >= SHORT or size >= LONG or at >= LONG:
        end += END64.pack(END64_MAGIC, END64.size - 12, VERSION64, VERSION64, 0, 0, count, count, size, at)
        end += LOCATOR.pack(LOCATOR_MAGIC, 0, at + size, 1)
    few = min(count, SHORT)
    return entries + end + END.pack(END_MAGIC, 0, 0, few, few, min(size, LONG), min(at, LONG), 0)


class _Reader:
    """Takes names, lengths and checksums from a directory, and compares everything else with what they make."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.file = file
        self.size = size
        self.name = name

    def members(self) -> tuple[Member, ...]:
        count, length, at = self._end()
        if count > MAX_MEMBERS or length > DIRECTORY_LIMIT:
            self._refuse(f"{count} files with a directory of {length} bytes are over the limit")
        data = self._bytes(at, length)
        members: list[Member] = []
        place = header = 0
        for _ in range(count):
            name, size, crc, begun, place = self._entry(data, place)
            if members and name.encode() <= members[-1].name.encode():
                twice = name == members[-1].name
                self._refuse(f"{name!a} is there twice" if twice else f"{name!a} is out of order")
            member = _placed(name, size, crc, header)
            if begun != header or member.end > at:
                self._refuse(f"{name!a} does not begin where it must: files overlap, or other bytes lie between")
            members.append(member)
            header = member.end
        if place != length or header != at:
            self._refuse("there is something between its files and its directory, or in it")
        whole = _directory(members)
        if len(whole) != self.size - at or self._bytes(at, len(whole)) != whole:
            self._refuse("its directory says more than names, lengths and checksums: times, comments, zip64 fields")
        for member in members:
            local = _local(member)
            if self._bytes(member.header, len(local)) != local:
                self._refuse(f"the header of {member.name!a} is not the one that the directory gives it")
        return tuple(members)

    def _end(self) -> tuple[int, int, int]:
        """How many members, how long the directory is, and where it begins."""
        tail = self._bytes(self.size - END.size, END.size)
        magic, disk, first, here, count, length, at, comment = END.unpack(tail)
        if magic != END_MAGIC or comment:
            self._refuse("it does not end with a zip's end record: there is something behind it, or a comment")
        if disk or first or here != count:
            self._refuse("it is one of several parts")
        if count == SHORT or LONG in (length, at):
            before = self._bytes(self.size - END.size - LOCATOR.size - END64.size, END64.size)
            magic64, _, _, _, _, _, _, count, length, at = END64.unpack(before)
            if magic64 != END64_MAGIC:
                self._refuse("its zip64 end record is not where it belongs")
        if at + length > self.size:
            self._refuse("its directory is cut short")
        return count, length, at

    def _entry(self, data: bytes, at: int) -> tuple[str, int, int, int, int]:
        """Name, length, checksum, where the header begins; and where the next entry does."""
        if at + ENTRY.size > len(data):
            self._refuse("its directory is cut short")
        (
            magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, _, _, attributes,
            begun,
        ) = ENTRY.unpack_from(data, at)  # fmt: skip
        after = at + ENTRY.size
        raw, extra = data[after : after + name_length], data[after + name_length : after + name_length + extra_length]
        if magic != ENTRY_MAGIC or len(raw) != name_length or len(extra) != extra_length:
            self._refuse("its directory is damaged")
        try:
            text = raw.decode()
            name = safe_path(text)
        except (UnicodeDecodeError, FormatError):
            self._refuse(f"{ascii(bytes(raw[:80]))[1:]} is not a path inside it")
        if flags & ENCRYPTED or method or packed != size:
            self._refuse(f"{name!a} is {'encrypted' if flags & ENCRYPTED else 'compressed'}: its files are stored")
        if stat.S_ISLNK(attributes >> 16):
            self._refuse(f"{name!a} is a link")
        wide = list(struct.unpack(f"<{len(extra[4:]) // 8}Q", extra[4 : 4 + len(extra[4:]) // 8 * 8]))
        if size == LONG:
            size = wide[0] if wide else size
            del wide[:2]
        if begun == LONG:
            begun = wide[0] if wide else begun
        return name, size, crc, begun, after + name_length + extra_length + comment

    def _bytes(self, at: int, length: int) -> bytes:
        if at < 0:
            self._refuse("it is too short for one")
        self.file.seek(at)
        data = self.file.read(length)
        if len(data) != length:
            self._refuse("it is cut short")
        return data

    def _refuse(self, why: str) -> NoReturn:
        raise FormatError(f"{self.name} is not a canonical zip: {why}", hint="`polchain export` writes canonical ones")
