"""What a run keeps of its anchors, in its folder.

    heads/<size>.note               a head that was published, or is about to be
    anchors/<size>-<source>.json    its receipt from one source (see `anchors.receipts`)
    anchors/beacon.json             the block whose hash the seed comes from (see `anchors.beacon`)
    anchors/trouble.json            why the last attempt failed, since when; gone once one worked
    anchors/lock                    held by the one process that anchors this run

Sources: ethereum-<chain id>, ethereum-<chain id>-batch, rfc3161-<name>. A head has one receipt from each; asking for
it again finds it, or brings it up to date.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from polchain.anchors.beacon import BeaconEvidence
from polchain.anchors.receipts import FiledReceipt, read_receipt, write_receipt
from polchain.core.claim import BEACON, HEADS, RECEIPTS, head_name, receipt_name
from polchain.core.encoding import Fields, decode, encode
from polchain.errors import EvidenceError, FormatError, RolledBackError, RunLockedError, StorageError
from polchain.storage.checkpoints import write_durably

__all__ = ["AnchorBook", "Kept", "Trouble"]

LOCK = "anchors/lock"
TROUBLE = "anchors/trouble.json"
LIMIT = 65_536


@dataclass(frozen=True, slots=True)
class Kept:
    """A receipt and where it came from."""

    source: str
    filed: FiledReceipt

    @property
    def final(self) -> bool:
        """Whether the prover was told that it is final."""
        return self.filed.receipt.status == "final"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why anchoring does not work at present; `since` in seconds since 1970."""

    since: int
    what: str


class AnchorBook:
    """The receipts of one run."""

    def __init__(self, run: Path) -> None:
        self.run = run

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from anchoring this run meanwhile. Whoever trains is not kept from anything.

        Raises:
            RunLockedError: another process anchors it.
            StorageError: the folder cannot be written to.
        """
        path = self.run / LOCK
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot write in {path.parent}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunLockedError(
                    f"another process is anchoring {self.run}", hint="wait for it; `polchain status` says how far it is"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def receipts(self) -> tuple[Kept, ...]:
        """Every receipt, by rising size of its head.

        Raises:
            FormatError: one that is damaged, by name.
        """
        return tuple(Kept(source, _read(path, size, source)) for size, source, path in self.names())

    def names(self) -> list[tuple[int, str, Path]]:
        """Size of the head, source and file of every receipt, by rising size; none is opened."""
        found = []
        for path in (self.run / "anchors").glob("*.json"):
            match = RECEIPTS.fullmatch(f"anchors/{path.name}")
            if match is not None:
                found.append((int(match[1]), match[2], path))
        return sorted(found)

    def find(self, size: int, source: str) -> FiledReceipt | None:
        """The receipt of a head from a source, if there is one.

        Raises:
            FormatError: it is damaged.
        """
        path = self.run / receipt_name(size, source)
        return _read(path, size, source) if path.exists() else None

    def put(self, source: str, filed: FiledReceipt) -> None:
        """Keep a receipt, in place of the one before it. Durable when this returns.

        Raises:
            StorageError: the disk refused.
        """
        write_receipt(self.run / receipt_name(filed.head_size, source), filed)

    def heads(self) -> dict[int, bytes]:
        """The heads that were published, or were about to be, by size."""
        sizes = (HEADS.fullmatch(f"heads/{path.name}") for path in (self.run / "heads").glob("*.note"))
        return {size: (self.run / head_name(size)).read_bytes() for size in sorted(int(m[1]) for m in sizes if m)}

    def put_head(self, size: int, note: bytes) -> None:
        """Keep a head before it is published, so that what a crash leaves is found.

        Raises:
            RolledBackError: another head of this size was kept before.
            StorageError: the disk refused.
        """
        path = self.run / head_name(size)
        if not path.exists():
            write_durably(path, note)
        elif path.read_bytes() != note:
            raise RolledBackError(
                f"{path} is another head of {size} entries than the ledger's",
                hint="the ledger was put back to an older state: restore the newest",
            )

    def beacon(self) -> BeaconEvidence | None:
        """The beacon's block, once it is known.

        Raises:
            FormatError: the file is damaged.
        """
        path = self.run / BEACON
        if not path.exists():
            return None
        try:
            return BeaconEvidence.parse(path.read_bytes())
        except EvidenceError as error:
            raise FormatError(f"{BEACON}: {error}", hint="remove it: the network has that block") from error

    def put_beacon(self, evidence: BeaconEvidence) -> None:
        """Keep the beacon's block.

        Raises:
            StorageError: the disk refused.
        """
        write_durably(self.run / BEACON, evidence.encode())

    def trouble(self) -> Trouble | None:
        """Why the last attempt failed; None where it did not.

        Raises:
            FormatError: the file is damaged.
        """
        try:
            data = (self.run / TROUBLE).read_bytes()
        except FileNotFoundError:
            return None
        fields = Fields(decode(data, limit=LIMIT, what=TROUBLE), TROUBLE)
        return Trouble(fields.int("since"), fields.str("what", max_length=4096))

    def set_trouble(self, what: str | None) -> None:
        """Say why an attempt failed, or that one worked. The time is that of the first failure in a row."""
        path = self.run / TROUBLE
        if what is None:
            path.unlink(missing_ok=True)
            return
        try:
            before = self.trouble()
        except EvidenceError:
            before = None  # damaged: it is written anew
        since = before.since if before is not None else int(time.time())
        text = what.encode("ascii", "replace").decode()[:4096]
        write_durably(path, encode({"since": since, "what": text}))


def _read(path: Path, size: int, source: str) -> FiledReceipt:
    try:
        filed = read_receipt(path)
        if filed.head_size != size:
            raise FormatError(f"it is of a head of {filed.head_size} entries")
        # Of one source there are two kinds of receipt, and a reader looks for each by its name.
        named = source.partition("-")[0], source.endswith("-batch") and source.startswith("ethereum-")
        if (filed.receipt.kind, filed.batch is not None) != named:
            raise FormatError(f"it is no receipt from {source}")
    except EvidenceError as error:
        raise type(error)(
            f"anchors/{path.name}: {error}", hint="restore it; or remove it, and `polchain anchor` asks again"
        ) from error
    return filed
