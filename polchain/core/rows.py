"""The rows of a manifest: a tensor, a tied tensor, a number or text, an unopened file.

    {"kind": "tensor", "name": "model/fc.weight", "role": "parameter", "dtype": "F32", "shape": [10, 64],
     "size": 2560, "digest": "blake3:..."}                                role: parameter, buffer or state
    {"kind": "alias",  "name": "model/head.weight", "target": "model/embed.weight"}          a tied tensor
    {"kind": "scalar", "name": "schedule/settings/0/lr", "type": "float", "value": "0x1.0p-4"}
                                                                             type: int, float, bool, str or none
    {"kind": "file",   "name": "extra/rng_state.pth", "size": 14244, "digest": "blake3:..."}   recorded unopened

The part of a name before the first slash is its group: model, optimizer, schedule or extra.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from polchain.core.digest import Digest
from polchain.core.encoding import JSON, Fields, encode
from polchain.errors import FormatError, ManifestError

__all__ = [
    "DTYPES",
    "GROUPS",
    "MAX_INT",
    "MAX_NAME",
    "MAX_TEXT",
    "AliasRow",
    "FileRow",
    "Row",
    "Scalar",
    "ScalarRow",
    "TensorRow",
    "check_row",
    "group_of",
    "parse_row",
]

GROUPS = ("model", "optimizer", "schedule", "extra")
MAX_NAME = 1024
MAX_DIMENSIONS = 32
MAX_TEXT = 4096
MAX_INT = 10**39
ROLES = ("parameter", "buffer", "state")

# Element sizes in bytes, by the names that safetensors gives them.
DTYPES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
        "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
        "I32": 4, "U32": 4, "F32": 4,
        "F64": 8, "I64": 8, "U64": 8, "C64": 8,
    }
)  # fmt: skip

Scalar = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A named tensor: its dtype, shape, length in bytes and the BLAKE3 digest of its contiguous little-endian bytes."""

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    digest: Digest

    @property
    def size(self) -> int:
        """Length in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype]

    def encode(self) -> bytes:
        """Canonical JSON of the row: what `encode(row.to_json())` gives, written straight where nothing is escaped."""
        name = self.name
        if not (name.isascii() and name.isprintable()) or '"' in name or "\\" in name:
            return encode(self.to_json())
        shape = ",".join(map(str, self.shape))
        return (
            f'{{"digest":"{self.digest}","dtype":"{self.dtype}","kind":"tensor","name":"{name}",'
            f'"role":"{self.role}","shape":[{shape}],"size":{self.size}}}'
        ).encode("ascii")

    def to_json(self) -> JSON:
        return {
            "kind": "tensor",
            "name": self.name,
            "role": self.role,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "size": self.size,
            "digest": str(self.digest),
        }


@dataclass(frozen=True, slots=True)
class AliasRow:
    """A name that shares the tensor of another row (tied weights)."""

    name: str
    target: str

    def to_json(self) -> JSON:
        return {"kind": "alias", "name": self.name, "target": self.target}


@dataclass(frozen=True, slots=True, eq=False)
class ScalarRow:
    """A named Python number, string or None. Its text form is exact, so equal rows are equal values."""

    name: str
    value: Scalar

    # By type and text: to Python 1, 1.0 and True are equal, as 0.0 and -0.0 are, and NaN is not equal to itself.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScalarRow):
            return NotImplemented
        return (self.name, self.type, self.text) == (other.name, other.type, other.text)

    def __hash__(self) -> int:
        return hash((self.name, self.type, self.text))

    @property
    def type(self) -> str:
        """One of bool, int, float, str, none."""
        return "none" if self.value is None else type(self.value).__name__

    @property
    def text(self) -> str:
        """The value as text: decimal, float.hex(), true or false, or the string itself."""
        value = self.value
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        return value.hex() if isinstance(value, float) else str(value)

    def to_json(self) -> JSON:
        return {"kind": "scalar", "name": self.name, "type": self.type, "value": self.text}


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file recorded by its digest alone, unopened. Only foreign runs have such rows."""

    name: str
    size: int
    digest: Digest

    def to_json(self) -> JSON:
        return {"kind": "file", "name": self.name, "size": self.size, "digest": str(self.digest)}


