"""Who is asked when a block was made, and what else the bound address has published.

A block's time is final if the verifier pinned the block, or if every node of the chain has it and calls it final. A
node that is dead, behind or of another chain vouches for nothing, and says why; nodes that have another block at that
height deny it. web3 is loaded only where there is a node to ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from polchain.anchors.base import Timestamp
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.inclusion import Header
from polchain.anchors.networks import Network
from polchain.errors import AnchorUnavailableError, UsageError
from polchain.verifier.sources import Sources, TrustedNetwork

if TYPE_CHECKING:
    from polchain.anchors.chain import Chain
    from polchain.anchors.events import Event

__all__ = ["UNNAMED", "Witnesses"]

UNNAMED = "pinned without naming its network"


class Witnesses:
    """The nodes and pinned blocks of a verifier, for the chains of one claim."""

    def __init__(self, sources: Sources, chains: Iterable[Network]) -> None:
        """Nothing is asked yet.

        Raises:
            UsageError: nodes of a chain that nobody named, and the claim is on several.
        """
        self._sources = sources
        self._nodes: dict[int, tuple[list[Chain], list[str]]] = {}
        self._vouched: dict[tuple[int, bytes], Timestamp] = {}
        here = {network.chain_id: network for network in chains}
        if sources.rpc and len(here) > 1:
            names = ", ".join(sorted(network.name for network in here.values()))
            raise UsageError(
                f"the claim's receipts are of {len(here)} networks ({names}): of which is the node?",
                hint="--network NAME says so",
            )
        self._only = next(iter(here.values())) if sources.rpc and here else None

    @property
    def networks(self) -> list[Network]:
        """The chains that have a node."""
        found = [one.network for one in self._sources.networks if one.rpc]
        if self._only is not None and self._only.chain_id not in [one.chain_id for one in found]:
            found.append(self._only)
        return found

    def vouch(self, header: Header, network: Network) -> Timestamp:
        """When a block was made: final or unchecked, and why it counts for less.

        Raises:
            AnchorError: the nodes have another block at its height.
            AnchorUnavailableError: the nodes contradict each other.
        """
        key = network.chain_id, header.hash
        if key not in self._vouched:
            self._vouched[key] = self._ask(header, network)
        return self._vouched[key]

    def published(self, network: Network, log: bytes, prover: bytes) -> tuple[set[Event], list[str], list[str]]:
        """What an address has published about a log: by the nodes' word, who gave it, and why others did not.

        Several nodes are believed together: an event that one of them has left out is there.
        """
        from polchain.anchors.events import published

        nodes, troubles = self._open(network)
        events: set[Event] = set()
        answered: list[str] = []
        silent = [*troubles]
        for node in nodes:
            try:
                events |= set(published(node, network, log=log, prover=prover))
                answered.append(node.name)
            except AnchorUnavailableError as error:
                silent.append(str(error))
        return events, answered, silent

    def _ask(self, header: Header, network: Network) -> Timestamp:
        trusted = self._of(network)
        if header.hash in trusted.blocks:
            return EthereumAnchor(network, pinned=trusted.blocks).vouch(header)
        if header.hash in self._sources.blocks:
            # A block's hash does not say which chain it is of: a testnet's block may be passed off as another's.
            stamp = EthereumAnchor(network, pinned=self._sources.blocks).vouch(header)
            return replace(stamp, weak=(*stamp.weak, UNNAMED))
        nodes, troubles = self._open(network)
        if not troubles:
            return EthereumAnchor(network, nodes).vouch(header)
        if not nodes:
            weak = (network.weak,) if network.weak else ()
            return replace(EthereumAnchor(network).vouch(header), weak=(*weak, *troubles))
        # Whoever is there may still deny the block.
        stamp = EthereumAnchor(network, nodes).vouch(header)
        return replace(stamp, status="unchecked", weak=(*stamp.weak, *troubles))

    def _of(self, network: Network) -> TrustedNetwork:
        return self._sources.of(network.chain_id) or TrustedNetwork(network)

    def _open(self, network: Network) -> tuple[list[Chain], list[str]]:
        """The nodes of a chain that are there and of it; and what is wrong with the others, each asked once."""
        if network.chain_id not in self._nodes:
            addresses = self._of(network).rpc
            if self._only is not None and self._only.chain_id == network.chain_id:
                addresses = tuple(dict.fromkeys((*addresses, *self._sources.rpc)))
            self._nodes[network.chain_id] = _connect(addresses, network)
        return self._nodes[network.chain_id]


def _connect(addresses: Iterable[str], network: Network) -> tuple[list[Chain], list[str]]:
    nodes: list[Chain] = []
    troubles: list[str] = []
    for address in addresses:
        from polchain.anchors.chain import Chain

        node = Chain.connect(address)
        try:
            node.expect(network)
            nodes.append(node)
        except AnchorUnavailableError as error:
            troubles.append(str(error))
    return nodes, troubles
