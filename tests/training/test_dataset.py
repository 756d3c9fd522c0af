"""The dataset commitment: every sample counts, its label too, and no other sample opens it."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polchain.core import merkle
from polchain.core.salts import DataSecret
from polchain.errors import DatasetError, EvidenceError, FormatError, InclusionError, RecipeError
from polchain.training.dataset import (
    Commitment,
    Opening,
    check_leaves,
    check_opening,
    data_dir,
    decode_sample,
    encode_sample,
    sample_leaf,
)
from polchain.training.tensors import DTYPE_NAMES

sizes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
ARRAY_DTYPES = ["?", "i1", "u1", "<i2", "<u4", "<i8", "<f2", "<f4", "<f8", "<c8", "<c16", "S3", "<U2"]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape, dtype = draw(sizes), draw(st.sampled_from(sorted(DTYPE_NAMES, key=str)))
    flat = torch.randint(0, 2, (math.prod(shape),), generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    return flat.reshape(shape).to(dtype)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    shape, dtype = draw(sizes), draw(st.sampled_from(ARRAY_DTYPES))
    array = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, shape).astype(dtype)
    return array[()] if shape == () and draw(st.booleans()) else array


numbers = st.none() | st.booleans() | st.integers(1 - 10**39, 10**39 - 1) | st.floats()
leaves = numbers | st.text(max_size=6) | st.binary(max_size=6) | tensors() | arrays() | st.text(max_size=2).map(np.str_)
samples = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type, value and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = (a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, np.ndarray | np.generic):
        if not a.dtype.itemsize:  # an empty text has no bytes of its own, and tobytes shows its neighbour's
            return a.dtype == b.dtype and bool(a == b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return repr(a) == repr(b)


@given(samples)
def test_a_sample_comes_back_as_it_was(sample: Any) -> None:
    encoding = encode_sample(sample)
    if isinstance(sample, np.str_) and sample.endswith("\0"):
        return  # numpy itself drops zeros at the end of its texts
    again = decode_sample(encoding)
    assert same(again, sample)
    assert encode_sample(again) == encoding


@given(samples, samples)
def test_different_samples_have_different_encodings(a: Any, b: Any) -> None:
    assert (encode_sample(a) == encode_sample(b)) == same(a, b)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_sample_or_no_sample_by_name(data: bytes) -> None:
    try:
        sample = decode_sample(data)
    except FormatError:
        return
    assert encode_sample(sample) == data


@given(samples, st.data())
def test_a_changed_encoding_is_another_sample_or_none(sample: Any, data: st.DataObject) -> None:
    changed = bytearray(encode_sample(sample))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    try:
        again = decode_sample(bytes(changed))
    except FormatError:
        return
    assert encode_sample(again) == bytes(changed)


def test_encodings_that_lie_about_their_size_are_refused_at_once() -> None:
    huge = (2**62).to_bytes(8, "little")
    zero = bytes(8)
    for data in (
        b"y" + huge,
        b"u" + huge + b"n" * 50,
        b"d" + huge,
        b"t" + (3).to_bytes(8, "little") + b"F32" + (1).to_bytes(8, "little") + huge + zero,
        b"a" + (3).to_bytes(8, "little") + b"<f4" + (2).to_bytes(8, "little") + huge + huge + zero,
        b"a" + (3).to_bytes(8, "little") + b"|O8" + zero + zero,
        b"a" + (4).to_bytes(8, "little") + b"<f16" + zero + (16).to_bytes(8, "little") + bytes(16),
        b"t" + (3).to_bytes(8, "little") + b"F31" + zero + zero,
        b"l" + (1).to_bytes(8, "little") * 1 + (b"l" + (1).to_bytes(8, "little")) * 40 + b"n",
        b"i" + (5000).to_bytes(8, "little") + b"1" * 5000,
        b"b\x02",
        b"",
        b"nn",
    ):
        with pytest.raises(FormatError):
            decode_sample(data)


def test_the_encoding_is_that_of_the_format() -> None:
    def number(n: int) -> bytes:
        return n.to_bytes(8, "little")

    image = torch.tensor([[1, 2]], dtype=torch.int16)
    tensor = b"t" + number(3) + b"I16" + number(2) + number(1) + number(2) + number(4) + b"\x01\0\x02\0"
    assert encode_sample((image, 7)) == b"u" + number(2) + tensor + b"i" + number(1) + b"7"
    assert sample_leaf(b"x") == merkle.leaf_hash(b"polchain-sample/v1\0x")


def test_byte_order_and_memory_order_do_not_matter() -> None:
    values = np.arange(6, dtype="<i4").reshape(2, 3)
    assert encode_sample(values) == encode_sample(values.astype(">i4")) == encode_sample(np.asfortranarray(values))
    assert encode_sample(torch.ones(2, 3).t()) == encode_sample(torch.ones(3, 2))


class Opaque:
    pass


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("sample", "named"),
    [
        (Opaque(), "Opaque"),
        ({1: 2}, "keys"),
        ({1, 2}, "set"),
        (OrderedDict(a=1), "OrderedDict"),
        (Pair(1, 2), "Pair"),
        (1j, "complex"),
        (Path("x"), "Path"),
        (np.array([object()]), "object"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "datetime64"),
        (np.zeros(1, dtype=[("a", "i4")]), "not plain data"),
        (np.longdouble(1), "not plain data"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.zeros(1, dtype=torch.complex128), "complex128"),
        ("\ud800", "lone surrogate"),
        ({"\ud800": 1}, "lone surrogate"),
        (10**40, "39 digits"),
        (10**5000, "39 digits"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else "",
)
def test_what_is_not_data_is_refused_by_its_type(sample: Any, named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        encode_sample([sample])
    assert named in str(caught.value)


def test_a_sample_that_is_nested_too_deep_is_refused() -> None:
    sample: Any = 1
    for _ in range(20):
        sample = [sample]
    with pytest.raises(RecipeError, match="nested"):
        encode_sample(sample)


# --- commitments

DATA = [(torch.full((3,), float(i)), i % 2) for i in range(11)]


def test_every_sample_and_every_label_is_in_the_root() -> None:
    committed = Commitment.of(DATA).ref()
    assert committed.samples == 11
    for index in range(len(DATA)):
        image, label = DATA[index]
        for other in ((image, 1 - label), (image + 2**-20, label), (image, float(label)), (image,)):
            changed = [*DATA[:index], other, *DATA[index + 1 :]]
            assert Commitment.of(changed).ref().root != committed.root
    assert Commitment.of(DATA[::-1]).ref().root != committed.root
    assert Commitment.of(DATA[:-1]).ref().root != committed.root


def test_an_opening_holds_for_its_index_and_sample_alone() -> None:
    commitment, ref = Commitment.of(DATA), Commitment.of(DATA).ref()
    for index in range(len(DATA)):
        opening = commitment.open(DATA, index)
        check_opening(opening, ref)
        assert same(decode_sample(opening.encoding), DATA[index])
        other = (index + 1) % len(DATA)
        for wrong in (
            dataclasses.replace(opening, index=other),
            dataclasses.replace(opening, index=-1),
            dataclasses.replace(opening, index=index + 16),
            dataclasses.replace(opening, encoding=encode_sample(DATA[other])),
            dataclasses.replace(opening, proof=opening.proof[:-1]),
            dataclasses.replace(opening, proof=(*opening.proof, bytes(32))),
        ):
            with pytest.raises(EvidenceError):
                check_opening(wrong, ref)


def test_a_private_opening_holds_with_its_salt_alone() -> None:
    secret, commitment = DataSecret(bytes(range(32))), Commitment.of(DATA)
    ref, plain = commitment.ref(secret), commitment.ref()
    for index in range(len(DATA)):
        opening = commitment.open(DATA, index, secret)
        check_opening(opening, ref)
        wrong = [
            (dataclasses.replace(opening, salt=None), ref),
            (dataclasses.replace(opening, salt=commitment.open(DATA, (index + 1) % len(DATA), secret).salt), ref),
            (dataclasses.replace(opening, salt=bytes(31)), ref),
            (dataclasses.replace(opening, encoding=encode_sample(DATA[(index + 1) % len(DATA)])), ref),
            (commitment.open(DATA, index), ref),
            (opening, plain),
            (dataclasses.replace(commitment.open(DATA, index), salt=opening.salt), plain),
        ]
        for changed, against in wrong:
            with pytest.raises(EvidenceError):
                check_opening(changed, against)


def test_any_flipped_byte_of_an_opening_raises() -> None:
    commitment, ref = Commitment.of(DATA), Commitment.of(DATA).ref()
    opening = commitment.open(DATA, 6)
    for place in range(len(opening.encoding)):
        changed = bytearray(opening.encoding)
        changed[place] ^= 1
        with pytest.raises(InclusionError):
            check_opening(dataclasses.replace(opening, encoding=bytes(changed)), ref)
    for place in range(32 * len(opening.proof)):
        flat = bytearray(b"".join(opening.proof))
        flat[place] ^= 0x80
        proof = tuple(bytes(flat[i : i + 32]) for i in range(0, len(flat), 32))
        with pytest.raises(InclusionError):
            check_opening(Opening(6, opening.encoding, proof), ref)


def test_samples_of_a_replay_are_checked_one_by_one() -> None:
    leaves = Commitment.of(DATA).leaves
    used = [sample_leaf(encode_sample(DATA[i])) for i in (3, 0, 7)]
    check_leaves([3, 0, 7], used, leaves)
    with pytest.raises(DatasetError, match="index 0"):
        check_leaves([3, 0, 7], [used[0], used[2], used[2]], leaves)
    with pytest.raises(DatasetError, match="2 samples where the order has 3"):
        check_leaves([3, 0, 7], used[:2], leaves)


class Changing:
    """A dataset that augments by itself."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return index + self.draw()


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()), np.random.rand, random.random], ids=["torch", "numpy", "random"]
)
def test_a_dataset_whose_samples_change_is_refused(draw: Any) -> None:
    with pytest.raises(RecipeError, match="another sample each time") as caught:
        Commitment.of(Changing(draw))
    assert "augment=" in caught.value.hint
    Commitment.of(Changing(lambda: 0))


def test_a_dataset_that_is_none_is_refused() -> None:
    with pytest.raises(DatasetError, match="empty"):
        Commitment.of([])
    with pytest.raises(RecipeError, match="generator"):
        Commitment.of(i for i in range(3))  # type: ignore[arg-type]


def test_progress_is_told_up_to_the_last_sample() -> None:
    seen: list[int] = []
    Commitment.of(DATA, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 11, "the end was not told"


def test_the_data_folder_is_the_one_that_was_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_dir() == tmp_path
    monkeypatch.setenv("POLCHAIN_DATA", "deep/folder")
    assert data_dir() == tmp_path / "deep" / "folder"
