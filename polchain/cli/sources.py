"""The sources of time that flags, environment and a run's settings name, opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.cli.ethereum import connect, named_account, named_network, open_network, open_sender, open_wallet
from polchain.errors import UsageError

if TYPE_CHECKING:
    from polchain.anchors.ethereum import EthereumAnchor
    from polchain.anchors.networks import Network
    from polchain.anchors.rfc3161 import Rfc3161Anchor
    from polchain.anchors.wallet import Wallet
    from polchain.prover.settings import RunSettings
    from polchain.prover.sources import Sources

__all__ = ["Named", "tsas_of"]


@dataclass(frozen=True, slots=True)
class Named:
    """The flags about a network, and the run's settings behind them."""

    network: str | None
    rpc: str | None
    keystore: Path | None
    passphrase_file: Path | None
    passphrase_fd: int | None
    account: str | None
    max_fee: float | None
    settings: RunSettings

    def sources(self, urls: Sequence[str]) -> Sources:
        """Every source that is named somewhere.

        Raises:
            UsageError: none is; or a network without a node or an account, or two authorities of one name.
        """
        from polchain.prover.sources import Sources

        tsas = tsas_of(urls)
        flags = (self.network, self.rpc, self.keystore, self.account)
        # Authorities that a flag names, and no flag about a network: these alone. Nobody pays for what he did not ask.
        if tsas and tuple(urls) != self.settings.tsa and not any(flags):
            return Sources(tsas)
        if named_network(self.network, self.settings) is None:
            if not tsas:
                raise UsageError(
                    "neither a network nor a time-stamping authority was named",
                    hint="--network sepolia, for one; --tsa URL, for the other",
                )
            return Sources(tsas)
        network, connected = self.opening()
        return Sources(tsas, network, connected)

    def opening(self, *, paying: bool = True) -> tuple[Network, Callable[[], EthereumAnchor]]:
        """The network, and what connects to it; whatever asks for a passphrase is asked for at once.

        Raises:
            UsageError: no network, no node of it, or with `paying` no account.
            KeyUnavailableError: the keystore does not open.
        """
        network = open_network(self.network, self.settings)
        chain = connect(network, self.rpc, self.settings)
        wallet: Wallet | None = None
        if paying or self._at_hand():
            wallet = open_wallet(
                chain, self.keystore, self.passphrase_file, self.passphrase_fd, self.account, self.settings
            )

        def connected() -> EthereumAnchor:
            from polchain.anchors.ethereum import EthereumAnchor

            chain.expect(network)
            if wallet is None:
                return EthereumAnchor(network, [chain])
            return EthereumAnchor(network, sender=open_sender(network, chain, wallet, self.max_fee))

        return network, connected

    def _at_hand(self) -> bool:
        """Whether there is an account that opens without a question."""
        path, address = named_account(self.keystore, self.account, self.settings)
        given = self.keystore is not None or self.passphrase_file is not None or self.passphrase_fd is not None
        return address is not None or (path is not None and given)


def tsas_of(urls: Sequence[str]) -> list[Rfc3161Anchor]:
    """The time-stamping authorities at these addresses, each called by its host.

    Raises:
        UsageError: an address that is none, or two of one host.
    """
    from urllib.parse import urlsplit

    from polchain.anchors.rfc3161 import Rfc3161Anchor
    from polchain.anchors.transport import check_url
    from polchain.anchors.tsa import Tsa

    found: dict[str, Tsa] = {}
    for url in dict.fromkeys(urls):
        parts = urlsplit(check_url(url))
        name = f"{parts.hostname}:{parts.port}" if parts.port else f"{parts.hostname}"
        if name in found:
            raise UsageError(f"--tsa: {url} and {found[name].url} are one authority", hint="name one of them")
        found[name] = Tsa(name, url)
    return [Rfc3161Anchor(tsa) for tsa in found.values()]
