"""That a log is in a receipt, the receipt in a block, and the block has a hash: made from RPC answers, checked offline.

    header     RLP of the header's fields; its keccak256 is the block's hash       (Yellow Paper, 4.3; EIPs add fields)
    receipt    RLP [status, gas, bloom, logs], after one byte of type if it is typed              (EIP-658, EIP-2718)
    proof      the nodes of the receipts trie from the header's root to RLP(index)        (Yellow Paper, appendix D)

Each maker stands beside its checker. `rlp` and `trie` do the encoding; neither was written for a stranger's bytes, so
whatever they raise on these is an AnchorError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from polchain.anchors.contract import keccak256
from polchain.errors import AnchorError, AnchorUnavailableError

__all__ = [
    "Header",
    "Log",
    "check_header",
    "check_proof",
    "encode_header",
    "encode_receipt",
    "open_receipt",
    "prove_receipt",
    "quantity",
    "raw_bytes",
]

# In the order of the header's RLP. Those after `nonce` came with London, Shanghai, Cancun, Prague, and may come.
FIELDS = (
    "parentHash",
    "sha3Uncles",
    "miner",
    "stateRoot",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "difficulty",
    "number",
    "gasLimit",
    "gasUsed",
    "timestamp",
    "extraData",
    "mixHash",
    "nonce",
)
LATER = (
    "baseFeePerGas",
    "withdrawalsRoot",
    "blobGasUsed",
    "excessBlobGas",
    "parentBeaconBlockRoot",
    "requestsHash",
    "blockAccessListHash",
    "slotNumber",
)
NUMBERS = {"difficulty", "number", "gasLimit", "gasUsed", "timestamp"}
NUMBERS |= {"baseFeePerGas", "blobGasUsed", "excessBlobGas", "slotNumber"}
LENGTHS = {"logsBloom": 256, "nonce": 8, "miner": 20}

MAX_FIELDS = 40


@dataclass(frozen=True, slots=True)
class Header:
    """What is read from a block's header."""

    hash: bytes
    number: int
    time: int
    receipts_root: bytes


@dataclass(frozen=True, slots=True)
class Log:
    """One event: who emitted it, its topics, its data."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


def encode_header(block: Mapping[str, Any]) -> bytes:
    """The header of a block that a node described; checked against the hash that the node gave.

    Raises:
        AnchorUnavailableError: the fields do not hash to it: a kind of block that is not known here.
    """
    import rlp  # type: ignore[import-untyped]

    try:
        names = [*FIELDS, *(name for name in LATER if block.get(name) is not None)]
        fields = [_header_field(name, block[name]) for name in names]
        expected = raw_bytes(block["hash"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AnchorUnavailableError(f"the node's answer is not a block: {error!a}") from error
    extra = names.index("extraData")
    # eth-tester shows empty extra data as 32 zero bytes; the hash tells which it was.
    for data in (fields[extra], b""):
        header: bytes = rlp.encode([*fields[:extra], data, *fields[extra + 1 :]])
        if keccak256(header) == expected:
            return header
    raise AnchorUnavailableError(
        f"the header of block {quantity(block['number'])} does not encode to its hash 0x{expected.hex()}",
        hint="this chain's headers have fields that polchain does not know",
    )


def check_header(header: bytes, expected: bytes) -> Header:
    """Check that a header has that hash, and read it.

    Raises:
        AnchorError: it hashes to something else, or is no header.
    """
    found = keccak256(header)
    if found != expected:
        raise AnchorError(f"the block header hashes to 0x{found.hex()}, the receipt names 0x{expected.hex()}")
    with _hostile("the block header is not RLP of a header"):
        import rlp

        fields = rlp.decode(header)
        flat = isinstance(fields, list) and all(isinstance(field, bytes) for field in fields)
        if not flat or not len(FIELDS) <= len(fields) <= MAX_FIELDS:
            raise ValueError("fields")
        named = dict(zip(FIELDS, fields, strict=False))
        if len(named["receiptsRoot"]) != 32 or len(named["parentHash"]) != 32:
            raise ValueError("hashes")
        return Header(found, _read_number(named["number"]), _read_number(named["timestamp"]), named["receiptsRoot"])


def encode_receipt(receipt: Mapping[str, Any]) -> bytes:
    """A receipt as the trie holds it: legacy, or with its type before it.

    Raises:
        AnchorUnavailableError: the node's answer is no receipt.
    """
    import rlp

    try:
        kind = quantity(receipt.get("type") or 0)
        logs = [
            [raw_bytes(log["address"]), [raw_bytes(topic) for topic in log["topics"]], raw_bytes(log["data"])]
            for log in receipt["logs"]
        ]
        # Before Byzantium (EIP-658) a state root stood in the status' place.
        first = _integer(quantity(receipt["status"])) if "status" in receipt else raw_bytes(receipt["root"])
        # The bloom follows from the logs; eth-tester leaves it out.
        body: bytes = rlp.encode([first, _integer(quantity(receipt["cumulativeGasUsed"])), _bloom(logs), logs])
        return (bytes([kind]) if kind else b"") + body
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnchorUnavailableError(f"the node's answer is not a receipt: {error!a}") from error


def open_receipt(receipt: bytes) -> tuple[Log, ...]:
    """The logs of a receipt, legacy or typed, whose transaction succeeded.

    Raises:
        AnchorError: it is no receipt, or its transaction failed.
    """
    with _hostile("the transaction receipt is not RLP of a receipt"):
        import rlp

        # A list begins with 0xc0 or more; a type is below 0x80 (EIP-2718).
        typed = receipt[0] < 0x80
        status, gas, bloom, logs = rlp.decode(receipt[1:] if typed else receipt)
        if not isinstance(gas, bytes) or len(bloom) != 256:
            raise ValueError("fields")
        found = tuple(_read_log(log) for log in logs)
    if status != b"\x01":
        raise AnchorError("the transaction failed: its receipt does not say success")
    return found


def prove_receipt(receipts: Sequence[bytes], index: int, root: bytes) -> tuple[bytes, ...]:
    """The trie nodes from the root of a block's receipts to one of them.

    Raises:
        AnchorUnavailableError: the receipts are not those of that root.
    """
    import rlp
    from trie.hexary import HexaryTrie

    trie = HexaryTrie({})
    for i, receipt in enumerate(receipts):
        trie[rlp.encode(i)] = receipt
    if trie.root_hash != root:
        raise AnchorUnavailableError(
            "the node's receipts do not add up to the block's receiptsRoot",
            hint="the block holds a kind of transaction that polchain does not know, or the node is wrong",
        )
    return tuple(rlp.encode(node) for node in trie.get_proof(rlp.encode(index)))  # type: ignore[no-untyped-call]


def check_proof(receipt: bytes, index: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a receipt is number `index` of the trie with that root, and that no node is one too many.

    Raises:
        AnchorError: the proof does not fit, or is of another receipt.
    """
    with _hostile("the receipts-trie proof does not fit the header's receiptsRoot"):
        import rlp
        from trie.hexary import HexaryTrie

        key = rlp.encode(index)
        trie = HexaryTrie({keccak256(node): node for node in proof}, root)
        value = trie[key]
        path = tuple(rlp.encode(node) for node in trie.get_proof(key))  # type: ignore[no-untyped-call]
    if value != receipt:
        raise AnchorError("the receipts-trie proof is of another receipt")
    if path != tuple(proof):
        raise AnchorError("the receipts-trie proof has nodes that do not belong to it")


