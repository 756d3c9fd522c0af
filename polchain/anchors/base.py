"""Anchors: publishing a head where time can be trusted. The seam that every source of time implements.

    anchor.submit(target)            -> Receipt, usually pending
    anchor.upgrade(receipt, target)  -> Receipt, final once the source says so
    anchor.check(receipt, target)    -> Timestamp, from the evidence alone wherever that is possible

What is published is a Target. For one log it is its signed head; for many, the root of a tree over their heads, each of
which keeps its inclusion proof (see `batch`). A receipt is canonical JSON, and is a stranger's until it is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from polchain.core.encoding import JSON
from polchain.core.note import TreeHead

__all__ = ["Anchor", "Receipt", "Status", "Target", "Timestamp", "target_of"]

Status = Literal["pending", "final", "unchecked"]


@dataclass(frozen=True, slots=True)
class Target:
    """What is published.

    Attributes:
        log: SHA-256 of the origin of the log; 32 zero bytes for a batch.
        root: the head's root, or the batch's.
        size: the head's entries, or how many heads the batch has.
        note: the signed head, whole; empty for a batch.
    """

    log: bytes
    root: bytes
    size: int
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The evidence that came back.

    Attributes:
        kind: the source: ethereum, rfc3161, memory.
        status: pending until the source calls it final; only `check` makes it a fact.
        body: the evidence, as canonical JSON.
    """

    kind: str
    status: Status
    body: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Timestamp:
    """What a checked receipt says: the target existed at this time.

    Attributes:
        source: whose time, in words: "sepolia block 7412331".
        time: seconds since 1970, UTC; the target existed no later than this.
        margin: how far the source may be off, in seconds.
        status: `final`, or `unchecked` where the evidence fits together but nobody vouched for it; never pending.
        weak: why it counts for less (a testnet, a single RPC), in words.
    """

    source: str
    time: int
    margin: int
    status: Status
    weak: tuple[str, ...] = ()


class Anchor(Protocol):
    """A source of time."""

    kind: str

    def submit(self, target: Target) -> Receipt:
        """Publish a target; what was published already is found, not paid for twice.

        Raises:
            AnchorUnavailableError: the service cannot be reached, or refuses.
        """

    def upgrade(self, receipt: Receipt, target: Target) -> Receipt:
        """The same receipt with what the source has made of it since.

        Raises:
            AnchorUnavailableError: the service cannot be reached.
        """

    def check(self, receipt: Receipt, target: Target) -> Timestamp:
        """What the receipt proves.

        Raises:
            AnchorError: it is false, of something else, or does not fit together; which, by name.
        """


def target_of(head: TreeHead, note: bytes) -> Target:
    """The target of one signed head."""
    return Target(hashlib.sha256(head.origin.encode()).digest(), head.root, head.size, note)
