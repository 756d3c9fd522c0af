"""Challenge files, openings' samples and their proof: parsed with limits, refused by name."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core import merkle, question
from polchain.core.digest import sha256
from polchain.core.encoding import encode
from polchain.core.multiproof import check_inclusions, prove_inclusions
from polchain.core.opening import Opening, write_opening
from polchain.core.question import Question, read_question
from polchain.core.samples import pack_samples, unpack_samples
from polchain.errors import FormatError, InclusionError, MissingFileError, PolchainError, UsageError

VECTORS = Path(__file__).parents[1] / "vectors"
QUESTIONS: list[dict[str, Any]] = json.loads((VECTORS / "question.json").read_text())
PROOFS: list[dict[str, Any]] = json.loads((VECTORS / "multiproof.json").read_text())
HONEST = Question(
    origin="polchain/v1/aa/bb",
    size=9,
    root=sha256(b"root"),
    seed=bytes(range(32)),
    draws=90,
    top_updates=5,
    fraction=0.05,
    confidence=0.99,
    segments=((0, 5), (10, 15)),
    states=(0, 10, 15),
    samples=True,
    other_samples=(1, 7),
    budget=0.5,
    around=(10,),
)


@pytest.mark.parametrize("vector", QUESTIONS, ids=lambda vector: vector["name"])
def test_the_frozen_challenges(vector: dict[str, Any]) -> None:
    data = vector["file"].encode()
    if "digest" in vector["expect"]:
        assert str(Question.decode(data).digest) == vector["expect"]["digest"]
        assert Question.decode(data).encode() == data
    else:
        with pytest.raises(FormatError, match=vector["expect"]["error"]):
            Question.decode(data)


def test_a_challenge_reads_back() -> None:
    assert Question.decode(HONEST.encode()) == HONEST
    plain = replace(HONEST, budget=None, around=(), full=True, samples=False, other_samples=())
    assert Question.decode(plain.encode()) == plain


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "polchain-challenge/v2"}, "the format is not"),
        ({"seed": "00"}, "the seed is not 64"),
        ({"seed": "A" * 64}, "the seed is not 64"),
        ({"root": "blake3:" + "0" * 64}, "a SHA-256 digest"),
        ({"size": 0}, "outside"),
        ({"draws": -1}, "outside"),
        ({"fraction": "0x0.0p+0"}, "no share"),
        ({"confidence": "0x1.8p+0"}, "no share|hexadecimal"),
        ({"segments": []}, "no segment"),
        ({"segments": [[5, 5]]}, "do not rise"),
        ({"segments": [[0, 5], [4, 9]]}, "do not rise"),
        ({"segments": [[0, 5, 6]]}, "a first and a last"),
        ({"segments": [[0, True]]}, "do not rise"),
        ({"segments": [0, 5]}, "a first and a last"),
        ({"states": [5, 5]}, "states are not rising"),
        ({"states": ["0"]}, "states are not rising"),
        ({"states": [True]}, "states are not rising"),
        ({"other_samples": [-1]}, "other_samples are not rising"),
        ({"around": [2, 1]}, "around are not rising"),
        ({"samples": 1}, "true or false"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_what_is_no_challenge_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        Question.decode(encode(json.loads(HONEST.encode()) | change))


def test_a_challenge_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(HONEST.encode())
    assert read_question(path) == HONEST.encode()
    monkeypatch.setattr(question, "QUESTION_LIMIT", 100)
    with pytest.raises(FormatError, match="over the limit"):
        read_question(path)
    with pytest.raises(FormatError, match="limit"):
        Question.decode(HONEST.encode())
    with pytest.raises(FormatError, match="not a plain file"):
        read_question(tmp_path)
    with pytest.raises(MissingFileError, match="cannot be read"):
        read_question(tmp_path / "none")


def test_noise_is_no_challenge() -> None:
    chance = random.Random(1)
    honest = HONEST.encode()
    for _ in range(2000):
        data = bytearray(honest)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = bytes(chance.choice(b'0123456789[]{},":ax') for _ in range(2))
        try:
            found = Question.decode(bytes(data))
        except PolchainError:
            continue
        assert found.encode() == data, "two readings of one file"


def hashes(count: int) -> list[bytes]:
    return [merkle.leaf_hash(bytes([number % 256, number // 256])) for number in range(count)]


@pytest.mark.parametrize("vector", PROOFS, ids=lambda vector: vector["name"])
def test_the_frozen_proofs(vector: dict[str, Any]) -> None:
    # Written by a recursion over the page's sentence, which shares no code with ours.
    leaves = {int(index): bytes.fromhex(value) for index, value in vector["leaves"].items()}
    proof = [bytes.fromhex(value) for value in vector["proof"]]
    root = bytes.fromhex(vector["root"])
    if vector["expect"] == "ok":
        check_inclusions(leaves, proof, vector["size"], root)
        assert prove_inclusions(hashes(vector["size"]), sorted(leaves)) == proof
    else:
        with pytest.raises(InclusionError, match=vector["expect"]):
            check_inclusions(leaves, proof, vector["size"], root)


@given(st.integers(1, 70).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1)))))
def test_a_proof_holds_and_every_change_of_it_fails(case: tuple[int, set[int]]) -> None:
    size, wanted = case
    tree = hashes(size)
    proof, root = prove_inclusions(tree, sorted(wanted)), merkle.root(tree)
    leaves = {index: tree[index] for index in wanted}
    check_inclusions(leaves, proof, size, root)
    for number in range(len(proof)):
        for changed in (
            [*proof[:number], bytes(32), *proof[number + 1 :]],
            proof[:number] + proof[number + 1 :],
            [*proof[:number], proof[number], *proof[number:]],
        ):
            with pytest.raises(InclusionError):
                check_inclusions(leaves, changed, size, root)
    for index in wanted:
        with pytest.raises(InclusionError):
            check_inclusions(leaves | {index: bytes(32)}, proof, size, root)
        with pytest.raises(InclusionError):
            check_inclusions({k: v for k, v in leaves.items() if k != index}, proof, size, root)
    with pytest.raises(InclusionError):
        check_inclusions(leaves, [*proof, bytes(32)], size, root)


def test_one_leaf_has_as_many_hashes_as_its_own_proof() -> None:
    for size in range(1, 40):
        for index in range(size):
            assert len(prove_inclusions(hashes(size), [index])) == len(merkle.prove_inclusion(hashes(size), index))


def test_leaves_outside_the_tree_are_refused() -> None:
    for wanted in ([5], [-1], [1, 1], [2, 1]):
        with pytest.raises(UsageError):
            prove_inclusions(hashes(5), wanted)
    with pytest.raises(InclusionError):
        check_inclusions({5: bytes(32)}, [], 5, bytes(32))
    with pytest.raises(InclusionError, match="32 bytes"):
        check_inclusions({0: hashes(1)[0]}, [b"short"], 2, bytes(32))


@given(st.dictionaries(st.integers(0, 1000), st.binary(max_size=40)))
def test_samples_read_back(samples: dict[int, bytes]) -> None:
    packed = b"".join(pack_samples(samples))
    found = unpack_samples(memoryview(packed), most=len(samples), limit=40)
    assert {index: bytes(data) for index, data in found.items()} == samples


def test_samples_have_limits_and_one_order() -> None:
    packed = b"".join(pack_samples({1: b"one", 2: b"two"}))
    for data, most, limit in (
        (packed, 1, 10),
        (packed, 2, 2),
        (packed[:-1], 2, 10),
        (packed + b"x", 2, 10),
        (packed[19:] + packed[:19], 2, 10),
        (packed[:19] * 2, 2, 10),
    ):
        with pytest.raises(FormatError, match="samples"):
            unpack_samples(memoryview(data), most=most, limit=limit)


def test_salts_come_with_samples_and_are_32_bytes_each(tmp_path: Path) -> None:
    path = tmp_path / "r.opening"
    salts = [bytes([number]) * 32 for number in range(3)]
    write_opening(path, HONEST.encode(), {}, list(pack_samples({1: b"one"})), [], salts)
    assert Opening.read(path).salts == tuple(salts)
    for samples, wrong in ((None, salts), (None, []), ([b""], [bytes(31)]), ([b""], [*salts, b"x"])):
        path.unlink()
        write_opening(path, HONEST.encode(), {}, samples, [], wrong)
        with pytest.raises(FormatError, match="salts come with samples, 32 bytes for each"):
            Opening.read(path)


@pytest.mark.parametrize("salts", [None, [bytes(range(32))]])
def test_noise_is_no_opening(salts: list[bytes] | None, tmp_path: Path) -> None:
    path = tmp_path / "r.opening"
    write_opening(path, HONEST.encode(), {}, list(pack_samples({1: b"one"})), [bytes(32)], salts)
    assert Opening.read(path).question == HONEST
    honest = path.read_bytes()
    chance = random.Random(2)
    for _ in range(300):
        data = bytearray(honest)
        at = chance.randrange(len(data))
        data[at : at + chance.randrange(9)] = chance.randbytes(chance.randrange(9))
        path.write_bytes(data)
        with contextlib.suppress(PolchainError):
            assert Opening.read(path).question == HONEST, "only the samples, which are checked later, may differ"
