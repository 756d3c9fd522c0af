"""Whose signature a head takes, while the log changes its keys."""

from __future__ import annotations

import pytest

from polchain.core.digest import Digest
from polchain.core.entries import KeyChange
from polchain.core.genesis import Genesis
from polchain.core.keyline import key_line
from polchain.core.keys import PrivateKey, PublicKey
from polchain.core.note import TreeHead, origin_of, sign_head
from polchain.errors import ChainError, SignatureError

ZERO = Digest("sha256", bytes(32))
FIRST, SECOND, THIRD, RECOVERY = (PrivateKey.generate() for _ in range(4))
ALONE = Genesis(bytes(16), FIRST.public)
GUARDED = Genesis(bytes(16), FIRST.public, recovery=RECOVERY.public)


def rotate(number: int, key: PrivateKey) -> tuple[int, KeyChange]:
    return number, KeyChange(ZERO, "rotate", key.public)


def revoke(number: int, key: PrivateKey) -> tuple[int, KeyChange]:
    return number, KeyChange(ZERO, "revoke", key.public)


def signers(genesis: Genesis, *changes: tuple[int, KeyChange], size: int) -> list[PublicKey]:
    line = key_line(genesis, changes, size)
    return [line.signer(n) for n in range(1, size + 1)]


def test_a_rotation_is_signed_by_the_key_before() -> None:
    assert signers(ALONE, size=3) == [FIRST.public] * 3
    expected = [FIRST.public] * 3 + [SECOND.public] * 2 + [THIRD.public]
    assert signers(ALONE, rotate(2, SECOND), rotate(4, THIRD), size=6) == expected
    assert key_line(ALONE, [rotate(2, SECOND)], 6).handovers == (3,)


def test_a_revocation_is_signed_by_the_recovery_key_and_so_is_the_rotation_after_it() -> None:
    expected = [FIRST.public] * 2 + [RECOVERY.public] * 2 + [SECOND.public]
    assert signers(GUARDED, revoke(2, FIRST), rotate(3, SECOND), size=5) == expected
    line = key_line(GUARDED, [revoke(2, FIRST), rotate(3, SECOND)], 5)
    assert (line.handovers, line.recovered) == ((3, 4), True)
    assert signers(ALONE, revoke(2, FIRST), size=3) == [FIRST.public] * 3
    assert not key_line(ALONE, [revoke(2, FIRST)], 3).recovered, "whoever has the key can say that himself"


@pytest.mark.parametrize(
    ("genesis", "changes", "size", "words"),
    [
        (ALONE, [revoke(2, FIRST)], 4, "entry 3 comes after entry 2 revoked"),
        (ALONE, [revoke(2, FIRST), rotate(3, SECOND)], 4, "entry 3 comes after entry 2 revoked"),
        (GUARDED, [revoke(2, FIRST), revoke(3, FIRST)], 4, "entry 3 comes after entry 2 revoked"),
        (GUARDED, [revoke(2, FIRST), rotate(4, SECOND)], 5, "entry 4 comes after entry 2 revoked"),
        (GUARDED, [revoke(2, SECOND)], 3, "revokes a key that is not in force"),
        (GUARDED, [revoke(2, RECOVERY)], 3, "revokes a key that is not in force"),
        (GUARDED, [rotate(2, FIRST)], 3, "rotates to a key that is no new one"),
        (GUARDED, [rotate(2, RECOVERY)], 3, "rotates to a key that is no new one"),
        (GUARDED, [revoke(2, FIRST), rotate(3, FIRST)], 4, "rotates to a key that is no new one"),
    ],
)
def test_what_nobody_may_change(genesis: Genesis, changes: list[tuple[int, KeyChange]], size: int, words: str) -> None:
    with pytest.raises(ChainError, match=words):
        key_line(genesis, changes, size)


def test_a_head_by_another_key_than_its_size_takes_is_refused() -> None:
    line = key_line(ALONE, [rotate(2, SECOND)], 5)
    origin = origin_of(FIRST.public, bytes(16))
    for size, key in ((3, FIRST), (4, SECOND)):
        head = TreeHead(origin, size, bytes(32))
        assert line.open(sign_head(head, key), origin) == head
        with pytest.raises(SignatureError):
            line.open(sign_head(head, SECOND if key is FIRST else FIRST), origin)
