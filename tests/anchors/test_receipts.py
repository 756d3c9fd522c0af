"""Receipts as files: what was written is read, and everything else is a FormatError."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.anchors.base import Receipt, Target
from polchain.anchors.batch import make_batch
from polchain.anchors.receipts import FORMAT, FiledReceipt, read_receipt, write_receipt
from polchain.core.claim import RECEIPT_LIMIT
from polchain.core.encoding import MAX_INTEGER, encode
from polchain.errors import FormatError, InclusionError, MissingFileError, StorageError

NOTES = [b"head %d\n" % number for number in range(5)]
BATCH = make_batch(NOTES)
BODY: dict[str, Any] = {"block": 7412331, "proof": ["00", "01"], "weak": True}
FILED = FiledReceipt(42, Receipt("ethereum", "pending", BODY), BATCH.membership(NOTES[2]))
VALID: dict[str, Any] = {
    "format": FORMAT,
    "head_size": 42,
    "kind": "ethereum",
    "status": "final",
    "body": BODY,
    "batch": FILED.batch.to_json() if FILED.batch else {},
}

scalars = st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), values, max_size=5)


@given(st.integers(1, MAX_INTEGER), st.sampled_from(["ethereum", "rfc3161", "memory"]), bodies, st.booleans())
def test_what_was_written_is_read(size: int, kind: str, body: dict[str, Any], batched: bool) -> None:
    for status in ("pending", "final"):
        filed = FiledReceipt(size, Receipt(kind, status, body), FILED.batch if batched else None)  # type: ignore[arg-type]
        assert FiledReceipt.parse(filed.encode()) == filed


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_other_bytes_are_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        FiledReceipt.parse(data)


@given(st.data())
def test_damaged_bytes_are_a_format_error_or_another_receipt(data: st.DataObject) -> None:
    good = FILED.encode()
    at = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.integers(0, 3))
    changed = good[:at] + data.draw(st.binary(max_size=3)) + good[at + cut :]
    try:
        parsed = FiledReceipt.parse(changed)
    except FormatError:
        return
    assert parsed.encode() == changed


@given(st.sampled_from(sorted(VALID)), values)
def test_another_value_in_a_field_is_a_format_error_or_meant(name: str, value: Any) -> None:
    data = encode({**VALID, name: value})
    with contextlib.suppress(FormatError):
        assert FiledReceipt.parse(data).encode() == data


@pytest.mark.parametrize(
    "change",
    [
        {"format": "polchain-receipt/v2"},
        {"head_size": 0},
        {"head_size": True},
        {"kind": ""},
        {"kind": "Ethereum"},
        {"kind": "../x"},
        {"kind": "e" * 33},
        {"status": "unchecked"},
        {"status": "FINAL"},
        {"body": []},
        {"batch": {}},
        {"batch": {**VALID["batch"], "count": 0}},
        {"more": 1},
    ],
)
def test_a_receipt_of_another_form_is_refused(change: dict[str, Any]) -> None:
    FiledReceipt.parse(encode(VALID))
    with pytest.raises(FormatError):
        FiledReceipt.parse(encode({**VALID, **change}))


@pytest.mark.parametrize("name", sorted(VALID))
def test_only_the_batch_may_be_missing(name: str) -> None:
    data = encode({key: VALID[key] for key in VALID if key != name})
    if name == "batch":
        assert FiledReceipt.parse(data).batch is None
        return
    with pytest.raises(FormatError, match="missing"):
        FiledReceipt.parse(data)


def test_a_receipt_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    wrong = [
        Receipt("ethereum", "final", {"x": 1.5}),  # type: ignore[dict-item]
        Receipt("ethereum", "final", {"x": "a" * RECEIPT_LIMIT}),
        Receipt("ethereum", "unchecked", {}),
        Receipt("No Kind", "final", {}),
    ]
    for receipt in wrong:
        with pytest.raises(FormatError):
            write_receipt(tmp_path / "r.json", FiledReceipt(1, receipt))
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whole_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "anchors" / "42-sepolia.json"
    write_receipt(path, FILED)
    assert read_receipt(path) == FILED
    final = FiledReceipt(42, Receipt("ethereum", "final", BODY), FILED.batch)
    write_receipt(path, final)
    assert read_receipt(path) == final
    assert os.listdir(path.parent) == [path.name]


def test_links_pipes_folders_and_large_files_are_not_receipts(tmp_path: Path) -> None:
    write_receipt(tmp_path / "real", FILED)
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b" " * (RECEIPT_LIMIT + 1))
    for name in ("link", "nothing"):
        with pytest.raises(MissingFileError):
            read_receipt(tmp_path / name)
    for name in ("pipe", "folder", "large"):
        with pytest.raises(FormatError):
            read_receipt(tmp_path / name)
    with pytest.raises(StorageError):
        write_receipt(tmp_path / "real" / "x", FILED)


def test_the_target_is_the_head_or_the_batch_that_it_is_in() -> None:
    alone = Target(b"\x01" * 32, b"\x02" * 32, 42, NOTES[2])
    assert FiledReceipt(42, FILED.receipt).target(alone) is alone
    assert FILED.target(alone) == BATCH.target
    with pytest.raises(InclusionError):
        FILED.target(Target(alone.log, alone.root, 42, b"another head\n"))
