"""HTTP POST for a source of time: small answers, one deadline, no redirects.

The deadline covers everything, name resolution and an answer that trickles in included; after it the connection is
closed. A redirect is refused, because it would turn the request into a GET of something else; so is any scheme but http
and https. Nothing is decompressed. Proxies are those of the environment. HTTP without TLS is good enough here: what
comes back is checked, not believed.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Final, Protocol

from polchain.errors import AnchorUnavailableError, UsageError

__all__ = ["ANSWER_LIMIT", "TIMEOUT", "Transport", "check_url", "exchange", "post"]

ANSWER_LIMIT: Final = 256 * 1024
TIMEOUT: Final = 20.0


class Transport(Protocol):
    """Sends a body and gives back the answer's; `post` is one, tests have their own."""

    def __call__(self, url: str, body: bytes, content_type: str) -> bytes:
        """Raises AnchorUnavailableError."""


def check_url(url: str) -> str:
    """The URL, if it may be posted to.

    Raises:
        UsageError: not http or https, no host, or a password in it (it would be printed and logged).
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError as error:
        raise UsageError(f"{url!a} is not a URL: {error}") from None
    if user is not None:
        raise UsageError("a URL with a user name or a password in it is not accepted")
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or any(c <= " " for c in url):
        raise UsageError(f"{url!a} is not an http or https URL")
    return url


def post(url: str, body: bytes, content_type: str, *, timeout: float = TIMEOUT, limit: int = ANSWER_LIMIT) -> bytes:
    """Send `body`; the answer's body, if it comes whole within `timeout` seconds and has at most `limit` bytes.

    Raises:
        AnchorUnavailableError: no connection, an HTTP error, a redirect, too slow, or too large.
        UsageError: see `check_url`.
    """
    check_url(url)
    try:
        return exchange(url, body, {"Content-Type": content_type}, timeout=timeout, limit=limit)
    except urllib.error.HTTPError as error:
        raise AnchorUnavailableError(f"{url}: HTTP {error.code}") from error
    except OSError as error:
        hint = "try again later" if isinstance(error, TimeoutError) else ""
        raise AnchorUnavailableError(f"{url}: {str(error) or type(error).__name__}", hint=hint) from error


def exchange(url: str, body: bytes, headers: Mapping[str, str], *, timeout: float, limit: int) -> bytes:
    """As `post`, for a URL that was checked; what it raises does not name the URL.

    Raises:
        OSError: HTTPError for any status but success; TimeoutError; ConnectionError; whatever the socket raises.
    """
    sockets = _Sockets()
    outcome: list[bytes | Exception] = []

    def work() -> None:
        try:
            outcome.append(_post(url, body, headers, timeout, limit, sockets))
        except Exception as error:  # handed to the caller's thread
            outcome.append(error)

    # Sockets time out by operation, so a server that sends a byte now and then would hold us.
    thread = threading.Thread(target=work, name="polchain-post", daemon=True)
    thread.start()
    thread.join(timeout)
    arrived = list(outcome)
    sockets.close()
    if not arrived:
        raise TimeoutError(f"no whole answer within {timeout:g} s")
    [result] = arrived
    if isinstance(result, bytes):
        return result
    if isinstance(result, urllib.error.HTTPError):
        result.close()
    elif isinstance(result, urllib.error.URLError) and isinstance(result.reason, OSError):
        raise result.reason
    elif isinstance(result, http.client.HTTPException | ValueError):
        raise ConnectionError(str(result) or type(result).__name__) from result
    raise result


class _Sockets:
    """The connections of one exchange, so that another thread can end them in the midst of a read."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._closed = False

    def add(self, one: socket.socket) -> None:
        with self._lock:
            if self._closed:
                raise TimeoutError
            # A second handle: TLS takes the first one over.
            self._open.append(one.dup())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


def _opener(sockets: _Sockets) -> urllib.request.OpenerDirector:
    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    # In this order the socket is known before TLS begins on it.
    class Secure(http.client.HTTPSConnection, Plain):
        pass

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req)

    return urllib.request.build_opener(_NoRedirect, Http, Https)


def _post(url: str, body: bytes, headers: Mapping[str, str], timeout: float, limit: int, sockets: _Sockets) -> bytes:
    said = {"User-Agent": "polchain", "Accept": "*/*", **headers}
    request = urllib.request.Request(url, data=body, headers=said, method="POST")
    with _opener(sockets).open(request, timeout=timeout) as answer:
        data: bytes = answer.read(limit + 1)
        if len(data) > limit:
            raise ConnectionError(f"the answer is over {limit} bytes")
        if answer.length:  # what the header announced, and did not come
            raise ConnectionError(f"the answer ends {answer.length} bytes early")
        return data
