"""Sending a transaction once.

    lock the journal -> find what was signed for this before, else: nonce -> fees -> sign -> write down -> send

Killed anywhere in this, the next call finds what was written and sends those very bytes, or finds them in the chain. A
nonce is given up only when the node refused the transaction as it was first sent and does not know it, or when another
transaction with that nonce is final. What was given up is not forgotten: a node that refuses may send it all the same,
so it is looked for before anything else is signed, and of several in the chain the first one counts.

A node is not believed about fees and nonces beyond what is usual: its word alone must not empty an account, nor give it
transactions that wait for a nonce that never comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from polchain.anchors.chain import Chain, NonceTakenError, RefusedError
from polchain.anchors.contract import contract, keccak256
from polchain.anchors.inclusion import quantity
from polchain.anchors.journal import Intent, Journal
from polchain.anchors.networks import Network
from polchain.anchors.transaction import open_transaction
from polchain.anchors.wallet import Unsigned, Wallet, sign
from polchain.errors import AnchorError, AnchorUnavailableError

__all__ = ["Quote", "Sender", "need_contract"]

ATTEMPTS = 8
MOST = 2 * 10**16  # wei for one transaction, where the caller named no cap
TIP = 3 * 10**9  # wei for one gas, likewise, unless the base fee is higher
WAITING = 64  # how many transactions of the account may wait

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
        max_fee: the most that is paid for one gas, in wei; None for twice the base fee and the tip, the tip at most 3
            gwei or the base fee, and 0.02 ether at most for a transaction.
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
            AnchorUnavailableError: today's fees are over the cap, it may cost more than 0.02 ether and there is no cap,
                or the node cannot say.
        """
        self.chain.expect(self.network)
        base, tip = self.chain.fees()
        if self.max_fee is None:
            tip = min(tip, max(TIP, base))
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
        quote = Quote(gas, base, tip, fee, gas + gas // 5, self.chain.balance(self.wallet.address))
        if self.max_fee is None and quote.most > MOST:
            raise AnchorUnavailableError(
                f"{self.network.name}: by {self.chain.name}'s word this may cost {_ether(quote.most)}, more than"
                f" {_ether(MOST)}: up to {quote.limit:,} gas at up to {_gwei(fee)}",
                hint=f"ask another node, or wait; `--max-fee {-(-fee // 10**9)}` agrees to {_ether(quote.most)}",
            )
        return quote

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
            found = self._first(key)
            if found is not None:
                return found
            intent = self.journal.find(key)
            if intent is not None:
                if self._revive(intent):
                    return intent.transaction
                self.journal.refuse(intent)
            taken = self._revive_others(key)
            for _ in range(ATTEMPTS):
                raw = self._first(key) or self._send_new(key, to, data, value, taken)
                if raw is not None:
                    return raw
        raise AnchorUnavailableError(
            f"{self.network.name}: another program sends from the same account, and was faster {ATTEMPTS} times",
            hint="use an account that nothing else uses",
        )

    def first(self, key: str) -> bytes | None:
        """Of several transactions that were signed for `key`, the first in the chain; None if one at most was signed.

        Raises:
            AnchorUnavailableError: the node cannot be reached, or answers nonsense.
        """
        if not self.journal.refused(key):
            return None
        with self.journal.locked():
            return self._first(key)

    def settle(self, key: str) -> None:
        """What is for `key` is final."""
        with self.journal.locked():
            self.journal.settle(key)

    def _first(self, key: str) -> bytes | None:
        """As `first`; one that waits counts where none is in the chain, and the one that counts is written down."""
        refused = self.journal.refused(key)
        if not refused:
            return None
        current = self.journal.find(key)
        signed = [*([current] if current is not None else []), *refused]
        placed = [(self._place(intent), intent) for intent in signed]
        known = [(place, intent) for place, intent in placed if place is not None]
        if not known:
            return None
        _, chosen = min(known, key=lambda one: one[0])
        if current is None or chosen.transaction != current.transaction:
            if current is not None:
                self.journal.refuse(current)
            self.journal.write(chosen)
        return chosen.transaction

    def _place(self, intent: Intent) -> tuple[float, int] | None:
        """Block and index of a transaction; after all blocks if it waits; None if the node does not know it."""
        transaction = keccak256(intent.transaction)
        receipt = self.chain.receipt(transaction)
        if receipt is None or receipt.get("blockNumber") is None:
            return (math.inf, intent.nonce) if self.chain.knows(transaction) else None
        try:
            return quantity(receipt["blockNumber"]), quantity(receipt["transactionIndex"])
        except (KeyError, ValueError) as error:
            raise AnchorUnavailableError(f"{self.chain.name} answers with a receipt without a block") from error

    def _next_nonce(self, taken: set[int]) -> int:
        """The account's next nonce that is not one of `taken`.

        Raises:
            AnchorUnavailableError: the node says that more wait than can be.
        """
        sent = self.chain.nonce(self.wallet.address, "latest")
        nonce = max(self.chain.nonce(self.wallet.address, "pending"), sent)
        if nonce > sent + WAITING:
            raise AnchorUnavailableError(
                f"{self.network.name}: by {self.chain.name}'s word {nonce - sent} transactions of"
                f" 0x{self.wallet.address.hex()} wait, more than {WAITING}",
                hint="ask another node",
            )
        # Not every node counts what is still waiting. What waits after a gap does not count: it may wait forever.
        while nonce in taken:
            nonce += 1
        return nonce

    def _send_new(self, key: str, to: bytes, data: bytes, value: int, taken: set[int]) -> bytes | None:
        """Send with the next nonce, none of `taken`; None if somebody else took it meanwhile."""
        quote = self.quote(to, data)
        if quote.most + value > quote.balance:
            raise AnchorUnavailableError(
                f"{self.network.name}: insufficient funds: 0x{self.wallet.address.hex()} has {quote.balance} wei,"
                f" up to {quote.most + value} are needed"
            )
        nonce = self._next_nonce(taken)
        unsigned = Unsigned(
            self.network.chain_id, nonce, quote.tip, quote.max_fee, quote.limit, to=to, data=data, value=value
        )
        raw = sign(self.wallet, unsigned)
        intent = Intent(key, nonce, raw)
        self.journal.write(intent)
        try:
            self.chain.send(raw)
        except RefusedError as error:
            beaten = isinstance(error, NonceTakenError)
            if not beaten and not any(words in str(error).lower() for words in CERTAIN):
                raise
            if self.chain.knows(keccak256(raw)):
                return raw
            self.journal.refuse(intent)
            if not beaten:
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

    def _revive_others(self, key: str) -> set[int]:
        """What was signed for something else and is not in the chain is sent first; returns the nonces of these."""
        taken: set[int] = set()
        sent = self.chain.nonce(self.wallet.address, "latest")
        for intent in self.journal.open():
            if intent.key == key or intent.nonce < sent:
                continue
            try:
                self._revive(intent)
            except RefusedError:
                # Its nonce is free then: whichever of two with one nonce comes, the other never does.
                continue
            taken.add(intent.nonce)
        return taken


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


def _ether(wei: int) -> str:
    return f"{wei / 1e18:.3g} ether"
