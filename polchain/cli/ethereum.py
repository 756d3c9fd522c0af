"""Options of the commands that speak to an Ethereum network, and what follows from them."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli import output
from polchain.errors import KeyUnavailableError, UsageError

if TYPE_CHECKING:
    from polchain.anchors.chain import Chain
    from polchain.anchors.networks import Network
    from polchain.anchors.sender import Quote, Sender
    from polchain.anchors.wallet import Wallet

__all__ = [
    "Account",
    "DryRun",
    "Keystore",
    "KeystorePassphraseFd",
    "KeystorePassphraseFile",
    "MaxFee",
    "NetworkName",
    "Rpc",
    "open_chain",
    "open_network",
    "open_sender",
    "open_wallet",
    "quote_fields",
    "quote_json",
]

NetworkName = Annotated[
    str | None,
    typer.Option("--network", metavar="NAME", help="mainnet, sepolia, hoodi, local, or yours [POLCHAIN_NETWORK]"),
]
Rpc = Annotated[
    str | None,
    typer.Option("--rpc", metavar="ADDRESS", help="a node: http://, https://, a socket's path [POLCHAIN_RPC]"),
]
Keystore = Annotated[
    Path | None,
    typer.Option("--keystore", metavar="FILE", help="the account's encrypted keystore [POLCHAIN_KEYSTORE]"),
]
KeystorePassphraseFile = Annotated[
    Path | None,
    typer.Option("--keystore-passphrase-file", metavar="FILE", help="a file with its passphrase, yours alone to read"),
]
KeystorePassphraseFd = Annotated[
    int | None,
    typer.Option("--keystore-passphrase-fd", metavar="N", min=0, help="an open file descriptor to read it from"),
]
Account = Annotated[
    str | None,
    typer.Option("--account", metavar="ADDRESS", help="an account that the node, or a signer behind it, signs for"),
]
MaxFee = Annotated[
    float | None,
    typer.Option("--max-fee", metavar="GWEI", min=0, help="the most that is paid for one gas"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what it would cost; send nothing")]

LOCAL_NODE = "http://127.0.0.1:8545"


def open_network(name: str | None) -> Network:
    """The network of the flag, else of `POLCHAIN_NETWORK`.

    Raises:
        UsageError: none is named, or there is none of that name.
    """
    from polchain.anchors.networks import named

    chosen = name or os.environ.get("POLCHAIN_NETWORK")
    if not chosen:
        raise UsageError("no network was named", hint="--network sepolia, for one")
    return named(chosen)


def open_chain(network: Network, rpc: str | None) -> Chain:
    """The node of the flag, else of `POLCHAIN_RPC`, checked to be of the network; `local` has one by default.

    Raises:
        UsageError: none is named.
        AnchorUnavailableError: it is of another chain, or cannot be reached.
    """
    from polchain.anchors.chain import Chain

    address = rpc or os.environ.get("POLCHAIN_RPC") or (LOCAL_NODE if network.name == "local" else None)
    if address is None:
        raise UsageError(f"no node of {network.name} was named", hint="--rpc ADDRESS, or POLCHAIN_RPC")
    chain = Chain.connect(address)
    chain.expect(network)
    return chain


def open_wallet(
    chain: Chain, keystore: Path | None, file: Path | None, descriptor: int | None, account: str | None
) -> Wallet:
    """The account that pays: a keystore (the flag, else `POLCHAIN_KEYSTORE`), or one that the node signs for.

    Raises:
        UsageError: neither, or both.
        KeyUnavailableError: the keystore does not open.
    """
    from polchain.anchors.wallet import NodeAccount, open_keystore, parse_address

    if account is not None:
        if keystore is not None:
            raise UsageError("--keystore and --account: one of them")
        return NodeAccount(chain, parse_address(account))
    path = keystore or (Path(os.environ["POLCHAIN_KEYSTORE"]) if os.environ.get("POLCHAIN_KEYSTORE") else None)
    if path is None:
        raise UsageError("no account was named", hint="--keystore FILE, or --account ADDRESS for one of the node's")
    return open_keystore(path, _passphrase(path, file, descriptor))


def open_sender(network: Network, chain: Chain, wallet: Wallet, max_fee: float | None) -> Sender:
    """Who sends, with the account's journal in the user's state folder."""
    from polchain.anchors.journal import Journal, default_folder
    from polchain.anchors.sender import Sender

    folder = default_folder(network.chain_id, chain.block_hash(0) or b"", wallet.address)
    cap = None if max_fee is None else round(max_fee * 1e9)
    return Sender(network, chain, wallet, Journal(folder), max_fee=cap)


def quote_fields(quote: Quote) -> list[tuple[str, object]]:
    """A quote for people."""
    return [
        ("gas", f"{quote.gas:,}"),
        (
            "fee",
            f"{quote.base_fee / 1e9:.4g} gwei, and a tip of {quote.tip / 1e9:.4g}; at most {quote.max_fee / 1e9:.4g}",
        ),
        ("cost", f"{quote.cost / 1e18:.3g} ether; at most {quote.most / 1e18:.3g}"),
        ("balance", f"{quote.balance / 1e18:.6g} ether"),
    ]


def quote_json(quote: Quote) -> dict[str, object]:
    """A quote for programs: gas in units, the rest in wei, as text because it may be beyond 2^53."""
    return {
        "gas": quote.gas,
        "max_fee": str(quote.max_fee),
        "cost": str(quote.cost),
        "at_most": str(quote.most),
        "balance": str(quote.balance),
    }


def _passphrase(path: Path, file: Path | None, descriptor: int | None) -> bytes:
    from polchain.storage.keyfile import PassphraseSource

    if file is not None and descriptor is not None:
        raise UsageError("--keystore-passphrase-file and --keystore-passphrase-fd: one of them")
    found = PassphraseSource(descriptor=descriptor, file=file).given()
    if found is None:
        if not sys.stdin.isatty():
            raise KeyUnavailableError(
                "no passphrase for the keystore, and no terminal to ask for one",
                hint="--keystore-passphrase-file FILE, or --keystore-passphrase-fd N",
            )
        found = getpass.getpass(f"passphrase for {output.sanitise(str(path))}: ").encode()
    return found
