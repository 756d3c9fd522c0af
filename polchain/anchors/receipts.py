"""Receipts as files: a claim's `anchors/<name>.json`, canonical JSON of at most 1 MiB.

    {"batch": {"count", "index", "proof", "root"},    only where the head was published as part of a batch
     "body": {...},                                   the source's own; see its module
     "format": "polchain-receipt/v1",
     "head_size": 1200,                               which of the log's heads it is of
     "kind": "ethereum" | "rfc3161" | ...,
     "status": "pending" | "final"}                   what the prover last heard; a verifier checks for itself

Reading believes nothing but the form: whether the receipt proves anything is its source's `check` to say.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from polchain.anchors.base import Receipt, Status, Target
from polchain.anchors.batch import Membership, check_membership
from polchain.core.claim import RECEIPT_LIMIT
from polchain.core.encoding import Fields, decode, encode
from polchain.errors import FormatError, MissingFileError, StorageError

__all__ = ["FORMAT", "FiledReceipt", "read_receipt", "write_receipt"]

FORMAT: Final = "polchain-receipt/v1"

_KIND: Final = re.compile(r"[a-z][a-z0-9]{0,31}")
_WHAT: Final = "receipt"


@dataclass(frozen=True, slots=True)
class FiledReceipt:
    """A receipt, the head it is of, and how that head belongs to the batch that was published, if it was one."""

    head_size: int
    receipt: Receipt
    batch: Membership | None = None

    def target(self, alone: Target) -> Target:
        """What the receipt must be of: the head alone, as `target_of` gives it, or the batch that the head is in.

        Raises:
            InclusionError: the head is not in the batch.
        """
        return alone if self.batch is None else check_membership(alone.note, self.batch)

    def encode(self) -> bytes:
        """The file's bytes.

        Raises:
            FormatError: a body that is not canonical JSON, or anything that `parse` would refuse.
        """
        data = encode(
            {
                "format": FORMAT,
                "head_size": self.head_size,
                "kind": self.receipt.kind,
                "status": self.receipt.status,
                "body": dict(self.receipt.body),
                **({} if self.batch is None else {"batch": self.batch.to_json()}),
            }
        )
        self.parse(data)
        return data

    @classmethod
    def parse(cls, data: bytes) -> FiledReceipt:
        """Read what `encode` wrote.

        Raises:
            FormatError: anything else, or over a limit.
        """
        fields = Fields(decode(data, limit=RECEIPT_LIMIT, what=_WHAT), _WHAT)
        if fields.str("format", max_length=32) != FORMAT:
            raise FormatError(f"{_WHAT}: the format is not {FORMAT}")
        size = fields.int("head_size", minimum=1)
        kind = fields.str("kind", max_length=32)
        if _KIND.fullmatch(kind) is None:
            raise FormatError(f"{_WHAT}: a kind is lower-case letters and digits")
        status = _status(fields.str("status", max_length=16))
        body = fields.dict("body")
        batch = Membership.parse(fields.dict("batch")) if fields.has("batch") else None
        fields.done()
        return cls(size, Receipt(kind, status, body), batch)


def read_receipt(path: Path) -> FiledReceipt:
    """Read a receipt's file; links are not followed.

    Raises:
        MissingFileError: it is not there, or cannot be read.
        FormatError: not a plain file, or not a receipt.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FormatError(f"{path.name} is not a plain file")
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(RECEIPT_LIMIT + 1)
    except OSError as error:
        raise MissingFileError(f"{path.name} is not there, or cannot be read") from error
    return FiledReceipt.parse(data)


def write_receipt(path: Path, filed: FiledReceipt) -> None:
    """Write a receipt's file, whole or not at all; the one before it is replaced.

    Raises:
        StorageError: the disk refused.
        FormatError: see `FiledReceipt.encode`.
    """
    data = filed.encode()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _status(text: str) -> Status:
    if text == "pending":
        return "pending"
    if text == "final":
        return "final"
    raise FormatError(f"{_WHAT}: the status is pending or final")
