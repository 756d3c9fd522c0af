r"""Canonical JSON: one value, one byte string.

The subset of RFC 8785 that never needs a decision:

    {"a":1,"kind":"genesis","tags":["x","y"]}

    objects    ASCII keys, sorted, no key twice, no space anywhere
    integers   |n| < 2^53, no exponent, no leading zero
    strings    UTF-8; only `"`, `\` and controls are escaped (\b \t \n \f \r, else \u00xx)
    booleans   true, false
    nothing    no null; an absent field is an absent key
    floats     none: a float is the string that `float.hex()` gives, "0x1.8000000000000p+1"
    depth      at most 32 nested objects and arrays

A reader encodes again what it parsed, and refuses any difference.
`Fields` then reads an untrusted object key by key, and refuses what nobody asked for. Of base64 there is one form too.
"""

from __future__ import annotations

import base64
import builtins
import json
import math
import re
from itertools import accumulate
from typing import Final, NoReturn, TypeAlias

from polchain.errors import FormatError

__all__ = [
    "JSON",
    "MAX_DEPTH",
    "MAX_INTEGER",
    "Fields",
    "check_nesting",
    "decode",
    "encode",
    "from_base64",
    "hex_float",
    "to_base64",
]

JSON: TypeAlias = dict[str, "JSON"] | list["JSON"] | str | int | bool

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 32

# The digits of MAX_INTEGER and a sign. `int()` of a longer run of digits is quadratic, so it is never called.
_MAX_DIGITS: Final = 17

# One that is never closed reaches to the end, and nothing is tried twice: else a run of `\\"` takes quadratic time.
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKET: Final = re.compile(r"[^\[\]{}]+")
_TURN: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def encode(value: JSON) -> bytes:
    """Encode `value` as canonical JSON (RFC 8785, the subset of this module).

    Raises:
        FormatError: null, a float, a tuple or any other type (subclasses too), an integer of 2^53 or more,
            a key that is not ASCII text, a lone surrogate, or more than 32 levels.
    """
    return _encode(value, "value")


def decode(data: bytes, *, limit: int, what: str) -> JSON:
    """Parse canonical JSON; `what` names the thing in the message.

    Raises:
        FormatError: more than `limit` bytes, not UTF-8, not JSON, a duplicate key, a float, null, an integer of
            2^53 or more, too deep, or any bytes that `encode` would not have written.
    """
    if len(data) > limit:
        raise FormatError(f"{what}: {len(data)} bytes, the limit is {limit}")
    try:
        text = bytes(data).decode("utf-8")
        check_nesting(text)
        value: JSON = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise FormatError(f"{what}: not JSON: {error}") from None
    if _encode(value, what) != data:
        raise FormatError(f"{what}: not canonical JSON (order, spaces, escapes or number format)")
    return value


def hex_float(x: float) -> str:
    """Write a float as text, exactly: `float.hex()`. `Fields.float` reads it.

    Raises:
        FormatError: NaN or an infinity.
    """
    if not math.isfinite(x):
        raise FormatError(f"{x} is not a finite number")
    # float() first: a subclass such as numpy.float64 may format itself.
    return float(x).hex()


def to_base64(data: bytes) -> str:
    """Base64 (RFC 4648, section 4), with padding."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, what: str) -> bytes:
    """Strict base64 (RFC 4648, section 4): the bits that padding leaves over must be zero (section 3.5).

    Raises:
        FormatError: anything else; `what` names the thing in the message.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise FormatError(f"{what}: not base64") from None
    if to_base64(data) != text:
        raise FormatError(f"{what}: base64 that is not canonical")
    return data


