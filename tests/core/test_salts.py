"""Salts: the frozen values come out, a leaf hides and binds, and nothing but a secret's own line is one."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core import merkle
from polchain.core.digest import Digest, tag
from polchain.core.encoding import Fields
from polchain.core.genesis import DatasetRef
from polchain.core.multiproof import check_inclusions, prove_inclusions
from polchain.core.salts import DataSecret, commit_leaves, find_secret, salted_leaf
from polchain.errors import DataSecretError, FormatError, InclusionError

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "salts.json").read_text())
SECRET, OTHER = DataSecret(bytes(range(32))), DataSecret(bytes([1] * 32))
ZERO = Digest("sha256", bytes(32))


def named(kind: str) -> Any:
    found = [vector for vector in VECTORS if vector["kind"] == kind]
    return pytest.mark.parametrize("vector", found, ids=lambda vector: vector["name"])


def plain(encoding: bytes) -> bytes:
    return merkle.leaf_hash(tag("sample") + encoding)


def samples(count: int) -> list[bytes]:
    return [plain(b"sample %d" % number) for number in range(count)]


@named("dataset")
def test_the_frozen_datasets(vector: dict[str, Any]) -> None:
    expect, secret = vector["expect"], DataSecret(bytes.fromhex(vector["secret"]))
    leaves = [plain(bytes.fromhex(encoding)) for encoding in vector["encodings"]]
    assert str(secret.commitment) == expect["salts"]
    assert [secret.salt(index, leaf).hex() for index, leaf in enumerate(leaves)] == expect["salt"]
    assert [leaf.hex() for leaf in secret.leaves(leaves)] == expect["leaf"]
    assert str(commit_leaves(leaves, secret).root) == expect["root"]
    assert secret.encode() == expect["file"].encode()
    assert DataSecret.parse(expect["file"].encode()) == secret


@named("salt")
def test_the_frozen_salts(vector: dict[str, Any]) -> None:
    secret, leaf = DataSecret(bytes.fromhex(vector["secret"])), bytes.fromhex(vector["plain"])
    assert secret.salt(vector["index"], leaf).hex() == vector["expect"]


@named("file")
def test_the_frozen_files_that_are_no_secret(vector: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=vector["expect"]["error"]):
        DataSecret.parse(vector["file"].encode())


def test_a_guess_is_confirmed_by_a_plain_leaf_and_by_a_salted_one_only_with_its_salt() -> None:
    """What a proof shows beside the sample that it is of: the leaf hash of its neighbour."""
    leaves = samples(8)
    guess = plain(b"sample 1")
    assert prove_inclusions(leaves, [0])[0] == guess, "a plain proof confirms the guess"
    (shown, *_) = proof = prove_inclusions(SECRET.leaves(leaves), [0])
    # All that whoever was shown the opening of sample 0 has: its salt, the commitment, and what he computes himself.
    known = [bytes(32), SECRET.salt(0, leaves[0]), SECRET.commitment.value, OTHER.salt(1, guess), *proof]
    assert shown not in {guess, *(salted_leaf(salt, guess) for salt in known)}
    assert shown == salted_leaf(SECRET.salt(1, guess), guess), "with its salt the guess would be confirmed"


def test_a_salt_that_one_dataset_shows_opens_nothing_of_another_under_the_same_secret() -> None:
    ours, theirs = samples(8), [plain(b"their %d" % number) for number in range(8)]
    theirs[5] = ours[5]
    shown = [SECRET.salt(index, leaf) for index, leaf in enumerate(ours)]
    leaves = SECRET.leaves(theirs)
    opened = {place for place in range(8) for salt in shown if salted_leaf(salt, theirs[place]) == leaves[place]}
    assert opened == {5}, "the sample that both have at one place, which was shown anyway"


def test_equal_samples_have_unequal_leaves() -> None:
    assert len(set(SECRET.leaves([plain(b"x")] * 9))) == 9


@given(st.integers(1, 20).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_a_leaf_opens_to_its_salt_sample_and_place_alone(case: tuple[int, int]) -> None:
    size, index = case
    leaves = samples(size)
    ref, proof = commit_leaves(leaves, SECRET), prove_inclusions(SECRET.leaves(leaves), [index])

    def opens(salt: bytes, sample: bytes, at: int = index) -> bool:
        try:
            check_inclusions({at: salted_leaf(salt, sample)}, proof, size, ref.root.value)
        except InclusionError:
            return False
        return True

    own, another = leaves[index], plain(b"another")
    salt = SECRET.salt(index, own)
    assert opens(salt, own)
    assert not opens(salt, another)
    assert not opens(SECRET.salt(index, another), another)
    assert not opens(SECRET.salt(index + 1, own), own)
    assert not opens(OTHER.salt(index, own), own)
    assert not opens(own, salt), "salt and hash have their places"
    assert size == 1 or not opens(salt, own, (index + 1) % size)
    with pytest.raises(InclusionError):
        check_inclusions({index: own}, proof, size, ref.root.value)  # as if the data were plain
    if size > 1:
        shown = prove_inclusions(leaves, [index])
        with pytest.raises(InclusionError):  # a plain dataset, opened as if it were salted
            check_inclusions({index: salted_leaf(salt, own)}, shown, size, merkle.root(leaves))


def test_nothing_of_another_length_is_hashed() -> None:
    # Else the end of a salt could be moved into the sample.
    for salt, leaf in ((bytes(31), bytes(33)), (bytes(33), bytes(31)), (b"", bytes(64)), (bytes(32), b"")):
        with pytest.raises(FormatError, match="a salt is 32 bytes"):
            salted_leaf(salt, leaf)
    for value in (bytes(31), bytes(33), b"", bytearray(32)):
        with pytest.raises(FormatError, match="32 bytes"):
            DataSecret(value)  # type: ignore[arg-type]


def test_a_commitment_is_of_data_and_secret() -> None:
    leaves = samples(5)
    refs = [commit_leaves(leaves, secret) for secret in (None, SECRET, OTHER)]
    assert len({ref.root for ref in refs}) == 3
    assert [ref.salts for ref in refs] == [None, SECRET.commitment, OTHER.commitment]
    assert "salts" not in str(refs[0].to_json()), "a plain genesis keeps its bytes"
    for ref in refs:
        assert DatasetRef.parse(Fields(ref.to_json(), "dataset")) == ref
    wrong = DatasetRef(5, ZERO, Digest("blake3", bytes(32))).to_json()
    with pytest.raises(FormatError, match="commitment to a secret is sha256"):
        DatasetRef.parse(Fields(wrong, "dataset"))


def test_the_secret_of_a_dataset_is_found_or_named_as_missing() -> None:
    private = commit_leaves(samples(2), SECRET)
    assert find_secret(commit_leaves(samples(2), None), [SECRET]) is None
    assert find_secret(private, [OTHER, SECRET]) == SECRET
    for offered in ([], [OTHER]):
        with pytest.raises(DataSecretError, match="the data is private, and the secret") as caught:
            find_secret(private, offered)
        assert "--data-secret FILE" in caught.value.hint
        assert SECRET.value.hex() not in str(caught.value) + caught.value.hint


def test_a_secret_is_not_printed() -> None:
    assert SECRET.value.hex() not in repr(SECRET) + str(SECRET) + f"{SECRET!r:>99}"
    assert repr(SECRET.value)[2:-1] not in repr(SECRET)
    with pytest.raises(FormatError) as caught:
        DataSecret.parse(SECRET.encode() + b"x")
    assert SECRET.value.hex() not in str(caught.value), "a message ends up in logs"


@given(st.binary(min_size=32, max_size=32))
def test_a_secret_reads_back(value: bytes) -> None:
    assert DataSecret.parse(DataSecret(value).encode()).value == value


def test_noise_is_no_secret() -> None:
    chance = random.Random(4)
    honest = SECRET.encode()
    for number in range(3000):
        data = bytearray(honest if number % 3 else chance.randbytes(chance.randrange(200)))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randrange(3)] = chance.choice([b"", b"0", b"f", b"\n", b" ", b"\xff", b"0" * 5000])
        with contextlib.suppress(FormatError):
            assert DataSecret.parse(bytes(data)).encode() == data, "two readings of one secret"
