"""Nodes that lie, lag, die, or are of another chain; and what each is called."""

import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polchain.anchors.base import Receipt
from polchain.anchors.chain import Chain
from polchain.anchors.contract import contract
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence
from polchain.anchors.inclusion import quantity
from polchain.cli.ethereum import open_sender
from polchain.cli.receipts import _utc
from polchain.errors import AnchorError, AnchorUnavailableError, UsageError
from tests.anchors.worlds import EMBEDDED, LOCAL, Anvil, AnvilWorld, EthTesterWorld, Interposed, inclusion_of, target

TAGGED = replace(LOCAL, finality="finalized")


@pytest.fixture
def receipt(anvil: AnvilWorld) -> Receipt:
    pending = anvil.anchor.submit(target())
    anvil.mine(3)
    return anvil.anchor.upgrade(pending, target())


def checked_by(receipt: Receipt, *nodes: Chain, network: Any = LOCAL) -> Any:
    return EthereumAnchor(network, nodes).check(receipt, target())


def test_two_nodes_that_agree_leave_no_weakness_but_the_networks(
    anvil: AnvilWorld, receipt: Receipt, start_anvil: Callable[..., Anvil]
) -> None:
    again = Interposed(anvil.chain, "the second", {})
    stamp = checked_by(receipt, anvil.chain, again)
    assert (stamp.status, stamp.weak) == ("final", (LOCAL.weak,))
    assert "a single RPC" in checked_by(receipt, anvil.chain).weak


def test_a_second_node_with_another_history_contradicts(
    anvil: AnvilWorld, receipt: Receipt, start_anvil: Callable[..., Anvil]
) -> None:
    other = Chain.connect(start_anvil().address)
    other.ask("anvil_mine", hex(20))
    for nodes in ((anvil.chain, other), (other, anvil.chain)):
        with pytest.raises(AnchorUnavailableError, match="contradict each other") as caught:
            checked_by(receipt, *nodes)
        assert f"{anvil.chain.name} has it, {other.name} has not" in str(caught.value)
    with pytest.raises(AnchorError, match="has not got it"):
        checked_by(receipt, other)
    # It matters to nobody who pinned the block.
    pinned = EthereumAnchor(LOCAL, [other], pinned=[inclusion_of(receipt).block])
    assert pinned.check(receipt, target()).status == "final"


def test_a_node_that_has_no_block_at_that_height_neither_vouches_nor_denies(
    anvil: AnvilWorld, receipt: Receipt, start_anvil: Callable[..., Anvil]
) -> None:
    behind = Chain.connect(start_anvil().address)
    number = quantity(anvil.chain.receipt(Evidence.read(receipt).hash)["blockNumber"])
    assert behind.height() < number
    why = f"{behind.name} has no block {number} yet"
    for nodes in ((behind,), (anvil.chain, behind), (behind, anvil.chain)):
        stamp = checked_by(receipt, *nodes)
        assert stamp.status == "unchecked"
        assert why in stamp.weak
    # Once it has another block there, it denies this one.
    behind.ask("anvil_mine", hex(number))
    with pytest.raises(AnchorUnavailableError, match="contradict each other"):
        checked_by(receipt, anvil.chain, behind)
    with pytest.raises(AnchorError, match="has not got it"):
        checked_by(receipt, behind)


def test_who_is_behind_neither_saves_nor_condemns_a_block_that_others_deny(
    anvil: AnvilWorld, receipt: Receipt, start_anvil: Callable[..., Anvil]
) -> None:
    behind, denies = (Chain.connect(start_anvil().address) for _ in range(2))
    denies.ask("anvil_mine", hex(20))
    with pytest.raises(AnchorError, match=f"{denies.name} has not got it"):
        checked_by(receipt, behind, denies)
    with pytest.raises(AnchorUnavailableError, match="contradict each other"):
        checked_by(receipt, behind, denies, anvil.chain)


