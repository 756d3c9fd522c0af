"""What a receipt proves without a node, and every way in which it may be false, by name."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rlp
from eth_account import Account

from polchain.anchors.base import Receipt
from polchain.anchors.contract import PROXY, SALT, call_data, contract, keccak256
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence, check_evidence
from polchain.anchors.inclusion import (
    check_header,
    check_proof,
    encode_header,
    encode_receipt,
    open_receipt,
    prove_receipt,
)
from polchain.anchors.networks import Network
from polchain.anchors.transaction import open_transaction
from polchain.anchors.wallet import Key, Unsigned
from polchain.errors import AnchorError, AnchorUnavailableError, FormatError
from tests.anchors.worlds import (
    ANVIL_ACCOUNT,
    ANVIL_KEY,
    EMBEDDED,
    LOCAL,
    TESTER_KEY,
    AnvilWorld,
    EthTesterWorld,
    target,
)

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def receipt(tmp_path_factory: pytest.TempPathFactory) -> Receipt:
    """A final receipt of `target()`, from eth-tester."""
    world = EthTesterWorld(tmp_path_factory.mktemp("world"))
    pending = world.anchor.submit(target())
    world.mine(3)
    return world.anchor.upgrade(pending, target())


@pytest.fixture
def evidence(receipt: Receipt) -> Evidence:
    return Evidence.read(receipt)


def refused(evidence: Evidence, words: str, *, wanted: Any = None, network: Network = EMBEDDED, **more: Any) -> None:
    with pytest.raises(AnchorError, match=words):
        check_evidence(evidence, wanted or target(), network, **more)


def with_inclusion(evidence: Evidence, **changes: Any) -> Evidence:
    assert evidence.inclusion is not None
    return replace(evidence, inclusion=replace(evidence.inclusion, **changes))


def test_the_artifact_is_of_this_source() -> None:
    artifact = json.loads((ROOT / "polchain/anchors/PolAnchor.json").read_text())
    source = (ROOT / "contracts/PolAnchor.sol").read_bytes()
    assert artifact["source"]["sha256"] == hashlib.sha256(source).hexdigest()
    assert f"0x{contract().address.hex()}" == "0xcb14771a3f2c27d4521380617d65db960eed2a46"
    assert contract().address == keccak256(b"\xff" + PROXY + SALT + keccak256(contract().creation))[12:]


def test_without_a_node_the_evidence_fits_and_no_more_is_said(receipt: Receipt) -> None:
    stamp = EthereumAnchor(EMBEDDED).check(receipt, target())
    assert stamp.status == "unchecked"
    assert "no node was asked whether the block is in the chain" in stamp.weak


def test_a_pinned_hash_needs_no_node(receipt: Receipt, evidence: Evidence) -> None:
    assert evidence.inclusion is not None
    stamp = EthereumAnchor(EMBEDDED, pinned=[evidence.inclusion.block]).check(receipt, target())
    assert (stamp.status, stamp.weak) == ("final", (EMBEDDED.weak,))
    assert EthereumAnchor(EMBEDDED, pinned=[bytes(32)]).check(receipt, target()).status == "unchecked"


def test_a_wrong_chain_is_refused(evidence: Evidence) -> None:
    refused(evidence, "wrong chain", network=LOCAL)
    refused(replace(evidence, chain_id=LOCAL.chain_id), "wrong chain: the transaction", network=LOCAL)


def test_a_wrong_contract_is_refused(evidence: Evidence) -> None:
    refused(replace(evidence, contract=bytes(20)), "wrong contract address")
    refused(replace(evidence, code_hash=bytes(32)), "wrong contract code")


def test_a_wrong_prover_is_refused(evidence: Evidence) -> None:
    refused(evidence, "wrong prover: published by", prover=bytes(20))
    refused(replace(evidence, prover=bytes(20)), "wrong prover: the transaction is signed by")
    check_evidence(evidence, target(), EMBEDDED, evidence.prover)


def test_a_transaction_of_another_head_contract_or_kind_is_refused(evidence: Evidence) -> None:
    key = Key(TESTER_KEY)
    unsigned = Unsigned(EMBEDDED.chain_id, 9, 1, 2, 30_000, to=contract().address, data=call_data(target("other")))
    refused(replace(evidence, transaction=key.sign(unsigned)), "another head")
    refused(replace(evidence, transaction=key.sign(replace(unsigned, to=bytes(19) + b"\1"))), "calls another")
    paying = replace(unsigned, data=call_data(target()), value=1)
    refused(replace(evidence, transaction=key.sign(paying)), "another head")
    refused(replace(evidence, transaction=b"\x01" + evidence.transaction[1:]), "not a signed EIP-1559")
    legacy = Account.sign_transaction({"nonce": 0, "gasPrice": 1, "gas": 21000, "to": None, "value": 0}, TESTER_KEY)
    refused(replace(evidence, transaction=bytes(legacy.raw_transaction)), "not a signed EIP-1559")


def test_a_malleated_signature_is_refused(evidence: Evidence) -> None:
    fields = rlp.decode(evidence.transaction[1:])
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    fields[11] = (order - int.from_bytes(fields[11], "big")).to_bytes(32, "big")
    fields[9] = b"" if fields[9] else b"\1"
    refused(replace(evidence, transaction=b"\2" + rlp.encode(fields)), "not a signed EIP-1559")


def test_a_header_that_hashes_to_something_else_is_refused(evidence: Evidence) -> None:
    refused(with_inclusion(evidence, block=bytes(32)), "block header hashes to")
    assert evidence.inclusion is not None
    header = evidence.inclusion.header[:-1] + b"\0"
    refused(with_inclusion(evidence, header=header), "block header hashes to")
    for data in (b"\0", rlp.encode([]), rlp.encode([b""] * 15), rlp.encode([[]] * 20), b"\xc1" * 3000):
        refused(with_inclusion(evidence, header=data, block=keccak256(data)), "not RLP of a header")


def test_a_proof_that_does_not_fit_is_refused(evidence: Evidence) -> None:
    inclusion = evidence.inclusion
    assert inclusion is not None
    refused(with_inclusion(evidence, proof=()), "does not fit")
    refused(with_inclusion(evidence, proof=(*inclusion.proof, inclusion.proof[0])), "nodes that do not belong")
    refused(with_inclusion(evidence, proof=(b"\xc0",)), "does not fit")
    refused(with_inclusion(evidence, index=1), "does not fit|another receipt")
    refused(with_inclusion(evidence, receipt=inclusion.receipt + b"\0"), "another receipt")


def forged_block(evidence: Evidence, *logs: Any, status: bytes = b"\1", kind: bytes = b"\2") -> Evidence:
    """A block of one's own making: everything fits together, and no chain has it."""
    assert evidence.inclusion is not None
    receipt = kind + rlp.encode([status, b"\1", bytes(256), list(logs)])
    fields = rlp.decode(evidence.inclusion.header)
    node = rlp.encode([b"\x20\x80", receipt])
    fields[5] = keccak256(node)
    header = rlp.encode(fields)
    return with_inclusion(evidence, block=keccak256(header), header=header, index=0, receipt=receipt, proof=(node,))


