"""Signed notes and tree heads, in the formats of C2SP (c2sp.org/signed-note, c2sp.org/tlog-checkpoint).

A head is the checkpoint text, signed with Ed25519:

    polchain/v1/6f1c.../9a40...      origin: whose log, which run
    42                               entries, decimal
    dGhlIHJvb3Q...=                  RFC 6962 root, base64
    <blank line>
    \u2014 <name> <base64 of key id (4 bytes) || signature (64 bytes)>

The signature covers the text with its last newline, without the blank line. The name of a head's signer is its
origin: `polchain/v1/<first 32 hex of SHA-256 of the public key>/<run id>`. The key id is the first four bytes of
SHA-256(name || 0x0A || 0x01 || public key): a hint for finding the line, never a proof.

A public key is written `ed25519:<64 hex>` or as OpenSSH does, `ssh-ed25519 AAAA...`; a private key is OpenSSH's
format with the bcrypt KDF. A public key that does not bind its signatures to one message is refused when it is made.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
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

from polchain.core.encoding import MAX_INTEGER
from polchain.errors import FormatError, KeyUnavailableError, SignatureError, UsageError

__all__ = [
    "PrivateKey",
    "PublicKey",
    "Signature",
    "TreeHead",
    "is_head",
    "key_id",
    "open_head",
    "open_note",
    "origin_of",
    "parse_note",
    "sign_head",
    "sign_note",
]

_DASH: Final = "\u2014 "
_MAX_NOTE: Final = 65536
_MAX_SIGNATURES: Final = 16
_ED25519: Final = b"\x01"
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
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NO_NAME: Final = re.compile(r"[\s+\x00-\x1f]")


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
        blob = _from_base64(rest.partition(" ")[0], "public key")
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
        return f"ssh-ed25519 {_to_base64(_SSH_BLOB + self.value)}"

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


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note, not verified."""

    name: str
    key_id: bytes  # 4
    signature: bytes = field(repr=False)  # 64 for Ed25519; other kinds of signers have other lengths


def key_id(name: str, key: PublicKey) -> bytes:
    """SHA-256(name || 0x0A || 0x01 || key)[:4] (C2SP signed-note, "Signature types")."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.value).digest()[:4]


def sign_note(text: str, name: str, key: PrivateKey) -> bytes:
    """Sign `text` under `name` (C2SP signed-note).

    Raises:
        FormatError: the text is empty, does not end in a newline, holds control characters or is too long, or the
            name is empty or holds spaces, controls or '+'.
    """
    _check_text(text)
    _check_name(name)
    message = _to_utf8(text)
    blob = key_id(name, key.public) + key.sign(message)
    note = message + f"\n{_DASH}{name} {_to_base64(blob)}\n".encode()
    if len(note) > _MAX_NOTE:
        raise FormatError(f"note: {len(note)} bytes, the limit is {_MAX_NOTE}")
    return note


def parse_note(data: bytes, *, limit: int = _MAX_NOTE) -> tuple[str, tuple[Signature, ...]]:
    """Split a note into its text and its signatures, of which none is verified (C2SP signed-note).

    Strict: the same text and signatures have no second form.

    Raises:
        FormatError: over `limit` bytes, not UTF-8, control characters, no blank line, no signature or more than 16,
            a malformed line, or base64 that is not canonical.
    """
    if len(data) > limit:
        raise FormatError(f"note: {len(data)} bytes, the limit is {limit}")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"note: not UTF-8 at byte {error.start}") from None
    # The last blank line: the text may hold some itself, the signatures cannot.
    middle = whole.rfind("\n\n")
    if middle < 0:
        raise FormatError("note: no blank line between text and signatures")
    text, tail = whole[: middle + 1], whole[middle + 2 :]
    _check_text(text)
    if not tail.endswith("\n"):
        raise FormatError("note: no signature, or the last line does not end")
    lines = tail[:-1].split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise FormatError(f"note: {len(lines)} signatures, the limit is {_MAX_SIGNATURES}")
    return text, tuple(_parse_signature(line) for line in lines)


def open_note(data: bytes, name: str, key: PublicKey) -> str:
    """The text of a note that `key` signed under `name`. Signatures by others are not looked at.

    Raises:
        FormatError: not a note.
        SignatureError: no such signature, two of them, or a wrong one.
    """
    text, signatures = parse_note(data)
    _verify(text, signatures, name, key)
    return text


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A log at one moment: whose it is, how many entries, and their root.

    Raises:
        FormatError: an origin that cannot be a signer's name, a size that is negative or 2^53 or more, or a root
            that is not 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        _check_name(self.origin)
        if type(self.size) is not int or not 0 <= self.size <= MAX_INTEGER:
            raise FormatError("tree head: the size is not an integer from 0 to 2^53 - 1")
        if type(self.root) is not bytes or len(self.root) != 32:
            raise FormatError("tree head: the root is not 32 bytes")

    def text(self) -> str:
        """The body of a C2SP checkpoint, without extension lines."""
        return f"{self.origin}\n{self.size}\n{_to_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> TreeHead:
        """Read what `text()` wrote.

        Raises:
            FormatError: anything else, extension lines included.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise FormatError("tree head: three lines were expected: origin, size, root")
        if _SIZE.fullmatch(lines[1]) is None:
            raise FormatError("tree head: the size is not a decimal number")
        return cls(lines[0], int(lines[1]), _from_base64(lines[2], "tree head"))


