"""DER: what is written is read, and no other encoding of it is."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from polchain.anchors.der import INTEGER, OCTETS, OID, SEQUENCE, Reader, integer, oid, read_integer, wrap
from polchain.errors import FormatError


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_what_is_written_is_read(parts: list[bytes]) -> None:
    outer = Reader(wrap(SEQUENCE, *(wrap(OCTETS, part) for part in parts)), "x")
    inner = outer.inside(SEQUENCE)
    outer.done()
    assert [inner.content(OCTETS) for _ in parts] == parts
    inner.done()


@given(st.integers(0, 2**200))
def test_integers(value: int) -> None:
    assert read_integer(Reader(integer(value), "x").content(INTEGER), "x") == value


def test_an_oid_is_written_as_others_write_it() -> None:
    for dotted, content in {
        "1.2.840.113549.1.9.16.1.4": "2a864886f70d010910010" + "4",
        "2.999.3": "883703",
        "2.16.840.1.101.3.4.2.1": "608648016503040201",
    }.items():
        assert oid(dotted) == wrap(OID, bytes.fromhex(content))
        assert x509.ObjectIdentifier(dotted).dotted_string == dotted


@pytest.mark.parametrize(
    "data",
    ["", "30", "3001", "3080", "308100", "30817f", "30820001", "3085000000000100", "0400", "3081", "308400000000"],
)
def test_lengths_that_are_not_der_are_refused(data: str) -> None:
    with pytest.raises(FormatError):
        Reader(bytes.fromhex(data), "x").content(SEQUENCE)


@pytest.mark.parametrize("content", ["", "0001", "007f", "ff80", "ffff", "01" * 65])
def test_integers_that_are_not_der_are_refused(content: str) -> None:
    with pytest.raises(FormatError):
        read_integer(bytes.fromhex(content), "x")
    assert read_integer(b"\x00\x80", "x") == 128
    assert read_integer(b"\xff", "x") == -1


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused_by_name(data: bytes) -> None:
    reader = Reader(data, "x")
    try:
        while reader.more():
            reader.skip()
    except FormatError:
        return
    reader.done()
