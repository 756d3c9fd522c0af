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
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from polchain.core.encoding import MAX_INTEGER, from_base64, to_base64
from polchain.core.keys import PrivateKey, PublicKey
from polchain.errors import FormatError, SignatureError, UsageError

__all__ = [
    "HeadForm",
    "Signature",
    "TreeHead",
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

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NO_NAME: Final = re.compile(r"[\s+\x00-\x1f]")


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
    note = message + f"\n{_DASH}{name} {to_base64(blob)}\n".encode()
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
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"

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
        return cls(lines[0], int(lines[1]), from_base64(lines[2], "tree head"))


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


class HeadForm:
    """What the heads of one log, signed by one key, look like: to check many of them, quicker than `open_head`."""

    __slots__ = ("_before", "_between", "_id", "_key")

    def __init__(self, origin: str, key: PublicKey) -> None:
        self._before = f"{origin}\n".encode()
        self._between = f"\n{_DASH}{origin} ".encode()
        self._id, self._key = key_id(origin, key), key

    def holds(self, note: bytes, size: int, root: bytes) -> bool:
        """Whether these bytes are the note over the head of that size and root: the one that `open_head` would take.

        False says no more than that: `open_head` says what is wrong.
        """
        message = b"%s%d\n%s\n" % (self._before, size, base64.b64encode(root))
        lead = message + self._between
        if not (note.startswith(lead) and note.endswith(b"\n")):
            return False
        encoded = note[len(lead) : -1]
        try:
            blob = base64.b64decode(encoded, validate=True)
            if base64.b64encode(blob) != encoded or blob[:4] != self._id:
                return False
            self._key.verify(blob[4:], message)
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
    blob = from_base64(encoded, "note")
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
