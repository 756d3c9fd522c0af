"""Signed notes, tree heads and keys: one form each, and no signature that means nothing."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from polchain import errors
from polchain.core.note import (
    PrivateKey,
    PublicKey,
    Signature,
    TreeHead,
    key_id,
    open_head,
    open_note,
    origin_of,
    parse_note,
    sign_head,
    sign_note,
)
from polchain.errors import FormatError, KeyUnavailableError, SignatureError, UsageError

ORDER = 2**252 + 27742317777372353535851937790883648493  # L, RFC 8032, section 5.1
PASSPHRASE = b"correct horse"


def vectors(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / f"{name}.json").read_text())
    return loaded


def private(seed: bytes) -> PrivateKey:
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(seed))


KEY = private(bytes(range(32)))
OTHER = private(bytes(range(1, 33)))
ORIGIN = origin_of(KEY.public, bytes(16))
HEAD = TreeHead(ORIGIN, 42, bytes(range(32)))


def outcome(check: Callable[[], Any], expect: str) -> None:
    if expect == "ok":
        check()
    else:
        with pytest.raises(getattr(errors, expect)):
            check()


# Keys


@pytest.mark.parametrize("vector", vectors("ed25519"), ids=lambda vector: vector["name"])
def test_published_keys_and_signatures_are_accepted_or_refused_as_expected(vector: dict[str, Any]) -> None:
    value = bytes.fromhex(vector["key"])
    if vector["kind"] == "key":
        outcome(lambda: PublicKey(value), vector["expect"])
        return
    message, signature = bytes.fromhex(vector["message"]), bytes.fromhex(vector["signature"])
    if vector["kind"] == "sign":
        key = private(bytes.fromhex(vector["seed"]))
        assert key.public.value == value
        assert key.sign(message) == signature
    outcome(lambda: PublicKey(value).verify(signature, message), vector["expect"])


@pytest.mark.parametrize("vector", [v for v in vectors("ed25519") if v["kind"] == "key" and v["expect"] != "ok"])
def test_an_unsafe_key_is_refused_in_every_spelling(vector: dict[str, Any]) -> None:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes.fromhex(vector["key"])
    for text in (f"ed25519:{vector['key']}", "ssh-ed25519 " + base64.b64encode(blob).decode()):
        with pytest.raises(SignatureError):
            PublicKey.parse(text)


@pytest.mark.parametrize("value", [b"", bytes(31), KEY.public.value + b"\0", bytearray(KEY.public.value), "x" * 32])
def test_a_public_key_is_thirty_two_bytes(value: Any) -> None:
    with pytest.raises(SignatureError, match="32 bytes"):
        PublicKey(value)


@given(st.binary(min_size=32, max_size=32))
def test_the_public_key_of_every_private_key_is_accepted(seed: bytes) -> None:
    key = private(seed)
    key.public.verify(key.sign(b"message"), b"message")


@given(st.binary(min_size=32, max_size=32))
def test_about_half_of_all_encodings_are_no_point_and_none_ends_in_another_error(value: bytes) -> None:
    try:
        key = PublicKey(value)
    except SignatureError:
        return
    with pytest.raises(SignatureError):
        key.verify(bytes(64), b"message")


@given(st.binary(max_size=40), st.integers(0, 511))
def test_a_flipped_bit_of_a_signature_or_message_is_refused(message: bytes, bit: int) -> None:
    signature = KEY.sign(message)
    with pytest.raises(SignatureError):
        KEY.public.verify(flip(signature, bit), message)
    with pytest.raises(SignatureError):
        KEY.public.verify(signature, flip(message + b"\0", bit % (len(message) * 8 + 8)))


def test_a_signature_has_no_second_form() -> None:
    signature = KEY.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little")
    for other in (scalar + ORDER, scalar + 2 * ORDER):
        with pytest.raises(SignatureError):
            KEY.public.verify(signature[:32] + other.to_bytes(32, "little"), b"message")


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(SignatureError):
        KEY.public.verify((KEY.sign(b"message") * 2)[:length], b"message")


def test_a_public_key_is_read_in_both_spellings() -> None:
    key = KEY.public
    for text in (str(key), key.openssh(), key.openssh() + " alice@example.com, laptop", key.openssh() + "\n"):
        assert PublicKey.parse(text) == key
    assert str(key) == "ed25519:" + key.value.hex()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        str(KEY.public)[:-1],
        str(KEY.public).upper(),
        KEY.public.value.hex(),
        "ssh-ed25519",
        "ssh-ed25519 ",
        "ssh-rsa " + KEY.public.openssh().split()[1],
        KEY.public.openssh()[:-2],
        KEY.public.openssh().replace("ssh-ed25519 ", "ssh-ed25519  "),
        KEY.public.openssh() + "\n" + OTHER.public.openssh(),
        "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x07ssh-rsa\0\0\0\x20" + bytes(32)).decode(),
        "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(31)).decode(),
        "ssh-ed25519 \u00e9",
        "x" * 5000,
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_text_that_is_not_a_public_key_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match=r"^public key: "):
        PublicKey.parse(text)


@given(st.text(max_size=60) | st.text("edsh-2519: abcf\n", max_size=80))
def test_any_text_is_a_key_or_a_named_error(text: str) -> None:
    with pytest.raises((FormatError, SignatureError)):
        PublicKey.parse(text)


def test_a_private_key_shows_no_secret_and_is_neither_pickled_nor_copied() -> None:
    key = private(bytes([7] * 32))
    for shown in (repr(key), str(key), f"{[key]}"):
        assert "07" * 32 not in shown
        assert shown.count(key.public.value.hex()) == 1
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            attempt(key)


def test_two_generated_keys_differ() -> None:
    assert PrivateKey.generate().public != PrivateKey.generate().public


@pytest.fixture(scope="module")
def encrypted() -> bytes:
    return KEY.to_openssh(PASSPHRASE)


def test_an_encrypted_key_opens_with_its_passphrase_alone(encrypted: bytes) -> None:
    assert PrivateKey.from_openssh(encrypted, PASSPHRASE).public == KEY.public
    for wrong in (b"wrong", b"x" * 100):
        with pytest.raises(KeyUnavailableError, match="wrong passphrase") as caught:
            PrivateKey.from_openssh(encrypted, wrong)
        assert caught.value.hint
    for missing in (None, b""):
        with pytest.raises(KeyUnavailableError, match="encrypted") as caught:
            PrivateKey.from_openssh(encrypted, missing)
        assert "passphrase" in caught.value.hint


def test_a_key_in_the_clear_opens_with_or_without_a_passphrase() -> None:
    data = KEY.to_openssh(None)
    assert PrivateKey.from_openssh(data, None).public == KEY.public
    assert PrivateKey.from_openssh(data, b"not needed").public == KEY.public


def test_the_key_file_says_bcrypt_and_how_many_rounds(encrypted: bytes) -> None:
    body = base64.b64decode(b"".join(encrypted.splitlines()[1:-1]))
    assert b"bcrypt" in body
    assert rounds_of(body) == 64, "the default is the floor that the design names"


@pytest.mark.parametrize(
    ("passphrase", "rounds"), [(b"", 64), (b"x" * 73, 64), (b"good", 63), (b"good", 0), (b"good", 2**31)]
)
def test_a_weak_encryption_is_refused(passphrase: bytes, rounds: int) -> None:
    with pytest.raises(UsageError):
        KEY.to_openssh(passphrase, rounds=rounds)


def test_a_key_file_that_asks_for_hours_of_bcrypt_is_refused_at_once(encrypted: bytes) -> None:
    body = base64.b64decode(b"".join(encrypted.splitlines()[1:-1]))
    hostile = body.replace((64).to_bytes(4, "big") + (1).to_bytes(4, "big"), b"\xff\xff\xff\xff\0\0\0\x01", 1)
    assert rounds_of(hostile) == 2**32 - 1
    started = time.perf_counter()
    with pytest.raises(FormatError, match="rounds"):
        PrivateKey.from_openssh(pem(hostile), PASSPHRASE)
    assert time.perf_counter() - started < 0.1


def test_a_key_of_another_kind_is_refused() -> None:
    other = generate_private_key(SECP256R1())
    openssh, pkcs8 = serialization.PrivateFormat.OpenSSH, serialization.PrivateFormat.PKCS8
    for data in (
        other.private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption()),
        other.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()),
        KEY.public.openssh().encode(),
        b"",
        b"x" * 100_000,
    ):
        with pytest.raises(FormatError, match=r"^private key: "):
            PrivateKey.from_openssh(data, None)


@given(st.data())
def test_a_damaged_key_file_ends_in_a_named_error(data: st.DataObject) -> None:
    body = base64.b64decode(b"".join(KEY.to_openssh(None).splitlines()[1:-1]))
    damaged = flip(body, data.draw(st.integers(0, len(body) * 8 - 1)))
    damaged = damaged[: data.draw(st.integers(0, len(body)) | st.just(len(body)))]
    try:
        key = PrivateKey.from_openssh(pem(damaged), None)
    except (FormatError, KeyUnavailableError):
        return
    assert key.public == KEY.public, "damage gave another key"


def test_a_damaged_secret_does_not_open_as_another_key() -> None:
    body = base64.b64decode(b"".join(KEY.to_openssh(None).splitlines()[1:-1]))
    assert body.count(bytes(range(32))) == 1, "the seed is not where this test looks for it"
    with pytest.raises(FormatError, match="do not belong together"):
        PrivateKey.from_openssh(pem(body.replace(bytes(range(32)), bytes(32))), None)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")
def test_openssh_and_we_read_each_other(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    command = [
        "ssh-keygen",
        "-q",
        "-t",
        "ed25519",
        "-a",
        "64",
        "-C",
        "a comment",
        "-N",
        "their pass",
        "-f",
        str(theirs),
    ]
    subprocess.run(command, check=True, timeout=30)
    key = PrivateKey.from_openssh(theirs.read_bytes(), b"their pass")
    assert key.public == PublicKey.parse(theirs.with_suffix(".pub").read_text())
    ours.touch(0o600)
    ours.write_bytes(key.to_openssh(PASSPHRASE))
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-P", PASSPHRASE.decode(), "-f", ours], check=True, capture_output=True, timeout=30
    )
    assert PublicKey.parse(shown.stdout.decode()) == key.public


# Notes


@pytest.mark.parametrize("vector", vectors("note"), ids=lambda vector: vector["name"])
def test_published_notes_are_opened_or_refused_as_expected(vector: dict[str, Any]) -> None:
    name, identifier, encoded = vector["vkey"].split("+", 2)
    key = PublicKey(base64.b64decode(encoded)[1:])
    assert key_id(name, key).hex() == identifier
    note = vector["note"].encode()
    if vector["expect"].endswith("Error"):
        outcome(lambda: open_note(note, name, key), vector["expect"])
        return
    assert open_note(note, name, key) == vector["expect"]
    if "skey" in vector:
        seed = base64.b64decode(vector["skey"].split("+", 4)[4])[1:]
        assert sign_note(vector["expect"], name, private(seed)) == note, "we sign other bytes than the reference"


names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=20)
bodies = st.text(st.characters(exclude_categories=["C"]) | st.just("\n"), max_size=60).map(lambda text: text + "\n")


@given(bodies, names)
def test_a_signed_note_opens_to_its_text(text: str, name: str) -> None:
    note = sign_note(text, name, KEY)
    assert open_note(note, name, KEY.public) == text
    body, (signature,) = parse_note(note)
    assert (body, signature.name, signature.key_id) == (text, name, key_id(name, KEY.public))
    with pytest.raises(SignatureError):
        open_note(note, name, OTHER.public)
    with pytest.raises(SignatureError):
        open_note(note, name + "x", KEY.public)


def test_a_flipped_bit_anywhere_in_a_note_is_refused() -> None:
    note = sign_note("text\n", "signer", KEY)
    for bit in range(len(note) * 8):
        with pytest.raises((FormatError, SignatureError)):
            open_note(flip(note, bit), "signer", KEY.public)


def test_a_note_that_was_cut_or_grew_is_refused() -> None:
    note = sign_note("text\n", "signer", KEY)
    for cut in range(len(note)):
        with pytest.raises((FormatError, SignatureError)):
            open_note(note[:cut], "signer", KEY.public)
    for more in (b"\n", b" ", b"\0", b"x", b"=", b"\xe2\x80\x94 "):
        for at in range(len(note) + 1):
            with pytest.raises((FormatError, SignatureError)):
                open_note(note[:at] + more + note[at:], "signer", KEY.public)


LINE = sign_note("text\n", "signer", KEY).split(b"\n\n")[1].decode()
pieces = st.sampled_from(["\u2014 ", "\u2014", " ", "\n", "\n\n", "signer", "text", LINE, "AAAA", "=", "+", "\r", "\t"])


@given(st.binary(max_size=80) | st.lists(pieces, max_size=12).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_are_a_note_with_one_form_or_a_format_error(data: bytes) -> None:
    try:
        text, signatures = parse_note(data)
    except FormatError as error:
        message = str(error)
    else:
        assert write(text, signatures) == data, "two byte strings are one note"
        return
    assert message.startswith("note: ")


def write(text: str, signatures: tuple[Signature, ...]) -> bytes:
    lines = [f"\u2014 {s.name} {base64.b64encode(s.key_id + s.signature).decode()}\n" for s in signatures]
    return (text + "\n" + "".join(lines)).encode()


@pytest.mark.parametrize("text", ["\n", "\n\n\n", "one\n\ntwo\n", "one\n\n", "one\n\n\u2014 two AAAAAAA=\n"])
def test_a_text_may_hold_blank_lines(text: str) -> None:
    assert open_note(sign_note(text, "signer", KEY), "signer", KEY.public) == text


@pytest.mark.parametrize(
    "line",
    [
        LINE.removeprefix("\u2014 "),  # no dash
        LINE.removeprefix("\u2014"),
        LINE.replace("\u2014 ", "\u2014"),
        "\u2014 signer\n",
        "\u2014 signer \n",
        "\u2014 signer AAAAAA==\n",  # a key id and nothing after it
        LINE.replace("=", ""),
        LINE.replace("signer ", "signer  "),
    ],
)
def test_a_malformed_signature_line_is_refused(line: str) -> None:
    with pytest.raises(FormatError):
        parse_note(f"text\n\n{LINE}{line}".encode())


def test_signatures_by_others_are_kept_and_not_looked_at() -> None:
    text, mine = parse_note(sign_note("text\n", "signer", KEY))
    witness = Signature("witness.example.com/w1", b"abcd", bytes(72))  # c2sp.org/tlog-cosignature: time and signature
    note = write(text, (witness, *mine))
    assert parse_note(note) == (text, (witness, *mine))
    assert open_note(note, "signer", KEY.public) == "text\n"


def test_two_lines_by_one_signer_are_refused_even_if_one_is_right() -> None:
    text, (mine,) = parse_note(sign_note("text\n", "signer", KEY))
    wrong = Signature(mine.name, mine.key_id, bytes(64))
    for lines in ((mine, mine), (mine, wrong), (wrong, mine)):
        with pytest.raises(SignatureError, match="2 signatures"):
            open_note(write(text, lines), "signer", KEY.public)


def test_sixteen_signatures_are_read_and_seventeen_are_not() -> None:
    def signed_by(count: int) -> bytes:
        return write("text\n", tuple(Signature(f"s{i}", b"abcd", bytes(64)) for i in range(count)))

    assert len(parse_note(signed_by(16))[1]) == 16
    with pytest.raises(FormatError, match="17 signatures, the limit is 16"):
        parse_note(signed_by(17))


def test_the_limit_of_a_note_counts_bytes_and_is_inclusive() -> None:
    note = sign_note("text\n", "signer", KEY)
    assert parse_note(note, limit=len(note))[0] == "text\n"
    with pytest.raises(FormatError, match="the limit is"):
        parse_note(note, limit=len(note) - 1)
    with pytest.raises(FormatError, match="the limit is 65536"):
        sign_note("x" * 65536 + "\n", "signer", KEY)


def test_base64_with_stray_bits_is_refused() -> None:
    note = sign_note("text\n", "signer", KEY)
    assert note.endswith(b"=\n")
    last = note[-3:-2]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stray = alphabet[alphabet.index(last) ^ 1 : (alphabet.index(last) ^ 1) + 1]
    with pytest.raises(FormatError, match="canonical"):
        parse_note(note[:-3] + stray + note[-2:])


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "nul\0\n", "return\r\n", "escape\x1b\n", "\ud800\n"])
def test_a_text_that_cannot_be_read_back_is_not_signed(text: str) -> None:
    with pytest.raises(FormatError):
        sign_note(text, "signer", KEY)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2003b", "a\u2028b", "a\0", "\ud800", "a\t"])
def test_a_name_that_cannot_be_read_back_is_not_signed_under(name: str) -> None:
    with pytest.raises(FormatError):
        sign_note("text\n", name, KEY)
    with pytest.raises(FormatError):
        TreeHead(name, 1, bytes(32))


# Heads


@pytest.mark.parametrize("vector", vectors("tree_head"), ids=lambda vector: vector["name"])
def test_checkpoints_are_read_or_refused_as_expected(vector: dict[str, Any]) -> None:
    outcome(lambda: TreeHead.parse(vector["text"]), vector["expect"])
    if vector["expect"] == "ok":
        head = TreeHead.parse(vector["text"])
        assert head == TreeHead(vector["origin"], vector["size"], bytes.fromhex(vector["root"]))
        assert head.text() == vector["text"]


@given(names, st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32))
def test_a_head_is_read_as_it_was_written(origin: str, size: int, root: bytes) -> None:
    head = TreeHead(origin, size, root)
    assert TreeHead.parse(head.text()) == head
    assert open_head(sign_head(head, KEY), origin, KEY.public) == head


@given(st.text(max_size=80) | st.text("abc019=\n", max_size=80))
def test_any_text_is_a_head_with_one_form_or_a_format_error(text: str) -> None:
    try:
        head = TreeHead.parse(text)
    except FormatError:
        return
    assert head.text() == text


@pytest.mark.parametrize(
    ("size", "root"),
    [(-1, bytes(32)), (2**53, bytes(32)), (True, bytes(32)), (1.0, bytes(32)), (1, bytes(31)), (1, "")],
)
def test_a_head_has_a_size_and_a_root(size: Any, root: Any) -> None:
    with pytest.raises(FormatError, match=r"^tree head: "):
        TreeHead(ORIGIN, size, root)


def test_an_origin_names_key_and_run() -> None:
    first = origin_of(KEY.public, bytes(16))
    assert first == f"polchain/v1/{KEY.public.fingerprint}/{'00' * 16}"
    assert len({first, origin_of(OTHER.public, bytes(16)), origin_of(KEY.public, bytes([1] * 16))}) == 3
    for wrong in (b"", bytes(15), bytes(17)):
        with pytest.raises(UsageError, match="16 bytes"):
            origin_of(KEY.public, wrong)


def test_a_fingerprint_is_half_of_the_sha256_that_everybody_can_compute() -> None:
    base = PublicKey(bytes.fromhex("58" + "66" * 31))
    shown = subprocess.run(["sha256sum"], input=base.value, capture_output=True, check=True, timeout=10).stdout
    assert base.fingerprint == shown.decode()[:32]


def test_a_flipped_bit_anywhere_in_a_signed_head_is_refused() -> None:
    note = sign_head(HEAD, KEY)
    assert open_head(note, ORIGIN, KEY.public) == HEAD
    for bit in range(len(note) * 8):
        with pytest.raises((FormatError, SignatureError)):
            open_head(flip(note, bit), ORIGIN, KEY.public)


def test_a_head_of_another_log_or_signer_is_refused() -> None:
    elsewhere = origin_of(KEY.public, bytes([9] * 16))
    with pytest.raises(SignatureError, match="no signature"):
        open_head(sign_head(HEAD, KEY), elsewhere, KEY.public)
    with pytest.raises(SignatureError, match="no signature"):
        open_head(sign_head(HEAD, OTHER), ORIGIN, KEY.public)
    with pytest.raises(SignatureError, match="another log"):
        open_head(sign_note(HEAD.text(), elsewhere, KEY), elsewhere, KEY.public)


def test_a_head_carries_one_signature_and_no_more() -> None:
    text, mine = parse_note(sign_head(HEAD, KEY))
    _, others = parse_note(sign_note(HEAD.text(), "witness", OTHER))
    with pytest.raises(SignatureError, match="one signature"):
        open_head(write(text, mine + others), ORIGIN, KEY.public)


def test_a_signed_text_that_is_no_head_is_refused() -> None:
    with pytest.raises(FormatError, match=r"^tree head: "):
        open_head(sign_note("hello\n", ORIGIN, KEY), ORIGIN, KEY.public)


def flip(value: bytes, bit: int) -> bytes:
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def pem(body: bytes) -> bytes:
    text = base64.b64encode(body)
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + text + b"\n-----END OPENSSH PRIVATE KEY-----\n"


def rounds_of(body: bytes) -> int:
    """The four bytes that end the KDF options (OpenSSH, PROTOCOL.key)."""
    start = body.index(b"bcrypt") + len(b"bcrypt")
    length = int.from_bytes(body[start : start + 4], "big")
    return int.from_bytes(body[start + length : start + 4 + length], "big")
