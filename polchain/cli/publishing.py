"""What publishing takes: a network, a node of it, and an account; `init` and `train` open them before they write.

A flag goes before `POLCHAIN_*`, which goes before the run's polchain.toml.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.cli.ethereum import (
    keystore_passphrase,
    named_account,
    named_network,
    open_chain,
    open_network,
    open_sender,
)
from polchain.cli.follower import follow
from polchain.cli.launching import Orders, Script
from polchain.cli.sources import Named
from polchain.errors import AnchorUnavailableError, UsageError

if TYPE_CHECKING:
    from polchain.anchors.chain import Chain
    from polchain.anchors.ethereum import EthereumAnchor
    from polchain.anchors.networks import Network
    from polchain.anchors.wallet import Wallet
    from polchain.core.keys import PublicKey
    from polchain.prover.preregister import AddressHalf

__all__ = ["Publisher", "address_half", "orders_for", "publisher_of"]


@dataclass
class Publisher:
    """The flags, and what follows from them, each opened when it is first needed: a passphrase is read once."""

    named: Named

    @cached_property
    def network(self) -> Network:
        """The network."""
        return open_network(self.named.network, self.named.settings)

    @cached_property
    def chain(self) -> Chain:
        """The node, which is of that network."""
        return open_chain(self.network, self.named.rpc, self.named.settings)

    @cached_property
    def passphrase(self) -> bytes:
        """The keystore's passphrase."""
        assert self.named.keystore is not None
        return keystore_passphrase(self.named.keystore, self.named.passphrase_file, self.named.passphrase_fd)

    @cached_property
    def wallet(self) -> Wallet:
        """The account that pays."""
        from polchain.anchors.wallet import NodeAccount, open_keystore, parse_address

        if self.named.keystore is not None:
            return open_keystore(self.named.keystore, self.passphrase)
        return NodeAccount(self.chain, parse_address(str(self.named.account)))

    @cached_property
    def anchor(self) -> EthereumAnchor:
        """The source of time."""
        from polchain.anchors.ethereum import EthereumAnchor

        return EthereumAnchor(
            self.network, sender=open_sender(self.network, self.chain, self.wallet, self.named.max_fee)
        )

    def open_account(self) -> None:
        """Open the keystore, which may ask for its passphrase; a node is not asked.

        Raises:
            UsageError: no such network.
            KeyUnavailableError: it does not open.
        """
        assert self.network
        if self.named.keystore is not None:
            assert self.wallet

    def try_it(self) -> None:
        """Ask what publishing would cost: whatever is wrong is said before anything is written.

        Raises:
            AnchorUnavailableError: the node cannot be reached, PolAnchor is not there, or the account is too poor.
        """
        from polchain.anchors.base import Target

        quote = self.anchor.quote(Target(bytes(32), bytes(32), 1))
        if quote.most > quote.balance:
            raise AnchorUnavailableError(
                f"{self.network.name}: insufficient funds: 0x{self.wallet.address.hex()} has {quote.balance} wei,"
                f" up to {quote.most} are needed"
            )

    def sign_for(self, key: PublicKey, *, beacon: bool) -> AddressHalf:
        """Have the account sign for a log of that key which is about to begin, with or without a beacon."""
        from polchain.anchors.binding import sign_address_binding
        from polchain.prover.preregister import AddressHalf

        run_id = secrets.token_bytes(16)
        signature = sign_address_binding(self.wallet, key, run_id)
        return AddressHalf(run_id, self.wallet.address, signature, self.network.chain_id if beacon else None)

    def settings(self) -> dict[str, str]:
        """What a new run's polchain.toml is to remember of the flags."""
        said = {
            "network": named_network(self.named.network, self.named.settings),
            "rpc": self.named.rpc,
            "keystore": str(self.named.keystore.resolve()) if self.named.keystore is not None else None,
            "account": self.named.account,
        }
        return {name: value for name, value in said.items() if value}

    def follow(self, run: Path, every: int) -> int:
        """Start what anchors a run while it trains; returns its process id. Network and account are tried before.

        Raises:
            UsageError, KeyUnavailableError: no network, no account, or one that does not open.
        """
        # A node that is away now may be back when the first head is there: it is not asked.
        words = ["anchor", str(run.absolute()), "--every", str(every), "--network", self.network.name]
        words += ["--rpc", self.named.rpc] if self.named.rpc else []
        words += ["--max-fee", repr(self.named.max_fee)] if self.named.max_fee is not None else []
        if self.named.keystore is None:
            return follow(run, [*words, "--account", str(self.named.account)], None)
        assert self.wallet
        words += ["--keystore", str(self.named.keystore.absolute()), "--keystore-passphrase-fd", "0"]
        return follow(run, words, self.passphrase)


def publisher_of(
    run: Path,
    network: str | None,
    rpc: str | None,
    keystore: Path | None,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    account: str | None,
    max_fee: float | None,
    *,
    needed: bool,
) -> Publisher | None:
    """Network and account, where they are needed or an account is named.

    Raises:
        UsageError: no account, or two.
    """
    from polchain.prover.settings import RunSettings

    settings = RunSettings.read(run)
    keystore, account = named_account(keystore, account, settings)
    if keystore is None and account is None:
        if not needed:
            return None
        raise UsageError("no account was named", hint="--keystore FILE, or --account ADDRESS for one of the node's")
    return Publisher(Named(network, rpc, keystore, passphrase_file, passphrase_fd, account, max_fee, settings))


def address_half(
    publisher: Publisher | None, run: Path, key_file: Path | None, *, beacon: bool = False
) -> AddressHalf | None:
    """The account's half of the binding, for a run that is about to begin."""
    if publisher is None:
        return None
    from polchain.prover.settings import RunSettings
    from polchain.storage.keyfile import read_public

    return publisher.sign_for(read_public(key_file or RunSettings.read(run).key_file), beacon=beacon)


def orders_for(
    mode: str,
    as_json: bool,
    script: Script,
    half: AddressHalf | None,
    publisher: Publisher | None,
    *,
    own_seed: bool = False,
    task: str = "",
    recovery: str = "",
    private: bool = False,
    data_secret: Path | None = None,
) -> Orders:
    """What the process that runs the script is told."""
    return Orders(
        mode=mode,
        as_json=as_json,
        module=script.module,
        own_seed=own_seed,
        run_id=half.run_id.hex() if half is not None else "",
        address=half.address.hex() if half is not None else "",
        signature=half.signature.hex() if half is not None else "",
        beacon=half.beacon if half is not None else None,
        task=task,
        recovery=recovery,
        private=private,
        data_secret=str(data_secret.absolute()) if data_secret is not None else "",
        settings=publisher.settings() if publisher is not None else None,
    )
