"""Canonical JSON: one value, one byte string, and nothing else is read."""

from __future__ import annotations

import enum
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.encoding import JSON, MAX_DEPTH, MAX_INTEGER, Fields, decode, encode, hex_float
from polchain.errors import FormatError

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "encoding.json").read_text())

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.text(st.characters(max_codepoint=127), max_size=8)
leaves = texts | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER)
values: st.SearchStrategy[JSON] = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=20
)
jsonish = st.text('{}[]",:0123456789.eE-+ \\untrfalsN\n', max_size=60).map(str.encode)


def read(data: bytes) -> JSON:
    return decode(data, limit=10_000, what="thing")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_published_examples_are_read_or_refused_as_expected(vector: dict[str, Any]) -> None:
    data = vector["text"].encode()
    if vector["expect"] == "ok":
        assert encode(read(data)) == data
        assert rfc8785.dumps(read(data)) == data
    else:
        with pytest.raises(FormatError):
            read(data)


@given(values)
def test_what_was_encoded_is_read_back_and_the_reference_writes_the_same(value: JSON) -> None:
    data = encode(value)
    assert repr(sort(read(data))) == repr(sort(value)), "reading changed the value"
    assert data == rfc8785.dumps(value)


@given(values, st.data())
def test_a_flipped_bit_is_refused_or_is_another_value(value: JSON, data: st.DataObject) -> None:
    encoded = encode(value)
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    flipped = bytearray(encoded)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        other = read(bytes(flipped))
    except FormatError:
        return
    assert repr(sort(other)) != repr(sort(value)), "two byte strings mean one value"


@given(st.binary(max_size=80) | jsonish)
def test_any_bytes_are_one_canonical_value_or_a_format_error(data: bytes) -> None:
    try:
        value = read(data)
    except FormatError as error:
        message = str(error)
    else:
        assert rfc8785.dumps(value) == data, "accepted bytes that the reference would not write"
        return
    assert message.startswith("thing: ")


class Number(enum.IntEnum):
    ONE = 1


class Name(enum.StrEnum):
    A = "a"


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.0,
        math.nan,
        (1, 2),
        b"bytes",
        {1, 2},
        {1: 2},
        {None: 2},
        {"é": 1},
        {"a": [{"b": None}]},
        2**53,
        -(2**53),
        10**5000,
        "\ud800",
        {"a": "\udfff"},
        Number.ONE,
        Name.A,
        {Name.A: 1},
        LOOP,
    ],
    ids=lambda value: ascii(value)[:30] if value != 10**5000 else "10**5000",
)
def test_a_value_outside_the_subset_is_not_encoded(value: Any) -> None:
    with pytest.raises(FormatError):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" 1",
        b"1\n",
        b"\xef\xbb\xbf1",
        b"\xff",
        b"null",
        b"[null]",
        b"1.0",
        b"1e3",
        b"01",
        b"+1",
        b"-0",
        b"NaN",
        b"[1, 2]",
        b'{"b":1,"a":2}',
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'"\\u0041"',
        b'"\\ud800"',
        b'"\\u001F"',
        b'{"\xc3\xa9":1}',
        b"{'a':1}",
        b"[1]x",
        b"9" * 9_000,
        b"-" + b"9" * 9_000,
        b"[" * 5_000,
        b"[" * 5_000 + b"]" * 5_000,
        b'{"a":' * 2_000,
    ],
    ids=lambda data: ascii(data)[:30],
)
def test_bytes_that_are_not_canonical_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^thing: "):
        read(data)


def test_thirty_two_levels_are_read_and_thirty_three_are_not() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert encode(read(deepest)) == deepest
    with pytest.raises(FormatError, match="32 levels"):
        read(b"[" + deepest + b"]")
    with pytest.raises(FormatError, match="32 levels"):
        encode([read(deepest)])


def test_the_limit_counts_bytes_and_is_inclusive() -> None:
    data = encode("é" * 10)
    assert decode(data, limit=22, what="thing") == "é" * 10
    with pytest.raises(FormatError, match="thing: 22 bytes, the limit is 21"):
        decode(data, limit=21, what="thing")


def test_a_duplicate_key_is_named() -> None:
    with pytest.raises(FormatError, match="thing: the key 'size' appears twice"):
        read(b'{"size":1,"size":2}')


def test_a_message_never_carries_the_whole_of_a_hostile_value() -> None:
    for data in (b'{"' + b"k" * 9_000 + b'":1,"' + b"k" * 9_000 + b'":2}', b"0." + b"3" * 9_000):
        with pytest.raises(FormatError) as caught:
            decode(data, limit=20_000, what="thing")
        assert len(str(caught.value)) < 200


# Fields


