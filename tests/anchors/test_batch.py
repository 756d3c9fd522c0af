"""Batches: each head proves that it is in, and nothing else does."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from polchain.anchors.base import Target
from polchain.anchors.batch import Batch, Membership, check_membership, make_batch
from polchain.core import merkle
from polchain.core.encoding import JSON, decode, encode
from polchain.errors import FormatError, InclusionError, UsageError

NOTES = [b"signed head %d\n" % number for number in range(41)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("size", range(1, 41))
def test_every_head_of_every_batch_is_in_it(size: int) -> None:
    batch = make_batch(NOTES[:size])
    assert (batch.target.log, batch.target.size, batch.target.note) == (bytes(32), size, b"")
    indices = set()
    for note in NOTES[:size]:
        membership = batch.membership(note)
        assert check_membership(note, membership) == batch.target
        assert Membership.parse(decode(encode(membership.to_json()), limit=10_000, what="m")) == membership
        indices.add(membership.index)
        with pytest.raises(InclusionError):
            check_membership(NOTES[40], membership)
    assert indices == set(range(size))


def test_order_and_repetition_do_not_matter() -> None:
    assert make_batch(NOTES) == make_batch([*reversed(NOTES), NOTES[3]])
    leaves = sorted(hashlib.sha256(note).digest() for note in NOTES)
    assert make_batch(NOTES).target.root == merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13])
def test_any_flipped_bit_is_refused(size: int) -> None:
    batch = make_batch(NOTES[:size])
    note = NOTES[0]
    good = batch.membership(note)
    for bit in range(len(note) * 8):
        with pytest.raises(InclusionError):
            check_membership(flipped(note, bit), good)
    for bit in range(256):
        with pytest.raises(InclusionError):
            check_membership(note, replace(good, root=flipped(good.root, bit)))
        for at, node in enumerate(good.proof):
            proof = (*good.proof[:at], flipped(node, bit), *good.proof[at + 1 :])
            with pytest.raises(InclusionError):
                check_membership(note, replace(good, proof=proof))
    for index in range(size + 2):
        if index != good.index:
            with pytest.raises(InclusionError):
                check_membership(note, replace(good, index=index))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13])
def test_a_proof_of_another_length_is_refused(size: int) -> None:
    good = make_batch(NOTES[:size]).membership(NOTES[0])
    wrong = [(*good.proof, bytes(32)), (bytes(32), *good.proof)]
    wrong += [good.proof[1:], good.proof[:-1]] if good.proof else []
    for proof in wrong:
        with pytest.raises(InclusionError):
            check_membership(NOTES[0], replace(good, proof=proof))


def test_another_count_gives_another_target_or_no_proof() -> None:
    batch = make_batch(NOTES[:13])
    good = batch.membership(NOTES[0])
    for count in range(1, 40):
        try:
            target = check_membership(NOTES[0], replace(good, count=count))
        except InclusionError:
            continue
        assert (target == batch.target) == (count == 13)


def test_an_inner_node_is_no_head() -> None:
    """What two leaves hash to cannot be passed off as a note."""
    batch = make_batch(NOTES[:2])
    inner = b"\x01" + b"".join(merkle.leaf_hash(leaf) for leaf in batch.leaves)
    with pytest.raises(InclusionError):
        check_membership(inner, Membership(0, 1, batch.target.root, ()))


def test_a_batch_of_nothing_and_a_stranger_to_it_are_mistakes() -> None:
    for notes in ([], [b""], [NOTES[0], b""]):
        with pytest.raises(UsageError):
            make_batch(notes)
    with pytest.raises(UsageError, match="not in the batch"):
        make_batch(NOTES[:3]).membership(NOTES[5])
    assert Batch((hashlib.sha256(NOTES[0]).digest(),)).target == Target(
        bytes(32), merkle.leaf_hash(hashlib.sha256(NOTES[0]).digest()), 1
    )


@pytest.mark.parametrize(
    "change",
    [
        {"index": -1},
        {"index": 2**20},
        {"index": True},
        {"count": 0},
        {"count": 2**20 + 1},
        {"root": "00" * 31},
        {"root": "AA" * 32},
        {"root": 7},
        {"proof": ["00" * 32] * 21},
        {"proof": ["0"]},
        {"proof": [3]},
        {"proof": {}},
        {"more": 1},
    ],
)
def test_a_membership_of_another_form_is_refused(change: dict[str, JSON]) -> None:
    value = make_batch(NOTES).membership(NOTES[0]).to_json()
    assert isinstance(value, dict)
    with pytest.raises(FormatError):
        Membership.parse({**value, **change})
    for name in value:
        with pytest.raises(FormatError, match="missing"):
            Membership.parse({key: value[key] for key in value if key != name})
