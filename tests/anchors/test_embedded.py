"""The demo's chain, used as any node is: by address, from this process and from others."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from polchain.anchors.base import Receipt
from polchain.anchors.beacon import DISTANCE, fetch_beacon
from polchain.anchors.chain import Chain, NonceTakenError, RefusedError
from polchain.anchors.deploy import state_of
from polchain.anchors.embedded import BEHIND, BODY_LIMIT, EmbeddedChain
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.events import published
from polchain.anchors.evidence import Evidence
from polchain.anchors.inclusion import quantity
from polchain.anchors.journal import Journal
from polchain.anchors.networks import named
from polchain.anchors.sender import Sender
from polchain.anchors.wallet import Key
from polchain.core.encoding import decode, encode
from polchain.errors import AnchorUnavailableError
from tests.anchors.worlds import inclusion_of, target

EMBEDDED = named("embedded")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def embedded() -> Iterator[EmbeddedChain]:
    with EmbeddedChain() as chain:
        yield chain


def open_anchor(embedded: EmbeddedChain, folder: Path) -> EthereumAnchor:
    """As the command line opens it: a node by its address, a key, a journal."""
    chain = Chain.connect(embedded.address)
    sender = Sender(EMBEDDED, chain, Key(embedded.account[1]), Journal(folder))
    return EthereumAnchor(EMBEDDED, sender=sender)


def dates(chain: Chain) -> list[int]:
    found = [chain.block(number) for number in range(chain.height() + 1)]
    return [quantity(block["timestamp"]) for block in found if block is not None]


def test_a_head_is_published_and_becomes_final(embedded: EmbeddedChain, tmp_path: Path) -> None:
    anchor = open_anchor(embedded, tmp_path)
    receipt = anchor.submit(target())
    assert receipt.status == "pending"
    assert Evidence.read(receipt).inclusion is not None, "a transaction has its block at once"
    embedded.mine()
    receipt = anchor.upgrade(receipt, target())
    assert receipt.status == "final"
    stamp = anchor.check(receipt, target())
    assert (stamp.status, stamp.weak) == ("final", (EMBEDDED.weak, "a single RPC"))
    # Offline, by the evidence alone; and by a pinned block.
    assert EthereumAnchor(EMBEDDED).check(receipt, target()).status == "unchecked"
    pinned = EthereumAnchor(EMBEDDED, pinned=[inclusion_of(receipt).block])
    assert pinned.check(receipt, target()).status == "final"
    assert anchor.submit(target()) == receipt, "it was published twice"


PUBLISHER = """
import sys
from pathlib import Path
from polchain.anchors.base import Receipt
from polchain.core.encoding import decode, encode
from tests.anchors.test_embedded import EMBEDDED, Chain, EthereumAnchor, Journal, Key, Sender, target

address, key, folder, *known = sys.argv[1:]
sender = Sender(EMBEDDED, Chain.connect(address), Key(bytes.fromhex(key)), Journal(Path(folder)))
anchor = EthereumAnchor(EMBEDDED, sender=sender)
if known:
    body = decode(known[0].encode(), limit=2**20, what="receipt")
    receipt = anchor.upgrade(Receipt("ethereum", "pending", body), target())
else:
    receipt = anchor.submit(target())
