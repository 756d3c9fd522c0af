"""What the bound address has published about this log, by the word of the nodes: whether there is more than the claim.

    event of a head that the log has         fine, with or without its receipt
    of more entries than the log             the claim is not the newest
    of another root                          unexplained; only signed heads convict, and an event carries no signature

A stranger's events are not looked at: anybody can publish any root for any log. Where the genesis binds no address, or
no node was asked, hidden forks are not checked, and that is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polchain.anchors.networks import Network
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.receipts import BlockReceipt
from polchain.verifier.witnesses import Witnesses

if TYPE_CHECKING:
    from polchain.anchors.events import Event

__all__ = ["Forks", "look_for_forks"]

UNCHECKED = "whether the prover published another head of this log was not checked"


@dataclass(frozen=True, slots=True)
class Forks:
    """What was found.

    Attributes:
        said: in words.
        searched: the chains whose nodes told what was published.
        genesis: where a head of one entry was published: the chain, and the number of the block, in rising order.
    """

    said: tuple[str, ...]
    searched: frozenset[int] = frozenset()
    genesis: tuple[tuple[Network, int], ...] = ()


def look_for_forks(intact: IntactClaim, witnesses: Witnesses, final: Collection[BlockReceipt]) -> Forks:
    """Ask the nodes of each chain what the bound address has published about the log.

    Args:
        intact: the claim.
        witnesses: who is asked.
        final: the receipts whose blocks are final: what a node's list must hold to be believed complete.
    """
    binding = intact.genesis.ethereum
    if binding is None or not witnesses.networks:
        why = "no node was asked" if binding is not None else "the genesis binds no address"
        return Forks((f"{UNCHECKED}: {why}",) if intact.anchored else ())
    log = hashlib.sha256(intact.head.origin.encode()).digest()
    said: list[str] = []
    searched: set[int] = set()
    genesis: list[tuple[Network, int]] = []
    for network in witnesses.networks:
        events, answered, silent = witnesses.published(network, log, binding.address)
        if not answered:
            said.append(f"{UNCHECKED} on {network.name}: {'; '.join(silent)}")
            continue
        listed = {(event.block, event.size) for event in events}
        own = [one for one in final if one.network.chain_id == network.chain_id and not one.batch]
        if any(one.header is not None and (one.header.number, one.size) not in listed for one in own):
            said.append(
                f"{UNCHECKED} on {network.name}: {', '.join(answered)} does not list what the claim's receipts prove"
            )
            continue
        searched.add(network.chain_id)
        genesis += [(network, block) for block in sorted(event.block for event in events if event.size == 1)]
        said += _compare(intact, network, events) or [_none_other(network, answered, silent)]
    return Forks(tuple(said), frozenset(searched), tuple(genesis))


def _none_other(network: Network, answered: Sequence[str], silent: Sequence[str]) -> str:
    alone = f", by the word of {', '.join(answered)} alone: {'; '.join(silent)}" if silent else ""
    return f"no other head of this log was published by the bound address on {network.name}{alone}"


def _compare(intact: IntactClaim, network: Network, events: Iterable[Event]) -> list[str]:
    said: list[str] = []
    size = intact.head.size
    later = max((event.size for event in events if event.size > size), default=0)
    if later:
        said.append(
            f"the bound address has published a later head, of {later} entries, on {network.name}:"
            " this claim is not the newest"
        )
    strange = [event for event in events if event.size <= size and event.root != intact.roots[event.size]]
    if strange:
        first = min(strange, key=lambda event: (event.block, event.size))
        said.append(
            f"unexplained: the bound address published {len(strange)} other head{'s' if len(strange) > 1 else ''} on"
            f" {network.name}, the first, of {first.size} entries, in block {first.block};"
            " no signed head shows a fork, so it proves nothing"
        )
    return said
