"""The receipt of an Ethereum anchor, and what it proves without asking anybody.

    chain        number             what tells the network from others (EIP-155)
    network      text               the name that the prover calls it by
    contract     0x, 20 bytes       where PolAnchor is
    code         0x, 32 bytes       keccak256 of the code there
    prover       0x, 20 bytes       who published
    transaction  0x                 signed, raw (EIP-1559); what is sent again if its block vanishes
    inclusion    object             once it is in a block:
      block        0x, 32 bytes       the block's hash
      header       0x                 its header
      index        number             which transaction of the block
      receipt      0x                 its receipt
      proof        array of 0x        the receipts trie's nodes from the header's root to it

Bytes are written in lower case. The event in the receipt is the proof; the transaction is kept to be sent again and
looked up, and must say the same. What no offline check can know is whether the block is one of the chain: that takes a
pinned hash, or nodes that are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polchain.anchors.base import Receipt, Status, Target
from polchain.anchors.contract import contract, event_data, event_topics, keccak256
from polchain.anchors.inclusion import Header, check_header, check_proof, open_receipt
from polchain.anchors.networks import Network
from polchain.anchors.transaction import Transaction, open_transaction
from polchain.core.encoding import JSON, Fields
from polchain.errors import AnchorError, AnchorUnavailableError, FormatError

__all__ = ["KIND", "Evidence", "Inclusion", "check_evidence", "check_transaction"]

KIND = "ethereum"

MAX_TRANSACTION = 4096
MAX_HEADER = 8192
MAX_NODE = 65536
MAX_NODES = 16


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where in the chain the event is."""

    block: bytes
    header: bytes
    index: int
    receipt: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The body of a receipt, read."""

    chain_id: int
    network: str
    contract: bytes
    code_hash: bytes
    prover: bytes
    transaction: bytes
    inclusion: Inclusion | None = None

    @property
    def hash(self) -> bytes:
        """The transaction's hash."""
        return keccak256(self.transaction)

    def receipt(self, status: Status) -> Receipt:
        """As a receipt; `read` is its inverse."""
        body: dict[str, JSON] = {
            "chain": self.chain_id,
            "network": self.network,
            "contract": _hex(self.contract),
            "code": _hex(self.code_hash),
            "prover": _hex(self.prover),
            "transaction": _hex(self.transaction),
        }
        if self.inclusion is not None:
            body["inclusion"] = {
                "block": _hex(self.inclusion.block),
                "header": _hex(self.inclusion.header),
                "index": self.inclusion.index,
                "receipt": _hex(self.inclusion.receipt),
                "proof": [_hex(node) for node in self.inclusion.proof],
            }
        return Receipt(KIND, status, body)

    @classmethod
    def read(cls, receipt: Receipt) -> Evidence:
        """Read a receipt's body.

        Raises:
            AnchorError: a receipt of another kind.
            FormatError: a field that is missing, unknown, too long or not what it should be.
        """
        if receipt.kind != KIND:
            raise AnchorError(f"a receipt of the kind {receipt.kind!a} is not from Ethereum")
        body: Mapping[str, JSON] = receipt.body
        fields = Fields(dict(body), "ethereum receipt")
        evidence = cls(
            fields.int("chain", minimum=1),
            fields.str("network", max_length=64),
            _bytes(fields, "contract", 20),
            _bytes(fields, "code", 32),
            _bytes(fields, "prover", 20),
            _bytes(fields, "transaction", limit=MAX_TRANSACTION),
            _inclusion(fields.fields("inclusion")) if fields.has("inclusion") else None,
        )
        fields.done()
        return evidence


