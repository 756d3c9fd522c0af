"""DER, as much of it as time-stamping needs (X.690, section 10): read strictly, write plainly.

    tag (one byte), length (definite, as short as possible), content

A reader refuses every other encoding; what the values mean is `cms`'s and `rfc3161`'s.
"""

from __future__ import annotations

from typing import Final

from polchain.errors import FormatError

__all__ = [
    "BOOLEAN",
    "GENERALIZED_TIME",
    "INTEGER",
    "NULL",
    "OCTETS",
    "OID",
    "SEQUENCE",
    "SET",
    "Reader",
    "integer",
    "oid",
    "read_integer",
    "wrap",
]

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTETS: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31


class Reader:
    """The values in some DER, one after the other. Everything raises FormatError with the name of what is read."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def next_is(self, tag: int) -> bool:
        """Whether a value with that tag comes next."""
        return self._data[self._at : self._at + 1] == bytes([tag])

    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def content(self, tag: int) -> bytes:
        """The content of the next value, which must have that tag."""
        start, end = self._bounds(tag)
        self._at = end
        return self._data[start:end]

    def whole(self, tag: int) -> bytes:
        """The next value, tag and length included."""
        begin = self._at
        _, self._at = self._bounds(tag)
        return self._data[begin : self._at]

    def inside(self, tag: int) -> Reader:
        """A reader of the content of the next value."""
        return Reader(self.content(tag), self._what)

    def skip(self) -> None:
        """Pass over the next value, whatever it is."""
        if not self.more():
            raise FormatError(f"{self._what}: it ends too early")
        self.content(self._data[self._at])

    def done(self) -> None:
        """Check that nothing is left."""
        if self.more():
            raise FormatError(f"{self._what}: {len(self._data) - self._at} bytes too many")

    def _bounds(self, tag: int) -> tuple[int, int]:
        head = self._data[self._at : self._at + 2]
        if len(head) < 2:
            raise FormatError(f"{self._what}: it ends too early")
        if head[0] != tag:
            raise FormatError(f"{self._what}: tag 0x{tag:02x} was expected, not 0x{head[0]:02x}")
        start, length = self._at + 2, head[1]
        if length >= 0x80:
            digits = self._data[start : start + (length & 0x7F)]
            length = int.from_bytes(digits, "big")
            if not 1 <= len(digits) <= 4 or digits[0] == 0 or length < 0x80:
                raise FormatError(f"{self._what}: a length that is not DER")
            start += len(digits)
        if start + length > len(self._data):
            raise FormatError(f"{self._what}: it ends too early")
        return start, start + length


def read_integer(content: bytes, what: str) -> int:
    """The content of an INTEGER (X.690, 8.3)."""
    redundant = len(content) > 1 and content[0] in (0x00, 0xFF) and (content[0] ^ content[1]) < 0x80
    if not content or len(content) > 64 or redundant:
        raise FormatError(f"{what}: an integer that is not DER")
    return int.from_bytes(content, "big", signed=True)


def wrap(tag: int, *parts: bytes) -> bytes:
    """A value: tag, length, and the parts as its content."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    digits = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(digits)]) + digits + content


def integer(value: int) -> bytes:
    """An INTEGER that is not negative."""
    return wrap(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form, which is well-formed (X.690, 8.19)."""
    first, second, *rest = map(int, dotted.split("."))
    return wrap(OID, *(_base128(arc) for arc in (first * 40 + second, *rest)))


def _base128(arc: int) -> bytes:
    digits = [arc & 0x7F]
    while arc := arc >> 7:
        digits.append(0x80 | arc & 0x7F)
    return bytes(reversed(digits))
