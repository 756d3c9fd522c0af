"""Putting PolAnchor on a chain: once for everybody, at the one address that `contract` computes.

The deterministic deployment proxy takes a salt and creation code, and deploys by CREATE2 (EIP-1014). Most chains have
it. Where it is missing it comes by a transaction that was signed for every chain at once by nobody's key (Nick's
method; from github.com/Arachnid/deterministic-deployment-proxy), after 0.01 ether were sent to the account that pays.
"""

from __future__ import annotations

import hashlib
import time
from typing import Literal

from polchain.anchors.chain import Chain
from polchain.anchors.contract import PROXY, SALT, contract, keccak256
from polchain.anchors.inclusion import quantity
from polchain.anchors.sender import Quote, Sender
from polchain.errors import AnchorError, AnchorUnavailableError

__all__ = ["State", "deploy", "deployment_quote", "state_of"]

State = Literal["deployed", "absent"]

PROXY_CODE_HASH = "2fa86add0aed31f33a762c9d88e807c475bd51d0f52bd0955754b2608f7e4989"
PROXY_PAYER = bytes.fromhex("3fab184622dc19b6109349b94811493bf2a45362")
PROXY_COST = 10**16
PROXY_TRANSACTION = bytes.fromhex(
    "f8a58085174876e800830186a08080b853604580600e600039806000f350fe7fffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf31b"
    "a02222222222222222222222222222222222222222222222222222222222222222"
    "a02222222222222222222222222222222222222222222222222222222222222222"
)


def state_of(chain: Chain) -> State:
    """Whether PolAnchor is on the chain.

    Raises:
        AnchorError: other code is in its place.
        AnchorUnavailableError: the node cannot be reached.
    """
    found = chain.code_hash(contract().address)
    if found is None:
        return "absent"
    if found != contract().code_hash:
        raise AnchorError(f"wrong contract code: {chain.name} has other code at 0x{contract().address.hex()}")
    return "deployed"


def deployment_quote(sender: Sender) -> Quote:
    """What `deploy` would cost.

    Raises:
        AnchorUnavailableError: the proxy is missing, or the node cannot say.
    """
    sender.chain.expect(sender.network)
    _need_proxy(sender.chain)
    return sender.quote(PROXY, SALT + contract().creation)


def deploy(sender: Sender, *, with_proxy: bool = False, patience: float = 180) -> State:
    """Deploy PolAnchor where it is not, and wait for the block; returns what was found before.

    Args:
        with_proxy: put the proxy there too if it is missing.
        patience: how many seconds to wait for a block.

    Raises:
        AnchorError: other code is in its place, or in the proxy's.
        AnchorUnavailableError: the proxy is missing, the node refuses, or no block came in time.
    """
    sender.chain.expect(sender.network)
    before = state_of(sender.chain)
    if before == "deployed":
        return before
    if with_proxy and sender.chain.code_hash(PROXY) is None:
        _deploy_proxy(sender, patience)
    _need_proxy(sender.chain)
    key = hashlib.sha256(b"deploy" + contract().address).hexdigest()
    raw = sender.send(key, PROXY, SALT + contract().creation)
    _await(sender.chain, raw, patience)
    sender.settle(key)
    if state_of(sender.chain) != "deployed":
        raise AnchorUnavailableError(f"{sender.chain.name}: the deployment went through, and there is no code")
    return before


def _need_proxy(chain: Chain) -> None:
    found = chain.code_hash(PROXY)
    if found is None:
        raise AnchorUnavailableError(
            f"{chain.name}: the deterministic deployment proxy is not at 0x{PROXY.hex()}",
            hint="--with-proxy puts it there",
        )
    if found.hex() != PROXY_CODE_HASH:
        raise AnchorError(f"wrong contract code: {chain.name} has another proxy at 0x{PROXY.hex()}")


def _deploy_proxy(sender: Sender, patience: float) -> None:
    chain = sender.chain
    missing = PROXY_COST - chain.balance(PROXY_PAYER)
    if missing > 0:
        key = hashlib.sha256(b"proxy" + PROXY).hexdigest()
        _await(chain, sender.send(key, PROXY_PAYER, b"", value=missing), patience)
        sender.settle(key)
    chain.send(PROXY_TRANSACTION)
    _await(chain, PROXY_TRANSACTION, patience)


def _await(chain: Chain, raw: bytes, patience: float) -> None:
    """Wait until a transaction is in a block, and see that it succeeded."""
    until = time.monotonic() + patience
    transaction = keccak256(raw)
    while (receipt := chain.receipt(transaction)) is None:
        if time.monotonic() > until:
            raise AnchorUnavailableError(
                f"{chain.name}: transaction 0x{transaction.hex()} is in no block after {patience:.0f} seconds",
                hint="the same command goes on waiting for it",
            )
        time.sleep(min(1.0, patience / 20))
    try:
        done = quantity(receipt["status"]) == 1
    except (KeyError, ValueError):
        done = False
    if not done:
        raise AnchorUnavailableError(f"{chain.name}: transaction 0x{transaction.hex()} failed")
