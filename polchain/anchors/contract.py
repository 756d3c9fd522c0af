"""The contract PolAnchor: its code, its one address, its call and its event.

    anchor(bytes32 log, bytes32 root, uint64 size)
    event Anchored(address indexed prover, bytes32 indexed log, bytes32 root, uint64 size)

`PolAnchor.json` is what contracts/PolAnchor.sol compiles to. The contract is deployed by the deterministic deployment
proxy (github.com/Arachnid/deterministic-deployment-proxy), so its address is the same on every chain, and commits to
the code: the last 20 bytes of keccak256(0xff, proxy, salt, keccak256(creation code)), as EIP-1014 defines it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from polchain.anchors.base import Target

__all__ = ["PROXY", "SALT", "Contract", "call_data", "contract", "event_data", "event_topics", "keccak256"]

ARTIFACT = Path(__file__).with_name("PolAnchor.json")
PROXY = bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c")
SALT = bytes(32)


@dataclass(frozen=True, slots=True)
class Contract:
    """What is deployed, and where.

    Attributes:
        creation: the code that deploys it.
        code: the code that is deployed.
        code_hash: keccak256 of that code, as EXTCODEHASH gives it.
        address: where it is, on every chain.
    """

    creation: bytes
    code: bytes
    code_hash: bytes
    address: bytes


@cache
def contract() -> Contract:
    """The contract that this version of polchain was built with."""
    artifact = json.loads(ARTIFACT.read_text(encoding="utf-8"))
    creation, code = (bytes.fromhex(artifact[name].removeprefix("0x")) for name in ("bytecode", "deployedBytecode"))
    address = keccak256(b"\xff" + PROXY + SALT + keccak256(creation))[12:]
    return Contract(creation, code, keccak256(code), address)


def call_data(target: Target) -> bytes:
    """The call that publishes a target."""
    selector = keccak256(b"anchor(bytes32,bytes32,uint64)")[:4]
    return selector + target.log + target.root + target.size.to_bytes(32, "big")


def event_topics(prover: bytes, target: Target) -> tuple[bytes, bytes, bytes]:
    """The topics of the event: its signature, the caller, the log."""
    return keccak256(b"Anchored(address,bytes32,bytes32,uint64)"), prover.rjust(32, b"\0"), target.log


def event_data(target: Target) -> bytes:
    """The fields of the event that are not topics."""
    return target.root + target.size.to_bytes(32, "big")


def keccak256(data: bytes) -> bytes:
    """Ethereum's hash."""
    from eth_utils.crypto import keccak

    return bytes(keccak(data))
