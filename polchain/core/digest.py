r"""Digests, and the one table of domain tags.

A digest is written with its algorithm:

    blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262
    sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855

BLAKE3 is for bulk bytes (tensors, samples, files), plain, so that `b3sum` agrees. SHA-256 is for trees and notes.
Signed messages other than notes, leaf data and PRF inputs begin with a tag, so that no bytes mean two things:

    polchain-<name>/v1\0
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

import blake3 as _blake3

from polchain.errors import FormatError, UsageError

__all__ = ["TAGS", "Buffer", "Digest", "blake3", "blake3_each", "blake3_keyed", "blake3_of", "sha256", "tag"]

Buffer: TypeAlias = bytes | bytearray | memoryview

TAGS: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        name: f"polchain-{name}/v1\0".encode("ascii")
        for name in (
            "chain",
            "seed",
            "state",
            "recipe",
            "init",
            "order",
            "step",
            "augment",
            "entry",
            "row",
            "sample",
            "data-secret",
            "salt",
            "salted-sample",
            "challenge",
            "public-challenge",
            "behaviour",
            "results",
            "key-binding",
            "task",
            "dataset",
        )
    }
)

_TEXT: Final = re.compile(r"(blake3|sha256):([0-9a-f]{64})")

# Below this, starting threads costs more than it saves.
_PARALLEL: Final = 1 << 20
_HUGE: Final = 1 << 26
# Below this, two threads that hash wait for Python's lock longer than they hash.
_SMALL: Final = 1 << 16
_TINY: Final = 64
# A thread that is done early takes another share.
_SHARES: Final = 8


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """32 bytes, and the algorithm that made them.

    Raises:
        FormatError: another algorithm, or not 32 bytes.
    """

    algorithm: str
    value: bytes

    def __post_init__(self) -> None:
        if self.algorithm not in ("blake3", "sha256"):
            raise FormatError(f"digest: {self.algorithm!a} is neither blake3 nor sha256")
        if type(self.value) is not bytes or len(self.value) != 32:
            raise FormatError("digest: 32 bytes were expected")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"

    @property
    def hex(self) -> str:
        """The 64 lower-case hexadecimal digits, without the algorithm."""
        return self.value.hex()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read what `str()` wrote.

        Raises:
            FormatError: another algorithm, another length, upper case, or anything around it.
        """
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise FormatError("digest: 'blake3:' or 'sha256:' and 64 lower-case hexadecimal digits were expected")
        return cls(match[1], bytes.fromhex(match[2]))


class _Threads:
    """How many threads BLAKE3 may use: all, but one in a child forked after they were started.

    BLAKE3's thread pool is one a process, and its threads do not survive a fork: a child that waits for them waits
    for ever. DataLoader workers and the verifier's replayers are forked.
    """

    def __init__(self) -> None:
        self._started = False
        self._lost = False
        os.register_at_fork(after_in_child=self._forked)

    def claim(self) -> int:
        if self._lost:
            return 1
        self._started = True
        return _blake3.blake3.AUTO

    def _forked(self) -> None:
        self._lost = self._started


_threads = _Threads()


def tag(name: str) -> bytes:
    """The domain tag of that name. A KeyError is a bug: names come from code, never from input."""
    return TAGS[name]


def blake3(data: Buffer, *more: Buffer) -> Digest:
    """BLAKE3 of the buffers, one after the other; equal to `b3sum` of their concatenation.

    Raises:
        UsageError: a memoryview that is not contiguous.
    """
    views = [_flat(part) for part in (data, *more)]
    large = any(len(view) > _PARALLEL for view in views)
    hasher = _blake3.blake3(max_threads=_threads.claim() if large else 1)
    for view in views:
        hasher.update(view)
    return Digest("blake3", hasher.digest())