def raw_bytes(value: Any) -> bytes:
    """Bytes, as JSON-RPC writes them (0x and hexadecimal); eth-tester gives some as they are."""
    if isinstance(value, str) and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    if isinstance(value, bytes):
        return bytes(value)
    raise ValueError(f"{ascii(value)[:60]} is not bytes")


def quantity(value: Any) -> int:
    """A number, as JSON-RPC writes it (0x and hexadecimal); eth-tester gives integers."""
    number = int(value, 16) if isinstance(value, str) and value.startswith("0x") and len(value) <= 66 else value
    if type(number) is not int or number < 0:
        raise ValueError(f"{ascii(value)[:60]} is not a number")
    return number


@contextmanager
def _hostile(message: str) -> Iterator[None]:
    """A stranger's bytes go through libraries that answer bad ones with any exception."""
    try:
        yield
    except AnchorError:
        raise
    except Exception as error:
        raise AnchorError(f"{message} ({type(error).__name__})") from error


def _header_field(name: str, value: Any) -> bytes:
    if name in NUMBERS:
        return _integer(quantity(value))
    if name == "extraData":
        return raw_bytes(value)
    return _sized(value, LENGTHS.get(name, 32))


def _sized(value: Any, length: int) -> bytes:
    # eth-tester gives an empty bloom as a number.
    data = quantity(value).to_bytes(length, "big") if type(value) is int else raw_bytes(value)
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes instead of {length}")
    return data


def _bloom(logs: Sequence[Sequence[Any]]) -> bytes:
    """The bloom filter of the addresses and topics of logs (Yellow Paper, 4.3.1): three bits of 2048 for each."""
    bits = 0
    for address, topics, _ in logs:
        for item in (address, *topics):
            digest = keccak256(item)
            for i in (0, 2, 4):
                bits |= 1 << (int.from_bytes(digest[i : i + 2], "big") & 2047)
    return bits.to_bytes(256, "big")


def _integer(value: int) -> bytes:
    """A number as RLP holds it: big-endian, without leading zeros."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _read_number(data: bytes) -> int:
    if len(data) > 8 or data.startswith(b"\0"):
        raise ValueError("number")
    return int.from_bytes(data, "big")


def _read_log(log: Any) -> Log:
    address, topics, data = log
    if len(address) != 20 or len(topics) > 4 or not isinstance(data, bytes) or not isinstance(topics, list):
        raise ValueError("log")
    if any(len(topic) != 32 or not isinstance(topic, bytes) for topic in topics):
        raise ValueError("topic")
    return Log(address, tuple(topics), data)
