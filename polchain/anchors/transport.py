"""HTTP POST for a source of time: small answers, one deadline, no redirects.

The deadline covers everything, name resolution and an answer that trickles in included. A redirect is refused, because
it would turn the request into a GET of something else; so is any scheme but http and https. Proxies are those of the
environment. HTTP without TLS is good enough here: what comes back is checked, not believed.
"""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Final, Protocol

from polchain.errors import AnchorUnavailableError, UsageError

__all__ = ["ANSWER_LIMIT", "TIMEOUT", "Transport", "check_url", "post"]

ANSWER_LIMIT: Final = 256 * 1024
TIMEOUT: Final = 20.0


class Transport(Protocol):
    """Sends a body and gives back the answer's; `post` is one, tests have their own."""

    def __call__(self, url: str, body: bytes, content_type: str) -> bytes:
        """Raises AnchorUnavailableError."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


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
    outcome: list[bytes | Exception] = []

    def work() -> None:
        try:
            outcome.append(_post(url, body, content_type, timeout, limit))
        except Exception as error:  # handed to the caller's thread
            outcome.append(error)

    # Sockets time out by operation, so a server that sends a byte now and then would hold us: its thread is left.
    thread = threading.Thread(target=work, name="polchain-post", daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise AnchorUnavailableError(f"{url}: no whole answer within {timeout:g} s", hint="try again later")
    [result] = outcome
    if isinstance(result, bytes):
        return result
    if isinstance(result, urllib.error.HTTPError):
        raise AnchorUnavailableError(f"{url}: HTTP {result.code}") from result
    if isinstance(result, OSError | http.client.HTTPException | ValueError):
        raise AnchorUnavailableError(f"{url}: {str(result) or type(result).__name__}") from result
    raise result


def _post(url: str, body: bytes, content_type: str, timeout: float, limit: int) -> bytes:
    headers = {"Content-Type": content_type, "User-Agent": "polchain", "Accept": "*/*"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as answer:
        data: bytes = answer.read(limit + 1)
        if len(data) > limit:
            raise AnchorUnavailableError(f"{url}: the answer is over {limit} bytes")
        if answer.length:  # what the header announced, and did not come
            raise AnchorUnavailableError(f"{url}: the answer ends {answer.length} bytes early")
        return data
