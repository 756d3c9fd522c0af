"""Waiting for a run's beacon, before its training begins."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.cli import output
from polchain.cli.ethereum import connect_all, open_network
from polchain.errors import AnchorUnavailableError, UsageError

if TYPE_CHECKING:
    from polchain.anchors.networks import Network
    from polchain.prover.preregister import Due

__all__ = ["need_beacon"]

SLOT = 12.0  # seconds between two blocks of Ethereum
LOCAL = 0.5


def need_beacon(run: Path, network: str | None, rpc: str | None, *, wait: bool) -> None:
    """See that a run whose genesis names a beacon has its block; a run that has begun needs none.

    Raises:
        UsageError: it is to be waited for, and was never asked for.
        BeaconPendingError: it is not final yet, and is not to be waited for.
        AnchorUnavailableError: the network cannot be reached, and is not to be waited for.
        AnchorError: the receipt of the genesis is false.
    """
    from polchain.prover.anchored import AnchorBook
    from polchain.prover.preregister import published_genesis
    from polchain.storage.ledger import Ledger

    with Ledger(run) as ledger:
        begun, chain_id = ledger.size > 1, ledger.genesis.beacon
    if begun or AnchorBook(run).beacon() is not None:
        return
    if chain_id is None:
        if wait:
            raise UsageError(
                f"the genesis of {run} names no beacon to wait for",
                hint="`polchain init --anchor` makes one that does; without it, train without --wait-beacon",
            )
        return
    if published_genesis(run, chain_id) is None:
        raise AnchorUnavailableError(
            f"the genesis of {run} names a beacon, but was not published yet",
            hint=f"`polchain anchor {run}` publishes it; --own-seed draws a seed at once",
        )
    _take(run, chain_id, network, rpc, wait)


def _take(run: Path, chain_id: int, network: str | None, rpc: str | None, wait: bool) -> None:
    from polchain.anchors.ethereum import EthereumAnchor
    from polchain.prover.preregister import BeaconPendingError, take_beacon
    from polchain.prover.settings import RunSettings

    settings = RunSettings.read(run)
    chosen = open_network(network, settings)
    if chosen.chain_id != chain_id:
        raise UsageError(
            f"the genesis of {run} names chain {chain_id} for its beacon, and {chosen.name} is {chosen.chain_id}",
            hint="--network NAME, of that chain",
        )
    # Not asked yet: where it is waited for, a node that is away now ends nothing.
    anchor = EthereumAnchor(chosen, connect_all(chosen, rpc, settings))
    said = ""
    with output.Progress(f"waiting for the beacon on {chosen.name}", 0, "blocks") as progress:
        while True:
            try:
                evidence = take_beacon(run, anchor)
                break
            except BeaconPendingError as error:
                if not wait:
                    raise
                if not said:
                    output.note(f"{error}: waiting for it{_about(error.due)}")
                said = "pending"
                progress.update(*_far(error.due))
            except AnchorUnavailableError as error:
                if not wait:
                    raise
                # It may be long: a node that is away for a moment ends nothing.
                if said != str(error):
                    progress.clear()
                    output.note(f"{error}; asking again")
                said = str(error)
            time.sleep(_pace(chosen))
    output.note(f"the seed comes from {chosen.name} block {evidence.open().number}, 0x{evidence.value.hex()}")


def _far(due: Due) -> tuple[int, int]:
    from polchain.anchors.beacon import DISTANCE

    done = max(0, due.final - due.anchored_in) if due.anchored_in is not None else 0
    return min(done, DISTANCE), DISTANCE


def _about(due: Due) -> str:
    done, total = _far(due)
    # Local chains make blocks when they like.
    return f", about {(total - done) * SLOT / 60:.0f} minutes" if due.network.finality == "finalized" else ""


def _pace(network: Network) -> float:
    return SLOT if network.finality == "finalized" else LOCAL