def test_a_receipt_of_something_else_is_refused(evidence: Evidence) -> None:
    assert evidence.inclusion is not None
    [event] = open_receipt(evidence.inclusion.receipt)
    topics = list(event.topics)
    good = [event.address, topics, event.data]
    check_evidence(forged_block(evidence, good), target(), EMBEDDED)
    check_evidence(forged_block(evidence, good, kind=b""), target(), EMBEDDED)
    check_evidence(forged_block(evidence, [bytes(20), [], b""], good), target(), EMBEDDED)
    refused(forged_block(evidence, good, status=b""), "the transaction failed")
    refused(forged_block(evidence), "no event of the contract")
    refused(forged_block(evidence, [bytes(20), topics, event.data]), "no event of the contract")
    refused(forged_block(evidence, [event.address, [*topics[:2], bytes(32)], event.data]), "another log")
    refused(forged_block(evidence, [event.address, [bytes(32), *topics[1:]], event.data]), "another log")
    refused(forged_block(evidence, [event.address, topics[:2], event.data]), "another log")
    refused(forged_block(evidence, [event.address, topics, event.data + b"\0"]), "another head")
    refused(forged_block(evidence, [event.address, topics, bytes(64)]), "another head")
    refused(forged_block(evidence, [event.address, [topics[0], bytes(32), topics[2]], event.data]), "wrong prover")
    refused(forged_block(evidence, [event.address, b"topics", event.data]), "not RLP of a receipt")


