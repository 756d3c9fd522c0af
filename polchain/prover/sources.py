"""Anchoring with several sources of time at once: one that is down does not keep the others from their receipts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.anchors.networks import Network
from polchain.errors import AnchorUnavailableError
from polchain.prover.anchoring import publish_from, stamp_from
from polchain.prover.anchorlog import Published, opened, source_of, source_of_tsa

if TYPE_CHECKING:
    from polchain.anchors.ethereum import EthereumAnchor
    from polchain.anchors.rfc3161 import Rfc3161Anchor

__all__ = ["Attempt", "Failure", "Sources", "attempt"]


class Sources:
    """Where heads are anchored: a network, time-stamping authorities, or both.

    Attributes:
        network: the network, if there is one.
        tsas: the authorities.
    """

    def __init__(
        self,
        tsas: Sequence[Rfc3161Anchor] = (),
        network: Network | None = None,
        open_anchor: Callable[[], EthereumAnchor] | None = None,
    ) -> None:
        """`open_anchor` connects to the network; it is called again as long as that fails."""
        self.network = network
        self.tsas = tuple(tsas)
        self._open = open_anchor
        self._anchor: EthereumAnchor | None = None

    def anchor(self) -> EthereumAnchor:
        """The network, connected.

        Raises:
            AnchorUnavailableError: its node cannot be reached, or is of another chain.
        """
        assert self._open is not None
        if self._anchor is None:
            self._anchor = self._open()
        return self._anchor

    def names(self) -> list[str]:
        """The sources, by the names of their receipts; a batch counts as its network."""
        chain = [] if self.network is None else [source_of(self.network)]
        return [*(source_of_tsa(anchor.tsa.name) for anchor in self.tsas), *chain]

    def only(self, names: Sequence[str]) -> tuple[list[Rfc3161Anchor], bool]:
        """The authorities of these names, and whether the network is among them."""
        chosen = [anchor for anchor in self.tsas if source_of_tsa(anchor.tsa.name) in names]
        return chosen, self.network is not None and source_of(self.network) in names


@dataclass(frozen=True, slots=True)
class Failure:
    """A source that gave no receipt, and of which run; None where it was for all of them."""

    source: str
    run: Path | None
    error: AnchorUnavailableError


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of asking every source once."""

    published: tuple[Published, ...]
    failed: tuple[Failure, ...]

    def trouble(self, run: Path) -> str | None:
        """Why something failed for a run; None where nothing did."""
        said = [f"{one.source}: {one.error}" for one in self.failed if one.run in (None, run)]
        return "; ".join(said) or None


def attempt(runs: Sequence[Path], sources: Sources, names: Sequence[str] | None = None) -> Attempt:
    """Anchor the newest head of each run with every source, or with those of these names.

    Raises:
        What `anchoring.publish` and `stamp` raise, but for AnchorUnavailableError, which is returned.
    """
    tsas, chain = sources.only(sources.names() if names is None else names)
    published: list[Published] = []
    failed: list[Failure] = []
    with opened(runs) as logs:
        for log in logs if tsas else ():
            done, refused = stamp_from(log, tsas)
            published += done
            failed += [Failure(source, log.run, error) for source, error in refused]
        if chain:
            assert sources.network is not None
            try:
                published += publish_from(logs, sources.anchor())
            except AnchorUnavailableError as error:
                failed.append(Failure(source_of(sources.network), None, error))
    return Attempt(tuple(published), tuple(failed))