def fields(**value: JSON) -> Fields:
    return Fields(dict(value), "entry")


def test_fields_are_read_by_name_and_type() -> None:
    entry = fields(kind="start", step=3, last=True, rows=["a"], more={"x": 1}, loss="0x1.8000000000000p+1")
    assert entry.str("kind") == "start"
    assert entry.int("step") == 3
    assert entry.bool("last") is True
    assert entry.list("rows", max_items=1) == ["a"]
    assert entry.dict("more") == {"x": 1}
    assert entry.float("loss") == 3.0
    assert entry.has("kind")
    assert not entry.has("other")
    entry.done()


@pytest.mark.parametrize(
    ("method", "value", "options"),
    [
        ("str", 1, {}),
        ("str", "abc", {"max_length": 2}),
        ("int", "1", {}),
        ("int", True, {}),
        ("int", -1, {}),
        ("int", 5, {"maximum": 4}),
        ("int", 5, {"minimum": 6}),
        ("bool", 1, {}),
        ("bool", "true", {}),
        ("list", {}, {"max_items": 9}),
        ("list", [1, 2], {"max_items": 1}),
        ("dict", [], {}),
        ("fields", [], {}),
        ("float", 1, {}),
        ("float", "1.5", {}),
        ("float", "0x1p+1", {}),
        ("float", "0X1.8000000000000P+1", {}),
        ("float", " 0x1.8000000000000p+1", {}),
        ("float", "nan", {}),
        ("float", "-inf", {}),
        ("float", "0x1p+5000", {}),
        ("float", "", {}),
        ("float", "0x" + "1" * 40, {}),
        ("float", "é", {}),
    ],
)
def test_a_field_of_another_kind_is_refused_with_its_name(method: str, value: JSON, options: dict[str, int]) -> None:
    with pytest.raises(FormatError, match=r"^entry.*size"):
        getattr(fields(size=value), method)("size", **options)


@pytest.mark.parametrize("method", ["str", "int", "bool", "dict", "fields", "float"])
def test_a_missing_field_is_refused_with_its_name(method: str) -> None:
    with pytest.raises(FormatError, match="entry: field 'size': missing"):
        getattr(fields(), method)("size")


def test_an_unknown_field_is_refused_once_all_were_read() -> None:
    entry = fields(step=1, extra=2)
    entry.int("step")
    entry.has("extra")
    with pytest.raises(FormatError, match="entry: unknown field 'extra'"):
        entry.done()


def test_inner_fields_carry_the_whole_path() -> None:
    inner = fields(recipe={"entry_point": 1}).fields("recipe")
    with pytest.raises(FormatError, match=r"entry\.recipe: field 'entry_point'"):
        inner.str("entry_point")


@pytest.mark.parametrize("value", [[], "text", 1, True])
def test_fields_of_something_else_than_an_object_are_refused(value: JSON) -> None:
    with pytest.raises(FormatError, match="entry: an object was expected"):
        Fields(value, "entry")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_survives_as_text_to_its_last_bit(x: float) -> None:
    back = fields(x=hex_float(x)).float("x")
    assert back == x
    assert math.copysign(1, back) == math.copysign(1, x)


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_not_written(x: float) -> None:
    with pytest.raises(FormatError, match="not a finite number"):
        hex_float(x)


def sort(value: JSON) -> JSON:
    """The value with sorted keys, so that equal values print equally; unlike ==, print tells 1 from True."""
    if isinstance(value, dict):
        return {key: sort(value[key]) for key in sorted(value)}
    return [sort(item) for item in value] if isinstance(value, list) else value


def test_a_text_that_is_never_closed_is_refused_in_no_time() -> None:
    hostile = b"[" * 40 + b'"' + b'\\"' * 500_000
    begun = time.monotonic()
    with pytest.raises(FormatError, match="more than 32 levels"):
        decode(hostile, limit=len(hostile), what="hostile")
    assert time.monotonic() - begun < 5, "its quotes were tried one by one"


def test_deep_nesting_is_refused_where_somebody_raised_the_recursion_limit() -> None:
    # Some libraries do so when they are imported; the parser would then overflow the stack and end the process.
    program = (
        "import sys; sys.setrecursionlimit(10**6)\n"
        "from polchain.core.encoding import decode\n"
        "from polchain.errors import FormatError\n"
        "for data in (b'[' * 200_000, b'{\"a\":' * 200_000, b'[\"]]]]\",' * 200_000):\n"
        "    try: decode(data, limit=2**30, what='x')\n"
        "    except FormatError as error: assert '32 levels' in str(error), error\n"
        "    else: sys.exit('was read')\n"
        "assert decode(b'[\"' + b'[' * 99 + b'\\\\\"' + b'{' * 99 + b'\"]', limit=999, what='x')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