def test_a_node_that_makes_up_a_block_convinces_nobody_else(anvil: AnvilWorld, receipt: Receipt) -> None:
    """A forged block fits together; a node that vouches for it is contradicted by the next."""
    anvil.vanish()
    block = inclusion_of(receipt)
    number = anvil.chain.height()

    def lie(answer: Any, *parameters: Any) -> Any:
        return {**answer, "hash": f"0x{block.block.hex()}", "number": hex(number)}

    anvil.chain.ask("anvil_reorg", 4, [])
    liar = Interposed(anvil.chain, "the liar", {"eth_getBlockByNumber": lie})
    with pytest.raises(AnchorUnavailableError, match="the liar has it, 127"):
        checked_by(receipt, liar, anvil.chain)
    with pytest.raises(AnchorError, match="has not got it"):
        checked_by(receipt, anvil.chain)


def test_a_block_that_is_not_final_is_unchecked_and_says_so(start_anvil: Callable[..., Anvil], tmp_path: Path) -> None:
    world = AnvilWorld(tmp_path, start_anvil("--slots-in-an-epoch", "1"))
    world.sender.network = TAGGED
    anchor = EthereumAnchor(TAGGED, sender=world.sender)
    pending = anchor.submit(target())
    world.mine()
    waiting = anchor.upgrade(pending, target())
    assert waiting.status == "pending"
    stamp = anchor.check(waiting, target())
    assert stamp.status == "unchecked"
    assert any(reason.startswith("not final yet on") for reason in stamp.weak)
    world.mine(2)
    assert anchor.upgrade(waiting, target()).status == "final"
    assert anchor.check(waiting, target()).status == "final"


def test_a_node_that_cannot_be_reached_vouches_for_nothing(anvil: AnvilWorld, receipt: Receipt) -> None:
    dead = Chain.connect("http://127.0.0.1:9/a-secret-path")
    stamp = checked_by(receipt, anvil.chain, dead)
    assert stamp.status == "unchecked"
    assert any("127.0.0.1:9 cannot be reached" in reason for reason in stamp.weak)
    assert not any("secret" in reason for reason in stamp.weak)


def test_a_node_of_another_chain_is_not_used(anvil: AnvilWorld, receipt: Receipt) -> None:
    sepolia = replace(LOCAL, name="sepolia", chain_id=11155111)
    with pytest.raises(AnchorUnavailableError, match=r"wrong chain: .* is chain 31337, sepolia is 11155111"):
        EthereumAnchor(sepolia, sender=replace_network(anvil, sepolia)).submit(target())
    elsewhere = replace(LOCAL, name="elsewhere", genesis=bytes(32))
    stamp = checked_by(receipt, anvil.chain, network=elsewhere)
    assert stamp.status == "unchecked"
    assert any("does not begin as elsewhere does" in reason for reason in stamp.weak)
    genesis = anvil.chain.block_hash(0)
    assert checked_by(receipt, anvil.chain, network=replace(LOCAL, genesis=genesis)).status == "final"


def replace_network(world: AnvilWorld, network: Any) -> Any:
    world.sender.network = network
    return world.sender


