"""RFC 3161: a time-stamping authority (TSA) signs SHA-256 of the whole signed note, and the time.

A receipt's body:

    {"certificates": [base64 DER, ...],    the TSA's certificate first, then what leads to its root, as far as known
     "hash": "sha256",
     "nonce": "<16 hex digits>",           what the request asked to be repeated
     "token": "<base64 DER>"}              the TimeStampToken; `openssl ts -verify -token_in` reads it

Which TSA may be believed is in `tsa`, what a token proves in `stamp`. A batch has no note, so each of its heads is
stamped by itself: it costs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Final

from polchain.anchors.base import Receipt, Target, Timestamp
from polchain.anchors.certificates import order
from polchain.anchors.cms import parse_token
from polchain.anchors.der import BOOLEAN, INTEGER, NULL, OCTETS, SEQUENCE, Reader, integer, oid, read_integer, wrap
from polchain.anchors.stamp import (
    MAX_CERTIFICATES,
    SHA256,
    check_policy,
    check_trust,
    find_signer,
    read_stamp,
    timestamp,
)
from polchain.anchors.transport import Transport, post
from polchain.anchors.tsa import Tsa
from polchain.core.encoding import JSON
from polchain.errors import AnchorError, AnchorUnavailableError, EvidenceError, UsageError

__all__ = ["KIND", "Rfc3161Anchor", "check_token", "submit_all"]

KIND: Final = "rfc3161"

_STATUS: Final = ("granted", "granted with changes", "rejected", "waiting", "revocation warning", "revoked")


class Rfc3161Anchor:
    """One time-stamping authority behind the seam of `anchors.base`."""

    kind: ClassVar[str] = KIND

    def __init__(self, tsa: Tsa, transport: Transport = post) -> None:
        self.tsa = tsa
        self._transport = transport

    def submit(self, target: Target) -> Receipt:
        """Have the note stamped. What comes back is checked before it is kept; it costs nothing to ask again.

        Raises:
            AnchorUnavailableError: the TSA cannot be reached, refuses, or answers something that would not be accepted.
            UsageError: a batch, which has no note of its own, or a TSA without a URL.
        """
        if not target.note:
            raise UsageError("a time-stamping authority stamps one signed head, not a batch", hint="ask it for each")
        if not self.tsa.url:
            raise UsageError(f"TSA {self.tsa.name}: no URL to send the request to")
        nonce = secrets.randbits(64)
        imprint = hashlib.sha256(target.note).digest()
        request = _request(imprint, nonce, self.tsa.policy)
        answer = self._transport(self.tsa.url, request, "application/timestamp-query")
        try:
            token = _granted(answer, self.tsa)
            body = _body(token, nonce, self.tsa)
            stamp = read_stamp(body, target)
            check_policy(stamp, self.tsa)
            if self.tsa.certificates or self.tsa.roots:
                check_trust(stamp, self.tsa)
        except EvidenceError as error:
            raise AnchorUnavailableError(f"TSA {self.tsa.name}: a useless answer: {error}") from error
        return Receipt(KIND, "final", body)

    def upgrade(self, receipt: Receipt, target: Target) -> Receipt:
        """The receipt as it is: a token is final from the start."""
        return receipt

    def check(self, receipt: Receipt, target: Target) -> Timestamp:
        """What the token proves; see `check_token`."""
        return check_token(receipt, target, (self.tsa,))


def submit_all(anchors: Sequence[Rfc3161Anchor], target: Target) -> list[Receipt | AnchorUnavailableError]:
    """Ask several authorities at once: a receipt or the reason why not for each, in their order."""

    def ask(anchor: Rfc3161Anchor) -> Receipt | AnchorUnavailableError:
        try:
            return anchor.submit(target)
        except AnchorUnavailableError as error:
            return error

    with ThreadPoolExecutor(max(1, min(len(anchors), 16))) as pool:
        return list(pool.map(ask, anchors))


def check_token(receipt: Receipt, target: Target, trusted: Sequence[Tsa]) -> Timestamp:
    """When one of the trusted authorities saw the target's note (RFC 3161, 2.4.2 and appendix B).

    `stamp` has the steps. Of several authorities, one that accepts the token is enough.

    Raises:
        FormatError: not of the form, or over a limit.
        AnchorError: false, of something else, or nobody's who is trusted; each by name.
    """
    if receipt.kind != KIND:
        raise AnchorError(f"a receipt of kind {receipt.kind!a} is no time-stamp token")
    if not target.note:
        raise AnchorError("a time-stamp token is over one signed head, and this is a batch")
    stamp = read_stamp(receipt.body, target)
    refusal: AnchorError | None = None
    for tsa in trusted:
        try:
            check_trust(stamp, tsa)
            check_policy(stamp, tsa)
        except AnchorError as error:
            # Of several refusals, the one of an authority that this certificate belongs to says most.
            if refusal is None or stamp.fingerprint in tsa.certificates:
                refusal = error
            continue
        return timestamp(stamp, tsa)
    raise refusal or AnchorError("no time-stamping authority is trusted", hint=f"pin {stamp.fingerprint}")


def _request(imprint: bytes, nonce: int, policy: str) -> bytes:
    """A TimeStampReq that asks for the TSA's certificate (RFC 3161, 2.4.1)."""
    hashed = wrap(SEQUENCE, wrap(SEQUENCE, oid(SHA256), wrap(NULL)), wrap(OCTETS, imprint))
    wanted = oid(policy) if policy else b""
    return wrap(SEQUENCE, integer(1), hashed, wanted, integer(nonce), wrap(BOOLEAN, b"\xff"))


def _granted(answer: bytes, tsa: Tsa) -> bytes:
    """The token of a TimeStampResp. Granted with changes will do: whatever matters is checked."""
    outer = Reader(answer, "answer")
    response = outer.inside(SEQUENCE)
    outer.done()
    status = read_integer(response.inside(SEQUENCE).content(INTEGER), "answer")
    if status not in (0, 1):
        name = _STATUS[status] if 0 <= status < len(_STATUS) else f"status {status}"
        raise AnchorUnavailableError(f"TSA {tsa.name}: {name}", hint="it may not offer this policy, or SHA-256")
    token = response.whole(SEQUENCE)
    response.done()
    return token


def _body(token: bytes, nonce: int, tsa: Tsa) -> dict[str, JSON]:
    """The receipt's body. The certificates stand in order, leaf first, as far as they lead."""
    parsed = parse_token(token)
    known = tuple(dict.fromkeys((*parsed.certificates, *tsa.chain, *tsa.roots)))
    leaf, _ = find_signer(parsed, known)
    chain = order(leaf, known)[:MAX_CERTIFICATES]
    listed: list[JSON] = [base64.b64encode(der).decode() for der in chain]
    return {
        "certificates": listed,
        "hash": "sha256",
        "nonce": f"{nonce:016x}",
        "token": base64.b64encode(token).decode(),
    }
