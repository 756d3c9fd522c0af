"""`polchain contract`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli import output
from polchain.cli.ethereum import (
    Account,
    DryRun,
    Keystore,
    KeystorePassphraseFd,
    KeystorePassphraseFile,
    MaxFee,
    NetworkName,
    Rpc,
    open_chain,
    open_network,
    open_sender,
    open_wallet,
    quote_fields,
    quote_json,
)
from polchain.cli.options import Json
from polchain.errors import UsageError

if TYPE_CHECKING:
    from polchain.anchors.sender import Sender

__all__ = ["register"]


class Verb(StrEnum):
    """What to do with the contract."""

    address = "address"
    check = "check"
    deploy = "deploy"


def register(app: typer.Typer) -> None:
    """Add `contract`."""
    app.command("contract")(contract)


def contract(
    verb: Annotated[Verb, typer.Argument(metavar="address|check|deploy", help="what to do", show_default=False)],
    network: NetworkName = None,
    rpc: Rpc = None,
    keystore: Keystore = None,
    keystore_passphrase_file: KeystorePassphraseFile = None,
    keystore_passphrase_fd: KeystorePassphraseFd = None,
    account: Account = None,
    max_fee: MaxFee = None,
    dry_run: DryRun = False,
    with_proxy: Annotated[
        bool, typer.Option("--with-proxy", help="put the deployment proxy there too, for 0.01 ether")
    ] = False,
    as_json: Json = False,
) -> None:
    """find the contract that dates heads, or put it on a network."""
    if verb is not Verb.deploy and (keystore or account or max_fee is not None or dry_run or with_proxy):
        raise UsageError(f"`polchain contract {verb.value}` sends nothing: it takes --network and --rpc alone")
    if verb is Verb.address:
        _address(as_json)
    elif verb is Verb.check:
        _check(network, rpc, as_json)
    else:
        chosen = open_network(network)
        chain = open_chain(chosen, rpc)
        wallet = open_wallet(chain, keystore, keystore_passphrase_file, keystore_passphrase_fd, account)
        sender = open_sender(chosen, chain, wallet, max_fee)
        _deploy(sender, dry_run, with_proxy, as_json)


def _address(as_json: bool) -> None:
    from polchain.anchors.contract import PROXY, contract

    known = contract()
    output.answer(
        {"address": f"0x{known.address.hex()}", "code_hash": f"0x{known.code_hash.hex()}", "proxy": f"0x{PROXY.hex()}"},
        output.fields([("address", f"0x{known.address.hex()}"), ("code hash", f"0x{known.code_hash.hex()}")]),
        as_json=as_json,
    )


def _check(network: str | None, rpc: str | None, as_json: bool) -> None:
    from polchain.anchors.contract import contract
    from polchain.anchors.deploy import state_of

    chosen = open_network(network)
    state = state_of(open_chain(chosen, rpc))
    address = f"0x{contract().address.hex()}"
    output.answer(
        {"network": chosen.name, "address": address, "state": state},
        output.fields([("network", chosen.name), ("address", address), ("state", state)]),
        as_json=as_json,
    )
    if state != "deployed":
        raise typer.Exit(1)


def _deploy(sender: Sender, dry_run: bool, with_proxy: bool, as_json: bool) -> None:
    from polchain.anchors.contract import contract
    from polchain.anchors.deploy import deploy, deployment_quote, state_of

    address = f"0x{contract().address.hex()}"
    said: dict[str, object] = {"network": sender.network.name, "address": address}
    rows: list[tuple[str, object]] = [("network", sender.network.name), ("address", address)]
    before = state_of(sender.chain)
    if before == "deployed":
        state = "deployed before"
    elif dry_run:
        quote = deployment_quote(sender)
        state = "absent"
        said |= quote_json(quote)
        rows += quote_fields(quote)
    else:
        deploy(sender, with_proxy=with_proxy)
        state = "deployed"
    output.answer(said | {"state": state}, output.fields([*rows, ("state", state)]), as_json=as_json)
