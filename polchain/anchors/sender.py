"""Sending a transaction once.

    lock the journal -> find what was signed for this before, else: nonce -> fees -> sign -> write down -> send

Killed anywhere in this, the next call finds what was written and sends those very bytes, or finds them in the chain. A
nonce is given up only when the node refused the transaction as it was first sent and does not know it, or when another
transaction with that nonce is final.
"""

from __future__ import annotations

from dataclasses import dataclass

from polchain.anchors.chain import Chain, NonceTakenError, RefusedError
from polchain.anchors.contract import contract, keccak256
from polchain.anchors.journal import Intent, Journal
from polchain.anchors.networks import Network
from polchain.anchors.transaction import open_transaction
from polchain.anchors.wallet import Unsigned, Wallet, sign
from polchain.errors import AnchorError, AnchorUnavailableError

__all__ = ["Quote", "Sender", "need_contract"]

ATTEMPTS = 8

# What a node says to a transaction that it takes in no case, so that nothing of it is left anywhere; in lower case.
CERTAIN = (
    "insufficient funds",
    "cannot afford",
    "intrinsic gas",
    "exceeds block gas limit",
    "less than block base fee",
)


@dataclass(frozen=True, slots=True)
class Quote:
    """What a transaction would cost, in wei; a rollup's fee for its data comes on top.

    Attributes:
        gas: how much it takes, by the node's estimate.
        base_fee: of the newest block, for one gas.
        tip: to whoever makes the block, for one gas.
        max_fee: the most that is paid for one gas.
        limit: the most gas that it may take.
        balance: what the account has.
    """

    gas: int
    base_fee: int
    tip: int
    max_fee: int
    limit: int
    balance: int

    @property
    def cost(self) -> int:
        """At today's fees."""
        return self.gas * (self.base_fee + self.tip)

    @property
    def most(self) -> int:
        """At most."""
        return self.limit * self.max_fee


class Sender:
    """An account that sends to one network through one node.

    Attributes:
        max_fee: the most that is paid for one gas, in wei; None for twice the base fee and the tip.
    """

    def __init__(
        self, network: Network, chain: Chain, wallet: Wallet, journal: Journal, *, max_fee: int | None = None
    ) -> None:
        self.network = network
        self.chain = chain
        self.wallet = wallet
        self.journal = journal
        self.max_fee = max_fee

    def quote(self, to: bytes, data: bytes) -> Quote:
        """What a call would cost; nothing is signed or sent.

        Raises:
            AnchorUnavailableError: today's fees are over the cap, or the node cannot say.
        """
        self.chain.expect(self.network)
        base, tip = self.chain.fees()
        fee = 2 * base + tip
        if self.max_fee is not None:
            if base > self.max_fee:
                raise AnchorUnavailableError(
                    f"{self.network.name}: the base fee is {_gwei(base)}, over the cap of {_gwei(self.max_fee)}",
                    hint="wait, or raise --max-fee",
                )
            fee = min(fee, self.max_fee)
            tip = min(tip, fee - base)
        gas = self.chain.estimate(self.wallet.address, to, data)
        return Quote(gas, base, tip, fee, gas + gas // 5, self.chain.balance(self.wallet.address))

    def send(self, key: str, to: bytes, data: bytes, *, value: int = 0) -> bytes:
        """Send a call, unless it was sent; returns the signed transaction that is in the chain or on its way.

        Args:
            key: what the call is for; a second call for it is the first one.

        Raises:
            AnchorUnavailableError: the node cannot be reached or refuses, the cap is too low, the account too poor.
            AnchorError: the signer signed something else.
            StorageError: what is sent could not be written down before.
        """
        with self.journal.locked():
            self.chain.expect(self.network)
            intent = self.journal.find(key)
            if intent is not None and self._revive(intent):
                return intent.transaction
            spoken_for = self._revive_others(key)
            for _ in range(ATTEMPTS):
                raw = self._send_new(key, to, data, value, spoken_for)
                if raw is not None:
                    return raw
        raise AnchorUnavailableError(
            f"{self.network.name}: another program sends from the same account, and was faster {ATTEMPTS} times",
            hint="use an account that nothing else uses",
        )

    def settle(self, key: str) -> None:
        """What is for `key` is final."""
        with self.journal.locked():
            self.journal.settle(key)

    def _send_new(self, key: str, to: bytes, data: bytes, value: int, spoken_for: int) -> bytes | None:
        """Send with the next nonce, `spoken_for` or later; None if somebody else took it meanwhile."""
        quote = self.quote(to, data)
        if quote.most + value > quote.balance:
            raise AnchorUnavailableError(
                f"{self.network.name}: insufficient funds: 0x{self.wallet.address.hex()} has {quote.balance} wei,"
                f" up to {quote.most + value} are needed"
            )
        # Not every node counts what is still waiting.
        nonce = max(self.chain.nonce(self.wallet.address, "pending"), spoken_for)
        unsigned = Unsigned(
            self.network.chain_id, nonce, quote.tip, quote.max_fee, quote.limit, to=to, data=data, value=value
        )
        raw = sign(self.wallet, unsigned)
        intent = Intent(key, nonce, raw)
        self.journal.write(intent)
        try:
            self.chain.send(raw)
        except RefusedError as error:
            taken = isinstance(error, NonceTakenError)
            if not taken and not any(words in str(error).lower() for words in CERTAIN):
                raise
            if self.chain.knows(keccak256(raw)):
                return raw
            self.journal.remove(intent)
            if not taken:
                raise
            return None
        return raw

    def _revive(self, intent: Intent) -> bool:
        """See that what was signed is in the chain or on its way; False if it never can be."""
        transaction = open_transaction(intent.transaction)
        if transaction.sender != self.wallet.address or transaction.chain_id != self.network.chain_id:
            raise AnchorError(f"the journal {self.journal.folder} is of another account or chain")
        if self.chain.knows(transaction.hash):
            return True
        try:
            self.chain.send(intent.transaction)
        except NonceTakenError:
            return not self.lost(transaction.nonce)
        return True

    def lost(self, nonce: int) -> bool:
        """Whether a final block holds a transaction with this nonce: then no other with it can come."""
        final = self.chain.final_height(self.network)
        return final >= 0 and self.chain.nonce(self.wallet.address, final) > nonce

    def _revive_others(self, key: str) -> int:
        """What was signed for something else and is not in the chain is sent first; returns the nonce after these."""
        sent = after = self.chain.nonce(self.wallet.address, "latest")
        for intent in self.journal.open():
            if intent.key == key or intent.nonce < sent:
                continue
            try:
                self._revive(intent)
            except RefusedError:
                # Its nonce is free then: whichever of two with one nonce comes, the other never does.
                continue
            after = max(after, intent.nonce + 1)
        return after


def need_contract(chain: Chain) -> None:
    """Check that PolAnchor is where it must be.

    Raises:
        AnchorUnavailableError: there is no code.
        AnchorError: there is other code.
    """
    found = chain.code_hash(contract().address)
    if found is None:
        raise AnchorUnavailableError(
            f"{chain.name}: PolAnchor is not deployed at 0x{contract().address.hex()}",
            hint="`polchain contract deploy`",
        )
    if found != contract().code_hash:
        raise AnchorError(f"wrong contract code: {chain.name} has other code at 0x{contract().address.hex()}")


def _gwei(wei: int) -> str:
    return f"{wei / 1e9:.3g} gwei"
