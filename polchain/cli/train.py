"""`polchain train`: the training itself."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from polchain.cli.ethereum import (
    Account,
    Keystore,
    KeystorePassphraseFd,
    KeystorePassphraseFile,
    MaxFee,
    NetworkName,
    Rpc,
)
from polchain.cli.launching import Script, become, prepare
from polchain.cli.options import Data, Json, KeyFile, PassphraseFd, PassphraseFile
from polchain.cli.publishing import address_half, orders_for, publisher_of
from polchain.cli.running import Arguments, Folder, Module, Recipe, StoreEvery, data_of, run_exists
from polchain.errors import PolchainError, UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `train`."""
    app.command("train")(train)


def train(
    run: Folder,
    arguments: Arguments = None,
    recipe: Recipe = None,
    module: Module = False,
    wait_beacon: Annotated[
        bool, typer.Option("--wait-beacon", help="wait for the block that gives a published run its seed")
    ] = False,
    own_seed: Annotated[
        bool,
        typer.Option("--own-seed", help="draw the seed at once, though a beacon is named; it proves less"),
    ] = False,
    anchor_every: Annotated[
        int | None,
        typer.Option("--anchor-every", metavar="STEPS", min=1, help="anchor the newest head that often, meanwhile"),
    ] = None,
    store_every: StoreEvery = None,
    network: NetworkName = None,
    rpc: Rpc = None,
    keystore: Keystore = None,
    keystore_passphrase_file: KeystorePassphraseFile = None,
    keystore_passphrase_fd: KeystorePassphraseFd = None,
    account: Account = None,
    max_fee: MaxFee = None,
    key_file: KeyFile = None,
    data: Data = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    as_json: Json = False,
) -> None:
    """run the script, recorded; go on where it was stopped."""
    from polchain.prover.settings import RunSettings

    if wait_beacon and own_seed:
        raise UsageError("--wait-beacon and --own-seed: one of them")
    settings = RunSettings.read(run)
    begun = run_exists(run)
    if begun:
        _as_recorded(run)
    elif wait_beacon:
        raise UsageError(
            f"{run} is new: its genesis is not published, so there is no beacon to wait for",
            hint=f"polchain init {run} ... --anchor, then train",
        )
    name = recipe or settings.script
    if not name:
        raise UsageError(f"which script? {run} does not say", hint="--recipe SCRIPT")
    script = Script(name, settings.module if recipe is None else module, tuple(arguments or settings.arguments))
    prepare(script, key_file, data_of(run, data), passphrase_file, passphrase_fd)
    publisher = None
    if anchor_every is not None or not begun:
        publisher = publisher_of(
            run,
            network,
            rpc,
            keystore,
            keystore_passphrase_file,
            keystore_passphrase_fd,
            account,
            max_fee,
            needed=anchor_every is not None,
        )
    half = None if begun else address_half(publisher, run, key_file)
    if anchor_every is not None and publisher is not None:
        publisher.open_account()  # before half an hour of waiting, not after it
    if begun and not own_seed:
        from polchain.cli.beacons import need_beacon

        need_beacon(run, network, rpc, wait=wait_beacon)
    orders = orders_for("train", as_json, script, half, publisher, own_seed=own_seed)
    orders = replace(orders, store_every=store_every or 0)
    if anchor_every is not None and publisher is not None:
        orders = replace(orders, follower=publisher.follow(run, anchor_every))
    become(orders, run, script)


def _as_recorded(run: Path) -> None:
    """Ask torch for the setting that the run was started with, where the environment does not ask for another."""
    from polchain.core.entries import Start
    from polchain.storage.ledger import Ledger

    with Ledger(run) as ledger:
        if ledger.genesis.foreign:
            raise UsageError(f"the run at {run} is a foreign one", hint="`polchain commit` logs its checkpoints")
        start = ledger.entry(1) if ledger.size > 1 else None
    if not isinstance(start, Start):
        return
    from polchain.training.fingerprint import setting_of

    try:
        wanted = setting_of(start.fingerprint).environment()
    except PolchainError:
        return  # The recorder says what differs.
    for name, value in wanted.items():
        if not name.startswith("POLCHAIN_"):
            os.environ.setdefault(name, value)