def blake3_each(buffers: Iterable[Buffer]) -> list[Digest]:
    """BLAKE3 of each buffer by itself, in order.

    Each is hashed by one thread, large ones several at a time: spreading one of a few megabytes over threads takes
    longer. Only one that is huge is spread.

    Raises:
        UsageError: a memoryview that is not contiguous.
    """
    views = [_flat(data) for data in buffers]
    large = [number for number, view in enumerate(views) if len(view) >= _SMALL]
    if len(large) < 2 or len(os.sched_getaffinity(0)) < 2:
        return _one_by_one(views)
    found: dict[int, Digest] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        shares = _shares(large, [len(views[number]) for number in large])
        for share, digests in zip(
            shares, pool.map(lambda share: _one_by_one([views[number] for number in share]), shares), strict=True
        ):
            found.update(zip(share, digests, strict=True))
    small = [number for number in range(len(views)) if number not in found]
    found.update(zip(small, _one_by_one([views[number] for number in small]), strict=True))
    return [found[number] for number in range(len(views))]


def _shares(numbers: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Numbers in stretches of about as many bytes each, several for each core."""
    most = max(_PARALLEL, sum(sizes) // (_SHARES * len(os.sched_getaffinity(0))))
    shares: list[list[int]] = [[]]
    held = 0
    for number, size in zip(numbers, sizes, strict=True):
        if held >= most:
            shares.append([])
            held = 0
        shares[-1].append(number)
        held += size
    return shares


def _one_by_one(views: Iterable[bytes | bytearray | memoryview]) -> list[Digest]:
    digests: list[Digest] = []
    # An optimizer counts its steps once a parameter, all alike: looking up is cheaper than hashing.
    tiny: dict[bytes, Digest] = {}
    for view in views:
        if len(view) > _HUGE:
            digests.append(blake3(view))
        elif len(view) > _TINY:
            digests.append(Digest("blake3", _blake3.blake3(view, max_threads=1).digest()))
        else:
            text = bytes(view)
            found = tiny.get(text)
            if found is None:
                found = tiny[text] = Digest("blake3", _blake3.blake3(text).digest())
            digests.append(found)
    return digests


def blake3_of(pieces: Iterable[Buffer]) -> Digest:
    """BLAKE3 of large pieces, one after the other; each is done with before the next is asked for.

    Raises:
        UsageError: a memoryview that is not contiguous.
    """
    hasher = _blake3.blake3(max_threads=1)
    for number, piece in enumerate(pieces):
        view = _flat(piece)
        if number == 0 and len(view) > _PARALLEL:
            hasher = _blake3.blake3(max_threads=_threads.claim())
        hasher.update(view)
    return Digest("blake3", hasher.digest())


def sha256(data: Buffer, *more: Buffer) -> Digest:
    """SHA-256 of the buffers, one after the other.

    Raises:
        UsageError: a memoryview that is not contiguous.
    """
    hasher = hashlib.sha256()
    for part in (data, *more):
        hasher.update(_flat(part))
    return Digest("sha256", hasher.digest())


def blake3_keyed(key: bytes, data: bytes, length: int = 32) -> bytes:
    """The first `length` bytes of keyed BLAKE3's output stream. `data` begins with a domain tag.

    Raises:
        UsageError: the key is not 32 bytes, or the length is negative.
    """
    if len(key) != 32:
        raise UsageError(f"a BLAKE3 key is 32 bytes, not {len(key)}")
    if length < 0:
        raise UsageError(f"{length} bytes of output make no sense")
    return _blake3.blake3(data, key=key).digest(length)


def _flat(data: Buffer) -> bytes | bytearray | memoryview:
    """The bytes behind a buffer, without a copy. BLAKE3 refuses float arrays, and len() counts items."""
    if not isinstance(data, memoryview):
        return data
    if data.nbytes == 0:
        # An array with a zero in its shape cannot be cast.
        return b""
    try:
        return data.cast("B")
    except (TypeError, ValueError) as error:
        raise UsageError(f"only a contiguous buffer of native numbers can be hashed: {error}") from None
