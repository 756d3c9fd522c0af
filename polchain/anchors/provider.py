"""JSON-RPC over HTTP, for web3: POST, one deadline, a limit on the answer, nothing followed and nothing decompressed.

web3's own provider times out by read, holds an answer of any size, and follows redirects; a node is a stranger.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from web3.providers.base import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from polchain.anchors.transport import check_url, exchange
from polchain.core.encoding import check_nesting
from polchain.errors import UsageError

__all__ = ["ANSWER_LIMIT", "TIMEOUT", "HttpProvider"]

TIMEOUT = 20.0
ANSWER_LIMIT = 64 * 2**20
PAUSES = (0.2, 0.4)  # before a refused connection is tried again: a node that is just starting


class HttpProvider(JSONBaseProvider):
    """A node at an http or https URL; a user name and a password in it are sent as basic authentication."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT, limit: int = ANSWER_LIMIT) -> None:
        """Raises UsageError if nothing can be posted to that URL."""
        super().__init__()
        parts = urlsplit(url)
        account, _, host = parts.netloc.rpartition("@")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if account:
            self._headers["Authorization"] = f"Basic {base64.b64encode(unquote(account).encode()).decode()}"
        try:
            self._url = check_url(urlunsplit(parts._replace(netloc=host, fragment="")))
        except UsageError:
            # Its message would hold the path.
            raise UsageError(f"the address of the node at {parts.hostname} is not an http or https URL") from None
        self._timeout, self._limit = timeout, limit

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The node's answer, as it is.

        Raises:
            OSError: none came, or none whole; see `exchange`.
            ValueError: it is not JSON.
            FormatError: it is nested too deeply.
        """
        body = self.encode_rpc_request(method, params)
        for pause in (*PAUSES, None):
            try:
                answer = exchange(self._url, body, self._headers, timeout=self._timeout, limit=self._limit)
                break
            except ConnectionRefusedError:
                if pause is None:
                    raise
                time.sleep(pause)
        text = answer.decode("utf-8")
        check_nesting(text)
        found: RPCResponse = json.loads(text)
        return found