Row = TensorRow | AliasRow | ScalarRow | FileRow


def group_of(name: str) -> str:
    """The group a row's name belongs to: what stands before its first slash."""
    return name.partition("/")[0]


def check_row(row: Row, by_name: Mapping[str, Row]) -> None:
    """Refuse what no row of these may be.

    Raises:
        ManifestError: its name, or what it says, is impossible.
    """
    group, slash, rest = row.name.partition("/")
    if group not in GROUPS or not slash or not rest or len(row.name) > MAX_NAME or not row.name.isprintable():
        raise ManifestError(f"row name {row.name[:MAX_NAME]!r} is not <group>/<name>")
    if isinstance(row, TensorRow):
        if row.dtype not in DTYPES:
            raise ManifestError(f"{row.name}: unknown dtype {row.dtype!r}")
        if row.role not in ROLES:
            raise ManifestError(f"{row.name}: unknown role {row.role!r}")
        if len(row.shape) > MAX_DIMENSIONS or any(n < 0 for n in row.shape) or row.size >= 2**53:
            raise ManifestError(f"{row.name}: impossible shape")
        if row.digest.algorithm != "blake3":
            raise ManifestError(f"{row.name}: tensors are hashed with blake3")
    elif isinstance(row, AliasRow):
        target = by_name.get(row.target)
        if not isinstance(target, TensorRow) or group_of(row.target) != group:
            raise ManifestError(f"{row.name}: {row.target!r} is not a tensor of the same group")
    elif isinstance(row, ScalarRow):
        value = row.value
        if value is not None and type(value) not in (bool, int, float, str):
            raise ManifestError(f"{row.name}: a {type(value).__name__} is no scalar")
        if (isinstance(value, int) and abs(value) >= MAX_INT) or (isinstance(value, str) and len(value) > MAX_TEXT):
            raise ManifestError(f"{row.name}: a scalar that is too long")
    elif row.digest.algorithm != "blake3" or not 0 <= row.size < 2**53:
        raise ManifestError(f"{row.name}: a file has a size and is hashed with blake3")


def parse_row(value: JSON) -> Row:
    """The row of this JSON.

    Raises:
        FormatError: it is none, or not written canonically.
    """
    fields = Fields(value, "manifest row")
    kind = fields.str("kind")
    name = fields.str("name", max_length=MAX_NAME)
    row: Row
    if kind == "tensor":
        role, dtype = fields.str("role"), fields.str("dtype")
        shape = tuple(_dimension(n) for n in fields.list("shape", max_items=MAX_DIMENSIONS))
        row = TensorRow(name, role, dtype, shape, Digest.parse(fields.str("digest")))
        if dtype not in DTYPES or fields.int("size") != row.size:
            raise FormatError(f"manifest row {name!r}: size, shape and dtype disagree")
    elif kind == "alias":
        row = AliasRow(name, fields.str("target", max_length=MAX_NAME))
    elif kind == "scalar":
        row = ScalarRow(name, _parse_scalar(fields.str("type"), fields.str("value", max_length=MAX_TEXT), name))
    elif kind == "file":
        row = FileRow(name, fields.int("size"), Digest.parse(fields.str("digest")))
    else:
        raise FormatError(f"manifest row {name!r}: unknown kind {kind!r}")
    fields.done()
    return row


def _dimension(value: JSON) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError("manifest row: a shape holds something that is not a size")
    return value


def _parse_scalar(kind: str, text: str, name: str) -> Scalar:
    value: Scalar
    try:
        if kind == "int" and len(text) <= 40:
            value = int(text)
        elif kind == "float":
            value = float.fromhex(text)
        elif kind == "bool":
            value = {"true": True, "false": False}[text]
        elif kind == "str":
            value = text
        elif kind == "none":
            value = None
        else:
            raise FormatError(f"manifest row {name!r}: unknown scalar type")
    except (ValueError, KeyError, OverflowError) as error:
        raise FormatError(f"manifest row {name!r}: {text[:64]!r} is not a {kind}") from error
    if ScalarRow(name, value).text != text:
        raise FormatError(f"manifest row {name!r}: {text[:64]!r} is not written canonically")
    return value
