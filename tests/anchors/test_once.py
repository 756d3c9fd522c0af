"""Whatever dies, whoever races: exactly one transaction for a head."""

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polchain.anchors.chain import NonceTakenError
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence
from polchain.anchors.journal import Journal
from polchain.anchors.sender import Sender
from polchain.anchors.wallet import Key
from polchain.errors import AnchorUnavailableError, FormatError
from tests.anchors.publisher import MOMENTS, main
from tests.anchors.worlds import ANVIL_KEY, LOCAL, Anvil, AnvilWorld, Interposed, target


def start(world: AnvilWorld, moment: str, *heads: str, journal: str = "journal") -> int:
    """A process of its own, forked because imports are slow; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        main(world.node.address, str(world.folder / journal), moment, *heads)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def end(child: int) -> int:
    """Wait for it; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("mined", [False, True], ids=["waiting", "mined"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_process_has_paid_once(anvil: AnvilWorld, moment: str, mined: bool) -> None:
    before = anvil.transactions()
    assert end(start(anvil, moment, "head")) == -signal.SIGKILL
    if mined:
        anvil.mine()
    anchor = anvil.another_process()
    receipt = anchor.submit(target())
    anvil.mine(3)
    receipt = anchor.upgrade(receipt, target())
    assert receipt.status == "final"
    assert (anvil.transactions() - before, anvil.published(target())) == (1, 1)
    assert anchor.submit(target()) == receipt
    anvil.mine(3)
    assert (anvil.transactions() - before, anvil.published(target())) == (1, 1)


def test_what_a_killed_process_left_is_sent_before_the_next_head(anvil: AnvilWorld) -> None:
    end(start(anvil, "before the send", "left"))
    anvil.another_process().submit(target("next"))
    anvil.mine()
    assert [anvil.published(target(name)) for name in ("left", "next")] == [1, 1]


def test_several_heads_wait_in_order(anvil: AnvilWorld) -> None:
    receipts = {name: anvil.anchor.submit(target(name)) for name in "abc"}
    anvil.mine(3)
    assert [anvil.anchor.upgrade(receipts[name], target(name)).status for name in "abc"] == ["final"] * 3


@pytest.mark.parametrize("journals", [("journal", "journal"), ("journal", "another machine")], ids=["shared", "apart"])
def test_two_processes_race_for_nonces(anvil: AnvilWorld, journals: tuple[str, str]) -> None:
    anvil.chain.ask("evm_setAutomine", True)
    heads = [[f"{who}{i}" for i in range(6)] for who in range(2)]
    racers = [start(anvil, "", *mine, journal=journal) for mine, journal in zip(heads, journals, strict=True)]
    assert [end(racer) for racer in racers] == [0, 0]
    anvil.mine()
    assert [anvil.published(target(head)) for head in heads[0] + heads[1]] == [1] * 12


def test_two_processes_publish_one_head(anvil: AnvilWorld) -> None:
    racers = [start(anvil, "", "head") for _ in range(2)]
    assert [end(racer) for racer in racers] == [0, 0]
    anvil.mine()
    assert anvil.published(target()) == 1


@pytest.mark.parametrize("forwarded", [True, False], ids=["it had it", "it never got it"])
def test_a_node_that_dies_mid_send_is_paid_once(
    start_anvil: Callable[..., Anvil], tmp_path: Path, forwarded: bool
) -> None:
    node = start_anvil("--state", str(tmp_path / "state"))
    world = AnvilWorld(tmp_path, node)
    world.chain.ask("evm_setAutomine", True)
    before = world.transactions()

    class Dying(Interposed):
        def ask(self, method: str, *parameters: Any) -> Any:
            if method == "eth_sendRawTransaction":
                if forwarded:
                    super().ask(method, *parameters)
                    # anvil answers first; one that is ended between running a block and keeping it forgets the block.
                    until = time.monotonic() + 20
                    while not world.published(target()) and time.monotonic() < until:
                        time.sleep(0.01)
                node.stop(signal.SIGTERM)
            return super().ask(method, *parameters)

    sender = Sender(LOCAL, Dying(world.chain, "dying", {}), Key(ANVIL_KEY), Journal(tmp_path / "journal"))
    with pytest.raises(AnchorUnavailableError, match="cannot be reached"):
        EthereumAnchor(LOCAL, sender=sender).submit(target())
    with pytest.raises(AnchorUnavailableError, match="cannot be reached"):
        world.another_process().submit(target())
    node.start()
    receipt = world.another_process().submit(target())
    assert receipt.status == "pending"
    world.mine()
    assert (world.transactions() - before, world.published(target())) == (1, 1)


def test_a_head_whose_nonce_went_elsewhere_is_published_again_once_that_is_final(anvil: AnvilWorld) -> None:
    end(start(anvil, "before the send", "head"))
    stranger = Sender(LOCAL, anvil.chain, Key(ANVIL_KEY), Journal(anvil.folder / "another machine"))
    EthereumAnchor(LOCAL, sender=stranger).submit(target("else"))
    anvil.mine()
    anchor = anvil.another_process()
    # The other transaction may still vanish, and the one that was written down come after all: nothing new is signed.
    waiting = anchor.submit(target())
    written = Evidence.read(waiting).transaction
    assert waiting.status == "pending"
    anvil.mine(3)
    receipt = anchor.upgrade(waiting, target())
    assert Evidence.read(receipt).transaction != written
    anvil.mine(3)
    assert anchor.upgrade(receipt, target()).status == "final"
    assert anvil.published(target()) == 1
    # A verifier without the account is told what to do.
    with pytest.raises(AnchorUnavailableError, match="another has its nonce"):
        EthereumAnchor(LOCAL, [anvil.chain]).upgrade(waiting, target())


def test_a_refused_transaction_leaves_its_nonce_free(anvil: AnvilWorld) -> None:
    class Deaf(Interposed):
        def send(self, raw: bytes) -> None:
            raise NonceTakenError("underpriced")

    journal = Journal(anvil.folder / "journal")
    sender = Sender(LOCAL, Deaf(anvil.chain, "deaf", {}), Key(ANVIL_KEY), journal)
    with pytest.raises(AnchorUnavailableError, match="another program sends"):
        EthereumAnchor(LOCAL, sender=sender).submit(target())
    assert journal.open() == []


def test_a_transaction_that_was_refused_and_taken_is_not_signed_again(anvil: AnvilWorld) -> None:
    class Liar(Interposed):
        def send(self, raw: bytes) -> None:
            super().send(raw)
            raise NonceTakenError("nonce too low")

    sender = Sender(LOCAL, Liar(anvil.chain, "liar", {}), Key(ANVIL_KEY), Journal(anvil.folder / "journal"))
    EthereumAnchor(LOCAL, sender=sender).submit(target())
    anvil.mine()
    assert anvil.published(target()) == 1


def test_a_poor_account_and_a_low_cap_are_named_before_anything_is_signed(anvil: AnvilWorld) -> None:
    poor = Sender(LOCAL, anvil.chain, Key(b"\x07" * 32), Journal(anvil.folder / "poor"))
    with pytest.raises(AnchorUnavailableError, match="insufficient funds"):
        EthereumAnchor(LOCAL, sender=poor).submit(target())
    capped = Sender(LOCAL, anvil.chain, Key(ANVIL_KEY), Journal(anvil.folder / "capped"), max_fee=1)
    with pytest.raises(AnchorUnavailableError, match="over the cap"):
        EthereumAnchor(LOCAL, sender=capped).submit(target())
    assert not list((anvil.folder / "poor").glob("*.json")) + list((anvil.folder / "capped").glob("*.json"))


def test_a_cap_is_kept_and_a_quote_sends_nothing(anvil: AnvilWorld) -> None:
    before = anvil.transactions()
    base, tip = anvil.chain.fees()
    sender = Sender(LOCAL, anvil.chain, Key(ANVIL_KEY), Journal(anvil.folder / "capped"), max_fee=base + tip // 2)
    anchor = EthereumAnchor(LOCAL, sender=sender)
    quote = anchor.quote(target())
    assert (quote.max_fee, quote.tip) == (base + tip // 2, tip // 2)
    assert quote.gas <= 25_000
    assert quote.cost <= quote.most
    anvil.mine()
    assert anvil.transactions() == before
    anchor.submit(target())
    anvil.mine()
    assert anvil.published(target()) == 1


def test_a_damaged_journal_is_named(anvil: AnvilWorld) -> None:
    anvil.anchor.submit(target())
    [path] = (anvil.folder / "journal").glob("*.json")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FormatError, match=path.name):
        anvil.anchor.submit(target())
