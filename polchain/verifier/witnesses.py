"""Who is asked when a block was made, and what else the bound address has published.

A block's time is final if the verifier pinned the block, or if every node of the chain has it and calls it final. A
node that is dead, behind or of another chain vouches for nothing, and says why; nodes that have another block at that
height deny it. web3 is loaded only where there is a node to ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from polchain.anchors.base import Timestamp
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.inclusion import Header
from polchain.anchors.networks import Network
from polchain.errors import AnchorUnavailableError, UsageError
from polchain.verifier.sources import Sources, TrustedNetwork

if TYPE_CHECKING:
    from polchain.anchors.chain import Chain
    from polchain.anchors.events import Event

__all__ = ["UNNAMED", "Published", "Witnesses"]

UNNAMED = "pinned without naming its network"


@dataclass(frozen=True, slots=True)
class Published:
    """What the nodes of a chain list as published.

    Attributes:
        lists: each node that answered, by name, and its events.
        silent: why the others did not.
    """

    lists: tuple[tuple[str, frozenset[Event]], ...]
    silent: tuple[str, ...]


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

    def published(self, network: Network, log: bytes, prover: bytes) -> Published:
        """What an address has published about a log, by each node's word."""
        from polchain.anchors.events import published

        nodes, troubles = self._open(network)
        lists: list[tuple[str, frozenset[Event]]] = []
        silent = [*troubles]
        for node in nodes:
            try:
                lists.append((node.name, frozenset(published(node, network, log=log, prover=prover))))
            except AnchorUnavailableError as error:
                silent.append(str(error))
        return Published(tuple(lists), tuple(silent))

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
                addresses = (*addresses, *self._sources.rpc)
            # One node under two spellings is one witness.
            once = {_spelled(address): address for address in reversed(addresses)}
            self._nodes[network.chain_id] = _connect(reversed(once.values()), network)
        return self._nodes[network.chain_id]


def _spelled(address: str) -> str:
    """An address in one spelling: its host in small letters, and this machine by its number."""
    parts = urlsplit(address)
    if not parts.hostname:
        return address
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts._replace(netloc=f"{host}:{port}", path=parts.path or "/").geturl()


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
