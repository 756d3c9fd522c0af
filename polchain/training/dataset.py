"""The dataset commitment.

A sample is whatever `dataset[i]` returns, label included: tensors, numpy arrays, numbers, strings, bytes, None, and
tuples, lists and dicts of them. Its encoding is one tag byte, then for

    t a g   tensor, array, numpy scalar: dtype name, shape, bytes       i   int: decimal text
    l u d   list, tuple, dict (keys sorted): count, then the parts      f   float: 8 bytes, little-endian
    s y     text (UTF-8), bytes                                         b n bool, None

with every length as u64 little-endian. Leaf data is the tag `sample` and the encoding; the commitment is the RFC 6962
root over all samples in order, with their count; of private data the leaves are salted (`core.salts`). An opening is
an index, an encoding, an inclusion proof, and of private data the sample's salt.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from polchain.core import merkle
from polchain.core.digest import tag
from polchain.core.genesis import DatasetRef
from polchain.core.rows import MAX_INT
from polchain.core.salts import DataSecret, commit_leaves, salted_leaf_data
from polchain.errors import DatasetError, FormatError, InclusionError, PolchainError, RecipeError
from polchain.training.leaves import hash_samples
from polchain.training.tensors import dtype_name, tensor_bytes, tensor_from

__all__ = [
    "Commitment",
    "MapDataset",
    "Opening",
    "check_leaves",
    "check_opening",
    "data_dir",
    "decode_sample",
    "encode_sample",
    "sample_leaf",
]

MAX_DEPTH = 16
SAMPLE_LIMIT = 256 * 1024 * 1024


class MapDataset(Protocol):
    """What `record` takes as data: a length, and a sample by index that is the same each time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def data_dir() -> Path:
    """The only folder that a recipe may read: `--data`, `POLCHAIN_DATA`, else the working directory."""
    return Path(os.environ.get("POLCHAIN_DATA") or ".").resolve()


def encode_sample(sample: Any) -> bytes:
    """The encoding of one sample.

    Raises:
        RecipeError: it holds something else than data; the type is named.
    """
    parts: list[bytes] = []
    _encode(sample, parts, 0)
    return b"".join(parts)


def decode_sample(data: bytes) -> Any:
    """The sample of an encoding: `encode_sample(decode_sample(x)) == x`.

    Raises:
        FormatError: not an encoding, or not the canonical one.
    """
    if len(data) > SAMPLE_LIMIT:
        raise FormatError(f"a sample of {len(data)} bytes, over the limit of {SAMPLE_LIMIT}")
    try:
        sample, end = _decode(memoryview(data), 0, 0)
        again = encode_sample(sample) if end == len(data) else b""
    except (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, struct.error, PolchainError) as error:
        raise FormatError("not the encoding of a sample") from error
    if again != data:
        raise FormatError("not the canonical encoding of a sample")
    return sample


def sample_leaf(encoding: bytes) -> merkle.Hash:
    """The leaf hash of a sample, from its encoding."""
    return merkle.leaf_hash(tag("sample") + encoding)


def _leaf_of(sample: Any) -> merkle.Hash:
    return sample_leaf(encode_sample(sample))


@dataclass(frozen=True, slots=True)
class Opening:
    """One sample, with the proof that it is the one at `index` of a committed dataset."""

    index: int
    encoding: bytes
    proof: tuple[merkle.Hash, ...]
    salt: bytes | None = None


@dataclass(frozen=True, slots=True)
class Commitment:
    """The plain leaf hashes of a dataset, in order."""

    leaves: Sequence[merkle.Hash]

    @classmethod
    def of(
        cls,
        dataset: MapDataset,
        progress: Callable[[int], None] | None = None,
        *,
        workers: int | None = None,
        kept: Path | None = None,
    ) -> Commitment:
        """Read and hash every sample once; `workers` and `kept` as for `leaves.hash_samples`.

        Raises:
            DatasetError: the dataset is empty, or a sample cannot be read.
            RecipeError: it is not map-style, holds what is not data, or gives another sample each time.
        """
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise RecipeError(
                f"data is a {type(dataset).__name__}, which has no length or no items by index",
                hint="pass a map-style dataset, or a function that makes one",
            )
        if len(dataset) == 0:
            raise DatasetError("the dataset is empty")
        for index in {0, len(dataset) - 1}:
            if encode_sample(dataset[index]) != encode_sample(dataset[index]):
                raise RecipeError(
                    f"data[{index}] gives another sample each time it is read",
                    hint="move random augmentation out of the dataset, into augment=",
                )
        return cls(hash_samples(dataset, _leaf_of, progress=progress, workers=workers, kept=kept))

    def ref(self, secret: DataSecret | None = None) -> DatasetRef:
        """What the genesis says of it; salted where there is a secret."""
        return commit_leaves(self.leaves, secret)

    def open(self, dataset: MapDataset, index: int, secret: DataSecret | None = None) -> Opening:
        """The opening of one sample."""
        leaves = self.leaves if secret is None else secret.leaves(self.leaves)
        proof = tuple(merkle.prove_inclusion(leaves, index))
        salt = None if secret is None else secret.salt(index, self.leaves[index])
        return Opening(index, encode_sample(dataset[index]), proof, salt)


def check_opening(opening: Opening, ref: DatasetRef) -> None:
    """Check that a sample is the one at its index in a committed dataset.

    Raises:
        InclusionError: it is not; or it has a salt where the dataset has none, or none where it has.
    """
    if (opening.salt is None) != (ref.salts is None):
        raise InclusionError("a sample is opened with its salt where the data is private, and only there")
    data = tag("sample") + opening.encoding
    if opening.salt is not None:
        data = salted_leaf_data(opening.salt, merkle.leaf_hash(data))
    merkle.check_inclusion(data, opening.index, opening.proof, ref.samples, ref.root.value)


