"""Checkpoints by digest: the tensors of a state in a safetensors file.

    <folder>/manifests/<state>.json             the rows
    <folder>/checkpoints/<state>.safetensors    u64 length, JSON header padded with spaces to 8 bytes, tensors

The container is canonical: tensors by falling element size, then name, without gaps; the header has no metadata and no
white space but its padding. Whoever reads one rebuilds the header from the manifest and refuses any other bytes, then
hashes each tensor. torch is not needed for it, and any safetensors reader can read these files.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path

from polchain.core.claim import checkpoint_name, manifest_name
from polchain.core.digest import Digest, blake3_each
from polchain.core.manifest import MANIFEST_LIMIT, Manifest, Snapshot
from polchain.core.place import Place
from polchain.core.rows import DTYPES, TensorRow
from polchain.errors import CheckpointMissingError, ManifestError, StorageError

__all__ = ["CheckpointStore", "make_folder", "read_tensors", "sync_folder", "write_durably"]


class CheckpointStore:
    """The states that a run has kept, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, snapshot: Snapshot) -> Digest:
        """Keep a state: durable when this returns. Keeping it again is nothing.

        Raises:
            StorageError: the disk refused; nothing half-written is left under the final name.
        """
        state = snapshot.manifest.state()
        tensors, manifest = self.folder / checkpoint_name(state), self.folder / manifest_name(state)
        if not tensors.exists():
            ordered = _ordered(snapshot.manifest)
            write_durably(tensors, _header(snapshot.manifest), *(snapshot.buffers[row.name] for row in ordered))
        if not manifest.exists():
            write_durably(manifest, snapshot.manifest.encode())
        return state

    def put_manifest(self, manifest: Manifest) -> Digest:
        """Keep a state's rows without its tensors."""
        state = manifest.state()
        path = self.folder / manifest_name(state)
        if not path.exists():
            write_durably(path, manifest.encode())
        return state

    def has(self, state: Digest) -> bool:
        """Whether rows and tensors of a state are kept."""
        return (self.folder / checkpoint_name(state)).exists() and (self.folder / manifest_name(state)).exists()

    def manifest(self, state: Digest) -> Manifest:
        """The rows of a kept state.

        Raises:
            CheckpointMissingError: they were not kept.
            FormatError, ManifestError: they are damaged.
        """
        path = self.folder / manifest_name(state)
        try:
            with path.open("rb") as file:
                manifest = Manifest.decode(file.read(MANIFEST_LIMIT + 1))
        except FileNotFoundError as error:
            raise _missing(path) from error
        if manifest.state() != state:
            raise ManifestError(f"{path.name} holds another state than its name says")
        return manifest

    def get(self, state: Digest) -> Snapshot:
        """A kept state, every byte of it checked.

        Raises:
            CheckpointMissingError: it was not kept.
            FormatError, ManifestError: it is damaged.
        """
        manifest = self.manifest(state)
        return read_tensors(self.folder / checkpoint_name(state), manifest)


def read_tensors(where: Path | Place, manifest: Manifest) -> Snapshot:
    """Map the tensors of a state, every byte of the file checked against the manifest.

    Raises:
        CheckpointMissingError: no such file.
        ManifestError: another length, header or digest; the tensor is named.
    """
    header = _header(manifest)
    rows = _ordered(manifest)
    expected = len(header) + sum(row.size for row in rows)
    place = where if isinstance(where, Place) else Place(where)
    path = place.path if place.member is None else Path(place.member.name)
    try:
        view = place.map()
        if len(view) != expected:
            raise ManifestError(f"{path.name} is {len(view)} bytes where its manifest has {expected}")
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
    if view[: len(header)] != header:
        raise ManifestError(f"{path.name} has another header than its manifest gives it")
    buffers: dict[str, memoryview] = {}
    at = len(header)
    for row in rows:
        buffers[row.name] = view[at : at + row.size]
        at += row.size
    for row, digest in zip(rows, blake3_each(buffers.values()), strict=True):
        if digest != row.digest:
            raise ManifestError(f"{path.name}: the bytes of {row.name} are not the ones that the log commits to")
    return Snapshot(manifest, buffers)


def write_durably(path: Path, *parts: bytes | memoryview, mode: int = 0o666) -> None:
    """Write a file so that it is whole under its name or not there: written, synced, renamed, folder synced.

    Args:
        mode: who may read it, less the umask.

    Raises:
        StorageError: the disk refused.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        make_folder(path.parent)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror}", hint="free some space, then go on") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; the new names are durable when this returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing(path: Path) -> CheckpointMissingError:
    return CheckpointMissingError(
        f"{path.parent.name}/{path.name} is not there", hint="restore it, or go without that state"
    )


def _ordered(manifest: Manifest) -> list[TensorRow]:
    # Falling element size keeps every tensor aligned behind the 8-byte aligned header.
    return sorted(manifest.tensors(), key=lambda row: (-DTYPES[row.dtype], row.name.encode("utf-8", "surrogatepass")))


def _header(manifest: Manifest) -> bytes:
    at = 0
    entries: dict[str, object] = {}
    for row in _ordered(manifest):
        entries[row.name] = {"dtype": row.dtype, "shape": list(row.shape), "data_offsets": [at, at + row.size]}
        at += row.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
