"""The beacon: a value that nobody can have known before its time, and from which a run's seed is made.

    genesis  ->  its head, published alone and by the bound address, in block n  ->  the hash of block n + 64

Exactly that block: whoever could choose among several would choose his seed. What the claim keeps, canonical JSON:

    {"chain": 11155111, "format": "polchain-beacon/v1", "header": "0x...", "network": "sepolia"}

The header's keccak256 is the value that `start` names, and says the block's number and time. That both blocks are of
the chain is for pinned hashes or nodes to say, as it is for any receipt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from polchain.anchors.chain import Chain
from polchain.anchors.contract import keccak256
from polchain.anchors.inclusion import Header, check_header, encode_header
from polchain.anchors.networks import Network
from polchain.core.encoding import Fields, decode, encode
from polchain.core.entries import BeaconRef
from polchain.errors import AnchorError, AnchorUnavailableError, FormatError

__all__ = ["DISTANCE", "BeaconEvidence", "check_beacon", "fetch_beacon"]

FORMAT: Final = "polchain-beacon/v1"
DISTANCE: Final = 64  # blocks after the genesis was anchored; two epochs of Ethereum

_LIMIT: Final = 65_536
_MAX_HEADER: Final = 8_192
_WHAT: Final = "beacon"


@dataclass(frozen=True, slots=True)
class BeaconEvidence:
    """The block whose hash is the beacon's value, by its header."""

    chain_id: int
    network: str
    header: bytes

    @property
    def value(self) -> bytes:
        """The block's hash."""
        return keccak256(self.header)

    def open(self) -> Header:
        """The header, read.

        Raises:
            AnchorError: it is none.
        """
        return check_header(self.header, self.value)

    def encode(self) -> bytes:
        """The file's bytes; `parse` is the inverse."""
        return encode(
            {"format": FORMAT, "chain": self.chain_id, "network": self.network, "header": f"0x{self.header.hex()}"}
        )

    @classmethod
    def parse(cls, data: bytes) -> BeaconEvidence:
        """Read what `encode` wrote; the header is not opened.

        Raises:
            FormatError: anything else, or over a limit.
        """
        fields = Fields(decode(data, limit=_LIMIT, what=_WHAT), _WHAT)
        if fields.str("format", max_length=32) != FORMAT:
            raise FormatError(f"{_WHAT}: the format is not {FORMAT}")
        chain_id, network = fields.int("chain", minimum=1), fields.str("network", max_length=64)
        text = fields.str("header", max_length=2 + 2 * _MAX_HEADER)
        fields.done()
        try:
            header = bytes.fromhex(text[2:])
        except ValueError:
            header = b""
        if not header or f"0x{header.hex()}" != text:
            raise FormatError(f"{_WHAT}: a header is 0x and lower-case hexadecimal")
        return cls(chain_id, network, header)


def check_beacon(evidence: BeaconEvidence, ref: BeaconRef, value: bytes, anchored_in: int) -> Header:
    """Check that the evidence is of the block that `start` names, and that this is the block it had to take.

    Args:
        evidence: what the claim keeps.
        ref, value: what `start` says.
        anchored_in: the number of the block that holds the genesis.

    Raises:
        AnchorError: of another chain or block, another value, or not exactly `DISTANCE` blocks after the genesis.
    """
    if evidence.chain_id != ref.chain:
        raise AnchorError(f"beacon: the header is of chain {evidence.chain_id}, the seed of chain {ref.chain}")
    if evidence.value != value:
        raise AnchorError("beacon: the header hashes to something else than the value that the seed is made of")
    header = evidence.open()
    if header.number != ref.block:
        raise AnchorError(f"beacon: the header is of block {header.number}, the seed names block {ref.block}")
    if header.number != anchored_in + DISTANCE:
        raise AnchorError(
            f"beacon: the genesis is in block {anchored_in}, so the seed is the hash of block"
            f" {anchored_in + DISTANCE}, not of block {header.number}"
        )
    return header


def fetch_beacon(chain: Chain, network: Network, number: int) -> BeaconEvidence:
    """The header of a final block, from a node.

    Raises:
        AnchorUnavailableError: the block is not final yet, or the node cannot be reached or answers nonsense.
    """
    chain.expect(network)
    final = chain.final_height(network)
    if final < number:
        raise AnchorUnavailableError(
            f"{network.name}: block {number} is not final yet: the newest final one is {final}"
        )
    block = chain.block(number)
    said = chain.block_hash(number)
    if block is None or said is None:
        raise AnchorUnavailableError(f"{chain.name} calls block {number} final, but has not got it")
    evidence = BeaconEvidence(network.chain_id, network.name, encode_header(block))
    try:
        header = check_header(evidence.header, said)
    except AnchorError as error:
        raise AnchorUnavailableError(f"{chain.name} answers with a block that is none: {error}") from error
    if header.number != number:
        raise AnchorUnavailableError(f"{chain.name} answers with block {header.number} for block {number}")
    return evidence
