"""The signature of a time-stamp token (RFC 5652; RFC 3161, section 2.4.2; RFC 5816), checked against one certificate.

    ContentInfo
    └── SignedData                   exactly one signer
        ├── eContent                 the TSTInfo: what was stamped, and when
        ├── certificates             anybody's: nothing here is trusted for being here
        └── SignerInfo               issuer and serial number of the signer's certificate
            ├── signed attributes    content type, digest of eContent, hash of the signer's certificate
            └── signature            over the signed attributes

This stands beside `rfc3161-client` on purpose: up to 1.0.8 that library could be shown one certificate while another
had signed. Here the caller says which certificate must have signed, and that one key is tried.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from polchain.anchors.der import INTEGER, OCTETS, OID, SEQUENCE, SET, Reader, oid, read_integer, wrap
from polchain.errors import AnchorError, FormatError

__all__ = ["TOKEN_LIMIT", "Token", "check_signature", "parse_token"]

TOKEN_LIMIT: Final = 256 * 1024
MAX_CERTIFICATES: Final = 32

_WHAT: Final = "time-stamp token"
_CONTEXT_0: Final = 0xA0
_CONTEXT_1: Final = 0xA1

_SIGNED_DATA: Final = oid("1.2.840.113549.1.7.2")
_TST_INFO: Final = oid("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE: Final = oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST: Final = oid("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE: Final = oid("1.2.840.113549.1.9.16.2.12")
_SIGNING_CERTIFICATE_V2: Final = oid("1.2.840.113549.1.9.16.2.47")

_Hash: TypeAlias = type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]

_HASHES: Final[dict[bytes, _Hash]] = {
    oid("2.16.840.1.101.3.4.2.1"): hashes.SHA256,
    oid("2.16.840.1.101.3.4.2.2"): hashes.SHA384,
    oid("2.16.840.1.101.3.4.2.3"): hashes.SHA512,
}
_RSA: Final = oid("1.2.840.113549.1.1.1")  # the hash is the signer's digest algorithm
_RSA_WITH: Final[dict[bytes, _Hash]] = {
    oid("1.2.840.113549.1.1.11"): hashes.SHA256,
    oid("1.2.840.113549.1.1.12"): hashes.SHA384,
    oid("1.2.840.113549.1.1.13"): hashes.SHA512,
}
_ECDSA_WITH: Final[dict[bytes, _Hash]] = {
    oid("1.2.840.10045.4.3.2"): hashes.SHA256,
    oid("1.2.840.10045.4.3.3"): hashes.SHA384,
    oid("1.2.840.10045.4.3.4"): hashes.SHA512,
}
_ED25519: Final = oid("1.3.101.112")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it was read; nothing in it is checked."""

    content: bytes  # the TSTInfo, DER
    certificates: tuple[bytes, ...]  # DER, in no particular order
    issuer: bytes  # of the signer's certificate: a Name, DER
    serial: int
    digest_algorithm: bytes  # OIDs, DER
    signature_algorithm: bytes
    attributes: bytes  # the signed attributes, as the SET that is signed
    signature: bytes


def parse_token(data: bytes) -> Token:
    """Read a ContentInfo that holds a TSTInfo (RFC 3161, 2.4.2).

    Raises:
        FormatError: not DER, not a token, over a limit, not exactly one signer, one that is not named by issuer and
            serial number, or no signed attributes.
    """
    if len(data) > TOKEN_LIMIT:
        raise FormatError(f"{_WHAT}: {len(data)} bytes, the limit is {TOKEN_LIMIT}")
    outer = Reader(data, _WHAT)
    info = outer.inside(SEQUENCE)
    outer.done()
    _expect(info, _SIGNED_DATA, "not signed data")
    explicit = info.inside(_CONTEXT_0)
    info.done()
    signed = explicit.inside(SEQUENCE)
    explicit.done()
    signed.content(INTEGER)
    signed.content(SET)
    content = _content(signed.inside(SEQUENCE))
    certificates = _certificates(signed.inside(_CONTEXT_0)) if signed.next_is(_CONTEXT_0) else ()
    if signed.next_is(_CONTEXT_1):  # revocation lists: not used
        signed.skip()
    signers = signed.inside(SET)
    signed.done()
    signer = signers.inside(SEQUENCE)
    if signers.more():
        raise FormatError(f"{_WHAT}: more than one signer")
    signer.content(INTEGER)
    name = signer.inside(SEQUENCE)
    issuer = name.whole(SEQUENCE)
    serial = read_integer(name.content(INTEGER), _WHAT)
    name.done()
    digest_algorithm = signer.inside(SEQUENCE).whole(OID)
    attributes = wrap(SET, signer.content(_CONTEXT_0))  # signed with the tag of a SET (RFC 5652, 5.4)
    signature_algorithm = signer.inside(SEQUENCE).whole(OID)
    signature = signer.content(OCTETS)
    if signer.next_is(_CONTEXT_1):  # unsigned attributes: not used
        signer.skip()
    signer.done()
    return Token(content, certificates, issuer, serial, digest_algorithm, signature_algorithm, attributes, signature)