print(receipt.status)
print(encode(dict(receipt.body)).decode())
"""


def test_another_process_publishes_and_a_third_finishes(embedded: EmbeddedChain, tmp_path: Path) -> None:
    def run(*words: str) -> tuple[str, Any]:
        command = [sys.executable, "-c", PUBLISHER, embedded.address, embedded.account[1].hex(), str(tmp_path), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        status, body = done.stdout.splitlines()
        return status, decode(body.encode(), limit=2**20, what="receipt")

    status, body = run()
    assert status == "pending"
    embedded.mine()
    status, body = run(encode(body).decode())
    assert status == "final"
    receipt = Receipt("ethereum", "final", body)
    assert EthereumAnchor(EMBEDDED).check(receipt, target()).status == "unchecked"
    chain = Chain.connect(embedded.address)
    assert EthereumAnchor(EMBEDDED, [chain]).check(receipt, target()).status == "final"
    [event] = published(chain, EMBEDDED, log=target().log, prover=embedded.account[0])
    assert (event.root, event.transaction) == (target().root, Evidence.read(receipt).hash)


def test_seventy_blocks_come_at_once_and_none_is_of_the_future(embedded: EmbeddedChain, tmp_path: Path) -> None:
    chain = Chain.connect(embedded.address)
    receipt = open_anchor(embedded, tmp_path).submit(target())
    anchored_in = chain.height()
    for _ in range(2):
        begun = time.monotonic()
        embedded.mine(70)
        assert time.monotonic() - begun < 5, "seventy blocks took five seconds"
    evidence = fetch_beacon(chain, EMBEDDED, anchored_in + DISTANCE)
    assert evidence.open().number == anchored_in + DISTANCE
    assert evidence.value == chain.block_hash(anchored_in + DISTANCE)
    found = dates(chain)
    assert found == sorted(set(found)), "a block is not younger than its parent"
    assert found[-1] <= time.time() + 3
    assert found[-1] >= time.time() - BEHIND
    stamp = EthereumAnchor(EMBEDDED).check(receipt, target())
    assert -BEHIND - 10 <= stamp.time - time.time() <= 3


def test_a_transaction_after_a_pause_is_dated_when_it_came_not_when_the_last_block_did(tmp_path: Path) -> None:
    with EmbeddedChain(behind=4) as embedded:
        chain = Chain.connect(embedded.address)
        embedded.mine(4)
        before = dates(chain)[-1]
        time.sleep(7)
        open_anchor(embedded, tmp_path).submit(target())
        after = dates(chain)[-1]
        assert after >= time.time() - 6, f"dated {time.time() - after:.0f} s ago, its parent {after - before} s before"


def test_blocks_that_would_be_of_the_future_wait(tmp_path: Path) -> None:
    with EmbeddedChain(behind=0) as embedded:
        chain = Chain.connect(embedded.address)
        before = chain.height()
        begun = time.monotonic()
        embedded.mine(5)
        assert chain.height() == before + 5
        assert dates(chain)[-1] <= time.time() + 3
        assert time.monotonic() - begun > 1, "five blocks a second apart took no time"


def test_everything_that_is_asked_of_a_node_is_answered(embedded: EmbeddedChain, tmp_path: Path) -> None:
    account = embedded.account[0]
    chain = Chain.connect(embedded.address)
    chain.expect(EMBEDDED)
    assert state_of(chain) == "deployed"
    height, nonce = chain.height(), chain.nonce(account, "latest")
    assert chain.nonce(account, "pending") == nonce == chain.nonce(account, height) > chain.nonce(account, 0) == 0
    assert chain.final_height(EMBEDDED) == height - 1
    assert chain.balance(account) > 10**18
    assert chain.code_hash(account) is None
    base, tip = chain.fees()
    assert base > 0
    assert tip > 0
    assert chain.estimate(account, bytes(20), b"") >= 21_000
    newest = chain.block("latest")
    assert newest is not None
    assert chain.block(height) == newest == chain.block(chain.block_hash(height) or b"")
    assert chain.block("finalized") is not None
    assert all(value.startswith("0x") for value in (newest["hash"], newest["timestamp"], newest["logsBloom"]))
    assert len(newest["logsBloom"]) == 2 + 512
    transactions = [one["transactionHash"] for one in chain.receipts(newest)]
    assert transactions == newest["transactions"]
    assert chain.knows(bytes.fromhex(transactions[0][2:]))


def test_what_the_chain_has_not_got_is_null(embedded: EmbeddedChain) -> None:
    chain = Chain.connect(embedded.address)
    assert chain.receipt(bytes(32)) is None
    assert not chain.knows(bytes(32))
    assert chain.block(bytes(32)) is None
    assert chain.block(chain.height() + 1) is None


def test_a_refusal_is_a_refusal_with_its_reason(embedded: EmbeddedChain, tmp_path: Path) -> None:
    anchor = open_anchor(embedded, tmp_path)
    sent = Evidence.read(anchor.submit(target())).transaction
    chain = Chain.connect(embedded.address)
    with pytest.raises(NonceTakenError, match="nonce"):
        chain.send(sent)
    for method, parameters, why in (
        ("eth_nope", (), "Unknown RPC Endpoint"),
        ("eth_getBlockByNumber", (), "Not enough values"),
        ("eth_sendRawTransaction", ("0x02",), "RLP"),
        ("eth_getBalance", ("nobody", "latest"), "nobody"),
    ):
        with pytest.raises(RefusedError, match=why):
            chain.ask(method, *parameters)


@pytest.mark.parametrize(
    "method", ["evm_mine", "evm_revert", "evm_snapshot", "testing_timeTravel", "debug_x", "", "eth"]
)
def test_the_chain_itself_is_its_owners_alone(embedded: EmbeddedChain, method: str) -> None:
    chain = Chain.connect(embedded.address)
    before = chain.block("latest")
    with pytest.raises(RefusedError, match=r"no such method|Unknown RPC Endpoint"):
        chain.ask(method, 1)
    assert chain.block("latest") == before


def exchange(address: str, method: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, "/", body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"<html>", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 200_000, -32600),
        (b'{"a":' * 200_000, -32600),
        (b'{"id":1,"method":"eth_call","params":[' + b"[" * 400 + b"]" * 400 + b"]}", -32000),
        (b"1" * 10_000, -32700),
        (b"[]", -32600),
        (b'"eth_chainId"', -32600),
        (b"null", -32600),
        (b"{}", -32600),
        (b'{"id":1,"method":5}', -32600),
        (b'{"id":1,"method":"eth_chainId","params":{"a":1}}', -32600),
        (b'{"id":{"a":1},"method":"x_y","params":[]}', -32601),
        (b'{"id":1,"method":"eth_getBlockByNumber","params":[[[]],{"a":null}]}', -32000),
        (b'{"id":1,"method":"eth_sendRawTransaction","params":[5]}', -32000),
        (b'{"id":1,"method":"eth_getLogs","params":[{"address":7,"topics":"x"}]}', -32000),
    ],
)
def test_nonsense_is_answered_as_an_error(embedded: EmbeddedChain, body: bytes, code: int) -> None:
    status, answer = exchange(embedded.address, "POST", body)
    assert status == 200
    assert json.loads(answer)["error"]["code"] == code
    assert Chain.connect(embedded.address).height() > 0


def test_an_answer_bears_the_questions_name(embedded: EmbeddedChain) -> None:
    for name in (7, "seven"):
        body = json.dumps({"jsonrpc": "2.0", "id": name, "method": "eth_chainId", "params": []}).encode()
        _, answer = exchange(embedded.address, "POST", body)
        assert json.loads(answer) == {"jsonrpc": "2.0", "id": name, "result": hex(EMBEDDED.chain_id)}


def test_only_post_is_served(embedded: EmbeddedChain) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        status, _ = exchange(embedded.address, method, b"")
        assert status == 501
    assert Chain.connect(embedded.address).height() > 0


def test_a_body_without_a_length_or_over_the_limit_is_not_read(embedded: EmbeddedChain) -> None:
    for length, status in (
        (str(BODY_LIMIT + 1), 413),
        ("9" * 30, 413),
        ("-1", 411),
        ("many", 411),
        ("1_0", 411),
    ):
        assert exchange(embedded.address, "POST", b"", {"Content-Length": length})[0] == status
    # One that really comes is cut off.
    parts = urlsplit(embedded.address)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as one:
        one.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            one.sendall(bytes(64 << 20))
    assert Chain.connect(embedded.address).height() > 0


def test_who_hangs_up_or_stalls_holds_up_nobody(embedded: EmbeddedChain, capfd: pytest.CaptureFixture[str]) -> None:
    parts = urlsplit(embedded.address)
    stalling = [socket.create_connection((parts.hostname, parts.port), timeout=20) for _ in range(20)]
    for one in stalling[:10]:
        one.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    for one in stalling[:5]:
        one.close()
    assert Chain.connect(embedded.address).height() > 0
    for one in stalling:
        one.close()
    assert capfd.readouterr() == ("", "")


def test_many_ask_at_once(embedded: EmbeddedChain) -> None:
    found: list[list[int]] = []

    def look() -> None:
        found.append(dates(Chain.connect(embedded.address)))

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    embedded.mine(50)
    for thread in threads:
        thread.join(60)
    last = dates(Chain.connect(embedded.address))
    assert len(found) == 6
    assert all(seen == last[: len(seen)] for seen in found)


def test_it_is_on_loopback_alone_and_ends_with_its_block() -> None:
    with EmbeddedChain() as embedded:
        assert urlsplit(embedded.address).hostname == "127.0.0.1"
        assert embedded._server.server_address[0] == "127.0.0.1"
        chain = Chain.connect(embedded.address)
        genesis = chain.block_hash(0)
        with EmbeddedChain() as another:
            assert another.address != embedded.address
            assert Chain.connect(another.address).block_hash(0) != genesis, "two chains begin alike"
        assert chain.block_hash(0) == genesis
    with pytest.raises(AnchorUnavailableError, match="cannot be reached"):
        chain.height()
    assert not [thread for thread in threading.enumerate() if thread.name == "polchain-embedded"]


LAZY = """
import sys
import polchain.anchors.embedded, polchain.anchors.events
early = {"web3", "eth_tester", "eth", "rlp", "trie", "eth_account", "eth_keys", "torch"} & set(sys.modules)
assert not early, early
"""

WITHOUT = """
import sys
sys.modules[{name!r}] = None
from polchain.anchors.embedded import EmbeddedChain
from polchain.errors import UnavailableError
try:
    EmbeddedChain().__enter__()
except UnavailableError as error:
    assert type(error) is UnavailableError and error.hint == "pip install 'polchain[demo]'", error
else:
    raise SystemExit("it began a chain out of nothing")
"""


@pytest.mark.parametrize(
    "code",
    [LAZY, WITHOUT.format(name="eth_tester"), WITHOUT.format(name="eth")],
    ids=["nothing heavy is loaded", "without eth-tester", "without py-evm"],
)
def test_what_is_loaded_and_what_is_missing(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
