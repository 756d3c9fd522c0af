"""Samples as an opening discloses them, and as a replaying process is handed them.

u64 index, u64 length, the sample's encoding; by rising index        all numbers little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from polchain.errors import FormatError

__all__ = ["pack_samples", "unpack_samples"]

HEAD = struct.Struct("<2Q")


def pack_samples(samples: Mapping[int, bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The pieces of these samples' form, in order."""
    for index in sorted(samples):
        yield HEAD.pack(index, len(samples[index]))
        yield samples[index]


def unpack_samples(data: memoryview, *, most: int, limit: int) -> dict[int, memoryview]:
    """The samples by index; their bytes stay where they are.

    Args:
        data: what was packed.
        most: how many there may be.
        limit: bytes of any one.

    Raises:
        FormatError: cut short, too many, too long, or out of order.
    """
    samples: dict[int, memoryview] = {}
    at, before = 0, -1
    while at < len(data):
        if at + HEAD.size > len(data):
            raise FormatError("samples: cut short")
        index, size = HEAD.unpack_from(data, at)
        at += HEAD.size
        if index <= before or index >= 2**53:
            raise FormatError(f"samples: index {index} is out of order")
        if size > limit or size > len(data) - at:
            raise FormatError(f"samples: sample {index} is cut short, or over the limit of {limit} bytes")
        samples[index] = data[at : at + size]
        if len(samples) > most:
            raise FormatError(f"samples: more than {most}")
        at, before = at + size, index
    return samples