@pytest.mark.parametrize("count", [1, 2, 17, 130, 300])
def test_every_receipt_of_a_block_is_proven(count: int) -> None:
    draw = random.Random(count)
    receipts = [draw.choice([b"", b"\1", b"\2", b"\3"]) + rlp.encode(draw.randbytes(99)) for _ in range(count)]
    # The reference: the trie that holds them, made by itself.
    from trie.hexary import HexaryTrie

    trie = HexaryTrie({})
    for i, one in enumerate(receipts):
        trie[rlp.encode(i)] = one
    for index in {0, count // 2, count - 1, min(127, count - 1), min(128, count - 1)}:
        proof = prove_receipt(receipts, index, trie.root_hash)
        check_proof(receipts[index], index, proof, trie.root_hash)
        with pytest.raises(AnchorError):
            check_proof(receipts[index], index + 1, proof, trie.root_hash)
        with pytest.raises(AnchorError):
            check_proof(receipts[index], index, proof[:-1], trie.root_hash)
        damaged = bytearray(proof[-1])
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        with pytest.raises(AnchorError):
            check_proof(receipts[index], index, (*proof[:-1], bytes(damaged)), trie.root_hash)


def test_receipts_that_are_not_the_blocks_are_not_proven() -> None:
    with pytest.raises(AnchorUnavailableError, match="receiptsRoot"):
        prove_receipt([b"a"], 0, bytes(32))


def test_a_block_of_legacy_and_typed_transactions(anvil: AnvilWorld) -> None:
    """Ours is one of a block with each kind of transaction that a node takes."""
    other = "0x" + "11" * 20
    more: list[dict[str, Any]] = [
        {"type": "0x0", "gasPrice": hex(5 * 10**9)},
        {"type": "0x1", "gasPrice": hex(4 * 10**9), "accessList": []},
        {"type": "0x2", "maxFeePerGas": hex(9 * 10**9), "maxPriorityFeePerGas": hex(2 * 10**9)},
        {"type": "0x0", "gasPrice": hex(2 * 10**9), "to": f"0x{contract().address.hex()}", "data": "0x00"},
    ]
    accounts = anvil.chain.ask("eth_accounts")
    for sender, one in zip(accounts[1:], more, strict=False):
        anvil.chain.ask("eth_sendTransaction", {"from": sender, "to": other, "gas": hex(60_000), **one})
    receipt = anvil.anchor.submit(target())
    anvil.mine(3)
    receipt = anvil.anchor.upgrade(receipt, target())
    inclusion = Evidence.read(receipt).inclusion
    assert inclusion is not None
    block = anvil.chain.block(inclusion.block)
    assert block is not None
    receipts = anvil.chain.receipts(block)
    assert sorted(int(one["type"], 16) for one in receipts) == [0, 0, 1, 2, 2]
    assert len({int(one["status"], 16) for one in receipts}) == 2
    header = check_header(encode_header(block), inclusion.block)
    encoded = [encode_receipt(one) for one in receipts]
    for index, one in enumerate(encoded):
        check_proof(one, index, prove_receipt(encoded, index, header.receipts_root), header.receipts_root)
    assert anvil.anchor.check(receipt, target()).status == "final"


def test_one_by_one_gives_the_same_receipts(anvil: AnvilWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    anvil.anchor.submit(target())
    anvil.mine()
    block = anvil.chain.block("latest")
    assert block is not None
    whole = [encode_receipt(one) for one in anvil.chain.receipts(block)]
    ask: Callable[..., Any] = anvil.chain.ask

    def without(method: str, *parameters: Any) -> Any:
        return [] if method == "eth_getBlockReceipts" else ask(method, *parameters)

    monkeypatch.setattr(anvil.chain, "ask", without)
    assert [encode_receipt(one) for one in anvil.chain.receipts(block)] == whole


def test_what_was_signed_is_read_from_the_bytes() -> None:
    unsigned = Unsigned(31337, 5, 10**9, 3 * 10**9, 30_000, to=contract().address, data=call_data(target()))
    signed = open_transaction(Key(ANVIL_KEY).sign(unsigned))
    assert (signed.sender, signed.nonce, signed.max_fee) == (ANVIL_ACCOUNT, 5, 3 * 10**9)
    assert signed.publishes(target())
    assert not signed.publishes(target("other"))


def test_any_bytes_at_all_raise_nothing_else(receipt: Receipt, evidence: Evidence) -> None:
    draw = random.Random(7)
    inclusion = evidence.inclusion
    assert inclusion is not None
    for _ in range(300):
        junk = draw.randbytes(draw.randrange(200))
        deep = b"\xf9\xff\xff" * draw.randrange(50) + junk
        for data in (junk, deep, inclusion.receipt[: draw.randrange(400)], inclusion.header[: draw.randrange(500)]):
            for call in (
                lambda data=data: check_header(data, keccak256(data)),
                lambda data=data: open_receipt(data),
                lambda data=data: open_transaction(data),
                lambda data=data: check_proof(data, 0, (data,), keccak256(data)),
            ):
                with pytest.raises(AnchorError):
                    call()


def test_a_body_is_bounded(receipt: Receipt) -> None:
    for name, value in [
        ("transaction", "0x" + "00" * 5000),
        ("contract", "0x00"),
        ("contract", receipt.body["contract"].upper()),  # type: ignore[union-attr]
        ("chain", 0),
        ("network", "x" * 65),
        ("inclusion", {}),
    ]:
        with pytest.raises(FormatError):
            Evidence.read(Receipt("ethereum", "final", {**receipt.body, name: value}))
