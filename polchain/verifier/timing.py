"""When the log was written: IntactClaim + Policy -> Times.

    receipts       final, unchecked, pending or refused       by the policy's nodes, pinned blocks and authorities
    intervals      for the states of each stretch of steps: not before one time, not after another
    beacon         whether the seed could not have been known before its block, or counts as the prover's own choice
    forks          what else the bound address published about this log

What nobody vouches for is said in words, and is no final time. What the nodes deny gives no time at all, and is said:
whether a prover lied or his chain forgot a block is not known. Absence of other heads is claimed only of heads
published alone by the address that the genesis binds, on chains whose nodes were asked.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence

from polchain.anchors.base import Timestamp
from polchain.anchors.beacon import DISTANCE
from polchain.anchors.interval import Beacon, Stamped, intervals
from polchain.anchors.networks import Network
from polchain.errors import AnchorError, AnchorUnavailableError
from polchain.verifier.forks import Forks, look_for_forks
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.policy import Policy
from polchain.verifier.receipts import AnchoredHead, BlockReceipt, TokenReceipt
from polchain.verifier.times import AnchorTime, BeaconTime, StepSpan, Times, plain
from polchain.verifier.witnesses import UNNAMED, Witnesses

__all__ = ["establish"]

SHOWN = 6


def establish(intact: IntactClaim, policy: Policy) -> Times:
    """Find out when the log was written: ask the policy's nodes, or nobody where it has none.

    Raises:
        AnchorUnavailableError: nodes, or final times of two sources, that contradict each other.
        UsageError: nodes of a chain that nobody named, and the claim is on several.
    """
    chains = [one.network for one in intact.anchored if isinstance(one, BlockReceipt)]
    if intact.beacon is not None:
        chains.append(intact.beacon.network)
    witnesses = Witnesses(policy.sources, chains)
    anchors = tuple(_anchor(intact, one, witnesses) for one in intact.anchored)
    final = [
        one
        for one, time in zip(intact.anchored, anchors, strict=True)
        if isinstance(one, BlockReceipt) and time.status == "final"
    ]
    forks = look_for_forks(intact, witnesses, final)
    beacon = _beacon(intact, anchors, witnesses, forks) if intact.beacon is not None else None
    remarks = _unused(anchors) if anchors else ["the log is not anchored: it says what, not when"]
    if beacon is not None and beacon.doubt:
        remarks.append(f"the seed counts as the prover's own choice: {beacon.doubt}")
    said = tuple(plain(text) for text in forks.said)
    return Times(anchors, _spans(intact, anchors, beacon), beacon, said, tuple(plain(text) for text in remarks))


def _anchor(intact: IntactClaim, one: AnchoredHead, witnesses: Witnesses) -> AnchorTime:
    at = bisect.bisect_left(intact.numbers, one.size)
    step = intact.checkpoints[at - 1].step if at else None
    if isinstance(one, TokenReceipt):
        status = one.timestamp.status if one.timestamp is not None else "refused"
        return AnchorTime(one.source, one.size, step, status, one.timestamp, one.reason)
    if one.header is None:
        return AnchorTime(one.source, one.size, step, "pending", None, "its receipt names no block")
    try:
        stamp = witnesses.vouch(one.header, one.network)
    except AnchorError as error:
        # Whatever its status says, which nobody signed.
        return AnchorTime(one.source, one.size, step, "refused", None, str(error))
    return AnchorTime(one.source, one.size, step, stamp.status, stamp, _why(stamp, one.network))


def _beacon(intact: IntactClaim, anchors: Sequence[AnchorTime], witnesses: Witnesses, forks: Forks) -> BeaconTime:
    block = intact.beacon
    assert block is not None
    chain = block.network.name
    missing: list[str] = []
    stamp = None
    if block.header is None:
        missing.append(
            f"the seed is said to be the hash of {chain} block {block.ref.block}, which the claim does not show"
        )
    else:
        try:
            stamp = witnesses.vouch(block.header, block.network)
        except AnchorError as error:
            missing.append(f"the seed's {error}")
    places = zip(intact.anchored, anchors, strict=True)
    genesis = next((time for one, time in places if one is block.genesis), None)
    if genesis is None:
        missing.append(f"the seed is said to be a beacon's, but no receipt shows the genesis, alone, on {chain}")
    elif genesis.timestamp is None:
        missing.append(f"the receipt of the genesis on {chain} is {genesis.status}: {genesis.reason}")
    elif block.genesis is not None and block.genesis.header is not None:
        first = block.genesis.header.number
        before = [at for network, at in forks.genesis if network.chain_id == block.ref.chain and at < first]
        if before:
            missing.append(
                f"the genesis was published before, in {chain} block {before[0]}:"
                f" the seed had to come from block {before[0] + DISTANCE}"
            )
    doubt = ""
    if not missing:
        doubt = _doubt(block.network, stamp, genesis.timestamp if genesis is not None else None, forks)
    return BeaconTime(block, stamp, tuple(missing), doubt)


def _doubt(network: Network, beacon: Timestamp | None, genesis: Timestamp | None, forks: Forks) -> str:
    """Why a seed that fits its beacon may be no better than one that the prover chose."""
    if not network.beacon:
        return f"{network.name} is {network.weak or 'a chain whose blocks may be in his power'}"
    for what, stamp in (("the beacon's block", beacon), ("the block with the genesis", genesis)):
        if stamp is None or stamp.status != "final":
            return f"nobody vouches for {what}" + (f": {_why(stamp, network)}" if stamp is not None else "")
        if UNNAMED in stamp.weak:
            return f"{what} was {UNNAMED}"
    if network.chain_id not in forks.searched:
        return "nobody looked whether the genesis was published before, or the nodes differ"
    return ""


def _spans(intact: IntactClaim, anchors: Sequence[AnchorTime], beacon: BeaconTime | None) -> tuple[StepSpan, ...]:
    stamped = [Stamped(one.size, one.timestamp) for one in anchors if one.status != "refused"]
    beacons: list[Beacon] = []
    # A chain whose blocks the prover can make says nothing of when a value became known.
    if beacon is not None and beacon.timestamp is not None and beacon.block.network.beacon:
        beacons.append(Beacon(beacon.block.entry, beacon.timestamp))
    if not stamped and not beacons:
        return ()
    try:
        found = intervals(intact.head.size, beacons, stamped)
    except AnchorError as error:
        # The verifier's own sources disagree: nothing here says which of them is wrong.
        raise AnchorUnavailableError(
            f"the sources of time contradict each other: {error}",
            hint="one source's clock is off: leave one of them out of the policy",
        ) from error
    spans: list[StepSpan] = []
    for span in found:
        first = bisect.bisect_left(intact.numbers, span.first)
        end = bisect.bisect_right(intact.numbers, span.last)
        if first < end:
            spans.append(StepSpan(intact.checkpoints[first].step, intact.checkpoints[end - 1].step, span.interval))
    return tuple(spans)


def _unused(anchors: Sequence[AnchorTime]) -> list[str]:
    """Which receipts give no time, and why."""
    groups = Counter((one.source, one.status, one.reason) for one in anchors if one.timestamp is None)
    said = [
        f"{count} receipts from {source} are {status}: {reason}"
        if count > 1
        else f"a receipt from {source} is {status}: {reason}"
        for (source, status, reason), count in groups.items()
    ]
    more = [f"{len(said) - SHOWN} more kinds of receipts give no time: --json"] if len(said) > SHOWN else []
    return said[:SHOWN] + more


def _why(stamp: Timestamp, network: Network) -> str:
    """Why a block's time is unchecked; the chain's own weakness is another matter."""
    return "; ".join(one for one in stamp.weak if one != network.weak) if stamp.status != "final" else ""
