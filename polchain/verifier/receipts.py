"""Step (10): every receipt is of the head that it is filed under, and true in itself.

    ethereum-<chain id>          a block that holds the head's event, by the address that the genesis binds, if it does
    ethereum-<chain id>-batch    a block that holds the event of a batch, and the head's place in the batch
    rfc3161-<name>               a token over the head's note

What is false raises, by name. What nobody vouches for is not false: whether a block is one of its chain, and when, is
for `timing` to find out; and a token counts if the policy has its authority. The name that the prover gives a chain
or an authority is not believed: a chain is known by its number, an authority by its certificate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from polchain.anchors import rfc3161
from polchain.anchors.base import Receipt, Target, Timestamp, target_of
from polchain.anchors.beacon import DISTANCE, BeaconEvidence, check_beacon
from polchain.anchors.evidence import KIND, Evidence, check_evidence, check_transaction
from polchain.anchors.inclusion import Header
from polchain.anchors.networks import Network, networks
from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.stamp import read_stamp, timestamp
from polchain.anchors.tsa import Tsa
from polchain.core.claim import BEACON, RECEIPTS, Claim
from polchain.core.entries import BeaconRef, Start
from polchain.core.genesis import Genesis
from polchain.errors import AnchorError, EvidenceError, FormatError
from polchain.verifier.heads import SignedHead
from polchain.verifier.sources import Sources

__all__ = ["AnchoredHead", "BeaconBlock", "BlockReceipt", "TokenReceipt", "check_beacon_block", "check_receipts"]

_ETHEREUM: Final = re.compile(r"ethereum-([1-9][0-9]{0,15})(-batch)?")
_RFC3161: Final = "rfc3161-"


@dataclass(frozen=True, slots=True)
class BlockReceipt:
    """A head's receipt from a chain, true in itself.

    Attributes:
        source: as the receipt's file names it.
        size: the head's entries.
        network: the chain, as this verifier knows it.
        header: the block with the event; None while the receipt names none.
        batch: whether the head was published with others.
    """

    source: str
    size: int
    network: Network
    header: Header | None
    batch: bool


@dataclass(frozen=True, slots=True)
class TokenReceipt:
    """A head's time-stamp token, true in itself.

    Attributes:
        source: as the receipt's file names it.
        size: the head's entries.
        timestamp: final where the policy has the authority, unchecked where it has none at all; None if refused.
        reason: why it is refused or unchecked.
    """

    source: str
    size: int
    timestamp: Timestamp | None
    reason: str = ""


AnchoredHead: TypeAlias = BlockReceipt | TokenReceipt


@dataclass(frozen=True, slots=True)
class BeaconBlock:
    """The block that the seed is said to come from, as far as the claim shows it; what it shows is true in itself.

    Attributes:
        entry: the number of the `start` entry.
        ref: what that says.
        network: the chain, as this verifier knows it.
        header: the block; None where the claim has no evidence of it.
        genesis: the receipt of the genesis, published alone on that chain; None where there is none.
    """

    entry: int
    ref: BeaconRef
    network: Network
    header: Header | None
    genesis: BlockReceipt | None


def check_receipts(
    claim: Claim, genesis: Genesis, heads: Mapping[int, SignedHead], sources: Sources
) -> tuple[AnchoredHead, ...]:
    """Check every receipt of a claim, without asking anybody.

    Args:
        claim: the claim.
        genesis: its genesis, with the address that publishes its heads.
        heads: the claim's anchored heads, checked.
        sources: whose time the verifier believes.

    Raises:
        FormatError: not a receipt, or of another head, kind or chain than its name says.
        InclusionError: the head is not in the batch.
        AnchorError: false, of something else, or of a kind that no policy accepts.
    """
    found: list[AnchoredHead] = []
    known = _Known(sources)
    for name, size, data in claim.receipts():
        match = RECEIPTS.fullmatch(name)
        assert match is not None
        try:
            found.append(_check(match[2], size, FiledReceipt.parse(data), heads[size], genesis, known))
        except EvidenceError as error:
            raise type(error)(f"{name}: {error}", hint=error.hint) from error
    return tuple(found)


def check_beacon_block(
    claim: Claim,
    log: Genesis,
    start: Start | None,
    entry: int,
    anchored: tuple[AnchoredHead, ...],
    sources: Sources,
) -> BeaconBlock | None:
    """Check what the claim shows of its seed's beacon; None for a seed from elsewhere.

    Args:
        claim: the claim.
        log: its genesis.
        start: its `start`, which is entry number `entry`.
        anchored: its receipts, checked.
        sources: whose time the verifier believes.

    Raises:
        FormatError: no evidence of a beacon, or evidence where the seed is no beacon's.
        AnchorError: of another chain or block than `start` says, or not the block that the seed had to come from.
    """
    data = claim.beacon()
    if start is None or start.beacon is None:
        if data is not None:
            raise FormatError(f"{BEACON} is there, but the seed is not said to be a beacon's")
        return None
    ref = start.beacon
    if ref.chain != log.beacon:
        named = "no beacon" if log.beacon is None else f"chain {log.beacon}"
        raise AnchorError(f"the seed is said to come from chain {ref.chain}, and the genesis names {named}")
    genesis = next(
        (
            one
            for one in anchored
            if isinstance(one, BlockReceipt) and (one.size, one.batch, one.network.chain_id) == (1, False, ref.chain)
        ),
        None,
    )
    header = None
    if data is not None:
        try:
            evidence = BeaconEvidence.parse(data)
            # Where the block with the genesis is not shown, everything else must still hold.
            block = genesis.header.number if genesis is not None and genesis.header is not None else None
            header = check_beacon(evidence, ref, start.value, ref.block - DISTANCE if block is None else block)
        except EvidenceError as error:
            raise type(error)(f"{BEACON}: {error}", hint=error.hint) from error
    return BeaconBlock(entry, ref, _Known(sources).chain(ref.chain), header, genesis)


class _Known:
    """What this verifier knows: chains by number, those of the policy before those with a name; and authorities."""

    def __init__(self, sources: Sources) -> None:
        self.tsas = sources.tsas
        self._listed = {one.network.chain_id: one.network for one in sources.networks}
        self._named: dict[int, Network] | None = None

    def chain(self, chain_id: int) -> Network:
        if chain_id in self._listed:
            return self._listed[chain_id]
        if self._named is None:
            self._named = {one.chain_id: one for one in reversed(networks().values())}
        unknown = Network(f"chain {chain_id}", chain_id, weak="a chain that this verifier does not know")
        return self._named.get(chain_id, unknown)


def _check(
    source: str, size: int, filed: FiledReceipt, head: SignedHead, genesis: Genesis, known: _Known
) -> AnchoredHead:
    kind = filed.receipt.kind
    match = _ETHEREUM.fullmatch(source)
    if kind not in (KIND, rfc3161.KIND) or not (match or source.startswith(_RFC3161)):
        raise AnchorError(f"no policy accepts a receipt of the kind {kind} from {source}")
    if kind != (KIND if match else rfc3161.KIND):
        raise FormatError(f"a receipt of the kind {kind} under the name of another")
    if filed.head_size != size:
        raise FormatError(f"the receipt says that it is of a head of {filed.head_size} entries")
    if (filed.batch is not None) != (match is not None and match[2] is not None):
        raise FormatError("a receipt of a batch is named -batch, and no other is")
    target = filed.target(target_of(head.head, head.note))
    if match is None:
        return _check_token(source, size, filed.receipt, target, known.tsas)
    # Anybody may publish a batch; a head alone, the address that the log chose, if it chose one.
    bound = genesis.ethereum.address if genesis.ethereum is not None and filed.batch is None else None
    return _check_block(source, size, filed, target, known.chain(int(match[1])), bound)


def _check_block(
    source: str, size: int, filed: FiledReceipt, target: Target, network: Network, prover: bytes | None
) -> BlockReceipt:
    evidence = Evidence.read(filed.receipt)
    if evidence.inclusion is None:
        check_transaction(evidence, target, network, prover)
        header = None
    else:
        header = check_evidence(evidence, target, network, prover)
    return BlockReceipt(source, size, network, header, filed.batch is not None)


def _check_token(source: str, size: int, receipt: Receipt, target: Target, tsas: Sequence[Tsa]) -> TokenReceipt:
    stamp = read_stamp(receipt.body, target)
    try:
        if tsas:
            return TokenReceipt(source, size, rfc3161.check_token(receipt, target, tsas))
        reason = f"no authority is trusted; this one's certificate is {stamp.fingerprint}"
        said = timestamp(stamp, Tsa("of a stranger"))
        return TokenReceipt(source, size, replace(said, status="unchecked", weak=(reason,)), reason)
    except AnchorError as error:
        return TokenReceipt(source, size, None, str(error))
