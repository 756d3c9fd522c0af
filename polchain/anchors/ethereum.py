"""Anchors in an Ethereum chain: any chain with PolAnchor on it, through any JSON-RPC node.

    submit     the head in an event of PolAnchor (`contract`), sent once (`sender`)                   pending
    upgrade    its block, the proof (`inclusion`); sent again if the block vanished                   pending or final
    check      the proof alone (`evidence`); then the block: pinned, or canonical and final on every node asked

A verifier makes an anchor without a sender. With neither a pinned hash nor a node it learns that the evidence fits
together, and no more: `unchecked`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from polchain.anchors.base import Receipt, Target, Timestamp
from polchain.anchors.chain import Chain, NonceTakenError
from polchain.anchors.contract import call_data, contract
from polchain.anchors.evidence import KIND, Evidence, Inclusion, check_evidence, check_transaction
from polchain.anchors.inclusion import (
    Header,
    check_header,
    encode_header,
    encode_receipt,
    prove_receipt,
    quantity,
    raw_bytes,
)
from polchain.anchors.networks import Network
from polchain.anchors.sender import Quote, Sender, need_contract
from polchain.errors import AnchorError, AnchorUnavailableError, UsageError

__all__ = ["EthereumAnchor"]

# A block's time is set by whoever makes it, within the 12 seconds of its slot; older chains let it drift as far.
MARGIN = 15


class EthereumAnchor:
    """A source of time: the blocks of one network.

    Attributes:
        network: which.
        nodes: who is asked. The first takes what is sent; all must agree when a receipt is checked.
        pinned: block hashes that the verifier knows from elsewhere to be of the chain and final.
        prover: the account that must have published; None for any.
        sender: who publishes; None for a verifier.
    """

    kind = KIND

    def __init__(
        self,
        network: Network,
        nodes: Sequence[Chain] = (),
        *,
        pinned: Collection[bytes] = (),
        prover: bytes | None = None,
        sender: Sender | None = None,
    ) -> None:
        self.network = network
        self.nodes = tuple(nodes) or ((sender.chain,) if sender is not None else ())
        self.pinned = frozenset(pinned)
        self.prover = prover
        self.sender = sender

    def quote(self, target: Target) -> Quote:
        """What `submit` would cost; nothing is sent.

        Raises:
            AnchorUnavailableError: the node cannot be reached, the contract is not there, the fees are over the cap.
        """
        sender = self._sender()
        sender.chain.expect(self.network)
        need_contract(sender.chain)
        return sender.quote(contract().address, call_data(target))

    def begun(self, target: Target) -> bool:
        """Whether this account has signed a transaction for the target, sent or not: `submit` goes on with that one."""
        return self.sender is not None and self.sender.journal.find(_key(target)) is not None

    def submit(self, target: Target) -> Receipt:
        """Publish a target; what this account has published already is found, not paid for twice.

        Raises:
            AnchorUnavailableError: the node cannot be reached or refuses, the fees are over the cap, the account is
                too poor, or PolAnchor is not there.
            AnchorError: there is other code in PolAnchor's place, or the signer signed something else.
        """
        sender = self._sender()
        sender.chain.expect(self.network)
        need_contract(sender.chain)
        raw = sender.send(_key(target), contract().address, call_data(target))
        evidence = Evidence(
            self.network.chain_id,
            self.network.name,
            contract().address,
            contract().code_hash,
            sender.wallet.address,
            raw,
        )
        return self._look(evidence, target)

    def upgrade(self, receipt: Receipt, target: Target) -> Receipt:
        """The same receipt with its block, if it has one now; sent again, if the node has never heard of it.

        Raises:
            AnchorUnavailableError: the node cannot be reached, or the transaction can never come any more.
            AnchorError: the receipt is of something else.
        """
        evidence = Evidence.read(receipt)
        check_transaction(evidence, target, self.network)
        self._node().expect(self.network)
        return self._look(evidence, target)

    def check(self, receipt: Receipt, target: Target) -> Timestamp:
        """When the target was published.

        Raises:
            AnchorError: anything that does not fit (see `check_evidence`), or other blocks at its height on the nodes.
            AnchorUnavailableError: the receipt is pending, or the nodes contradict each other.
        """
        return self.vouch(check_evidence(Evidence.read(receipt), target, self.network, self.prover))

    def vouch(self, header: Header) -> Timestamp:
        """When a block was made: final if it is pinned, or canonical and final on every node; otherwise unchecked.

        Raises:
            AnchorError: the nodes have another block at its height.
            AnchorUnavailableError: the nodes contradict each other.
        """
        weak = (self.network.weak,) if self.network.weak else ()
        source = f"{self.network.name} block {header.number}"
        if header.hash in self.pinned:
            return Timestamp(source, header.time, MARGIN, "final", weak)
        reasons = self._vouch(header)
        if reasons:
            return Timestamp(source, header.time, MARGIN, "unchecked", (*weak, *reasons))
        if len({node.name for node in self.nodes}) == 1:
            weak = (*weak, "a single RPC")
        return Timestamp(source, header.time, MARGIN, "final", weak)

    def _vouch(self, header: Header) -> list[str]:
        """Ask every node whether the block is canonical and final; returns why that is not known, if it is not."""
        if not self.nodes:
            return ["no node was asked whether the block is in the chain"]
        reasons: list[str] = []
        having: list[str] = []
        lacking: list[str] = []
        for node in self.nodes:
            try:
                node.expect(self.network)
                found = node.block_hash(header.number)
                if found is None:
                    # Behind, or pruned: only another block at that height denies this one.
                    reasons.append(f"{node.name} has no block {header.number} yet")
                    continue
                has = found == header.hash
                (having if has else lacking).append(node.name)
                if has and node.final_height(self.network) < header.number:
                    reasons.append(f"not final yet on {node.name}")
            except AnchorUnavailableError as error:
                reasons.append(str(error))
        if lacking and having:
            raise AnchorUnavailableError(
                f"the nodes contradict each other about {self.network.name} block {header.number}:"
                f" {', '.join(having)} has it, {', '.join(lacking)} has not",
                hint="one of them is wrong: ask a third, or pin the block's hash",
            )
        if lacking:
            raise AnchorError(
                f"block 0x{header.hash.hex()} is not block {header.number} of {self.network.name}:"
                f" {', '.join(lacking)} has not got it"
            )
        return reasons

    def _look(self, evidence: Evidence, target: Target) -> Receipt:
        """The receipt as the chain has it now; final once its block is."""
        node = self._node()
        evidence = self._first(evidence, target)
        inclusion = self._find(evidence)
        if inclusion is None:
            return self._again(evidence, target)
        evidence = _with(evidence, inclusion)
        # The node is believed no more than a stranger: what it gave must hold.
        header = check_evidence(evidence, target, self.network)
        if node.final_height(self.network) < header.number:
            return evidence.receipt("pending")
        if self.sender is not None:
            self.sender.settle(_key(target))
        return evidence.receipt("final")

    def _first(self, evidence: Evidence, target: Target) -> Evidence:
        """The evidence of the first transaction for the target, where this account has signed several."""
        if self.sender is None or self.sender.wallet.address != evidence.prover:
            return evidence
        raw = self.sender.first(_key(target)) or evidence.transaction
        if raw == evidence.transaction:
            return evidence
        return Evidence(
            evidence.chain_id, evidence.network, evidence.contract, evidence.code_hash, evidence.prover, raw
        )

    def _find(self, evidence: Evidence) -> Inclusion | None:
        """Where the transaction is in the chain, with its proof."""
        node = self._node()
        receipt = node.receipt(evidence.hash)
        if receipt is None or receipt.get("blockHash") is None:
            return None
        try:
            block_hash, index = raw_bytes(receipt["blockHash"]), quantity(receipt["transactionIndex"])
        except (KeyError, ValueError) as error:
            raise AnchorUnavailableError(f"{node.name} answers with a receipt without a block") from error
        block = node.block(block_hash)
        if block is None:
            # Reorganised between the two questions: the next look finds it.
            return None
        header = encode_header(block)
        root = check_header(header, block_hash).receipts_root
        receipts = [encode_receipt(one) for one in node.receipts(block)]
        if index >= len(receipts):
            raise AnchorUnavailableError(f"{node.name} answers with fewer receipts than the block has")
        return Inclusion(block_hash, header, index, receipts[index], prove_receipt(receipts, index, root))

    def _again(self, evidence: Evidence, target: Target) -> Receipt:
        """Pending: see that the transaction is on its way."""
        node = self._node()
        pending = _with(evidence, None)
        if node.knows(evidence.hash):
            return pending.receipt("pending")
        try:
            # Anybody may send it: it is signed.
            node.send(evidence.transaction)
        except NonceTakenError as error:
            if self.sender is None or self.sender.wallet.address != evidence.prover:
                raise AnchorUnavailableError(
                    f"{self.network.name}: transaction 0x{evidence.hash.hex()} has vanished, and another has its nonce",
                    hint="`polchain anchor` publishes the head again, once that is final",
                ) from error
            raw = self.sender.send(_key(target), contract().address, call_data(target))
            pending = Evidence(
                evidence.chain_id, evidence.network, evidence.contract, evidence.code_hash, evidence.prover, raw
            )
        return pending.receipt("pending")

    def _sender(self) -> Sender:
        if self.sender is None:
            raise UsageError(
                "publishing takes an account", hint="name an encrypted keystore, or a node that signs for an account"
            )
        return self.sender

    def _node(self) -> Chain:
        if not self.nodes:
            raise UsageError(f"no node of {self.network.name} was named", hint="--rpc ADDRESS")
        return self.nodes[0]


def _key(target: Target) -> str:
    """What a transaction is for, in the journal."""
    return hashlib.sha256(b"anchor" + call_data(target)).hexdigest()


def _with(evidence: Evidence, inclusion: Inclusion | None) -> Evidence:
    return Evidence(
        evidence.chain_id,
        evidence.network,
        evidence.contract,
        evidence.code_hash,
        evidence.prover,
        evidence.transaction,
        inclusion,
    )