def check_nesting(text: str) -> None:
    """Refuse deep nesting before a parser sees it: where the recursion limit was raised, it overflows the stack.

    Raises:
        FormatError: JSON of more than 32 levels.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    brackets = _NO_BRACKET.sub("", _STRING.sub("", text))
    if max(accumulate(map(_TURN.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise FormatError(f"more than {MAX_DEPTH} levels")


class Fields:
    """The fields of one untrusted object, read by name and type.

    A key that was never read makes `done()` raise: an unknown field is refused, not ignored.
    Every method raises FormatError with the object's and the field's name.
    """

    __slots__ = ("_read", "_value", "_what")

    def __init__(self, value: JSON, what: builtins.str) -> None:
        """Raises FormatError if `value` is not an object."""
        if type(value) is not dict:
            raise FormatError(f"{what}: an object was expected, not {_kind(value)}")
        self._what = what
        self._value = value
        self._read: set[builtins.str] = set()

    def has(self, name: builtins.str) -> builtins.bool:
        """Whether the field is there. Does not count as reading it."""
        return name in self._value

    def str(self, name: builtins.str, *, max_length: builtins.int = 1024) -> builtins.str:
        """A string of at most `max_length` characters."""
        value = self._get(name)
        if type(value) is not str:
            self._fail(name, f"a string was expected, not {_kind(value)}")
        if len(value) > max_length:
            self._fail(name, f"{len(value)} characters, the limit is {max_length}")
        return value

    def int(
        self, name: builtins.str, *, minimum: builtins.int = 0, maximum: builtins.int = MAX_INTEGER
    ) -> builtins.int:
        """An integer from `minimum` to `maximum`, both allowed. A boolean is no integer."""
        value = self._get(name)
        if type(value) is not int:
            self._fail(name, f"an integer was expected, not {_kind(value)}")
        if not minimum <= value <= maximum:
            self._fail(name, f"{_short(value)} is outside {minimum} to {maximum}")
        return value

    def bool(self, name: builtins.str) -> builtins.bool:
        """True or false."""
        value = self._get(name)
        if type(value) is not bool:
            self._fail(name, f"true or false was expected, not {_kind(value)}")
        return value

    def list(self, name: builtins.str, *, max_items: builtins.int) -> builtins.list[JSON]:
        """An array of at most `max_items` items."""
        value = self._get(name)
        if type(value) is not list:
            self._fail(name, f"an array was expected, not {_kind(value)}")
        if len(value) > max_items:
            self._fail(name, f"{len(value)} items, the limit is {max_items}")
        return value

    def dict(self, name: builtins.str) -> builtins.dict[builtins.str, JSON]:
        """An object, as it is."""
        value = self._get(name)
        if type(value) is not dict:
            self._fail(name, f"an object was expected, not {_kind(value)}")
        return value

    def fields(self, name: builtins.str) -> Fields:
        """An object, to be read field by field; it needs a `done()` of its own."""
        return Fields(self.dict(name), f"{self._what}.{name}")

    def float(self, name: builtins.str) -> builtins.float:
        """A finite float, written as `hex_float` writes it."""
        text = self.str(name, max_length=32)
        try:
            value = float.fromhex(text)
        except (ValueError, OverflowError):
            self._fail(name, f"{_short(text)} is not a float in hexadecimal")
        if not math.isfinite(value) or value.hex() != text:
            self._fail(name, f"{_short(text)} is not how a finite float is written in hexadecimal")
        return value

    def done(self) -> None:
        """Check that every field was read.

        Raises:
            FormatError: a field is there that nobody asked for.
        """
        unread = sorted(self._value.keys() - self._read)
        if unread:
            names = ", ".join(_short(name) for name in unread[:5])
            raise FormatError(f"{self._what}: unknown field {names}")

    def _get(self, name: builtins.str) -> JSON:
        self._read.add(name)
        try:
            return self._value[name]
        except KeyError:
            self._fail(name, "missing")

    def _fail(self, name: builtins.str, why: builtins.str) -> NoReturn:
        raise FormatError(f"{self._what}: field {name!r}: {why}")


def _encode(value: JSON, what: str) -> bytes:
    _check(value, what, 0)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{what}: a lone surrogate is not text") from None


def _check(value: object, what: str, depth: int) -> None:
    # Exact types: an IntEnum or a str subclass may print itself as something else.
    kind = type(value)
    if kind is str or kind is bool:
        return
    if isinstance(value, int) and kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise FormatError(f"{what}: an integer of 2^53 or more")
        return
    if not ((isinstance(value, dict) and kind is dict) or (isinstance(value, list) and kind is list)):
        raise FormatError(f"{what}: {_kind(value)} is not allowed")
    if depth == MAX_DEPTH:
        raise FormatError(f"{what}: more than {MAX_DEPTH} levels")
    if isinstance(value, list):
        for item in value:
            _check(item, what, depth + 1)
        return
    for key, item in value.items():
        if type(key) is not str or not key.isascii():
            raise FormatError(f"{what}: the key {_short(key)} is not ASCII text")
        _check(item, what, depth + 1)


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise FormatError(f"the key {_short(key)} appears twice")
            seen.add(key)
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise FormatError("an integer of 2^53 or more")
    return int(digits)


def _refuse_number(text: str) -> NoReturn:
    raise FormatError(f"{_short(text)} is not an integer")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer"}
    if value is None:
        return "null"
    return names.get(type(value), f"a value of type {type(value).__name__}")


def _short(value: object) -> str:
    """What an untrusted value looks like in a message: never long, never a control character."""
    # Cut before formatting: printing an integer of a million digits raises, a string of a gigabyte takes a gigabyte.
    if isinstance(value, int) and value.bit_length() > 100:
        return "a huge integer"
    text = ascii(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."
