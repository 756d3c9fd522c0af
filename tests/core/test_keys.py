"""Keys: one form each, and no signature that means nothing."""

from __future__ import annotations

import base64
import copy
import pickle
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.keys import PrivateKey, PublicKey
from polchain.errors import FormatError, KeyUnavailableError, SignatureError, UsageError
from tests.signing import flip, outcome, private, vectors

ORDER = 2**252 + 27742317777372353535851937790883648493  # L, RFC 8032, section 5.1
PASSPHRASE = b"correct horse"

KEY = private(bytes(range(32)))
OTHER = private(bytes(range(1, 33)))


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


def test_a_fingerprint_is_half_of_the_sha256_that_everybody_can_compute() -> None:
    base = PublicKey(bytes.fromhex("58" + "66" * 31))
    shown = subprocess.run(["sha256sum"], input=base.value, capture_output=True, check=True, timeout=10).stdout
    assert base.fingerprint == shown.decode()[:32]


def pem(body: bytes) -> bytes:
    text = base64.b64encode(body)
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + text + b"\n-----END OPENSSH PRIVATE KEY-----\n"


def rounds_of(body: bytes) -> int:
    """The four bytes that end the KDF options (OpenSSH, PROTOCOL.key)."""
    start = body.index(b"bcrypt") + len(b"bcrypt")
    length = int.from_bytes(body[start : start + 4], "big")
    return int.from_bytes(body[start + length : start + 4 + length], "big")
