"""Options of the commands that speak to an Ethereum network, and what follows from them."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli import output
from polchain.errors import AnchorUnavailableError, KeyUnavailableError, UsageError

if TYPE_CHECKING:
    from polchain.anchors.chain import Chain
    from polchain.anchors.networks import Network
    from polchain.anchors.sender import Quote, Sender
    from polchain.anchors.wallet import Wallet
    from polchain.prover.settings import RunSettings

__all__ = [
    "Account",
    "DryRun",
    "Keystore",
    "KeystorePassphraseFd",
    "KeystorePassphraseFile",
    "MaxFee",
    "NetworkName",
    "Rpc",
    "keystore_passphrase",
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
    typer.Option(
        "--rpc", metavar="ADDRESS", help="a node: http://, https://, a socket's path; more after commas [POLCHAIN_RPC]"
    ),
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
    typer.Option(
        "--account",
        metavar="ADDRESS",
        help="an account that the node, or a signer behind it, signs for [POLCHAIN_ACCOUNT]",
    ),
]
MaxFee = Annotated[
    float | None,
    typer.Option("--max-fee", metavar="GWEI", min=0, help="the most that is paid for one gas"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what it would cost; send nothing")]

LOCAL_NODE = "http://127.0.0.1:8545"


def named_network(name: str | None, settings: RunSettings | None = None) -> str | None:
    """The network's name: the flag, else `POLCHAIN_NETWORK`, else the run's polchain.toml; None where none has one."""
    return name or os.environ.get("POLCHAIN_NETWORK") or (settings.network if settings is not None else "") or None


def open_network(name: str | None, settings: RunSettings | None = None) -> Network:
    """The network of the flag, else of `POLCHAIN_NETWORK`, else of the run.

    Raises:
        UsageError: none is named, or there is none of that name.
    """
    from polchain.anchors.networks import named

    chosen = named_network(name, settings)
    if not chosen:
        raise UsageError("no network was named", hint="--network sepolia, for one")
    return named(chosen)


def connect(network: Network, rpc: str | None, settings: RunSettings | None = None) -> Chain:
    """The node that is used: the first of `connect_all`."""
    return connect_all(network, rpc, settings)[0]


def connect_all(network: Network, rpc: str | None, settings: RunSettings | None = None) -> list[Chain]:
    """The nodes of the flag, else of `POLCHAIN_RPC`, else of the run; `local` has one by default. Nobody is asked yet.

    Raises:
        UsageError: none is named, or an address is none.
    """
    from polchain.anchors.chain import Chain

    address = rpc or os.environ.get("POLCHAIN_RPC")
    # The run's node is one of the run's network.
    if not address and settings is not None and settings.network in ("", network.name):
        address = settings.rpc
    if not address and network.name == "local":
        address = LOCAL_NODE
    if not address:
        raise UsageError(f"no node of {network.name} was named", hint="--rpc ADDRESS, or POLCHAIN_RPC")
    return [Chain.connect(one.strip()) for one in address.split(",")]


def open_chain(network: Network, rpc: str | None, settings: RunSettings | None = None) -> Chain:
    """The node of the flag, else of `POLCHAIN_RPC`, else of the run, checked to be of the network.

    Raises:
        UsageError: none is named.
        AnchorUnavailableError: it is of another chain, or cannot be reached.
    """
    chain = connect(network, rpc, settings)
    chain.expect(network)
    return chain


def named_account(
    keystore: Path | None, account: str | None, settings: RunSettings | None = None
) -> tuple[Path | None, str | None]:
    """Who pays, a keystore or an account of the node: the flags, else `POLCHAIN_*`, else the run; neither if nobody.

    Raises:
        UsageError: both in one place.
    """
    places: list[tuple[str, Path | str | None, str | None]] = [
        ("--keystore and --account", keystore, account),
        (
            "POLCHAIN_KEYSTORE and POLCHAIN_ACCOUNT",
            os.environ.get("POLCHAIN_KEYSTORE"),
            os.environ.get("POLCHAIN_ACCOUNT"),
        ),
    ]
    if settings is not None:
        places.append(("keystore and account in polchain.toml", settings.keystore, settings.account))
    for where, path, address in places:
        if path and address:
            raise UsageError(f"{where}: one of them")
        if path or address:
            return (Path(path), None) if path else (None, address)
    return None, None


def open_wallet(
    chain: Chain,
    keystore: Path | None,
    file: Path | None,
    descriptor: int | None,
    account: str | None,
    settings: RunSettings | None = None,
) -> Wallet:
    """The account that pays: a keystore, or one that the node signs for (see `named_account`).

    Raises:
        UsageError: neither, or both.
        KeyUnavailableError: the keystore does not open.
    """
    from polchain.anchors.wallet import NodeAccount, open_keystore, parse_address

    path, address = named_account(keystore, account, settings)
    if address is not None:
        return NodeAccount(chain, parse_address(address))
    if path is None:
        raise UsageError("no account was named", hint="--keystore FILE, or --account ADDRESS for one of the node's")
    return open_keystore(path, keystore_passphrase(path, file, descriptor))


def open_sender(network: Network, chain: Chain, wallet: Wallet, max_fee: float | None) -> Sender:
    """Who sends, with the account's journal in the user's state folder.

    Raises:
        AnchorUnavailableError: the node does not have block 0, by whose hash the journal is found.
    """
    from polchain.anchors.journal import Journal, default_folder
    from polchain.anchors.sender import Sender

    genesis = chain.block_hash(0)
    if genesis is None:
        # Another folder would be another journal: what was signed already would be paid for again.
        raise AnchorUnavailableError(f"{chain.name} does not have block 0 of {network.name}", hint="ask another node")
    folder = default_folder(network.chain_id, genesis, wallet.address)
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


def keystore_passphrase(path: Path, file: Path | None, descriptor: int | None) -> bytes:
    """A keystore's passphrase: from the descriptor or the file that a flag names, else asked for.

    Raises:
        UsageError: both are named.
        KeyUnavailableError: there is nobody to ask.
    """
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
