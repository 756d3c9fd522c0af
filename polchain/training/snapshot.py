"""Training state to manifest: copied to the CPU, hashed in parallel.

The buffers of a snapshot are its own memory: training may go on while they are hashed, compared or written.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from polchain.core.digest import Digest, blake3
from polchain.core.manifest import Manifest, Snapshot, TensorRow
from polchain.training.state import Captured, TrainingState, tensor_bytes

__all__ = ["hash_rows", "take"]

WORKERS = 2
# BLAKE3 spreads a large buffer over threads by itself; the pool is for the many small ones.
CHUNK = 64


def take(state: TrainingState) -> Snapshot:
    """Copy and hash the whole training state now.

    Raises:
        RecipeError: a part of it cannot be recorded; it is named.
    """
    captured = state.capture()
    # bytearray() copies: the live tensors will change under us.
    buffers = {name: memoryview(bytearray(tensor_bytes(t))) for name, (_, t) in captured.tensors.items()}
    return Snapshot(_manifest(captured, buffers), buffers)


def hash_rows(buffers: dict[str, memoryview]) -> dict[str, Digest]:
    """BLAKE3 of each buffer, by name."""
    names = list(buffers)
    pieces = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]

    def digest(piece: list[str]) -> list[tuple[str, Digest]]:
        return [(name, blake3(buffers[name])) for name in piece]

    if len(pieces) <= 1:
        return dict(digest(names))
    with ThreadPoolExecutor(WORKERS) as pool:
        return {name: value for done in pool.map(digest, pieces) for name, value in done}


def rehash(manifest: Manifest, buffers: dict[str, memoryview]) -> Manifest:
    """The same rows with the digests of these very bytes: for rows that came from a process one does not trust."""
    digests = hash_rows(buffers)
    return Manifest(
        tuple(
            TensorRow(row.name, row.role, row.dtype, row.shape, digests[row.name])
            if isinstance(row, TensorRow)
            else row
            for row in manifest.rows
        )
    )


def _manifest(captured: Captured, buffers: dict[str, memoryview]) -> Manifest:
    return captured.rows(hash_rows(buffers))
