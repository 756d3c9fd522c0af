"""Pre-registration: a genesis that is published before its run has a seed.

    genesis (data, recipe, key, address)  ->  published alone, in block n  ->  block n + 64, final  ->  seed  ->  train

Nobody, the prover included, can have known the batch order before that block. A run whose genesis was published alone
by the address that it binds takes its seed there, and waits for it; `anchors/beacon.json` keeps the block's header.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polchain.anchors.base import Target, target_of
from polchain.anchors.beacon import DISTANCE, BeaconEvidence, check_beacon, fetch_beacon
from polchain.anchors.binding import check_address_binding
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import KIND, Evidence
from polchain.anchors.inclusion import check_header
from polchain.anchors.networks import Network, networks
from polchain.core.binding import Binding, sign_key_binding
from polchain.core.entries import BeaconRef
from polchain.core.note import PrivateKey, open_head
from polchain.errors import AnchorError, AnchorUnavailableError
from polchain.prover.anchored import AnchorBook, Kept
from polchain.storage.ledger import Ledger

__all__ = ["AddressHalf", "BeaconPendingError", "Due", "beacon_ref", "due", "published_genesis", "take_beacon"]


@dataclass(frozen=True, slots=True)
class AddressHalf:
    """An address that has signed for a log that is about to begin: its genesis must have this run id.

    Attributes:
        run_id: 16 bytes.
        address: 20 bytes.
        signature: EIP-712, over key and run id (see `core.binding`).
    """

    run_id: bytes
    address: bytes
    signature: bytes

    def bind(self, key: PrivateKey) -> Binding:
        """Both halves.

        Raises:
            SignatureError: the address signed for another key or run.
        """
        binding = Binding(self.address, sign_key_binding(key, self.run_id, self.address), self.signature)
        check_address_binding(binding, key.public, self.run_id)
        return binding


@dataclass(frozen=True, slots=True)
class Due:
    """The block that the seed will come from.

    Attributes:
        network: its chain.
        anchored_in: the block with the genesis; None while it is in none.
        final: the newest final block.
    """

    network: Network
    anchored_in: int | None
    final: int

    @property
    def block(self) -> int | None:
        """The beacon's block."""
        return None if self.anchored_in is None else self.anchored_in + DISTANCE


class BeaconPendingError(AnchorUnavailableError):
    """The block is not final yet; `due` says how far it is."""

    def __init__(self, now: Due) -> None:
        where = f"block {now.block}" if now.block is not None else f"the block {DISTANCE} after the genesis"
        super().__init__(
            f"the seed comes from {where} of {now.network.name}; block {now.final} is the last that is final",
            hint="`polchain train RUN --wait-beacon` waits for it",
        )
        self.due = now


def published_genesis(run: Path) -> Kept | None:
    """The receipt of the genesis that the seed hangs on: published alone, by the address that it binds.

    Of several chains, one whose blocks are beyond the prover's power goes first.

    Raises:
        FormatError: a damaged receipt.
    """
    with Ledger(run) as ledger:
        if ledger.genesis.ethereum is None or ledger.genesis.foreign:
            return None
    beacons = {network.chain_id for network in networks().values() if network.beacon}
    found = [
        kept
        for kept in AnchorBook(run).receipts()
        if kept.filed.head_size == 1 and kept.filed.batch is None and kept.filed.receipt.kind == KIND
    ]
    return min(found, key=lambda kept: (_chain_id(kept) not in beacons, kept.source), default=None)


def due(run: Path, anchor: EthereumAnchor) -> Due:
    """Ask how far the genesis and its beacon are; the receipt is brought up to date.

    Raises:
        AnchorUnavailableError: the network cannot be reached, or the genesis was not published there.
        AnchorError: the receipt is false.
    """
    book = AnchorBook(run)
    kept = published_genesis(run)
    if kept is None or _chain_id(kept) != anchor.network.chain_id:
        raise AnchorUnavailableError(
            f"the genesis of {run} was not published on {anchor.network.name}",
            hint="`polchain anchor RUN` publishes it",
        )
    with book.locked():
        receipt = anchor.upgrade(kept.filed.receipt, _target(run))
        book.put(kept.source, type(kept.filed)(kept.filed.head_size, receipt))
    return Due(anchor.network, _block(Evidence.read(receipt)), anchor.nodes[0].final_height(anchor.network))


def take_beacon(run: Path, anchor: EthereumAnchor) -> BeaconEvidence:
    """The beacon of a run, from the chain; kept in the run's folder.

    Raises:
        BeaconPendingError: its block is not final yet.
        AnchorUnavailableError: the network cannot be reached, or the genesis was not published there.
        AnchorError: the receipt of the genesis is false.
    """
    now = due(run, anchor)
    if now.block is None or now.final < now.block:
        raise BeaconPendingError(now)
    evidence = fetch_beacon(anchor.nodes[0], anchor.network, now.block)
    # Once more: a block that vanished meanwhile has another beacon.
    if due(run, anchor).block != now.block:
        raise AnchorUnavailableError(
            f"{anchor.network.name}: the block with the genesis has vanished", hint="try again"
        )
    AnchorBook(run).put_beacon(evidence)
    return evidence


def beacon_ref(run: Path, evidence: BeaconEvidence) -> BeaconRef:
    """What `start` says of the beacon, checked against the run's own receipt.

    Raises:
        AnchorError: it is not the block that the seed must come from.
    """
    ref = BeaconRef(evidence.chain_id, evidence.network, evidence.open().number)
    kept = published_genesis(run)
    anchored_in = _block(Evidence.read(kept.filed.receipt)) if kept is not None else None
    if anchored_in is None:
        raise AnchorError("beacon: the genesis was not published, so no block's hash is this run's")
    check_beacon(evidence, ref, evidence.value, anchored_in)
    return ref


def _target(run: Path) -> Target:
    with Ledger(run) as ledger:
        note = ledger.head(1)
        return target_of(open_head(note, ledger.origin, ledger.genesis.key), note)


def _chain_id(kept: Kept) -> int:
    return Evidence.read(kept.filed.receipt).chain_id


def _block(evidence: Evidence) -> int | None:
    if evidence.inclusion is None:
        return None
    return check_header(evidence.inclusion.header, evidence.inclusion.block).number
