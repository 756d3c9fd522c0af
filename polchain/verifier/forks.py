"""What the bound address has published about this log, by the word of the nodes: whether there is more than the claim.

    event of a head that the log has         fine, with or without its receipt
    of more entries than the log             the claim is not the newest
    of another root                          unexplained; only signed heads convict, and an event carries no signature

An event counts if every node that answered lists it; what only some list is said with their names. A stranger's events
are not looked at: anybody can publish any root for any log. Where the genesis binds no address, or
no node was asked, hidden forks are not checked, and that is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polchain.anchors.networks import Network
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.receipts import BlockReceipt
from polchain.verifier.witnesses import Published, Witnesses

if TYPE_CHECKING:
    from polchain.anchors.events import Event

__all__ = ["Forks", "look_for_forks"]

UNCHECKED = "whether the prover published another head of this log was not checked"


@dataclass(frozen=True, slots=True)
class Forks:
    """What was found.

    Attributes:
        said: in words.
        searched: the chains whose nodes told, in agreement, where a head of one entry was published.
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
        own = {
            (one.header.number, one.size)
            for one in final
            if one.network.chain_id == network.chain_id and not one.batch and one.header is not None
        }
        found = _complete(witnesses.published(network, log, binding.address), own)
        if not found.lists:
            said.append(f"{UNCHECKED} on {network.name}: {'; '.join(found.silent)}")
            continue
        events = frozenset.intersection(*(listed for _, listed in found.lists))
        disputed = _disputed(found, events)
        if not any(event.size == 1 for some in disputed.values() for event in some):
            searched.add(network.chain_id)
        genesis += [(network, block) for block in sorted(event.block for event in events if event.size == 1)]
        told = _compare(intact, network, events)
        for (listing, lacking), some in disputed.items():
            told.append(_differ(network, listing, lacking, some))
            told += [f"{text}, by the word of {listing} alone" for text in _compare(intact, network, some)]
        said += told or [_none_other(network, [name for name, _ in found.lists], found.silent)]
    return Forks(tuple(said), frozenset(searched), tuple(genesis))


def _complete(found: Published, own: Set[tuple[int, int]]) -> Published:
    """Without the nodes that leave out what the claim's receipts prove: block and size."""
    lists = tuple(one for one in found.lists if own <= {(event.block, event.size) for event in one[1]})
    quiet = [name for name, listed in found.lists if (name, listed) not in lists]
    return Published(
        lists, (*found.silent, *(f"{name} does not list what the claim's receipts prove" for name in quiet))
    )


def _disputed(found: Published, agreed: Set[Event]) -> dict[tuple[str, str], set[Event]]:
    """What only some nodes list, by the names of those that do and those that do not."""
    groups: dict[tuple[str, str], set[Event]] = {}
    for event in frozenset.union(*(listed for _, listed in found.lists)) - agreed:
        listing = ", ".join(name for name, listed in found.lists if event in listed)
        lacking = ", ".join(name for name, listed in found.lists if event not in listed)
        groups.setdefault((listing, lacking), set()).add(event)
    return dict(sorted(groups.items()))


def _differ(network: Network, listing: str, lacking: str, events: Collection[Event]) -> str:
    first = min(events, key=lambda event: (event.block, event.size))
    return (
        f"the nodes of {network.name} differ: {listing} lists {len(events)} head{'s' if len(events) > 1 else ''} of the"
        f" bound address that {lacking} does not, the first, of {first.size} entries, in block {first.block}"
    )


def _none_other(network: Network, answered: Sequence[str], silent: Sequence[str]) -> str:
    alone = f", by the word of {', '.join(answered)} alone: {'; '.join(silent)}" if silent else ""
    return f"no other head of this log was published by the bound address on {network.name}{alone}"


def _compare(intact: IntactClaim, network: Network, events: Collection[Event]) -> list[str]:
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
