"""X.509 certificates of time-stamping authorities (RFC 5280; RFC 3161, section 2.3).

A path goes from the TSA's certificate to a root that the verifier holds. What comes with a token may stand between,
and ends a path never.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from polchain.errors import AnchorError, FormatError

__all__ = ["CERTIFICATE_LIMIT", "check_time_stamping", "check_valid", "find_path", "issuer_bytes", "load", "order"]

CERTIFICATE_LIMIT: Final = 16 * 1024
MAX_PATH: Final = 8

# What cryptography raises where an encoding or an algorithm is not one that it knows.
_BROKEN: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def load(der: bytes) -> x509.Certificate:
    """Read one certificate, with its key and its extensions.

    Raises:
        FormatError: over 16 KiB, or something in it that cannot be read.
    """
    if len(der) > CERTIFICATE_LIMIT:
        raise FormatError(f"certificate: {len(der)} bytes, the limit is {CERTIFICATE_LIMIT}")
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        _ = certificate.extensions, certificate.issuer, certificate.not_valid_after_utc, certificate.version
    except _BROKEN as error:
        raise FormatError(f"certificate: it cannot be read: {error}") from error
    return certificate


def issuer_bytes(certificate: x509.Certificate) -> bytes:
    """The issuer's name, as CMS names it."""
    return certificate.issuer.public_bytes()


def check_time_stamping(leaf: x509.Certificate) -> None:
    """Check that the certificate is for time-stamping and nothing else, critically (RFC 3161, 2.3).

    Raises:
        AnchorError: no such extension, not critical, or another purpose, alone or besides.
    """
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        raise AnchorError("the TSA's certificate is not for time-stamping: it has no extended key usage") from None
    if not usage.critical:
        raise AnchorError("the TSA's certificate is for time-stamping, but does not say so critically")
    if list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise AnchorError("the TSA's certificate is not for time-stamping, or not for that alone")


def check_valid(certificate: x509.Certificate, time: datetime.datetime) -> None:
    """Check that the certificate was valid at that time.

    Raises:
        AnchorError: it was not valid yet, or no longer.
    """
    if not certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc:
        raise AnchorError(f"the TSA's certificate was not valid at the token's time, {time:%Y-%m-%d %H:%M:%S} UTC")


def find_path(
    leaf: x509.Certificate, others: Sequence[bytes], roots: Sequence[bytes], time: datetime.datetime
) -> list[x509.Certificate] | None:
    """The shortest path of issuers from `leaf` to one of `roots`, every one of them valid at that time, or None.

    The leaf is not part of it, except where the leaf itself is such a root.
    """
    trusted = [load(der) for der in roots]
    if leaf in trusted:
        return [leaf]
    between = [cert for cert in map(load, others) if cert not in trusted and cert != leaf]
    paths: list[list[x509.Certificate]] = [[]]
    for depth in range(MAX_PATH):
        longer: list[list[x509.Certificate]] = []
        for path in paths:
            lowest = path[-1] if path else leaf
            for root in trusted:
                if _issued(root, lowest, depth, time):
                    return [*path, root]
            found = [cert for cert in between if _issued(cert, lowest, depth, time)]
            between = [cert for cert in between if cert not in found]  # each is tried once
            longer += [[*path, cert] for cert in found]
        paths = longer
    return None


def order(leaf: bytes, known: Sequence[bytes]) -> list[bytes]:
    """The certificates that lead upwards from `leaf`, as far as they are known, beginning with it."""
    chain = [leaf]
    rest = [der for der in known if der != leaf]
    while len(chain) <= MAX_PATH:
        lowest = load(chain[-1])
        above = next((der for der in rest if _signed(load(der), lowest)), None)
        if above is None:
            break
        chain.append(above)
        rest.remove(above)
    return chain


def _issued(issuer: x509.Certificate, subject: x509.Certificate, below: int, time: datetime.datetime) -> bool:
    """Whether `issuer` may have issued `subject`, with `below` authorities between it and the leaf (RFC 5280, 6.1)."""
    if not issuer.not_valid_before_utc <= time <= issuer.not_valid_after_utc:
        return False
    if not _may_issue(issuer):
        return False
    try:
        basic = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not basic.ca or (basic.path_length is not None and basic.path_length < below):
            return False
        if not issuer.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            return False
    except x509.ExtensionNotFound as missing:
        if missing.oid == x509.BasicConstraints.oid:
            return False
    return _signed(issuer, subject)


def _may_issue(issuer: x509.Certificate) -> bool:
    """Whether an authority may issue certificates for time-stamping: one with purposes of its own only for these."""
    try:
        usage = issuer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool({ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage))


def _signed(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    try:
        subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_BROKEN):
        return False
    return True
