"""The demo's chain: eth-tester in this process, behind JSON-RPC on a loopback port, for this process and others.

    with EmbeddedChain() as chain:
        chain.address       http://127.0.0.1:40111, for `--network embedded --rpc`
        chain.account       who has money: the address and the private key, which everybody knows
        chain.mine(64)      blocks on top

PolAnchor is on it. A transaction has its block at once. Every block is at least a second younger than its parent, so
those that are mined at once take up a minute or more on their dates: blocks are dated some way behind the clock, catch
up with it in such a rush, and what would still be of the future waits.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from polchain.anchors.chain import Chain
from polchain.anchors.deploy import deploy
from polchain.anchors.journal import Journal
from polchain.anchors.networks import named
from polchain.anchors.sender import Sender
from polchain.anchors.wallet import Key
from polchain.errors import UnavailableError

__all__ = ["EmbeddedChain"]

BEHIND: Final = 150  # seconds; two beacons' worth of blocks and some
AHEAD: Final = 2  # seconds; how far a block may be dated before the clock
BODY_LIMIT: Final = 1 << 20
MAX_OPENED: Final = 500  # arrays and objects in one request
TIMEOUT: Final = 10

# The first of eth-tester's accounts.
_KEY: Final = (1).to_bytes(32, "big")

# Without those that turn the clock, mine or revert: the chain's owner does that.
_NAMESPACES: Final = ("eth", "net", "web3")

# JSON-RPC 2.0, 5.1; and what nodes take for the rest.
_NO_JSON, _NO_REQUEST, _NO_METHOD, _REFUSED = -32700, -32600, -32601, -32000

_log = logging.getLogger("polchain")


class EmbeddedChain:
    """A chain of one's own, from `with` to the end of its block.

    Attributes:
        address: where it is served, for `Chain.connect`.
        account: an account with money: its address, its private key.
        behind: how many seconds behind the clock blocks are dated, and so how many can be mined at once.
    """

    address: str
    account: tuple[bytes, bytes]

    def __init__(self, *, behind: int = BEHIND) -> None:
        self.behind = behind
        self._lock = threading.RLock()

    def __enter__(self) -> EmbeddedChain:
        """Begin the chain, deploy PolAnchor, and serve.

        Raises:
            UnavailableError: eth-tester is not installed.
        """
        self._begin()
        self._server = _Server(self.answer)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="polchain-embedded", daemon=True
        )
        self._thread.start()
        try:
            self._deploy()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def mine(self, blocks: int = 1) -> None:
        """Put blocks on top; waits for the clock where they would be of the future."""
        for _ in range(blocks):
            with self._lock:
                early = self._date() - time.time() - AHEAD
            if early > 0:
                time.sleep(early)
            with self._lock:
                self._date()
                self._tester.mine_block()

    def answer(self, body: bytes) -> bytes:
        """What the chain says to a JSON-RPC request."""
        name: Any = None
        # py-evm raises the recursion limit: too deep a body would overflow the parser's stack.
        if body.count(b"[") + body.count(b"{") > MAX_OPENED:
            return _error(name, _NO_REQUEST, "too many arrays and objects")
        try:
            request = json.loads(body)
        except ValueError:
            return _error(name, _NO_JSON, "not JSON")
        if not isinstance(request, dict):
            return _error(name, _NO_REQUEST, "not a request; batches are not served")
        name = request.get("id") if isinstance(request.get("id"), str | int) else None
        method, parameters = request.get("method"), request.get("params", [])
        if not isinstance(method, str) or not isinstance(parameters, list):
            return _error(name, _NO_REQUEST, "a request has a method, and parameters in an array")
        if method.partition("_")[0] not in _NAMESPACES:
            return _error(name, _NO_METHOD, f"no such method: {method[:60]}")
        try:
            with self._lock:
                if method.startswith("eth_send"):
                    self._date()
                response = self._request(method, parameters)
            if "error" in response:
                return _error(name, response["error"]["code"], response["error"]["message"])
            return _json({"jsonrpc": "2.0", "id": name, "result": _plain(response["result"])})
        # eth-tester and py-evm raise what they like at bad parameters and bad transactions; a node says it.
        except Exception as error:
            return _error(name, _REFUSED, str(error) or type(error).__name__)

    def _begin(self) -> None:
        """Make the chain's first block."""
        try:
            for name in ("eth_tester", "eth"):
                importlib.import_module(name)
        except ImportError as error:
            raise UnavailableError(
                "the embedded chain is eth-tester with py-evm, which is not installed",
                hint="pip install 'polchain[demo]'",
            ) from error
        from eth_tester import EthereumTester, PyEVMBackend  # type: ignore[import-untyped]
        from web3 import EthereumTesterProvider, Web3

        # Random, so that no two chains begin alike: a journal of what was sent is known by the genesis.
        own = {"timestamp": int(time.time()) - self.behind, "mix_hash": os.urandom(32)}
        backend = PyEVMBackend(genesis_parameters=PyEVMBackend.generate_genesis_params(own))
        self._chain: Any = backend.chain
        self._tester: Any = EthereumTester(backend)
        provider = EthereumTesterProvider(self._tester)
        web3 = Web3(provider, middleware=[])
        self._request: Callable[[Any, Any], Any] = provider.request_func(web3, web3.middleware_onion)

    def _deploy(self) -> None:
        wallet = Key(_KEY)
        self.account = (wallet.address, _KEY)
        with tempfile.TemporaryDirectory() as folder:
            sender = Sender(named("embedded"), Chain.connect(self.address), wallet, Journal(Path(folder)))
            deploy(sender, with_proxy=True, patience=TIMEOUT)

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _date(self) -> int:
        """Date the block that is mined next."""
        date: int = max(self._chain.get_canonical_head().timestamp + 1, int(time.time()) - self.behind)
        # Left alone, py-evm dates a block when the one before it is mined.
        self._chain.set_header_timestamp(date)
        return date


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up or stalls hurts nobody else."""
        _log.debug("embedded chain: a connection failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One POST a connection."""

    server: _Server
    timeout = TIMEOUT

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self.send_error(411)
        if len(length) > 9 or int(length) > BODY_LIMIT:
            return self.send_error(413)
        answer = self.server.answer(self.rfile.read(int(length)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        return None

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("embedded chain: %s", format % args)


def _plain(value: Any, name: str = "") -> Any:
    """A value as a node writes it: numbers and bytes are 0x and hexadecimal."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        # eth-tester has the bloom, 256 bytes, as a number.
        return f"0x{value:0512x}" if name == "logsBloom" else hex(value)
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, Mapping):
        return {str(key): _plain(item, str(key)) for key, item in value.items()}
    return [_plain(item) for item in value]


def _error(name: Any, code: int, message: str) -> bytes:
    line = " ".join(message.split())[:300]
    return _json({"jsonrpc": "2.0", "id": name, "error": {"code": code, "message": line}})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
