"""What a prover has published about a log, found by its events; and nodes that limit, leave out, or make up."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polchain.anchors.base import Target
from polchain.anchors.chain import Chain, RefusedError
from polchain.anchors.events import MAX_CALLS, Event, published
from polchain.anchors.inclusion import quantity
from polchain.anchors.networks import Network
from polchain.anchors.transaction import open_transaction
from polchain.errors import AnchorUnavailableError
from tests.anchors.worlds import LOCAL, Anvil, AnvilWorld, EthereumWorld, EthTesterWorld, Interposed, target

LOG = target().log


@pytest.fixture(params=["eth-tester", "anvil"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> EthereumWorld:
    if request.param == "eth-tester":
        return EthTesterWorld(tmp_path)
    return AnvilWorld(tmp_path, request.getfixturevalue("start_anvil")())


def publish(world: EthereumWorld, one: Target) -> Event:
    """Publish a target in a block of its own."""
    receipt = world.anchor.submit(one)
    world.mine()
    raw = bytes.fromhex(str(receipt.body["transaction"])[2:])
    return Event(world.chain.height(), one.size, one.root, open_transaction(raw).hash)


def search(
    world: EthereumWorld, chain: Chain | None = None, first: int = 0, last: int | None = None
) -> tuple[Event, ...]:
    return published(
        chain or world.chain, world.network, log=LOG, prover=world.sender.wallet.address, first=first, last=last
    )


class Limited(Chain):
    """A node that searches so many blocks at once and no more, and counts what it is asked."""

    def __init__(self, chain: Chain, most: int, height: int | None = None) -> None:
        self._chain = chain
        self._network = None
        self.name = "the public node"
        self.most = most
        self._height = height
        self.asked: list[range] = []

    def ask(self, method: str, *parameters: Any) -> Any:
        if method == "eth_getBlockByNumber" and self._height is not None:
            return {"number": hex(self._height)}
        if method == "eth_getLogs":
            first, last = (int(parameters[0][name], 16) for name in ("fromBlock", "toBlock"))
            self.asked.append(range(first, last + 1))
            if len(self.asked[-1]) > self.most:
                raise RefusedError(f"{self.name} refuses eth_getLogs: block range is too wide")
            if self._height is not None:
                return []
        return self._chain.ask(method, *parameters)


def test_what_was_published_about_the_log_is_found_in_order(world: EthereumWorld) -> None:
    assert search(world) == ()
    wanted = [publish(world, target(name, size)) for name, size in (("a", 3), ("b", 7), ("a fork", 7))]
    publish(world, target("c", log="another log"))
    assert search(world) == tuple(wanted)
    assert search(world, first=wanted[1].block) == tuple(wanted[1:])
    assert search(world, first=wanted[2].block + 1) == ()


def test_the_search_ends_with_the_last_block_that_was_asked_for(world: EthereumWorld) -> None:
    early, late = (publish(world, target(name, size)) for name, size in (("a", 3), ("b", 7)))
    assert late.block > early.block
    assert search(world, last=late.block) == (early, late)
    assert search(world, last=late.block - 1) == (early,)
    assert search(world, first=late.block, last=early.block) == ()
    with pytest.raises(AnchorUnavailableError, match="has no block 1000 yet"):
        search(world, last=1000)


def test_what_another_account_publishes_is_not_found(world: EthereumWorld) -> None:
    publish(world, target())
    found = published(world.chain, world.network, log=LOG, prover=bytes(19) + b"\1")
    assert found == ()


def test_the_largest_size_is_read(world: EthereumWorld) -> None:
    wanted = publish(world, target("last", size=2**64 - 1))
    assert search(world) == (wanted,)


def test_events_in_one_block_stand_in_the_order_of_their_transactions(anvil: AnvilWorld) -> None:
    names = ("first", "second", "third")
    for name in names:
        anvil.anchor.submit(target(name))
    anvil.mine()
    backwards = Interposed(anvil.chain, "n", {"eth_getLogs": lambda answer, *_: answer[::-1]})
    for node in (anvil.chain, backwards):
        found = search(anvil, node)
        assert [event.root for event in found] == [target(name).root for name in names]
        assert len({event.block for event in found}) == 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """The smallest question, so small that a test need not mine thousands of blocks."""
    monkeypatch.setattr("polchain.anchors.events.SMALLEST", 20)
    return 20


def test_a_node_that_limits_the_range_is_asked_in_pieces(world: EthereumWorld, small: int) -> None:
    first = publish(world, target("first"))
    world.mine(5 * small)
    second = publish(world, target("second"))
    node = Limited(world.chain, small + 6)
    assert search(world, node) == (first, second)
    answered = [asked for asked in node.asked if len(asked) <= node.most]
    assert [block for asked in answered for block in asked] == list(range(world.chain.height() + 1)), "a gap"
    assert len(node.asked) - len(answered) == 2, "it went on asking for too much"


def test_a_node_that_refuses_the_smallest_range_says_why_itself(world: EthereumWorld, small: int) -> None:
    world.mine(3 * small)
    node = Limited(world.chain, small - 1)
    with pytest.raises(RefusedError, match="the public node refuses eth_getLogs: block range is too wide"):
        search(world, node)
    assert [len(asked) for asked in node.asked][-1] == small


def test_more_pieces_than_a_node_may_be_asked_for_are_not_begun(tester: EthTesterWorld) -> None:
    most = 50_000
    near = Limited(tester.chain, most, height=100 * most)
    assert search(tester, near) == ()
    assert len(near.asked) <= MAX_CALLS
    far = Limited(tester.chain, most, height=(MAX_CALLS + 1) * most)
    with pytest.raises(AnchorUnavailableError, match="the public node: too many blocks to search: 10050001"):
        search(tester, far)
    assert len(far.asked) < 20, "a hopeless search was begun"
    assert search(tester, far, first=150 * most) == ()


def test_a_node_that_is_behind_finds_not_nothing_but_fails(tester: EthTesterWorld) -> None:
    with pytest.raises(AnchorUnavailableError, match="has no block 100 yet: its newest is"):
        search(tester, first=100)


def test_a_node_that_does_not_say_its_newest_block_fails(tester: EthTesterWorld) -> None:
    publish(tester, target())
    for nonsense in (None, {}, {"number": "soon"}, {"number": -1}):
        node = Interposed(tester.chain, "the liar", {"eth_getBlockByNumber": lambda *_, answer=nonsense: answer})
        with pytest.raises(AnchorUnavailableError, match="the liar answers eth_getBlockByNumber with nonsense"):
            search(tester, node)


def test_a_node_of_another_chain_is_not_searched(tester: EthTesterWorld) -> None:
    with pytest.raises(AnchorUnavailableError, match="wrong chain"):
        published(tester.chain, LOCAL, log=LOG, prover=tester.sender.wallet.address)


def test_what_a_reorganisation_removed_is_left_out(anvil: AnvilWorld) -> None:
    wanted = publish(anvil, target())
    removed = Interposed(anvil.chain, "n", {"eth_getLogs": lambda answer, *_: [{**answer[0], "removed": True}]})
    assert search(anvil, removed) == ()
    stays = Interposed(anvil.chain, "n", {"eth_getLogs": lambda answer, *_: [{**answer[0], "removed": False}]})
    assert search(anvil, stays) == (wanted,)


NONSENSE: dict[str, Any] = {
    "null": lambda log: None,
    "an object": lambda log: {"logs": [log]},
    "text": lambda log: "none",
    "no object in it": lambda log: ["none"],
    "null in it": lambda log: [None],
    "twice the same": lambda log: [log, log],
    "another address": lambda log: [{**log, "address": "0x" + "11" * 20}],
    "a short address": lambda log: [{**log, "address": log["address"][:-2]}],
    "another prover": lambda log: [{**log, "topics": [log["topics"][0], "0x" + "11" * 32, log["topics"][2]]}],
    "another log": lambda log: [{**log, "topics": [*log["topics"][:2], "0x" + "11" * 32]}],
    "a topic too few": lambda log: [{**log, "topics": log["topics"][:2]}],
    "a topic too many": lambda log: [{**log, "topics": [*log["topics"], log["topics"][2]]}],
    "topics that are none": lambda log: [{**log, "topics": None}],
    "no data": lambda log: [{**log, "data": "0x"}],
    "long data": lambda log: [{**log, "data": log["data"] + "00"}],
    "a size over 64 bits": lambda log: [{**log, "data": log["data"][:66] + "1" + log["data"][67:]}],
    "data that is no hexadecimal": lambda log: [{**log, "data": "0x" + "zz" * 64}],
    "a block after the newest": lambda log: [{**log, "blockNumber": hex(quantity(log["blockNumber"]) + 1)}],
    "a pending block": lambda log: [{**log, "blockNumber": None}],
    "a negative block": lambda log: [{**log, "blockNumber": -1}],
    "a short transaction hash": lambda log: [{**log, "transactionHash": "0x11"}],
    "no transaction hash": lambda log: [{name: log[name] for name in log if name != "transactionHash"}],
    "an index that is text": lambda log: [{**log, "logIndex": "first"}],
    "no index": lambda log: [{name: log[name] for name in log if name != "transactionIndex"}],
    "removed, in words": lambda log: [{**log, "removed": "no"}],
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_named(tester: EthTesterWorld, change: Any) -> None:
    publish(tester, target())
    liar = Interposed(tester.chain, "the liar", {"eth_getLogs": lambda answer, *_: change(dict(answer[0]))})
    with pytest.raises(AnchorUnavailableError, match="the liar answers eth_getLogs with nonsense"):
        search(tester, liar)


def test_an_event_before_the_blocks_that_were_asked_for_is_nonsense(tester: EthTesterWorld) -> None:
    early = publish(tester, target())
    tester.mine()
    every = {"fromBlock": "0x0", "toBlock": "latest", "address": None, "topics": None}
    node = Interposed(tester.chain, "n", {"eth_getLogs": lambda *_: tester.chain.ask("eth_getLogs", every)[-1:]})
    assert search(tester, node) == (early,)
    with pytest.raises(AnchorUnavailableError, match="nonsense"):
        search(tester, node, first=early.block + 1)


def test_a_node_that_dies_is_named(start_anvil: Callable[..., Anvil], tmp_path: Path) -> None:
    node = start_anvil()
    world = AnvilWorld(tmp_path, node)

    def die(answer: Any, *_: Any) -> Any:
        node.stop()
        return answer

    dying = Interposed(world.chain, "n", {"eth_getBlockByNumber": die})
    with pytest.raises(AnchorUnavailableError, match=rf"127.0.0.1:{node.port} cannot be reached"):
        search(world, dying)


@pytest.fixture
def gateway() -> Iterator[Any]:
    """A node on HTTP whose gateway turns large questions away by a status."""
    asked: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        status = 413

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = 200, {"eth_chainId": "0x1", "eth_getBlockByNumber": {"number": "0x2710"}}
            result: Any = answer.get(question["method"], [])
            if question["method"] == "eth_getLogs":
                wanted = question["params"][0]
                asked.append(int(wanted["toBlock"], 16) - int(wanted["fromBlock"], 16) + 1)
                status = 200 if asked[-1] <= 3000 else Handler.status
            body = json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": result}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked, Handler
    server.shutdown()
    server.server_close()


def test_a_status_for_what_is_too_large_is_a_refusal_and_for_no_account_is_none(gateway: Any) -> None:
    address, asked, handler = gateway
    network = Network("elsewhere", 1, finality=1)
    assert published(Chain.connect(address), network, log=LOG, prover=bytes(20)) == ()
    assert asked[-1] <= 3000
    handler.status = 401
    asked.clear()
    with pytest.raises(AnchorUnavailableError, match="HTTP 401"):
        published(Chain.connect(address), network, log=LOG, prover=bytes(20))
    assert set(asked) == {10_001}, "it was asked for less, which helps nobody without an account"
