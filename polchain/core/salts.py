"""Salts: a private dataset's leaf hashes, which confirm no guess at a sample to whoever has not got its salt.

    secret      32 random bytes, drawn or given before the genesis; a file of its owner's, in no log and no claim
    salts       SHA-256(tag data-secret || secret): what the genesis says of it (`genesis.DatasetRef`)
    salt(i)     BLAKE3(key = secret, tag salt || u64 i || the plain leaf hash of sample i), 32 bytes
    leaf(i)     the leaf hash of tag salted-sample || salt(i) || the plain leaf hash of sample i

Over the plain leaf hash, not over the sample: whoever replays a recipe asks it for plain ones, and salts them himself,
so that no recipe is ever shown a salt. The file of a secret is one line: `polchain-data-secret/v1 <64 hex>`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from polchain.core import merkle
from polchain.core.digest import Digest, blake3_keyed, sha256, tag
from polchain.core.genesis import DatasetRef
from polchain.errors import DataSecretError, FormatError

__all__ = ["SALT", "SECRET_LIMIT", "DataSecret", "commit_leaves", "find_secret", "salted_leaf", "salted_leaf_data"]

SALT = 32
SECRET_LIMIT = 4096
_FORMAT: Final = "polchain-data-secret/v1"
_FILE: Final = re.compile(rf"{_FORMAT} ([0-9a-f]{{64}})\n")


@dataclass(frozen=True, slots=True)
class DataSecret:
    """What the salts of a private dataset follow from. Its `repr` does not show it.

    Raises:
        FormatError: not 32 bytes.
    """

    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if type(self.value) is not bytes or len(self.value) != 32:
            raise FormatError("a data secret is 32 bytes")

    @property
    def commitment(self) -> Digest:
        """`salts` in a genesis: names the secret, and does not tell it."""
        return sha256(tag("data-secret"), self.value)

    def salt(self, index: int, plain: merkle.Hash) -> bytes:
        """The salt of the sample at an index of the dataset, which has this plain leaf hash."""
        return blake3_keyed(self.value, tag("salt") + struct.pack("<Q", index) + plain)

    def leaves(self, plain: Sequence[merkle.Hash]) -> list[merkle.Hash]:
        """The leaf hashes of the whole dataset, from the plain ones."""
        return [salted_leaf(self.salt(index, leaf), leaf) for index, leaf in enumerate(plain)]

    def encode(self) -> bytes:
        """The bytes of its file; `parse` is the inverse."""
        return f"{_FORMAT} {self.value.hex()}\n".encode("ascii")

    @classmethod
    def parse(cls, data: bytes) -> DataSecret:
        """Read a file of a secret.

        Raises:
            FormatError: anything but the one line. The message holds nothing of it.
        """
        match = _FILE.fullmatch(data[: SECRET_LIMIT + 1].decode("ascii", "replace"))
        if match is None:
            raise FormatError(f"not a data secret: one line, {_FORMAT} and 64 lower-case hexadecimal digits")
        return cls(bytes.fromhex(match[1]))


def salted_leaf(salt: bytes, plain: merkle.Hash) -> merkle.Hash:
    """The leaf hash of a private sample; arguments and errors are those of `salted_leaf_data`."""
    return merkle.leaf_hash(salted_leaf_data(salt, plain))


def salted_leaf_data(salt: bytes, plain: merkle.Hash) -> bytes:
    """The leaf data of a private sample.

    Args:
        salt: its salt, which may be a stranger's word: the leaf binds to it as to the sample.
        plain: the leaf hash that the sample has without one, computed from its bytes.

    Raises:
        FormatError: one of them is not 32 bytes, so that where one ends would be open.
    """
    if len(salt) != SALT or len(plain) != len(merkle.EMPTY_ROOT):
        raise FormatError(f"a salt is {SALT} bytes, and a leaf hash {len(merkle.EMPTY_ROOT)}")
    return tag("salted-sample") + salt + plain


def commit_leaves(plain: Sequence[merkle.Hash], secret: DataSecret | None) -> DatasetRef:
    """What a genesis says of a dataset with these plain leaf hashes; salted where there is a secret."""
    if secret is None:
        return DatasetRef(len(plain), Digest("sha256", merkle.root(plain)))
    return DatasetRef(len(plain), Digest("sha256", merkle.root(secret.leaves(plain))), secret.commitment)


def find_secret(dataset: DatasetRef, secrets: Iterable[DataSecret]) -> DataSecret | None:
    """The secret that a dataset's salts follow from; None where the dataset is not private.

    Raises:
        DataSecretError: it is private, and none of these is its secret.
    """
    if dataset.salts is None:
        return None
    for secret in secrets:
        if secret.commitment == dataset.salts:
            return secret
    raise DataSecretError(
        f"the data is private, and the secret that it is salted with is not at hand ({dataset.salts})",
        hint="ask its owner for it and pass --data-secret FILE; or draw with `polchain challenge`, and he discloses "
        "the samples of the draw alone",
    )
