"""A node on HTTP that answers too slowly, too much, packed, or elsewhere: named, in time, and nothing is left of it."""

from __future__ import annotations

import gzip
import json
import sys
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from polchain.anchors.chain import Chain
from polchain.anchors.provider import HttpProvider
from polchain.errors import AnchorUnavailableError, UsageError
from tests.anchors.authority import Respond, replying, serve


def node(url: str) -> Chain:
    """As `Chain.connect` makes it, with less patience."""
    return Chain(HttpProvider(url, timeout=1, limit=2**20), "the node")


def trickling(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"1\r\n \r\n")
        time.sleep(0.1)


def trickling_headers(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.1)


def endless(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")


def packed(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    body = gzip.compress(b'{"jsonrpc":"2.0","id":0,"result":"0x1"}')
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def redirecting(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.send_response(307)
    handler.send_header("Location", handler.path + "/again")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def result(text: bytes) -> Respond:
    return replying(lambda _: b'{"jsonrpc":"2.0","id":0,"result":' + text + b"}")


BAD: dict[str, tuple[Respond, str]] = {
    "trickling": (trickling, r"the node cannot be reached \(no whole answer within 1 s\)"),
    "trickling headers": (trickling_headers, r"the node cannot be reached \(no whole answer within 1 s\)"),
    "endless": (endless, r"the node cannot be reached \(the answer is over 1048576 bytes\)"),
    "a redirect": (redirecting, r"the node cannot be reached \(HTTP 307\)"),
    "packed": (packed, "the node refuses eth_chainId"),
    "nested": (result(b"[" * 200_000 + b"]" * 200_000), "the node refuses eth_chainId: more than 32 levels"),
    "a number of many digits": (result(b"9" * 500_000), "the node refuses eth_chainId"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_named_in_time(name: str) -> None:
    respond, why = BAD[name]
    with serve(respond) as url:
        begun = time.monotonic()
        with pytest.raises(AnchorUnavailableError, match=why):
            node(url).ask("eth_chainId")
        assert time.monotonic() - begun < 3


def test_nesting_overflows_nothing_where_somebody_raised_the_recursion_limit() -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        with serve(BAD["nested"][0]) as url, pytest.raises(AnchorUnavailableError, match="more than 32 levels"):
            node(url).ask("eth_chainId")
    finally:
        sys.setrecursionlimit(before)


def test_a_user_and_a_password_are_sent_and_never_shown() -> None:
    seen: list[Any] = []

    def respond(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        seen.append((handler.headers["Authorization"], json.loads(body)["method"]))
        result(b'"0x1"')(handler, body)

    with serve(respond) as url:
        chain = Chain.connect(url.replace("http://", "http://me:se%20cret@"))
        assert chain.ask("eth_chainId") == "0x1"
    assert seen == [("Basic bWU6c2UgY3JldA==", "eth_chainId")]
    with pytest.raises(AnchorUnavailableError) as caught:
        chain.ask("eth_chainId")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://[", "http://host:port/key", "http://host/a key"])
def test_an_address_that_is_none_is_a_usage_error_without_its_path(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        Chain.connect(address)
    assert "key" not in str(caught.value)
