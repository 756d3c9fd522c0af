"""Step (9): whatever the log's key has signed is a head of this one log.

    heads/<size>.note    what was anchored                 signed under the log's origin; its root is the root of the
    elsewhere            what the verifier got otherwise   first <size> entries; none has more entries than the log

Two heads that contradict each other convict their signer before anybody who has the key. The proof is printed whole:
both notes, and where their sizes differ the root that the larger one gives the smaller, with the consistency proof
(RFC 9162, 2.1.4), lowest node first, that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from polchain.core import merkle
from polchain.core.claim import HEADS, RECEIPTS, Claim, head_name
from polchain.core.entries import leaf_data
from polchain.core.keyline import KeyLine
from polchain.core.keys import PublicKey
from polchain.core.note import TreeHead, open_head
from polchain.errors import ChainError, EquivocationError, EvidenceError, FormatError

__all__ = ["SignedHead", "check_heads"]


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head of the log, opened, and the note that signs it; `name` is for messages."""

    name: str
    head: TreeHead
    note: bytes


def check_heads(
    claim: Claim,
    last: SignedHead,
    roots: Sequence[bytes],
    entries: Callable[[], Iterable[bytes]],
    keys: KeyLine,
    elsewhere: Mapping[str, bytes],
) -> dict[int, SignedHead]:
    """Check that the claim's other heads, and those from elsewhere, are heads of its log; returns the claim's by size.

    Args:
        claim: the claim.
        last: the head over all entries.
        roots: the roots of the first 0, 1, 2, ... entries.
        entries: gives the entries' bytes; asked only for a proof.
        keys: who signs the log's heads.
        elsewhere: notes that the verifier did not get from the claim, by name.

    Raises:
        FormatError: no head, a head of another size than its name says, a receipt without its head, or a head without
            a receipt that hands over no key.
        SignatureError: by another key, or of another log.
        EquivocationError: the log's key signed another tree.
        ChainError: the log's key signed more entries than the claim has; or no head shows that a key was handed over.
    """
    _check_names(claim, keys)
    for size in keys.handovers:
        if size != last.head.size and head_name(size) not in claim.files:
            raise ChainError(
                f"nothing shows that the key was handed over in entry {size - 1}: {head_name(size)} is not there",
                hint="ask the prover for it: `polchain export` adds it",
            )
    mine = [_open(head_name(size), note, last.head.origin, keys.signer(size)) for size, note in claim.heads().items()]
    for one in mine:
        if one.name != head_name(one.head.size):
            raise FormatError(f"{one.name} is a head of {one.head.size} entries")
    theirs = [_open_any(name, note, last.head.origin, keys) for name, note in elsewhere.items()]
    if keys.recovered:
        # Whoever stole a key can sign with it: what the recovery key revoked convicts nobody without a date.
        theirs = [one for one in theirs if one.head.size <= last.head.size and one.head.root == roots[one.head.size]]
    # By size, those of the claim first: so that a proof needs no more than two notes where it can.
    first: dict[int, SignedHead] = {last.head.size: last}
    for one in (*mine, *theirs):
        other = first.setdefault(one.head.size, one)
        if other.head.root != one.head.root:
            _convict(one, other, roots, entries)
    for one in first.values():
        if one.head.size <= last.head.size and one.head.root != roots[one.head.size]:
            _convict(one, last, roots, entries)
    newest = max(first.values(), key=lambda one: one.head.size)
    if newest.head.size > last.head.size:
        raise ChainError(
            f"the claim leaves out entries: its prover signed a head of {newest.head.size} ({newest.name}),"
            f" and the claim has {last.head.size}",
            hint="ask the prover for the whole log",
        )
    return {one.head.size: one for one in mine}


def _check_names(claim: Claim, keys: KeyLine) -> None:
    heads = {match[1] for name in claim.files if (match := HEADS.fullmatch(name))}
    receipts = {match[1]: name for name in claim.files if (match := RECEIPTS.fullmatch(name))}
    for size in sorted(receipts.keys() - heads, key=int):
        raise FormatError(f"{receipts[size]} is a receipt without its head, {head_name(int(size))}")
    for size in sorted(heads - receipts.keys() - {str(size) for size in keys.handovers}, key=int):
        raise FormatError(f"{head_name(int(size))} is a head without a receipt")


def _open(name: str, note: bytes, origin: str, key: PublicKey) -> SignedHead:
    try:
        return SignedHead(name, open_head(note, origin, key), note)
    except EvidenceError as error:
        raise type(error)(f"{name}: {error}", hint=error.hint) from error


def _open_any(name: str, note: bytes, origin: str, keys: KeyLine) -> SignedHead:
    """A head from elsewhere, by any key that the log has had: one that forks it may be signed by another than ours."""
    errors: list[EvidenceError] = []
    for key in dict.fromkeys(keys.keys):
        try:
            return _open(name, note, origin, key)
        except EvidenceError as error:
            errors.append(error)
    raise errors[0]


def _convict(
    one: SignedHead, other: SignedHead, roots: Sequence[bytes], entries: Callable[[], Iterable[bytes]]
) -> NoReturn:
    """Say that two heads contradict each other, with the proof."""
    small, large = sorted((one, other), key=lambda head: head.head.size)
    proof = f"{small.note.decode()}\n{large.note.decode()}"
    size = small.head.size
    if size != large.head.size:
        # The larger one is the claim's own: its entries rebuild its root.
        hashes = [merkle.leaf_hash(leaf_data(entry)) for entry in entries()]
        path = merkle.prove_consistency(hashes, size)
        merkle.check_consistency(size, roots[size], large.head.size, large.head.root, path)
        proof += f"\nroot of the first {size}: {roots[size].hex()}\n"
        proof += "".join(f"consistency proof: {node.hex()}\n" for node in path)
    raise EquivocationError(
        f"the prover signed two heads of one log that contradict each other: {small.name}, of {size} entries,"
        f" and {large.name}, of {large.head.size}",
        proof=proof,
        hint="keep the two notes: they convict the log's key before anybody",
    )
