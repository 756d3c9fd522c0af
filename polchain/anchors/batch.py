"""A batch: many logs share one anchor.

The leaves are SHA-256 of the signed notes, sorted, each once; so the same heads make the same batch in any order.
What is published is the batch's root, with no log and with the number of leaves where a head has its size:

    Target(log = 32 zero bytes, root, size = count)

Each log keeps its note, the batch's receipt, and its membership, canonical JSON:

    {"count":32,"index":5,"proof":["<64 hex>",...],"root":"<64 hex>"}

A leaf of this tree has 32 bytes, an inner node's input 65, and RFC 6962 hashes the two differently besides.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from polchain.anchors.base import Target
from polchain.core import merkle
from polchain.core.encoding import JSON, Fields
from polchain.errors import FormatError, UsageError

__all__ = ["BATCH_LIMIT", "NO_LOG", "Batch", "Membership", "check_membership", "make_batch"]

BATCH_LIMIT: Final = 2**20
NO_LOG: Final = bytes(32)

_MAX_PROOF: Final = 20  # of a tree of BATCH_LIMIT
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Membership:
    """That one head is leaf `index` of a batch of `count`: what its log keeps."""

    index: int
    count: int
    root: bytes
    proof: tuple[bytes, ...]

    def to_json(self) -> JSON:
        proof: list[JSON] = [node.hex() for node in self.proof]
        return {"count": self.count, "index": self.index, "proof": proof, "root": self.root.hex()}

    @classmethod
    def parse(cls, value: JSON) -> Membership:
        """Read what `to_json` wrote.

        Raises:
            FormatError: anything else, or over a limit.
        """
        fields = Fields(value, "batch")
        membership = cls(
            index=fields.int("index", maximum=BATCH_LIMIT - 1),
            count=fields.int("count", minimum=1, maximum=BATCH_LIMIT),
            root=_hash(fields.str("root", max_length=64)),
            proof=tuple(_hash(node) for node in fields.list("proof", max_items=_MAX_PROOF)),
        )
        fields.done()
        return membership


@dataclass(frozen=True, slots=True)
class Batch:
    """The heads that share one anchor, as the sorted SHA-256 of their notes; `make_batch` makes one."""

    leaves: tuple[bytes, ...]

    @property
    def target(self) -> Target:
        """What is published."""
        return Target(NO_LOG, merkle.root(self._hashes()), len(self.leaves))

    def membership(self, note: bytes) -> Membership:
        """What the log of that signed note keeps.

        Raises:
            UsageError: the note is not in the batch.
        """
        leaf = hashlib.sha256(note).digest()
        if leaf not in self.leaves:
            raise UsageError("this head is not in the batch")
        index, hashes = self.leaves.index(leaf), self._hashes()
        proof = tuple(merkle.prove_inclusion(hashes, index))
        return Membership(index, len(self.leaves), merkle.root(hashes), proof)

    def _hashes(self) -> list[bytes]:
        return [merkle.leaf_hash(leaf) for leaf in self.leaves]


def make_batch(notes: Iterable[bytes]) -> Batch:
    """The batch of these signed notes; order and repetition do not matter.

    Raises:
        UsageError: no note, an empty one, or more than 2^20.
    """
    found = set(notes)
    if not 1 <= len(found) <= BATCH_LIMIT or b"" in found:
        raise UsageError(f"a batch is made of 1 to {BATCH_LIMIT} signed heads")
    return Batch(tuple(sorted(hashlib.sha256(note).digest() for note in found)))


def check_membership(note: bytes, membership: Membership) -> Target:
    """Check that the signed note is in the batch; the target that the batch's receipt must be of (RFC 9162, 2.1.3.2).

    The leaf is computed here from the note. That the root was published is the receipt's to prove.

    Raises:
        InclusionError: the proof does not lead from the note to the root, or has another length than it must.
    """
    leaf = hashlib.sha256(note).digest()
    merkle.check_inclusion(leaf, membership.index, membership.proof, membership.count, membership.root)
    return Target(NO_LOG, membership.root, membership.count)


def _hash(value: JSON) -> bytes:
    if type(value) is not str or _HASH.fullmatch(value) is None:
        raise FormatError("batch: a hash is 64 lower-case hexadecimal digits")
    return bytes.fromhex(value)
