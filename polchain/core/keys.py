"""Ed25519 keys.

A public key is written `ed25519:<64 hex>` or as OpenSSH does, `ssh-ed25519 AAAA...`; a private key is OpenSSH's
format with the bcrypt KDF. A public key that does not bind its signatures to one message is refused when it is made.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from polchain.core.encoding import from_base64, to_base64
from polchain.errors import FormatError, KeyUnavailableError, SignatureError, UsageError

__all__ = ["PrivateKey", "PublicKey"]

_MIN_ROUNDS: Final = 64
_MAX_ROUNDS: Final = 4096  # about half a minute; a key file that asks for more is not worth waiting for
_MAX_PASSPHRASE: Final = 72  # bytes; what OpenSSH's bcrypt takes
_MAX_KEY_FILE: Final = 65536

# The curve of RFC 8032, section 5.1: -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo p.
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
# The y of the eight points whose order divides 8 ("Taming the Many EdDSAs", table 5): either x will do.
_ORDER_8_Y: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y: Final = frozenset({1, _P - 1, 0, _ORDER_8_Y, _P - _ORDER_8_Y})

_HEX_KEY: Final = re.compile(r"ed25519:([0-9a-f]{64})")
_SSH_BLOB: Final = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
_SSH_MAGIC: Final = b"openssh-key-v1\0"
_SSH_FILE: Final = re.compile(
    rb"\s*-----BEGIN OPENSSH PRIVATE KEY-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END OPENSSH PRIVATE KEY-----\s*"
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key that is safe to rely on.

    OpenSSL accepts the points of small order as keys, and with the identity as the key one signature holds for
    every message. Such a key never becomes a PublicKey.

    Raises:
        SignatureError: not 32 bytes, not the canonical encoding of a point (RFC 8032, 5.1.3), or of small order.
    """

    value: bytes

    def __post_init__(self) -> None:
        if type(self.value) is not bytes or len(self.value) != 32:
            raise SignatureError("an Ed25519 public key is 32 bytes")
        y = int.from_bytes(self.value, "little") & (1 << 255) - 1
        if y >= _P:
            raise SignatureError(f"not the canonical encoding of a public key: {self}")
        if y in _SMALL_ORDER_Y:
            raise SignatureError(f"a public key of small order, under which signatures prove nothing: {self}")
        # x^2 = u / v must have a root. u v has one if and only if u / v has, and neither is zero here.
        if pow((y * y - 1) * (_D * y * y + 1), (_P - 1) // 2, _P) != 1:
            raise SignatureError(f"not a point of the curve: {self}")

    def __str__(self) -> str:
        return f"ed25519:{self.value.hex()}"

    @property
    def fingerprint(self) -> str:
        """The first 32 hexadecimal digits of SHA-256 of the 32 bytes."""
        return hashlib.sha256(self.value).hexdigest()[:32]

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read `ed25519:<64 hex>`, or an OpenSSH line: `ssh-ed25519 AAAA... [comment]`.

        Raises:
            FormatError: neither of the two.
            SignatureError: the key is unsafe.
        """
        if not isinstance(text, str) or len(text) > 4096:
            raise FormatError("public key: 'ed25519:<64 hex>' or 'ssh-ed25519 AAAA...' was expected")
        text = text.strip()
        match = _HEX_KEY.fullmatch(text)
        if match is not None:
            return cls(bytes.fromhex(match[1]))
        if len(text.splitlines()) > 1:
            raise FormatError("public key: one line was expected")
        kind, _, rest = text.partition(" ")
        if kind != "ssh-ed25519":
            raise FormatError("public key: 'ed25519:<64 hex>' or 'ssh-ed25519 AAAA...' was expected")
        blob = from_base64(rest.partition(" ")[0], "public key")
        if not blob.startswith(_SSH_BLOB) or len(blob) != len(_SSH_BLOB) + 32:
            raise FormatError("public key: the base64 part does not hold one Ed25519 key")
        return cls(blob[len(_SSH_BLOB) :])

    @classmethod
    def of_private_file(cls, data: bytes) -> PublicKey:
        """The public half that an OpenSSH private key carries in the clear. Reading the secret compares the two.

        Raises:
            FormatError: not an OpenSSH private key, or of another kind than Ed25519.
            SignatureError: a key that is not safe to rely on.
        """
        _, public = _read_ssh_header(data)
        if not public.startswith(_SSH_BLOB):
            raise FormatError("private key: not an Ed25519 key")
        return cls(public[len(_SSH_BLOB) :])

    def openssh(self) -> str:
        """The key as OpenSSH writes it, without a comment."""
        return f"ssh-ed25519 {to_base64(_SSH_BLOB + self.value)}"

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check an Ed25519 signature (RFC 8032, 5.1.7).

        Raises:
            SignatureError: it is not this key's signature of `message`.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.value).verify(signature, message)
        except InvalidSignature:
            raise SignatureError(f"the signature is not by {self}") from None


class PrivateKey:
    """An Ed25519 private key. It shows no secret when printed, and is never pickled."""

    __slots__ = ("_key", "_public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = PublicKey(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_openssh(cls, data: bytes, passphrase: bytes | None) -> PrivateKey:
        """Read an OpenSSH private key; the passphrase of a key that has none is ignored.

        Raises:
            KeyUnavailableError: the passphrase is missing or wrong.
            FormatError: not an OpenSSH private key, damaged, or of another kind than Ed25519.
        """
        encrypted, public = _read_ssh_header(data)
        if encrypted and not passphrase:
            raise KeyUnavailableError("the private key is encrypted", hint="give its passphrase")
        try:
            key = load_ssh_private_key(data, passphrase if encrypted else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            # One check value tells a wrong passphrase from the right one: damage under it looks the same.
            if encrypted and not isinstance(error, UnsupportedAlgorithm):
                raise KeyUnavailableError(
                    "the private key does not open: wrong passphrase, or a damaged file",
                    hint="check the passphrase; if it is right, restore the key from a backup",
                ) from None
            raise FormatError(f"private key: {error}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise FormatError("private key: not an Ed25519 key")
        private = cls(key)
        # The library computes the public key from the secret and ignores the stored one: damage would be another key.
        if public != _SSH_BLOB + private.public.value:
            raise FormatError("private key: damaged, secret and public key do not belong together")
        return private

    def to_openssh(self, passphrase: bytes | None, *, rounds: int = _MIN_ROUNDS) -> bytes:
        """The key in OpenSSH's format, encrypted under `passphrase`, or in the clear for None.

        Raises:
            UsageError: an empty or overlong passphrase, or so few or many bcrypt rounds.
        """
        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            if not 1 <= len(passphrase) <= _MAX_PASSPHRASE:
                raise UsageError(f"a passphrase is 1 to {_MAX_PASSPHRASE} bytes")
            if not _MIN_ROUNDS <= rounds <= _MAX_ROUNDS:
                raise UsageError(f"bcrypt rounds must be {_MIN_ROUNDS} to {_MAX_ROUNDS}, not {rounds}")
            builder = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(rounds)
            encryption = builder.build(passphrase)
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption)

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes (RFC 8032, 5.1.6). The message begins with a tag, or is a note."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"<PrivateKey of {self._public}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is never pickled or copied")


def _read_ssh_header(data: bytes) -> tuple[bool, bytes]:
    """Whether an OpenSSH private key is encrypted, and its public key blob (OpenSSH, PROTOCOL.key).

    Raises:
        FormatError: not such a key, or one that asks for more bcrypt rounds than anybody waits for.
    """
    if len(data) > _MAX_KEY_FILE:
        raise FormatError(f"private key: {len(data)} bytes, the limit is {_MAX_KEY_FILE}")
    match = _SSH_FILE.fullmatch(data)
    if match is None:
        raise FormatError("private key: not an OpenSSH private key")
    try:
        body = base64.b64decode(b"".join(match[1].split()), validate=True)
    except ValueError:
        raise FormatError("private key: not base64") from None
    if not body.startswith(_SSH_MAGIC):
        raise FormatError("private key: not an OpenSSH private key")
    _, rest = _ssh_string(body[len(_SSH_MAGIC) :])
    kdf, rest = _ssh_string(rest)
    options, rest = _ssh_string(rest)
    public, _ = _ssh_string(rest[4:])  # after the number of keys, which the library requires to be one
    if kdf == b"none":
        return False, public
    _, rounds = _ssh_string(options)
    if len(rounds) != 4 or int.from_bytes(rounds, "big") > _MAX_ROUNDS:
        raise FormatError(f"private key: not a bcrypt header with at most {_MAX_ROUNDS} rounds")
    return True, public


def _ssh_string(data: bytes) -> tuple[bytes, bytes]:
    """A string of RFC 4251, section 5, and what follows it."""
    end = 4 + int.from_bytes(data[:4], "big")
    if len(data) < max(end, 4):
        raise FormatError("private key: it ends too early")
    return data[4:end], data[end:]
