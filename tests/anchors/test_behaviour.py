"""What every source of blocks does: one suite, over the double, eth-tester and anvil."""

import random
import time
from typing import Any

import pytest

from polchain.anchors.base import Receipt
from polchain.core.encoding import JSON, decode, encode
from polchain.errors import AnchorError, AnchorUnavailableError, FormatError
from tests.anchors.worlds import batch, target


def test_a_head_is_pending_then_in_a_block_then_final(world: Any) -> None:
    receipt = world.anchor.submit(target())
    assert receipt.status == "pending"
    with pytest.raises(AnchorUnavailableError, match="pending"):
        world.anchor.check(receipt, target())
    world.mine()
    receipt = world.anchor.upgrade(receipt, target())
    assert receipt.status == "pending"
    assert world.anchor.check(receipt, target()).status == "unchecked"
    world.mine(2)
    receipt = world.anchor.upgrade(receipt, target())
    assert receipt.status == "final"
    stamp = world.anchor.check(receipt, target())
    assert stamp.status == "final"
    assert abs(stamp.time - time.time()) < 300
    assert "block" in stamp.source
    assert stamp.weak


def test_a_receipt_need_not_be_upgraded_to_be_checked(world: Any) -> None:
    receipt = world.anchor.submit(target())
    world.mine()
    receipt = world.anchor.upgrade(receipt, target())
    world.mine(2)
    assert receipt.status == "pending"
    assert world.anchor.check(receipt, target()).status == "final"


def test_upgrading_what_is_final_changes_nothing(world: Any) -> None:
    receipt = world.anchor.submit(target())
    world.mine(3)
    final = world.anchor.upgrade(receipt, target())
    assert world.anchor.upgrade(final, target()) == final


def test_what_was_published_is_not_published_again(world: Any) -> None:
    receipts = [world.anchor.submit(target())]
    receipts.append(world.anchor.submit(target()))
    world.mine()
    receipts.append(world.anchor.submit(target()))
    world.mine(2)
    receipts.append(world.another_process().submit(target()))
    world.mine()
    receipts.append(world.another_process().submit(target()))
    world.mine()
    assert world.published(target()) == 1
    assert {receipt.body.get("transaction") for receipt in receipts} == {receipts[0].body.get("transaction")}
    assert receipts[-1].status == "final"


def test_many_heads_and_batches_are_told_apart(world: Any) -> None:
    wanted = [target("a"), target("b"), target("b", size=8), target("b", log="another"), batch()]
    receipts = []
    for one in wanted:
        receipts.append(world.anchor.submit(one))
        world.mine()
    world.mine(2)
    receipts = [world.anchor.upgrade(receipt, one) for receipt, one in zip(receipts, wanted, strict=True)]
    for i, receipt in enumerate(receipts):
        for j, one in enumerate(wanted):
            if i == j:
                assert world.anchor.check(receipt, one).status == "final"
            else:
                with pytest.raises(AnchorError, match=r"another (log|head)"):
                    world.anchor.check(receipt, one)
    assert [world.published(one) for one in wanted] == [1] * 5


def test_a_vanished_block_goes_back_to_pending_and_is_sent_again(world: Any) -> None:
    receipt = world.anchor.submit(target())
    world.mine()
    before = world.anchor.upgrade(receipt, target())
    world.vanish()
    assert world.published(target()) == 0
    with pytest.raises(AnchorError):
        world.anchor.check(before, target())
    again = world.anchor.upgrade(before, target())
    assert again.status == "pending"
    with pytest.raises(AnchorUnavailableError, match="pending"):
        world.anchor.check(again, target())
    world.mine(3)
    final = world.anchor.upgrade(again, target())
    assert final.status == "final"
    assert final.body.get("transaction") == before.body.get("transaction")
    assert world.anchor.check(final, target()).status == "final"
    assert world.published(target()) == 1


def test_a_receipt_survives_being_written_and_read(world: Any) -> None:
    receipt = world.anchor.submit(target())
    world.mine(3)
    receipt = world.anchor.upgrade(receipt, target())
    body = decode(encode(dict(receipt.body)), limit=2**20, what="receipt")
    assert isinstance(body, dict)
    assert body == receipt.body
    assert world.anchor.check(Receipt(receipt.kind, "final", body), target()).status == "final"


def test_a_receipt_of_another_kind_is_refused(world: Any) -> None:
    receipt = world.anchor.submit(target())
    with pytest.raises(AnchorError, match="kind"):
        world.anchor.check(Receipt("rfc3161", "final", receipt.body), target())


def test_a_dead_service_is_named(world: Any) -> None:
    receipt = world.anchor.submit(target())
    world.stop()
    with pytest.raises(AnchorUnavailableError):
        world.anchor.submit(target("later"))
    with pytest.raises(AnchorUnavailableError):
        world.anchor.upgrade(receipt, target())


def test_a_damaged_receipt_raises_nothing_else(world: Any) -> None:
    receipt = world.anchor.submit(target())
    world.mine(3)
    receipt = world.anchor.upgrade(receipt, target())
    draw = random.Random(1)
    for _ in range(150):
        body = _damaged(dict(receipt.body), draw)
        if body == receipt.body:
            continue
        try:
            stamp = world.anchor.check(Receipt(receipt.kind, "final", body), target())
        except (AnchorError, FormatError, AnchorUnavailableError):
            continue
        # The name that the prover calls the network by is the one field that decides nothing.
        assert {**body, "network": ""} == {**receipt.body, "network": ""}
        assert stamp.status == "final"


def _damaged(value: Any, draw: random.Random) -> Any:
    """A copy with one thing changed, somewhere."""
    if isinstance(value, dict):
        copy: dict[str, JSON] = dict(value)
        name = draw.choice(sorted(copy))
        how = draw.random()
        if how < 0.1:
            del copy[name]
        elif how < 0.15:
            copy["more"] = 1
        else:
            copy[name] = _damaged(copy[name], draw)
        return copy
    if isinstance(value, list):
        items = list(value)
        i = draw.randrange(len(items))
        how = draw.random()
        if how < 0.2:
            del items[i]
        elif how < 0.4:
            items.insert(i, items[i])
        else:
            items[i] = _damaged(items[i], draw)
        return items
    if isinstance(value, int):
        return draw.choice([value + 1, 0, -1, 2**40, str(value), True, [value]])
    how = draw.random()
    if how < 0.1:
        return draw.choice([0, [], {}, "", "0x", "0xZZ", value.upper(), value + "00", value[:-2]])
    i = draw.randrange(len(value))
    return value[:i] + draw.choice("0123456789abcdef") + value[i + 1 :]
