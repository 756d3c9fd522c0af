"""Manifests: one text for one state, and nothing in it changes unseen."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core import merkle
from polchain.core.digest import Digest, blake3, sha256, tag
from polchain.core.encoding import encode
from polchain.core.manifest import Manifest, check_manifest, state_digest
from polchain.core.rows import DTYPES, GROUPS, MAX_INT, ROLES, AliasRow, FileRow, Row, ScalarRow, TensorRow
from polchain.errors import EvidenceError, FormatError, ManifestError

DIGEST = blake3(b"")
digests = st.binary(min_size=32, max_size=32).map(lambda value: Digest("blake3", value))
texts = st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]), min_size=1, max_size=12)
names = st.builds("{}/{}".format, st.sampled_from(GROUPS), texts)
shapes = st.lists(st.integers(0, 50), max_size=4).map(tuple)
scalars = st.none() | st.booleans() | st.integers(1 - MAX_INT, MAX_INT - 1) | st.floats() | st.text(max_size=20)
rows = (
    st.builds(TensorRow, names, st.sampled_from(ROLES), st.sampled_from(sorted(DTYPES)), shapes, digests)
    | st.builds(ScalarRow, names, scalars)
    | st.builds(FileRow, names, st.integers(0, 2**53 - 1), digests)
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    found: list[Row] = draw(st.lists(rows, max_size=8, unique_by=lambda row: row.name))
    taken = {row.name for row in found}
    for target in [row for row in found if isinstance(row, TensorRow)]:
        alias = f"{target.name.partition('/')[0]}/{draw(texts)}"
        if draw(st.booleans()) and alias not in taken:
            found.append(AliasRow(alias, target.name))
            taken.add(alias)
    return Manifest.of(found)


@given(manifests())
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    text = manifest.encode()
    again = Manifest.decode(text)
    assert again == manifest
    assert again.encode() == text
    assert again.roots() == manifest.roots()
    assert [type(row.value) for row in again.rows if isinstance(row, ScalarRow)] == [
        type(row.value) for row in manifest.rows if isinstance(row, ScalarRow)
    ]


@given(manifests(), st.data())
def test_a_flipped_byte_is_refused_or_is_another_state(manifest: Manifest, data: st.DataObject) -> None:
    text = bytearray(manifest.encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    try:
        changed = Manifest.decode(bytes(text))
    except EvidenceError:
        return
    assert changed.encode() == bytes(text)
    assert changed.state() != manifest.state()


@given(st.binary(max_size=300))
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        Manifest.decode(data)


@given(manifests(), st.data())
def test_each_row_counts_in_its_groups_root_alone(manifest: Manifest, data: st.DataObject) -> None:
    if not manifest.rows:
        return
    row = data.draw(st.sampled_from(manifest.rows))
    aliased = {r.target for r in manifest.rows if isinstance(r, AliasRow)}
    if row.name in aliased:
        return
    without = Manifest(tuple(r for r in manifest.rows if r is not row))
    group = row.name.partition("/")[0]
    differ = [g for g in GROUPS if without.roots()[g] != manifest.roots()[g]]
    assert differ == [group]
    with pytest.raises(ManifestError, match=f"the manifest's {group} rows"):
        check_manifest(without, manifest.roots())
    check_manifest(manifest, manifest.roots())


def test_the_roots_are_those_of_the_format() -> None:
    weight = TensorRow("model/w", "parameter", "F32", (2, 3), DIGEST)
    rate = ScalarRow("schedule/settings/0/lr", 0.0625)
    manifest = Manifest.of([rate, weight])
    assert json.loads(manifest.encode())["rows"] == [
        {"kind": "tensor", "name": "model/w", "role": "parameter", "dtype": "F32", "shape": [2, 3], "size": 24}
        | {"digest": str(DIGEST)},
        {"kind": "scalar", "name": "schedule/settings/0/lr", "type": "float", "value": "0x1.0000000000000p-4"},
    ]
    leaf = merkle.leaf_hash(tag("row") + encode(weight.to_json()))
    assert manifest.roots()["model"] == Digest("sha256", leaf)
    assert manifest.roots()["extra"] == Digest("sha256", merkle.EMPTY_ROOT)
    roots = {group: str(root) for group, root in manifest.roots().items()}
    assert manifest.state() == state_digest(manifest.roots()) == sha256(tag("state"), encode(roots))


def test_rows_are_found_by_name_and_group() -> None:
    manifest = Manifest.of([ScalarRow("model/b", 1), ScalarRow("extra/x", 2), ScalarRow("model/a", 3)])
    assert [row.name for row in manifest.rows] == ["extra/x", "model/a", "model/b"]
    assert manifest["model/a"] == ScalarRow("model/a", 3)
    assert "model/c" not in manifest
    assert [row.name for row in manifest.group("model")] == ["model/a", "model/b"]
    assert manifest.tensors() == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (0, False), (0.0, -0.0), ("1", 1), ("", None), (0, None), (1.0, 1.0 + 2**-52)],
    ids=str,
)
def test_values_that_python_may_call_equal_are_other_rows(one: Any, other: Any) -> None:
    first, second = ScalarRow("extra/x", one), ScalarRow("extra/x", other)
    assert first != second
    assert Manifest((first,)).state() != Manifest((second,)).state()


def test_equal_rows_are_equal_even_where_the_value_is_not() -> None:
    first, second = ScalarRow("extra/x", math.nan), ScalarRow("extra/x", float("nan"))
    assert first == second
    assert hash(first) == hash(second)
    assert first != AliasRow("extra/x", "extra/y")


@pytest.mark.parametrize(
    "row",
    [
        ScalarRow("weights/x", 1),
        ScalarRow("model", 1),
        ScalarRow("model/", 1),
        ScalarRow("", 1),
        ScalarRow("model/" + "x" * 1024, 1),
        ScalarRow("model/a\nb", 1),
        ScalarRow("model/a\u202eb", 1),
        ScalarRow("model/x", 10**39),
        ScalarRow("model/x", "x" * 4097),
        ScalarRow("model/x", 1j),  # type: ignore[arg-type]
        ScalarRow("model/x", b"x"),  # type: ignore[arg-type]
        TensorRow("model/x", "weights", "F32", (1,), DIGEST),
        TensorRow("model/x", "buffer", "F31", (1,), DIGEST),
        TensorRow("model/x", "buffer", "F32", (-1,), DIGEST),
        TensorRow("model/x", "buffer", "F32", (2**26, 2**26), DIGEST),
        TensorRow("model/x", "buffer", "F32", (1,) * 33, DIGEST),
        TensorRow("model/x", "buffer", "F32", (1,), sha256(b"")),
        FileRow("extra/x", -1, DIGEST),
        FileRow("extra/x", 2**53, DIGEST),
        FileRow("extra/x", 1, sha256(b"")),
        AliasRow("model/x", "model/nowhere"),
        AliasRow("model/x", "model/x"),
    ],
    ids=str,
)
def test_a_row_that_makes_no_sense_is_refused(row: Row) -> None:
    with pytest.raises(ManifestError):
        Manifest((row,))


def test_rows_that_contradict_each_other_are_refused() -> None:
    weight = TensorRow("model/w", "parameter", "F32", (1,), DIGEST)
    other = TensorRow("optimizer/w", "state", "F32", (1,), DIGEST)
    for wrong in (
        (ScalarRow("model/b", 1), ScalarRow("model/a", 1)),
        (ScalarRow("model/a", 1), ScalarRow("model/a", 2)),
        (AliasRow("model/a", "optimizer/w"), other),
        (AliasRow("model/a", "model/b"), AliasRow("model/b", "model/w"), weight),
        (AliasRow("model/a", "model/b"), ScalarRow("model/b", 1)),
    ):
        with pytest.raises(ManifestError):
            Manifest(wrong)


TENSOR = {"kind": "tensor", "name": "model/w", "role": "buffer", "dtype": "F32", "shape": [2], "size": 8} | {
    "digest": str(DIGEST)
}
SCALAR = {"kind": "scalar", "name": "extra/x", "type": "int", "value": "3"}
ALIAS = {"kind": "alias", "name": "model/x", "target": "model/w"}
FILE = {"kind": "file", "name": "extra/f", "size": 3, "digest": str(DIGEST)}


def decode(*found: dict[str, Any], **top: Any) -> Manifest:
    ordered = sorted(found, key=lambda row: str(row.get("name", "")))
    return Manifest.decode(encode({"format": "polchain-manifest/v1", "rows": list(ordered)} | top))


def test_the_rows_of_the_next_test_are_sound() -> None:
    assert len(decode(TENSOR, SCALAR, ALIAS, FILE).rows) == 4


@pytest.mark.parametrize("row", [TENSOR, SCALAR, ALIAS, FILE], ids=lambda row: row["kind"])
def test_a_field_that_is_missing_unknown_or_of_another_type_is_refused(row: dict[str, Any]) -> None:
    others = [TENSOR] if row is ALIAS else []
    for name, value in row.items():
        changes: list[Any] = [7 if isinstance(value, str) else "7", [], {}, True, "x" * 5000, -1]
        for changed in [c for c in changes if c != value]:
            with pytest.raises(EvidenceError):
                decode(row | {name: changed}, *others)
        with pytest.raises(FormatError):
            decode({k: v for k, v in row.items() if k != name}, *others)
    with pytest.raises(FormatError, match="unknown field"):
        decode(row | {"more": 1}, *others)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "03"), ("int", "+3"), ("int", " 3"), ("int", "1_0"), ("int", ""), ("int", "-0"), ("int", "9" * 41),
        ("float", "0.5"), ("float", "0x1p-1"), ("float", "0x1.0000000000000P-1"), ("float", "NaN"), ("float", "1"),
        ("float", "0x1p99999"), ("bool", "True"), ("bool", "1"), ("none", "None"), ("complex", "1j"), ("", ""),
    ],
)  # fmt: skip
def test_a_scalar_has_one_text(kind: str, text: str) -> None:
    with pytest.raises(FormatError):
        decode(SCALAR | {"type": kind, "value": text})


def test_the_top_of_a_manifest_is_strict() -> None:
    for top in ({"format": "polchain-manifest/v2"}, {"format": 1}, {"rows": {}}, {"rows": [1]}, {"more": 1}):
        with pytest.raises(FormatError):
            decode(SCALAR, **top)
    with pytest.raises(FormatError, match="limit"):
        Manifest.decode(Manifest((ScalarRow("extra/x", 3),)).encode(), limit=50)


@pytest.mark.parametrize(
    "name", ["model/fc.weight", 'model/"quoted"', "model/back\\slash", "model/größe", "model/日本"]
)
def test_a_row_written_straight_is_canonical(name: str) -> None:
    for shape in ((), (0,), (3, 4)):
        row = TensorRow(name, "parameter", "F32", shape, blake3(b"x"))
        assert row.encode() == encode(row.to_json())
        manifest = Manifest.of([row, ScalarRow("schedule/lr", 0.1)])
        rows = [each.to_json() for each in manifest.rows]
        assert manifest.encode() == encode({"format": "polchain-manifest/v1", "rows": rows})
        assert Manifest.decode(manifest.encode()) == manifest


def test_roots_that_were_asked_for_cannot_be_changed() -> None:
    manifest = Manifest.of([ScalarRow("schedule/lr", 0.1)])
    first = manifest.roots()
    manifest.roots()["model"] = first["schedule"]
    assert manifest.roots() == first