def check_transaction(evidence: Evidence, target: Target, network: Network, prover: bytes | None = None) -> Transaction:
    """Check that the transaction publishes the target, on this network, through the contract, by this prover.

    Raises:
        AnchorError: another chain, contract, code, prover, log or head; or no transaction of that prover.
    """
    if evidence.chain_id != network.chain_id:
        raise AnchorError(
            f"wrong chain: the receipt is of chain {evidence.chain_id}, {network.name} is {network.chain_id}"
        )
    if evidence.contract != contract().address:
        raise AnchorError(
            f"wrong contract address: {_hex(evidence.contract)} is not PolAnchor, which is {_hex(contract().address)}"
        )
    if evidence.code_hash != contract().code_hash:
        raise AnchorError(f"wrong contract code: {_hex(evidence.code_hash)} is not the hash of PolAnchor's code")
    if prover is not None and evidence.prover != prover:
        raise AnchorError(f"wrong prover: published by {_hex(evidence.prover)}, the log is bound to {_hex(prover)}")
    transaction = open_transaction(evidence.transaction)
    if transaction.chain_id != network.chain_id:
        raise AnchorError(f"wrong chain: the transaction is for chain {transaction.chain_id}, not {network.chain_id}")
    if transaction.to != evidence.contract:
        raise AnchorError("wrong contract address: the transaction calls another one")
    if transaction.sender != evidence.prover:
        raise AnchorError(f"wrong prover: the transaction is signed by {_hex(transaction.sender)}")
    if not transaction.publishes(target):
        raise AnchorError("the transaction publishes another head")
    return transaction


def check_evidence(evidence: Evidence, target: Target, network: Network, prover: bytes | None = None) -> Header:
    """Check that the target was published in the block that the receipt names, if that block is one of the chain.

    Raises:
        AnchorError: anything of `check_transaction`; a header that hashes to something else; a proof that does not
            fit it; a receipt that fails, or is of another log, head, contract or prover.
        AnchorUnavailableError: the receipt is pending: it names no block.
    """
    check_transaction(evidence, target, network, prover)
    inclusion = evidence.inclusion
    if inclusion is None:
        raise AnchorUnavailableError(
            f"{network.name}: transaction {_hex(evidence.hash)} is pending: its receipt names no block",
            hint="`polchain anchor --upgrade` asks the network again",
        )
    header = check_header(inclusion.header, inclusion.block)
    check_proof(inclusion.receipt, inclusion.index, inclusion.proof, header.receipts_root)
    events = [log for log in open_receipt(inclusion.receipt) if log.address == evidence.contract]
    if not events:
        raise AnchorError("the transaction receipt holds no event of the contract")
    signature, caller, log = event_topics(evidence.prover, target)
    events = [event for event in events if event.topics[:1] == (signature,) and len(event.topics) == 3]
    if not any(event.topics[2] == log for event in events):
        raise AnchorError("the transaction receipt is of another log")
    events = [event for event in events if event.topics[2] == log and event.data == event_data(target)]
    if not events:
        raise AnchorError("the transaction receipt is of another head of this log")
    if not any(event.topics[1] == caller for event in events):
        raise AnchorError("wrong prover: the event in the transaction receipt names another account")
    return header


def _inclusion(fields: Fields) -> Inclusion:
    nodes = [_read_hex(node, MAX_NODE, "proof") for node in fields.list("proof", max_items=MAX_NODES)]
    inclusion = Inclusion(
        _bytes(fields, "block", 32),
        _bytes(fields, "header", limit=MAX_HEADER),
        fields.int("index", maximum=2**32),
        _bytes(fields, "receipt", limit=MAX_NODE),
        tuple(nodes),
    )
    fields.done()
    return inclusion


def _bytes(fields: Fields, name: str, length: int = 0, *, limit: int = 0) -> bytes:
    data = _read_hex(fields.str(name, max_length=2 + 2 * (limit or length)), limit or length, name)
    if length and len(data) != length:
        raise FormatError(f"ethereum receipt: {name} is {len(data)} bytes instead of {length}")
    return data


def _read_hex(text: JSON, limit: int, name: str) -> bytes:
    try:
        data = bytes.fromhex(text[2:]) if isinstance(text, str) and len(text) <= 2 + 2 * limit else b""
    except ValueError:
        data = b""
    if not data or _hex(data) != text:
        raise FormatError(f"ethereum receipt: {name} is not 0x and at most {limit} bytes in lower-case hexadecimal")
    return data


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"
