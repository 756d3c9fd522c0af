"""Pre-registration: a genesis that is published before its run has a seed.

    genesis (data, recipe, key, address)  ->  published alone, in block n  ->  block n + 64, final  ->  seed  ->  train

Nobody, the prover included, can have known the batch order before that block. The genesis names the chain: whoever
could choose one afterwards would choose his seed. `anchors/beacon.json` keeps the block's header.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from polchain.anchors.base import Target, target_of
from polchain.anchors.beacon import DISTANCE, BeaconEvidence, check_beacon, fetch_beacon
from polchain.anchors.binding import check_address_binding
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.events import published
from polchain.anchors.evidence import KIND, Evidence
from polchain.anchors.inclusion import check_header
from polchain.anchors.networks import Network
from polchain.core.binding import Binding, sign_key_binding
from polchain.core.entries import BeaconRef
from polchain.core.keys import PrivateKey
from polchain.core.note import open_head
from polchain.errors import AnchorError, AnchorUnavailableError
from polchain.prover.anchored import AnchorBook, Kept
from polchain.storage.ledger import Ledger

__all__ = ["AddressHalf", "BeaconPendingError", "Due", "beacon_ref", "due", "published_genesis", "take_beacon"]


log = logging.getLogger("polchain")


@dataclass(frozen=True, slots=True)
class AddressHalf:
    """An address that has signed for a log that is about to begin: its genesis must have this run id.

    Attributes:
        run_id: 16 bytes.
        address: 20 bytes.
        signature: EIP-712, over key and run id (see `core.binding`).
        beacon: the chain that the seed is to come from; None where it is not to.
    """

    run_id: bytes
    address: bytes
    signature: bytes
    beacon: int | None = None

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


def published_genesis(run: Path, chain_id: int) -> Kept | None:
    """The receipt of the genesis, published alone on that chain.

    Raises:
        FormatError: a damaged receipt.
    """
    filed = AnchorBook(run).find(1, f"{KIND}-{chain_id}")
    return Kept(f"{KIND}-{chain_id}", filed) if filed is not None else None


def due(run: Path, anchor: EthereumAnchor) -> Due:
    """Ask how far the genesis and its beacon are; the receipt is brought up to date.

    Raises:
        AnchorUnavailableError: the network cannot be reached, or the genesis was not published there.
        AnchorError: the receipt is false.
    """
    book = AnchorBook(run)
    kept = published_genesis(run, anchor.network.chain_id)
    if kept is None:
        raise AnchorUnavailableError(
            f"the genesis of {run} was not published on {anchor.network.name} yet",
            hint=f"`polchain anchor {run}` publishes it",
        )
    with book.locked():
        receipt = anchor.upgrade(kept.filed.receipt, _target(run))
        book.put(kept.source, replace(kept.filed, receipt=receipt))
    return Due(anchor.network, _block(Evidence.read(receipt)), anchor.nodes[0].final_height(anchor.network))


def take_beacon(run: Path, anchor: EthereumAnchor) -> BeaconEvidence:
    """The beacon of a run, from the chain; kept in the run's folder.

    Raises:
        BeaconPendingError: its block is not final yet.
        AnchorUnavailableError: the network cannot be reached, the genesis was not published there, or not every node
            has the two blocks.
        AnchorError: the receipt of the genesis is false, or the genesis was published before.
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
    assert now.anchored_in is not None
    _check_first(run, anchor, now.anchored_in)
    _check_everywhere(run, anchor, evidence)
    AnchorBook(run).put_beacon(evidence)
    return evidence


def beacon_ref(run: Path, evidence: BeaconEvidence) -> BeaconRef:
    """What `start` says of the beacon, checked against the run's own receipt.

    Raises:
        AnchorError: it is not the block that the seed must come from.
    """
    ref = BeaconRef(evidence.chain_id, evidence.network, evidence.open().number)
    kept = published_genesis(run, evidence.chain_id)
    anchored_in = _block(Evidence.read(kept.filed.receipt)) if kept is not None else None
    if anchored_in is None:
        raise AnchorError("beacon: the genesis was not published, so no block's hash is this run's")
    check_beacon(evidence, ref, evidence.value, anchored_in)
    return ref


def _check_first(run: Path, anchor: EthereumAnchor, block: int) -> None:
    """See that the genesis was not published before: a verifier who finds that believes no later seed."""
    with Ledger(run) as ledger:
        binding, origin = ledger.genesis.ethereum, ledger.origin
    assert binding is not None
    log_id = hashlib.sha256(origin.encode()).digest()
    try:
        events = published(anchor.nodes[0], anchor.network, log=log_id, prover=binding.address, last=block)
    except AnchorUnavailableError as error:
        log.warning("whether the genesis was published before is not known: %s", error)
        return
    before = min((event.block for event in events if event.size == 1 and event.block < block), default=None)
    if before is not None:
        raise AnchorError(
            f"the genesis was published before, in {anchor.network.name} block {before}",
            hint="no verifier believes a later seed: begin a new run; or --own-seed, which proves less",
        )


def _check_everywhere(run: Path, anchor: EthereumAnchor, evidence: BeaconEvidence) -> None:
    """See that every node has both blocks: a training on a block that is none is lost."""
    kept = published_genesis(run, anchor.network.chain_id)
    inclusion = Evidence.read(kept.filed.receipt).inclusion if kept is not None else None
    assert inclusion is not None
    for header in (check_header(inclusion.header, inclusion.block), evidence.open()):
        try:
            said = anchor.vouch(header)
        except AnchorError as error:
            raise AnchorUnavailableError(str(error), hint="ask other nodes: --rpc ADDRESS,ADDRESS") from error
        if said.status != "final":
            raise AnchorUnavailableError(f"{said.source}: {'; '.join(said.weak)}")


def _target(run: Path) -> Target:
    with Ledger(run) as ledger:
        note = ledger.head(1)
        return target_of(open_head(note, ledger.origin, ledger.genesis.key), note)


def _block(evidence: Evidence) -> int | None:
    if evidence.inclusion is None:
        return None
    return check_header(evidence.inclusion.header, evidence.inclusion.block).number
