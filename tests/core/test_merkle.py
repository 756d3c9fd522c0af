"""The tree of RFC 6962: what is proved is checked, and what was touched is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain import errors
from polchain.core.merkle import (
    EMPTY_ROOT,
    Frontier,
    Hash,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    root,
)
from polchain.errors import ConsistencyError, InclusionError, UsageError

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text())
LEAVES = [f"entry {i}".encode() for i in range(100)]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]
ROOTS = [root(HASHES[:size]) for size in range(101)]


def of_kind(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [v for v in VECTORS if v["kind"] in kinds], ids=lambda v: v["name"])


@of_kind("leaf_hash", "node_hash", "root", "counted_root")
def test_published_hashes_come_out(vector: dict[str, Any]) -> None:
    if vector["kind"] == "leaf_hash":
        result = leaf_hash(bytes.fromhex(vector["leaf"]))
    elif vector["kind"] == "node_hash":
        result = node_hash(bytes.fromhex(vector["left"]), bytes.fromhex(vector["right"]))
    elif vector["kind"] == "root":
        result = root([leaf_hash(bytes.fromhex(leaf)) for leaf in vector["leaves"]])
    else:
        result = root([leaf_hash(i.to_bytes(2, "little")) for i in range(vector["size"])])
    assert result.hex() == vector["expect"]


def outcome(check: Callable[[], None], expect: str) -> None:
    if expect == "ok":
        check()
    else:
        with pytest.raises(getattr(errors, expect)):
            check()


@of_kind("inclusion")
def test_published_inclusion_proofs_are_accepted_or_refused_as_expected(vector: dict[str, Any]) -> None:
    proof = [bytes.fromhex(text) for text in vector["proof"]]
    leaf, want = bytes.fromhex(vector["leaf"]), bytes.fromhex(vector["root"])
    outcome(lambda: check_inclusion(leaf, vector["index"], proof, vector["size"], want), vector["expect"])


@of_kind("consistency")
def test_published_consistency_proofs_are_accepted_or_refused_as_expected(vector: dict[str, Any]) -> None:
    proof = [bytes.fromhex(text) for text in vector["proof"]]
    old, new = bytes.fromhex(vector["old_root"]), bytes.fromhex(vector["new_root"])
    outcome(lambda: check_consistency(vector["old_size"], old, vector["new_size"], new, proof), vector["expect"])


def test_published_proofs_are_the_ones_we_make() -> None:
    tree = next(v for v in VECTORS if v["name"] == "root of 8 leaves")["leaves"]
    hashes = [leaf_hash(bytes.fromhex(leaf)) for leaf in tree]
    made = 0
    for v in VECTORS:
        if v["expect"] != "ok":
            continue
        if v["kind"] == "inclusion":
            assert [h.hex() for h in prove_inclusion(hashes[: v["size"]], v["index"])] == v["proof"]
        elif v["kind"] == "consistency":
            assert [h.hex() for h in prove_consistency(hashes[: v["new_size"]], v["old_size"])] == v["proof"]
        else:
            continue
        made += 1
    assert made >= 12


# The definitions of RFC 6962, section 2.1, word for word, as the oracle: they recurse and slice, ours must not.


def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(d: list[Hash]) -> Hash:
    if not d:
        return EMPTY_ROOT
    if len(d) == 1:
        return d[0]
    k = split(len(d))
    return node_hash(mth(d[:k]), mth(d[k:]))


def path(m: int, d: list[Hash]) -> list[Hash]:
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: list[Hash], complete: bool) -> list[Hash]:
    if m == len(d):
        return [] if complete else [mth(d)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], complete), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


@pytest.mark.parametrize("size", [*range(1, 35), 63, 64, 65, 100])
def test_roots_and_proofs_are_those_of_the_definition(size: int) -> None:
    tree = HASHES[:size]
    assert root(tree) == mth(tree)
    for index in range(size):
        assert prove_inclusion(tree, index) == path(index, tree), f"inclusion of {index} in {size}"
        assert prove_consistency(tree, index + 1) == subproof(index + 1, tree, True), f"from {index + 1} to {size}"


def test_every_leaf_of_every_tree_to_a_hundred_is_proved() -> None:
    for size in range(1, 101):
        for index in range(size):
            check_inclusion(LEAVES[index], index, prove_inclusion(HASHES[:size], index), size, ROOTS[size])


def test_every_tree_to_a_hundred_extends_every_smaller_one() -> None:
    for new in range(101):
        for old in range(new + 1):
            check_consistency(old, ROOTS[old], new, ROOTS[new], prove_consistency(HASHES[:new], old))


def test_a_frontier_has_the_root_of_the_tree_at_every_size() -> None:
    frontier = Frontier()
    for size in range(101):
        assert (frontier.size, frontier.root()) == (size, ROOTS[size])
        if size < 100:
            frontier.append(HASHES[size])


def test_a_copied_frontier_grows_alone() -> None:
    frontier = Frontier()
    for value in HASHES[:7]:
        frontier.append(value)
    copy = frontier.copy()
    copy.append(HASHES[7])
    assert (frontier.size, frontier.root()) == (7, ROOTS[7]), "the original followed its copy"
    assert (copy.size, copy.root()) == (8, ROOTS[8])


def flip(value: bytes, bit: int) -> bytes:
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


bits = st.integers(0, 255)


@given(st.integers(2, 100), st.data())
def test_a_flipped_bit_of_proof_root_or_leaf_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = prove_inclusion(HASHES[:size], index)
    touched, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(bits)
    wrong = [*proof[:touched], flip(proof[touched], bit), *proof[touched + 1 :]]
    with pytest.raises(InclusionError):
        check_inclusion(LEAVES[index], index, wrong, size, ROOTS[size])
    with pytest.raises(InclusionError):
        check_inclusion(LEAVES[index], index, proof, size, flip(ROOTS[size], bit))
    with pytest.raises(InclusionError):
        check_inclusion(flip(LEAVES[index], bit % 40), index, proof, size, ROOTS[size])


@given(st.integers(2, 100), st.data())
def test_a_flipped_bit_of_a_consistency_proof_or_a_root_is_refused(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    proof = prove_consistency(HASHES[:new], old)
    touched, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(bits)
    wrong = [*proof[:touched], flip(proof[touched], bit), *proof[touched + 1 :]]
    for attempt in (
        (old, ROOTS[old], new, ROOTS[new], wrong),
        (old, flip(ROOTS[old], bit), new, ROOTS[new], proof),
        (old, ROOTS[old], new, flip(ROOTS[new], bit), proof),
    ):
        with pytest.raises(ConsistencyError):
            check_consistency(*attempt)


def other_lengths(proof: list[Hash], more: Hash) -> list[list[Hash]]:
    longer = [[*proof[:i], more, *proof[i:]] for i in range(len(proof) + 1)]
    shorter = [[*proof[:i], *proof[i + 1 :]] for i in range(len(proof))]
    return [*longer, *shorter, [*proof, *proof, more]]


@pytest.mark.parametrize("size", [*range(1, 18), 31, 32, 33, 100])
def test_a_proof_of_another_length_is_refused(size: int) -> None:
    for index in {0, size // 3, size // 2, size - 1}:
        for wrong in other_lengths(prove_inclusion(HASHES[:size], index), ROOTS[size]):
            with pytest.raises(InclusionError):
                check_inclusion(LEAVES[index], index, wrong, size, ROOTS[size])
    for old in {0, 1, size // 2, size - 1, size}:
        for wrong in other_lengths(prove_consistency(HASHES[:size], old), ROOTS[old]):
            with pytest.raises(ConsistencyError):
                check_consistency(old, ROOTS[old], size, ROOTS[size], wrong)


def test_a_proof_that_climbs_above_the_root_is_refused_even_if_the_hashes_fit() -> None:
    above = leaf_hash(b"above")
    with pytest.raises(InclusionError, match="longer"):
        check_inclusion(LEAVES[0], 0, [above], 1, node_hash(above, ROOTS[1]))
    proof = [*prove_consistency(HASHES[:4], 3), above]
    with pytest.raises(ConsistencyError, match="longer"):
        check_consistency(3, node_hash(above, ROOTS[3]), 4, node_hash(above, ROOTS[4]), proof)


def test_a_proof_holds_for_its_own_index_alone() -> None:
    for size in range(2, 20):
        for index in range(size):
            proof = prove_inclusion(HASHES[:size], index)
            for other in (*range(index), *range(index + 1, size + 3), -1):
                with pytest.raises(InclusionError):
                    check_inclusion(LEAVES[index], other, proof, size, ROOTS[size])


def test_an_inner_node_cannot_pose_as_a_leaf() -> None:
    inner = HASHES[0] + HASHES[1]
    with pytest.raises(InclusionError):
        check_inclusion(inner, 0, [node_hash(HASHES[2], HASHES[3])], 2, ROOTS[4])


def test_a_rewritten_log_does_not_extend_its_past() -> None:
    rewritten = [leaf_hash(b"another past"), *HASHES[1:20]]
    for old in range(1, 20):
        with pytest.raises(ConsistencyError):
            check_consistency(old, ROOTS[old], 20, root(rewritten), prove_consistency(rewritten, old))


@pytest.mark.parametrize("value", [b"", bytes(31), bytes(33), "x" * 32, bytearray(32), None], ids=ascii)
def test_something_else_than_a_hash_is_refused(value: Any) -> None:
    with pytest.raises(InclusionError, match="32 bytes"):
        check_inclusion(LEAVES[0], 0, [value], 2, ROOTS[2])
    with pytest.raises(InclusionError, match="32 bytes"):
        check_inclusion(LEAVES[0], 0, [HASHES[1]], 2, value)
    with pytest.raises(ConsistencyError, match="32 bytes"):
        check_consistency(1, ROOTS[1], 2, ROOTS[2], [value])
    with pytest.raises(ConsistencyError, match="32 bytes"):
        check_consistency(0, EMPTY_ROOT, 2, value, [])


def test_what_is_not_there_cannot_be_proved() -> None:
    for index in (-1, 3):
        with pytest.raises(UsageError):
            prove_inclusion(HASHES[:3], index)
    for old in (-1, 4):
        with pytest.raises(UsageError):
            prove_consistency(HASHES[:3], old)


def test_a_large_tree_is_proved_in_linear_time() -> None:
    size = 100_003
    hashes = [leaf_hash(i.to_bytes(4, "big")) for i in range(size)]
    whole = root(hashes)
    check_inclusion((70_000).to_bytes(4, "big"), 70_000, prove_inclusion(hashes, 70_000), size, whole)
    check_consistency(66_667, root(hashes[:66_667]), size, whole, prove_consistency(hashes, 66_667))
