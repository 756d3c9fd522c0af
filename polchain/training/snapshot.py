"""Training state to manifest: copied, then hashed.

    borrow(state)          the live bytes themselves: for as long as nobody trains
    copy_state(state)      one copy, into a room; a GPU writes it while this thread goes on
    Copied.snapshot()      hashed, by whatever thread; what is as it was before keeps its digest
    take(state)            both at once

A room is memory for one state. It is used again and again: the pages of fresh memory cost as much as the copy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polchain.core.digest import Digest, blake3_each
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import TensorRow
from polchain.training.captured import Outline
from polchain.training.state import TrainingState
from polchain.training.tensors import raw_bytes, tensor_bytes

__all__ = ["Copied", "Room", "borrow", "copy_state", "hash_rows", "take"]

# Where a tensor begins in a room: a cache line.
ALIGNED = 64
# Up to this, two buffers are compared as bytes objects: a foreign call costs more.
SHORT = 4096

_memcmp: Callable[..., int] = ctypes.CDLL(None).memcmp  # lets other threads run meanwhile
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)  # type: ignore[attr-defined]
_memcmp.restype = ctypes.c_int  # type: ignore[attr-defined]


class Room:
    """Memory for one state, page-locked where a GPU writes into it."""

    def __init__(self) -> None:
        self._key: list[tuple[str, torch.dtype, torch.Size]] = []
        self._memory: torch.Tensor | None = None
        self._places: list[torch.Tensor] = []
        self._buffers: dict[str, memoryview] = {}
        self._streams: dict[torch.device, Any] = {}

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, memoryview], list[Any]]:
        """Copy tensors into the room; returns their bytes by name, and the events after which all of them are there.

        Whatever is asked of a GPU from now on waits for the copy there, not here.
        """
        key = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        if key != self._key:
            self._lay_out(key, pinned=any(tensor.is_cuda for tensor in tensors.values()))
        here: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
        far: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for place, tensor in zip(self._places, tensors.values(), strict=True):
            if not tensor.numel():
                continue
            if tensor.is_cuda:
                far.setdefault(tensor.device, []).append((place, tensor))
            else:
                here[0].append(raw_bytes(place))
                here[1].append(raw_bytes(tensor.detach()))
        with torch.no_grad():
            events = [self._fetch(device, pairs) for device, pairs in far.items()]
            if here[0]:
                torch._foreach_copy_(*here)  # one call: tens of thousands of small ones cost more than their bytes
        return dict(self._buffers), events

    def _lay_out(self, key: list[tuple[str, torch.dtype, torch.Size]], *, pinned: bool) -> None:
        ends, at = [], 0
        for _, dtype, shape in key:
            at = -(-at // ALIGNED) * ALIGNED + shape.numel() * dtype.itemsize
            ends.append(at)
        self._places, self._buffers, self._key = [], {}, []
        if self._memory is None or self._memory.numel() < at or (pinned and not self._memory.is_pinned()):
            self._memory = None  # before the next is there
            # numpy's, because torch fills fresh memory where algorithms are to be deterministic.
            self._memory = (
                torch.empty(at, dtype=torch.uint8, pin_memory=True)
                if pinned
                else torch.from_numpy(np.empty(at, dtype=np.uint8))
            )
        array: Any = self._memory.numpy()
        whole = memoryview(array)
        for (name, dtype, shape), end in zip(key, ends, strict=True):
            start = end - shape.numel() * dtype.itemsize
            self._places.append(self._memory[start:end].view(dtype).view(shape))
            self._buffers[name] = whole[start:end] if end > start else memoryview(b"")
        self._key = key

    def _fetch(self, device: torch.device, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """Have a GPU write its tensors here, on a stream of its own, which whatever it computes next waits for."""
        with torch.cuda.device(device):
            current = torch.cuda.current_stream(device)
            aside = self._streams.setdefault(device, torch.cuda.Stream(device))
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for place, tensor in pairs:
                    raw_bytes(place).copy_(raw_bytes(tensor.detach()), non_blocking=True)
            event = aside.record_event()
            current.wait_event(event)
            return event


@dataclass(frozen=True, slots=True)
class Copied:
    """A training state by value, not hashed yet.

    Attributes:
        outline: its rows without digests.
        buffers: the bytes of its tensors by name.
        events: what has to come to pass before the bytes are there.
        room: whose memory the bytes are, if any.
    """

    outline: Outline
    buffers: Mapping[str, memoryview]
    events: tuple[Any, ...] = ()
    room: Room | None = None

    def snapshot(self, before: Snapshot | None = None) -> Snapshot:
        """The same with digests.

        Args:
            before: a state of the same run: a tensor that is in it, byte for byte, is compared and not hashed.
        """
        for event in self.events:
            event.synchronize()
        kept = _unchanged(self, before) if before is not None else {}
        new = [name for name in self.buffers if name not in kept]
        digests = kept | dict(zip(new, blake3_each(self.buffers[name] for name in new), strict=True))
        return Snapshot(self.outline.rows(digests), self.buffers)

    def unhashed(self) -> Snapshot:
        """The same with digests of zeros: for whoever hashes the bytes himself."""
        for event in self.events:
            event.synchronize()
        return Snapshot(self.outline.rows(dict.fromkeys(self.buffers, Digest("blake3", bytes(32)))), self.buffers)


def copy_state(state: TrainingState, room: Room | None = None) -> Copied:
    """Copy the whole training state now, into a room or into memory of its own.

    Raises:
        RecipeError: a part of it cannot be recorded; it is named.
    """
    captured = state.capture()
    buffers, events = (room or Room()).fill({name: tensor for name, (_, tensor) in captured.tensors.items()})
    return Copied(captured.outline(), buffers, tuple(events), room)


def borrow(state: TrainingState) -> Copied:
    """The training state as it is, in its own memory where that is the CPU's: to be used before anybody trains on.

    Raises:
        RecipeError: a part of it cannot be recorded; it is named.
    """
    captured = state.capture()
    buffers = {name: tensor_bytes(tensor) for name, (_, tensor) in captured.tensors.items()}
    return Copied(captured.outline(), buffers)


def take(state: TrainingState) -> Snapshot:
    """Copy and hash the whole training state now.

    Raises:
        RecipeError: a part of it cannot be recorded; it is named.
    """
    return copy_state(state).snapshot()


def hash_rows(buffers: Mapping[str, memoryview]) -> dict[str, Digest]:
    """BLAKE3 of each buffer, by name."""
    return dict(zip(buffers, blake3_each(buffers.values()), strict=True))


def rehash(manifest: Manifest, buffers: dict[str, memoryview]) -> Manifest:
    """The same rows with the digests of these very bytes: for rows that came from a process one does not trust."""
    return manifest.with_digests(hash_rows(buffers))


def _unchanged(copied: Copied, before: Snapshot) -> dict[str, Digest]:
    """The digests of the tensors that are what they were: the same bytes have the same digest, whatever their row."""
    rows: Iterable[TensorRow] = before.manifest.tensors()
    return {
        row.name: row.digest
        for row in rows
        if (now := copied.buffers.get(row.name)) is not None and _same(now, before.buffers[row.name])
    }


def _same(a: memoryview, b: memoryview) -> bool:
    if a.nbytes != b.nbytes:
        return False
    if a.nbytes <= SHORT:
        return bytes(a) == bytes(b)
    # Weights that were trained differ at once.
    return bytes(a[:SHORT]) == bytes(b[:SHORT]) and not _memcmp(_address(a), _address(b), a.nbytes)


def _address(data: memoryview) -> int:
    address: int = np.frombuffer(data, dtype=np.uint8).ctypes.data
    return address
