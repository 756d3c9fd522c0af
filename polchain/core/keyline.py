"""Whose signature a head takes: the genesis' key, until the log itself changes that.

    rotate K    the head that ends with it is signed by the key before, every later one by K
    revoke K    K, the key in force, counts no more: the head that ends with it is signed by the recovery key that the
                genesis names, else by K. Nothing follows but a rotation, which the recovery key signs likewise

The heads that end with a rotation, or with a revocation by the recovery key, are in the claim: without them anybody
could hand a log over to himself.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polchain.core.entries import Entry, KeyChange
from polchain.core.genesis import Genesis
from polchain.core.keys import PublicKey
from polchain.core.note import TreeHead, open_head, parse_note
from polchain.errors import ChainError

__all__ = ["KeyLine", "changes_of", "key_line"]


@dataclass(frozen=True, slots=True)
class KeyLine:
    """Who signs the heads of one log.

    Attributes:
        sizes, keys: heads of at least so many entries are signed by that key, until the next.
        handovers: sizes of heads that show that a key was handed over.
        revoked: the entries that revoke a key, and that key.
        recovered: whether it was the recovery key that revoked.
    """

    sizes: tuple[int, ...]
    keys: tuple[PublicKey, ...]
    handovers: tuple[int, ...] = ()
    revoked: tuple[tuple[int, PublicKey], ...] = ()
    recovered: bool = False

    def signer(self, size: int) -> PublicKey:
        """Whose signature the head of so many entries takes."""
        return self.keys[bisect.bisect_right(self.sizes, max(size, 1)) - 1]

    def open(self, note: bytes, origin: str) -> TreeHead:
        """A head of this log, by whoever signs heads of its size.

        Raises:
            FormatError, SignatureError: it is none.
        """
        text, _ = parse_note(note)
        return open_head(note, origin, self.signer(TreeHead.parse(text).size))


def changes_of(entries: Iterable[Entry]) -> tuple[tuple[int, KeyChange], ...]:
    """The key changes of a log, with the numbers of their entries."""
    return tuple((number, entry) for number, entry in enumerate(entries) if isinstance(entry, KeyChange))


def key_line(genesis: Genesis, changes: Sequence[tuple[int, KeyChange]], size: int) -> KeyLine:
    """Who signs the heads of a log of `size` entries, of which these change keys.

    Raises:
        ChainError: a change that nobody may make, or an entry after the key was revoked.
    """
    sizes, keys = [1], [genesis.key]
    handovers: list[int] = []
    revoked: list[tuple[int, PublicKey]] = []
    recovery = genesis.recovery
    key, gone = genesis.key, -1
    for number, change in changes:
        after = number + 1
        if gone >= 0 and (change.kind != "rotate" or number != gone + 1 or recovery is None):
            raise ChainError(f"entry {number} comes after entry {gone} revoked the log's key")
        if change.kind == "rotate":
            if change.key in (key, recovery) or change.key in [one for _, one in revoked]:
                raise ChainError(f"entry {number} rotates to a key that is no new one")
            sizes.append(after + 1)
            keys.append(change.key)
            handovers.append(after)
            key, gone = change.key, -1
        else:
            if change.key != key:
                raise ChainError(f"entry {number} revokes a key that is not in force")
            if recovery is not None:
                sizes.append(after)
                keys.append(recovery)
                handovers.append(after)
            revoked.append((number, key))
            gone = number
    if gone >= 0 and size > gone + 1:
        raise ChainError(f"entry {gone + 1} comes after entry {gone} revoked the log's key")
    return KeyLine(tuple(sizes), tuple(keys), tuple(handovers), tuple(revoked), bool(revoked) and recovery is not None)