def test_other_code_in_the_contracts_place_is_refused_before_anything_is_paid(anvil: AnvilWorld) -> None:
    before = anvil.transactions()
    anvil.chain.ask("anvil_setCode", f"0x{contract().address.hex()}", "0x00")
    with pytest.raises(AnchorError, match="wrong contract code"):
        anvil.anchor.submit(target())
    anvil.chain.ask("anvil_setCode", f"0x{contract().address.hex()}", "0x")
    with pytest.raises(AnchorUnavailableError, match="not deployed"):
        anvil.anchor.submit(target())
    anvil.mine()
    assert anvil.transactions() == before


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("eth_getBlockReceipts", lambda answer, *_: [{**answer[0], "status": "0x0"}]),
        ("eth_getBlockReceipts", lambda answer, *_: [{**answer[0], "cumulativeGasUsed": "0x1"}]),
        ("eth_getBlockReceipts", lambda answer, *_: [{**answer[0], "logs": []}]),
        ("eth_getBlockReceipts", lambda answer, *_: [{"transactionHash": answer[0]["transactionHash"]}]),
        ("eth_getBlockByHash", lambda answer, *_: {**answer, "timestamp": "0x1"}),
        ("eth_getBlockByHash", lambda answer, *_: {**answer, "receiptsRoot": "0x" + "00" * 32}),
        ("eth_getBlockByHash", lambda answer, *_: {**answer, "miner": 5}),
        ("eth_getBlockByHash", lambda answer, *_: "nonsense"),
        ("eth_getTransactionReceipt", lambda answer, *_: {**answer, "transactionIndex": "0x5"}),
        ("eth_getTransactionReceipt", lambda answer, *_: {**answer, "blockHash": "0x"}),
        ("eth_getTransactionReceipt", lambda answer, *_: []),
        ("eth_getBlockByHash", lambda answer, *_: {**answer, "transactions": None}),
        ("eth_getBlockByHash", lambda answer, *_: {**answer, "transactions": [7]}),
        ("eth_getBlockByHash", lambda answer, *_: {k: answer[k] for k in answer if k != "transactions"}),
        ("eth_getBlockByHash", lambda answer, *_: {**answer, "logsBloom": -1}),
        ("eth_getBlockByHash", lambda answer, *_: {**answer, "miner": 2**200}),
        ("eth_getBlockReceipts", lambda answer, *_: [{**answer[0], "transactionHash": 7}]),
        ("eth_chainId", lambda answer, *_: None),
    ],
)
def test_a_node_that_lies_to_the_prover_makes_no_receipt(anvil: AnvilWorld, method: str, change: Any) -> None:
    pending = anvil.anchor.submit(target())
    anvil.mine(3)
    liar = Interposed(anvil.chain, "the liar", {method: change})
    with pytest.raises((AnchorUnavailableError, AnchorError)):
        EthereumAnchor(LOCAL, [liar]).upgrade(pending, target())
    assert anvil.anchor.upgrade(pending, target()).status == "final"


@pytest.fixture
def web_server() -> Iterator[Callable[[int, bytes], str]]:
    """A server on loopback that answers everything alike."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/key"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"no", "HTTP 401"),
        (200, b"<html>hello</html>", "refuses eth_chainId"),
        (200, b"[]", "refuses eth_chainId"),
        (200, b'{"jsonrpc":"2.0","id":0,"result":"soon"}', "nonsense"),
        (200, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32005,"message":"too\\nmany"}}', "too many"),
        (200, b"", "refuses eth_chainId"),
    ],
)
def test_what_is_no_node_is_named(
    web_server: Callable[[int, bytes], str], status: int, body: bytes, words: str
) -> None:
    address = web_server(status, body)
    with pytest.raises(AnchorUnavailableError, match=words) as caught:
        Chain.connect(address).expect(LOCAL)
    assert "/key" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "ftp://example.org", "ws://127.0.0.1:1", "http://"])
def test_an_address_that_is_not_understood_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        Chain.connect(address)


def test_publishing_needs_an_account_and_asking_a_node(receipt: Receipt) -> None:
    with pytest.raises(UsageError, match="takes an account"):
        EthereumAnchor(LOCAL).submit(target())
    with pytest.raises(UsageError, match="no node"):
        EthereumAnchor(LOCAL).upgrade(receipt, target())


def test_a_node_without_its_first_block_opens_no_journal(tester: EthTesterWorld) -> None:
    node = Interposed(tester.chain, "n", {"eth_getBlockByNumber": lambda *_: None})
    with pytest.raises(AnchorUnavailableError, match="n does not have block 0 of embedded"):
        open_sender(EMBEDDED, node, tester.sender.wallet, None)
    assert open_sender(EMBEDDED, tester.chain, tester.sender.wallet, None).journal.folder.name.startswith("131277")


def test_a_time_that_no_calendar_has_is_shown_as_a_number() -> None:
    assert _utc(1_700_000_000) == "2023-11-14 22:13:20 UTC"
    for seconds in (2**62, 2**64 - 1):
        assert str(seconds) in _utc(seconds)