def check_signature(token: Token, certificate: x509.Certificate, der: bytes) -> None:
    """Check that the key of `certificate`, whose encoding is `der`, signed the token (RFC 5652, 5.6; RFC 5816, 2.2.1).

    Whether that certificate is to be trusted is the caller's question.

    Raises:
        AnchorError: the content is not what was signed, another certificate is meant, an algorithm that is not
            accepted (SHA-1 among them), or a wrong signature.
        FormatError: malformed attributes.
    """
    digest = _HASHES.get(token.digest_algorithm)
    if digest is None:
        raise AnchorError("the token's digest algorithm is none of SHA-256, SHA-384 and SHA-512")
    values = _attributes(token.attributes)
    if values.get(_CONTENT_TYPE) != _TST_INFO:
        raise AnchorError("the token's signature is over another type of content")
    if values.get(_MESSAGE_DIGEST) != wrap(OCTETS, hashlib.new(digest.name, token.content).digest()):
        raise AnchorError("the token's content is not what was signed")
    _check_named_certificate(values, der)
    try:
        _verify(token, certificate, digest)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise AnchorError("the token's signature is wrong") from error


def _verify(token: Token, certificate: x509.Certificate, digest: _Hash) -> None:
    key, algorithm = certificate.public_key(), token.signature_algorithm
    if isinstance(key, rsa.RSAPublicKey) and (algorithm == _RSA or algorithm in _RSA_WITH):
        key.verify(token.signature, token.attributes, padding.PKCS1v15(), _RSA_WITH.get(algorithm, digest)())
    elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA_WITH:
        key.verify(token.signature, token.attributes, ec.ECDSA(_ECDSA_WITH[algorithm]()))
    elif isinstance(key, ed25519.Ed25519PublicKey) and algorithm == _ED25519:
        key.verify(token.signature, token.attributes)
    else:
        raise AnchorError("the token's signature algorithm is not accepted, or is not one for the TSA's key")


def _check_named_certificate(values: dict[bytes, bytes], der: bytes) -> None:
    """The signed hash of the signer's certificate (RFC 5035, sections 4 and 5); the first in the list counts."""
    for kind, default in ((_SIGNING_CERTIFICATE_V2, "sha256"), (_SIGNING_CERTIFICATE, "sha1")):
        if kind not in values:
            continue
        identifier = Reader(values[kind], _WHAT).inside(SEQUENCE).inside(SEQUENCE).inside(SEQUENCE)
        name = default
        if kind == _SIGNING_CERTIFICATE_V2 and identifier.next_is(SEQUENCE):
            found = _HASHES.get(identifier.inside(SEQUENCE).whole(OID))
            if found is None:
                raise AnchorError("the token names its signer's certificate with an algorithm that is not accepted")
            name = found.name
        if identifier.content(OCTETS) != hashlib.new(name, der, usedforsecurity=False).digest():
            raise AnchorError("the token was signed for another certificate than the one beside it")
        return
    raise AnchorError("the token does not say which certificate signed it")


def _attributes(data: bytes) -> dict[bytes, bytes]:
    """The signed attributes, each with its one value, as DER."""
    values: dict[bytes, bytes] = {}
    attributes = Reader(data, _WHAT).inside(SET)
    while attributes.more():
        attribute = attributes.inside(SEQUENCE)
        kind, value = attribute.whole(OID), attribute.content(SET)
        attribute.done()
        if kind in values:
            raise FormatError(f"{_WHAT}: a signed attribute twice")
        values[kind] = value
    return values


def _content(encapsulated: Reader) -> bytes:
    _expect(encapsulated, _TST_INFO, "not over a TSTInfo")
    explicit = encapsulated.inside(_CONTEXT_0)
    encapsulated.done()
    content = explicit.content(OCTETS)
    explicit.done()
    return content


def _certificates(reader: Reader) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while reader.more():
        if len(found) == MAX_CERTIFICATES:
            raise FormatError(f"{_WHAT}: more than {MAX_CERTIFICATES} certificates")
        found.append(reader.whole(SEQUENCE))
    return tuple(found)


def _expect(reader: Reader, identifier: bytes, why: str) -> None:
    if reader.whole(OID) != identifier:
        raise FormatError(f"{_WHAT}: {why}")
