"""Signed notes and tree heads: one form each, and no signature that means nothing."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.keys import PublicKey
from polchain.core.note import (
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
from polchain.errors import FormatError, SignatureError, UsageError
from tests.signing import flip, outcome, private, vectors

KEY = private(bytes(range(32)))
OTHER = private(bytes(range(1, 33)))
ORIGIN = origin_of(KEY.public, bytes(16))
HEAD = TreeHead(ORIGIN, 42, bytes(range(32)))


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
