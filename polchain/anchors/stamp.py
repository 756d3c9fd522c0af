"""What a time-stamp token proves (RFC 3161, 2.4.2 and appendix B), in ten steps.

     (1) limits and encoding
     (2) the imprint is SHA-256 of the note
     (3) the nonce is the one that was sent
     (4) exactly one certificate is the signer's,
     (5) made the signature,
     (6) is for time-stamping and nothing else, critically, and
     (7) was valid at that time
     (8) it is pinned, or leads to a pinned root, or both, as the policy says
     (9) rfc3161-client agrees, where there is a root
    (10) the policy OID is the one demanded

Certificates that come with a token are never trusted for coming with it: a root among them leads nowhere unless the
verifier holds the same root. Revocation lists are not consulted.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from rfc3161_client import TimeStampTokenInfo, VerificationError, VerifierBuilder, decode_timestamp_response

from polchain.anchors import certificates as x
from polchain.anchors.base import Target, Timestamp
from polchain.anchors.cms import TOKEN_LIMIT, Token, check_signature, parse_token
from polchain.anchors.der import GENERALIZED_TIME, INTEGER, OID, SEQUENCE, Reader, integer, wrap
from polchain.anchors.tsa import MAX_MARGIN, Tsa
from polchain.core.digest import Digest
from polchain.core.encoding import JSON, Fields
from polchain.errors import AnchorError, FormatError

__all__ = [
    "MAX_CERTIFICATES",
    "SHA256",
    "Stamp",
    "check_policy",
    "check_trust",
    "find_signer",
    "read_stamp",
    "timestamp",
]

MAX_CERTIFICATES: Final = 16
SHA256: Final = "2.16.840.1.101.3.4.2.1"

_NONCE: Final = re.compile(r"[0-9a-f]{16}")
_TIME: Final = re.compile(rb"([0-9]{14})(\.[0-9]*[1-9])?Z")


@dataclass(frozen=True, slots=True)
class Stamp:
    """A token that is consistent in itself; whose it is remains to be asked."""

    token: bytes
    info: TimeStampTokenInfo
    imprint: bytes
    nonce: int
    leaf: x509.Certificate
    fingerprint: Digest
    others: tuple[bytes, ...]
    time: datetime.datetime  # in whole seconds
    fraction: bool  # whether there was more


def read_stamp(body: Mapping[str, JSON], target: Target) -> Stamp:
    """Read a receipt's body, and check all that does not depend on whom one trusts: (1) to (7).

    Raises:
        FormatError: over a limit, or not of the form.
        AnchorError: of something else, or false in itself.
    """
    # (1)
    fields = Fields(dict(body), "RFC 3161 receipt")
    data = _unbase64(fields.str("token", max_length=TOKEN_LIMIT * 4 // 3 + 4))
    listed = tuple(_text(item) for item in fields.list("certificates", max_items=MAX_CERTIFICATES))
    nonce, algorithm = fields.str("nonce", max_length=16), fields.str("hash", max_length=16)
    fields.done()
    if algorithm != "sha256" or _NONCE.fullmatch(nonce) is None:
        raise FormatError("RFC 3161 receipt: the hash is not sha256, or the nonce is not 16 hexadecimal digits")
    token = parse_token(data)
    info = _info(data)
    time = info.gen_time.astimezone(datetime.UTC)
    # (2)
    imprint = hashlib.sha256(target.note).digest()
    if info.message_imprint.hash_algorithm.dotted_string != SHA256 or info.message_imprint.message != imprint:
        raise AnchorError("the token is over something else than this note")
    # (3)
    if info.nonce != int(nonce, 16):
        raise AnchorError("the token's nonce is not the one that was sent")
    # (4), (5), (6), (7)
    known = tuple(dict.fromkeys((*token.certificates, *map(_unbase64, listed))))
    der, leaf = find_signer(token, known)
    check_signature(token, leaf, der)
    x.check_time_stamping(leaf)
    x.check_valid(leaf, time)
    fingerprint = Digest("sha256", hashlib.sha256(der).digest())
    others = tuple(other for other in known if other != der)
    return Stamp(
        data, info, imprint, int(nonce, 16), leaf, fingerprint, others, time, _has_fraction(token.content, time)
    )


def check_trust(stamp: Stamp, tsa: Tsa) -> None:
    """Check that the token is this authority's: (8) and (9).

    Raises:
        AnchorError: nothing is pinned, another certificate signed, no path to a root, or rfc3161-client refuses.
    """
    # (8)
    if not tsa.certificates and not tsa.roots:
        raise AnchorError(f"TSA {tsa.name}: nothing is pinned", hint="give its certificate's SHA-256, or its root")
    if tsa.certificates and stamp.fingerprint not in tsa.certificates:
        raise AnchorError(
            f"TSA {tsa.name}: the token was signed with a certificate that is not pinned, {stamp.fingerprint}",
            hint="pin it only if you know from elsewhere that it is theirs",
        )
    if not tsa.roots:
        return
    path = x.find_path(stamp.leaf, stamp.others, tsa.roots, stamp.time)
    if path is None:
        raise AnchorError(
            f"TSA {tsa.name}: the token's certificate, {stamp.fingerprint}, does not lead to a pinned root"
        )
    # (9) Only certificates that lead to the pinned root are shown to the library: it trusts what it is given.
    *between, root = path
    builder = VerifierBuilder(tsa_certificate=stamp.leaf, intermediates=between, roots=[root], nonce=stamp.nonce)
    try:
        agreed = builder.build().verify(decode_timestamp_response(_granting(stamp.token)), stamp.imprint)
    except (VerificationError, ValueError, TypeError) as error:
        raise AnchorError(f"TSA {tsa.name}: the token does not verify: {str(error)[:300]}") from error
    if not agreed:
        raise AnchorError(f"TSA {tsa.name}: the token does not verify")


def check_policy(stamp: Stamp, tsa: Tsa) -> None:
    """Check that the token is under the policy that is demanded, if one is: (10).

    Raises:
        AnchorError: it is under another.
    """
    # (10)
    found = stamp.info.policy.dotted_string
    if tsa.policy and found != tsa.policy:
        raise AnchorError(f"TSA {tsa.name}: the token is under policy {found}, not under {tsa.policy}")


def timestamp(stamp: Stamp, tsa: Tsa) -> Timestamp:
    """What the token proves. Times and margins are whole seconds, rounded to the side that claims less.

    Raises:
        AnchorError: a margin of more than a day.
    """
    accuracy = stamp.info.accuracy
    margin = tsa.margin
    # One that is empty states nothing: it is not an accuracy of zero.
    if accuracy is not None and any(part is not None for part in (accuracy.seconds, accuracy.millis, accuracy.micros)):
        micros = (accuracy.seconds or 0) * 10**6 + (accuracy.millis or 0) * 1000 + (accuracy.micros or 0)
        margin = -(-micros // 10**6)
    if not 0 <= margin <= MAX_MARGIN:
        raise AnchorError(f"TSA {tsa.name}: a token that is accurate to {margin} s says nothing")
    time = int(stamp.time.timestamp()) + stamp.fraction
    return Timestamp(f"TSA {tsa.name}", time, margin, "final")


def find_signer(token: Token, known: Sequence[bytes]) -> tuple[bytes, x509.Certificate]:
    """The one certificate with the signer's issuer and serial number, as DER and loaded.

    Raises:
        AnchorError: none, or two of them, which would be a trick.
        FormatError: a certificate that cannot be read.
    """
    loaded = [(der, x.load(der)) for der in known]
    found = [
        (der, cert)
        for der, cert in loaded
        if cert.serial_number == token.serial and x.issuer_bytes(cert) == token.issuer
    ]
    if not found:
        raise AnchorError("the certificate of the token's signer is not there")
    if len(found) > 1:
        raise AnchorError("two different certificates pass for the token's signer")
    return found[0]


def _has_fraction(content: bytes, time: datetime.datetime) -> bool:
    """Whether genTime is later than `time`, which rfc3161-client gives in whole seconds (RFC 3161, 2.4.2)."""
    info = Reader(content, "time-stamp token").inside(SEQUENCE)
    for tag in (INTEGER, OID, SEQUENCE, INTEGER):
        info.content(tag)
    match = _TIME.fullmatch(info.content(GENERALIZED_TIME))
    if match is None or match[1] != time.strftime("%Y%m%d%H%M%S").encode():
        raise FormatError("time-stamp token: a time that is not of the form YYYYMMDDhhmmss[.s]Z")
    return match[2] is not None


def _info(token: bytes) -> TimeStampTokenInfo:
    try:
        info = decode_timestamp_response(_granting(token)).tst_info
        _ = info.policy, info.nonce, info.accuracy, info.message_imprint.message
        _ = info.gen_time.astimezone(datetime.UTC)
        return info
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"time-stamp token: {str(error)[:300]}") from error


def _granting(token: bytes) -> bytes:
    """The TimeStampResp that grants a token (RFC 3161, 2.4.2)."""
    return wrap(SEQUENCE, wrap(SEQUENCE, integer(0)), token)


def _text(value: JSON) -> str:
    if type(value) is not str or len(value) > x.CERTIFICATE_LIMIT * 4 // 3 + 4:
        raise FormatError("RFC 3161 receipt: a certificate is base64 text of at most 16 KiB")
    return value


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise FormatError("RFC 3161 receipt: not base64") from None
    if base64.b64encode(data).decode() != text:
        raise FormatError("RFC 3161 receipt: base64 that is not canonical")
    return data
