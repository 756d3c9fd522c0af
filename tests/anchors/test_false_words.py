"""What a node says to whoever pays is not believed beyond what is usual: fees, nonces, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polchain.anchors.chain import NonceTakenError
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence
from polchain.anchors.journal import Journal
from polchain.anchors.sender import Sender
from polchain.anchors.transaction import open_transaction
from polchain.anchors.wallet import Key
from polchain.errors import AnchorUnavailableError
from tests.anchors.worlds import ANVIL_ACCOUNT, ANVIL_KEY, LOCAL, AnvilWorld, Interposed, inclusion_of, target

GWEI = 10**9


def anchor(world: AnvilWorld, chain: Any, max_fee: int | None = None) -> EthereumAnchor:
    sender = Sender(LOCAL, chain, Key(ANVIL_KEY), Journal(world.folder / "journal"), max_fee=max_fee)
    return EthereumAnchor(LOCAL, sender=sender)


def journalled(world: AnvilWorld) -> list[Path]:
    """What is new: the deployment is settled."""
    return list((world.folder / "journal").glob("*.json"))


def test_a_false_tip_is_cut(anvil: AnvilWorld) -> None:
    liar = Interposed(anvil.chain, "liar", {"eth_maxPriorityFeePerGas": lambda *_: hex(10**15)})
    base, _ = anvil.chain.fees()
    signed = open_transaction(Evidence.read(anchor(anvil, liar).submit(target())).transaction)
    assert signed.max_priority_fee == max(3 * GWEI, base)
    assert signed.max_fee == 2 * base + signed.max_priority_fee


@pytest.mark.parametrize(
    "lie",
    [
        {"eth_getBlockByNumber": lambda answer, *_: {**answer, "baseFeePerGas": hex(10_000 * GWEI)}},
        {"eth_estimateGas": lambda *_: hex(20_000_000)},
    ],
    ids=["base fee", "gas"],
)
def test_what_may_cost_too_much_is_not_signed_without_a_cap(anvil: AnvilWorld, lie: dict[str, Any]) -> None:
    liar = Interposed(anvil.chain, "liar", lie)
    with pytest.raises(AnchorUnavailableError, match=r"by liar's word this may cost .* more than 0.02 ether") as caught:
        anchor(anvil, liar).submit(target())
    assert "--max-fee" in caught.value.hint
    assert "ether" in caught.value.hint
    assert journalled(anvil) == []
    # Whoever names a cap has agreed.
    cap = 20_000 * GWEI
    assert anchor(anvil, liar, cap).quote(target()).most > 2 * 10**16


def test_a_false_nonce_is_not_signed_for(anvil: AnvilWorld) -> None:
    def far(answer: Any, account: str, at: str) -> Any:
        return hex(1000) if at == "pending" else answer

    liar = Interposed(anvil.chain, "liar", {"eth_getTransactionCount": far})
    with pytest.raises(AnchorUnavailableError, match=r"liar's word .* transactions of .* wait, more than 64") as caught:
        anchor(anvil, liar).submit(target())
    assert caught.value.hint == "ask another node"
    assert journalled(anvil) == []


def test_what_waits_for_a_nonce_that_never_comes_holds_up_nothing_else(anvil: AnvilWorld) -> None:
    ahead = 40  # as far as a false nonce is believed

    def wrong(answer: Any, account: str, at: str) -> Any:
        return hex(int(answer, 16) + ahead) if at == "pending" else answer

    anchor(anvil, Interposed(anvil.chain, "liar", {"eth_getTransactionCount": wrong})).submit(target("stuck"))
    for name in ("a", "b"):
        anchor(anvil, anvil.chain).submit(target(name))
    anvil.mine()
    assert [anvil.published(target(name)) for name in ("a", "b", "stuck")] == [1, 1, 0]


def test_of_several_that_a_node_sent_in_secret_the_first_one_counts(anvil: AnvilWorld) -> None:
    """It says no, sends it, hides it, and takes the third."""
    hidden: list[str] = []
    anvil.chain.ask("evm_setAutomine", True)

    class Liar(Interposed):
        def send(self, raw: bytes) -> None:
            if len(hidden) == 2:
                return super().send(raw)
            hidden.append(self._chain.ask("eth_sendRawTransaction", f"0x{raw.hex()}"))
            raise NonceTakenError("nonce too low")

        def ask(self, method: str, *parameters: Any) -> Any:
            if method in ("eth_getTransactionByHash", "eth_getTransactionReceipt") and parameters[0] in hidden:
                return None
            return super().ask(method, *parameters)

    before = anvil.transactions()
    receipt = anchor(anvil, Liar(anvil.chain, "liar", {})).submit(target())
    third = Evidence.read(receipt).hash
    assert (anvil.transactions() - before, len(hidden)) == (3, 2)
    anvil.mine(3)
    # An honest node from here on.
    honest = anchor(anvil, anvil.chain)
    again = honest.upgrade(receipt, target())
    assert again.status == "final"
    assert f"0x{Evidence.read(again).hash.hex()}" == hidden[0] != f"0x{third.hex()}"
    assert inclusion_of(again).index == 0
    assert honest.submit(target()) == again
    assert anvil.published(target()) == 3


def test_what_was_refused_and_came_all_the_same_is_found_before_anything_is_signed(anvil: AnvilWorld) -> None:
    sent: list[bytes] = []

    class Liar(Interposed):
        def send(self, raw: bytes) -> None:
            sent.append(raw)
            raise NonceTakenError("nonce too low")

    with pytest.raises(AnchorUnavailableError, match="another program sends"):
        anchor(anvil, Liar(anvil.chain, "liar", {})).submit(target())
    anvil.chain.send(sent[0])
    anvil.mine()
    before = anvil.chain.nonce(ANVIL_ACCOUNT, "pending")
    receipt = anchor(anvil, anvil.chain).submit(target())
    assert Evidence.read(receipt).transaction == sent[0]
    assert anvil.chain.nonce(ANVIL_ACCOUNT, "pending") == before, "it was paid for twice"


def test_who_waits_too_long_for_another_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polchain.anchors.journal.PATIENCE", 0.2)
    with (
        Journal(tmp_path).locked(),
        pytest.raises(AnchorUnavailableError, match="another process is sending from the same account") as caught,
        Journal(tmp_path).locked(),
    ):
        pass
    assert caught.value.hint
    with Journal(tmp_path).locked():
        pass