def check_leaves(indices: Sequence[int], used: Sequence[bytes], leaves: Sequence[merkle.Hash]) -> None:
    """Check the leaf hashes of the samples that a replay says it used against those of the committed dataset.

    Raises:
        DatasetError: a sample is another one; the first such index is named.
    """
    if len(indices) != len(used):
        raise DatasetError(f"the replay used {len(used)} samples where the order has {len(indices)}")
    for index, leaf in zip(indices, used, strict=True):
        if leaf != leaves[index]:
            raise DatasetError(f"the replay used another sample at index {index} than the one committed")


def _length(number: int) -> bytes:
    return struct.pack("<Q", number)


def _block(data: bytes) -> bytes:
    return _length(len(data)) + data


def _encode(value: Any, parts: list[bytes], depth: int) -> None:
    import torch

    if depth > MAX_DEPTH:
        raise RecipeError(f"a sample is nested more than {MAX_DEPTH} deep")
    kind = type(value)
    if isinstance(value, torch.Tensor):
        name = dtype_name(value, "a sample")
        parts += [b"t", _block(name.encode()), _shape(value.shape), _block(bytes(tensor_bytes(value)))]
    elif isinstance(value, np.ndarray | np.generic):
        if not _plain(value.dtype):
            raise RecipeError(f"a sample holds a numpy array of {value.dtype}, which is not plain data")
        little = value.dtype.newbyteorder("<")
        data = np.ascontiguousarray(value, dtype=little).tobytes()
        code = b"a" if isinstance(value, np.ndarray) else b"g"
        parts += [code, _block(little.str.encode()), _shape(value.shape), _block(data)]
    elif kind is bool:
        parts += [b"b", b"\x01" if value else b"\x00"]
    elif kind is int:
        if abs(value) >= MAX_INT:
            raise RecipeError("a sample holds an integer of more than 39 digits")
        parts += [b"i", _block(str(value).encode())]
    elif kind is float:
        parts += [b"f", struct.pack("<d", value)]
    elif kind is str:
        parts += [b"s", _text(value)]
    elif kind is bytes:
        parts += [b"y", _block(value)]
    elif value is None:
        parts.append(b"n")
    elif kind is tuple or kind is list:
        parts += [b"u" if kind is tuple else b"l", _length(len(value))]
        for item in value:
            _encode(item, parts, depth + 1)
    elif kind is dict:
        if not all(type(key) is str for key in value):
            raise RecipeError("a sample holds a dict whose keys are not all text")
        parts += [b"d", _length(len(value))]
        for key in sorted(value):
            parts.append(_text(key))
            _encode(value[key], parts, depth + 1)
    else:
        raise RecipeError(
            f"a sample holds a {kind.__module__}.{kind.__qualname__}, which cannot be committed to",
            hint="return tensors, arrays, numbers, text, or tuples, lists and dicts of them",
        )


def _text(value: str) -> bytes:
    try:
        return _block(value.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise RecipeError("a sample holds text with a lone surrogate, which has no bytes") from error


def _plain(dtype: np.dtype[Any]) -> bool:
    # Extended precision has padding, whose bytes are nobody's.
    return not dtype.hasobject and dtype.kind in "biufcSU" and dtype.char not in "gG"


def _shape(shape: Sequence[int]) -> bytes:
    return _length(len(shape)) + b"".join(_length(n) for n in shape)


def _decode(data: memoryview, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    code, at = bytes(data[at : at + 1]), at + 1
    if code in (b"t", b"a", b"g"):
        name, at = _take(data, at)
        count, at = _number(data, at)
        if count > 32:
            raise ValueError("too many dimensions")
        shape = []
        for _ in range(count):
            size, at = _number(data, at)
            shape.append(size)
        raw, at = _take(data, at)
        if code == b"t":
            return tensor_from(bytearray(raw), name.decode(), tuple(shape)), at
        dtype = np.dtype(name.decode())
        if not _plain(dtype):
            raise ValueError("not plain data")
        if code == b"g" and dtype.itemsize == 0:
            return dtype.type(), at  # an empty text
        array = np.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
        return (array if code == b"a" else array[()]), at
    if code == b"b":
        return {0: False, 1: True}[data[at]], at + 1
    if code == b"f":
        return struct.unpack("<d", data[at : at + 8])[0], at + 8
    if code == b"n":
        return None, at
    if code in (b"i", b"s", b"y"):
        raw, at = _take(data, at)
        if code == b"i":
            return int(raw[:41].decode()), at
        return (raw.decode() if code == b"s" else raw), at
    if code in (b"l", b"u", b"d"):
        count, at = _number(data, at)
        items: list[Any] = []
        keys: list[str] = []
        for _ in range(count):
            if code == b"d":
                raw, at = _take(data, at)
                keys.append(raw.decode())
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        if code == b"d":
            return dict(zip(keys, items, strict=True)), at
        return (items if code == b"l" else tuple(items)), at
    raise ValueError("unknown tag")


def _number(data: memoryview, at: int) -> tuple[int, int]:
    return struct.unpack("<Q", data[at : at + 8])[0], at + 8


def _take(data: memoryview, at: int) -> tuple[bytes, int]:
    size, at = _number(data, at)
    if size > len(data) - at:
        raise ValueError("cut short")
    return bytes(data[at : at + size]), at + size