def origin_of(key: PublicKey, run_id: bytes) -> str:
    """The origin of the log that `key` keeps of one run.

    Raises:
        UsageError: the run id is not 16 bytes.
    """
    if len(run_id) != 16:
        raise UsageError(f"a run id is 16 bytes, not {len(run_id)}")
    return f"polchain/v1/{key.fingerprint}/{run_id.hex()}"


def sign_head(head: TreeHead, key: PrivateKey) -> bytes:
    """The head as a note, signed under its own origin (C2SP tlog-checkpoint)."""
    return sign_note(head.text(), head.origin, key)


def open_head(data: bytes, origin: str, key: PublicKey) -> TreeHead:
    """The head of log `origin`, signed by `key` and nobody else (C2SP tlog-checkpoint).

    One signature line, exactly: so that a head has one form, and its digest names it.

    Raises:
        FormatError: not a note, or its text is not a head.
        SignatureError: another origin, another signer, more than one signature, or a wrong one.
    """
    text, signatures = parse_note(data)
    if len(signatures) != 1:
        raise SignatureError(f"a head carries one signature, and this note {len(signatures)}")
    _verify(text, signatures, origin, key)
    head = TreeHead.parse(text)
    if head.origin != origin:
        raise SignatureError(f"a head of another log: {head.origin!a} instead of {origin!a}")
    return head


def is_head(data: bytes, head: TreeHead, key: PublicKey) -> bool:
    """Whether these bytes are the note that `key` signs over `head`: what `open_head` would give back, but quicker.

    False says no more than that: `open_head` says what is wrong.
    """
    message = head.text().encode()
    lead = message + f"\n{_DASH}{head.origin} ".encode()
    if not (data.startswith(lead) and data.endswith(b"\n")):
        return False
    try:
        blob = base64.b64decode(data[len(lead) : -1], validate=True)
        if base64.b64encode(blob) != data[len(lead) : -1] or blob[:4] != key_id(head.origin, key):
            return False
        key.verify(blob[4:], message)
    except (ValueError, SignatureError):
        return False
    return True


def _verify(text: str, signatures: tuple[Signature, ...], name: str, key: PublicKey) -> None:
    wanted = key_id(name, key)
    found = [line for line in signatures if line.name == name and line.key_id == wanted]
    if len(found) != 1:
        count = "no signature" if not found else f"{len(found)} signatures"
        raise SignatureError(f"the note carries {count} by {name!a} with {key}")
    key.verify(found[0].signature, text.encode())


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise FormatError("note: a signature line is an em dash, a name and base64")
    _check_name(name)
    blob = _from_base64(encoded, "note")
    if len(blob) < 5:
        raise FormatError("note: a signature line without a signature")
    return Signature(name, blob[:4], blob[4:])


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise FormatError("note: the text does not end in a newline")
    if _CONTROL.search(text):
        raise FormatError("note: control characters in the text")


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise FormatError("note: a signer without a name")
    if _NO_NAME.search(name):
        raise FormatError("note: a signer's name holds no spaces, controls or '+'")
    _to_utf8(name)


def _to_utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError("note: a lone surrogate is not text") from None


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(text: str, what: str) -> bytes:
    """Strict base64 (RFC 4648, section 4): the bits that padding leaves over must be zero (section 3.5)."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise FormatError(f"{what}: not base64") from None
    if _to_base64(data) != text:
        raise FormatError(f"{what}: base64 that is not canonical")
    return data


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
