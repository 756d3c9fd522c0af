"""Checkpoints in files: any safetensors reader reads them, and no byte of one changes unseen."""

from __future__ import annotations

import json
import math
import resource
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from polchain.core.claim import checkpoint_name, manifest_name
from polchain.core.digest import Digest, blake3, sha256
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import DTYPES, AliasRow, ScalarRow, TensorRow
from polchain.errors import CheckpointMissingError, EvidenceError, ManifestError, StorageError
from polchain.storage.checkpoints import CheckpointStore, read_tensors, write_durably
from polchain.training.tensors import TORCH_DTYPES, tensor_from


def snapshot(dtypes: tuple[str, ...] = ("F32", "I64", "BF16", "BOOL"), shape: tuple[int, ...] = (2, 3)) -> Snapshot:
    """A state with a tensor of each dtype, an alias and a scalar."""
    rows: list[TensorRow | AliasRow | ScalarRow] = []
    buffers = {}
    for number, dtype in enumerate(dtypes):
        data = bytes((number + i) % 2 for i in range(math.prod(shape) * DTYPES[dtype]))
        name = f'model/{number}.{dtype.lower()} é"\\'
        rows.append(TensorRow(name, "parameter", dtype, shape, blake3(data)))
        buffers[name] = memoryview(data)
    rows += [AliasRow("model/tied", rows[0].name), ScalarRow("extra/steps", 3)]
    return Snapshot(Manifest.of(rows), buffers)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run")


def test_what_was_kept_is_read_back(store: CheckpointStore) -> None:
    original = snapshot()
    state = original.manifest.state()
    assert not store.has(state)
    assert store.put(original) == state
    assert store.has(state)
    again = store.get(state)
    assert again.manifest == original.manifest == store.manifest(state)
    assert {name: bytes(data) for name, data in again.buffers.items()} == {
        name: bytes(data) for name, data in original.buffers.items()
    }


def test_keeping_a_state_again_writes_nothing(store: CheckpointStore) -> None:
    state = store.put(snapshot())
    path = store.folder / checkpoint_name(state)
    before = path.stat()
    store.put(snapshot())
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


def test_rows_may_be_kept_without_their_tensors(store: CheckpointStore) -> None:
    state = store.put_manifest(snapshot().manifest)
    assert not store.has(state)
    assert store.manifest(state) == snapshot().manifest
    with pytest.raises(CheckpointMissingError, match="safetensors is not there"):
        store.get(state)


@pytest.mark.parametrize("shape", [(2, 3), (), (3, 0)], ids=str)
def test_safetensors_reads_every_dtype_of_ours(store: CheckpointStore, shape: tuple[int, ...]) -> None:
    original = snapshot(tuple(DTYPES), shape)
    path = store.folder / checkpoint_name(store.put(original))
    loaded = safetensors.torch.load_file(path)
    rows = original.manifest.tensors()
    assert loaded.keys() == {row.name for row in rows}
    for row in rows:
        assert loaded[row.name].dtype is TORCH_DTYPES[row.dtype]
        assert tuple(loaded[row.name].shape) == shape
        ours = tensor_from(bytearray(original.buffers[row.name]), row.dtype, shape)
        assert torch.equal(loaded[row.name].reshape(-1).view(torch.uint8), ours.reshape(-1).view(torch.uint8))


def test_a_state_without_tensors_is_a_file_too(store: CheckpointStore) -> None:
    empty = Snapshot(Manifest((ScalarRow("extra/steps", 3),)), {})
    state = store.put(empty)
    assert safetensors.torch.load_file(store.folder / checkpoint_name(state)) == {}
    assert store.get(state).manifest == empty.manifest


def test_the_container_is_canonical(store: CheckpointStore) -> None:
    original = snapshot(("U8", "F64", "F16", "F32"), (3,))
    data = (store.folder / checkpoint_name(store.put(original))).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    text = data[8 : 8 + length]
    header = json.loads(text)
    assert text.rstrip(b" ") == json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert [entry["dtype"] for entry in header.values()] == ["F64", "F32", "F16", "U8"]
    ends = [0, *(entry["data_offsets"][1] for entry in header.values())]
    assert [entry["data_offsets"][0] for entry in header.values()] == ends[:-1], "there is a gap"
    assert len(data) == 8 + length + ends[-1]
    assert "__metadata__" not in header


def test_two_stores_write_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        store = CheckpointStore(tmp_path / name)
        files.append((store.folder / checkpoint_name(store.put(snapshot()))).read_bytes())
    assert files[0] == files[1]


def test_any_byte_changed_is_found(store: CheckpointStore) -> None:
    original = snapshot()
    path = store.folder / checkpoint_name(store.put(original))
    honest = path.read_bytes()
    for place in range(len(honest)):
        changed = bytearray(honest)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ManifestError):
            read_tensors(path, original.manifest)
    path.write_bytes(honest)
    read_tensors(path, original.manifest)


def test_a_changed_tensor_is_named(store: CheckpointStore) -> None:
    original = snapshot()
    path = store.folder / checkpoint_name(store.put(original))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last tensor is the one of the smallest elements
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=r"the bytes of model/3\.bool"):
        read_tensors(path, original.manifest)


@pytest.mark.parametrize("change", ["longer", "shorter", "empty"])
def test_another_length_is_refused(store: CheckpointStore, change: str) -> None:
    original = snapshot()
    path = store.folder / checkpoint_name(store.put(original))
    data = path.read_bytes()
    path.write_bytes({"longer": data + b"\0", "shorter": data[:-1], "empty": b""}[change])
    with pytest.raises(ManifestError, match="bytes where its manifest has"):
        read_tensors(path, original.manifest)


def test_any_byte_of_a_kept_manifest_changed_is_found(store: CheckpointStore) -> None:
    state = store.put(snapshot())
    path = store.folder / manifest_name(state)
    honest = path.read_bytes()
    for place in range(len(honest)):
        changed = bytearray(honest)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(EvidenceError):
            store.get(state)


def test_another_states_files_are_refused(store: CheckpointStore) -> None:
    state, other = store.put(snapshot()), store.put(snapshot(("F32",)))
    shutil.copy(store.folder / manifest_name(other), store.folder / manifest_name(state))
    with pytest.raises(ManifestError, match="another state"):
        store.get(state)


def test_what_is_not_there_is_missing_by_name(store: CheckpointStore) -> None:
    nowhere = Digest("sha256", bytes(32))
    with pytest.raises(CheckpointMissingError, match=r"manifests/0000.*json is not there") as caught:
        store.get(nowhere)
    assert caught.value.hint
    with pytest.raises(CheckpointMissingError):
        read_tensors(store.folder / checkpoint_name(sha256(b"")), snapshot().manifest)


# --- the disk


def limited(store: CheckpointStore, limit: int) -> subprocess.CompletedProcess[str]:
    """Keep a state in a process whose files may have so many bytes."""
    program = """
        import resource, sys
        from pathlib import Path
        from polchain.core.digest import blake3
        from polchain.core.manifest import Manifest, Snapshot, TensorRow
        from polchain.errors import StorageError
        from polchain.storage.checkpoints import CheckpointStore

        data = bytes(10_000)
        rows = Manifest((TensorRow("model/w", "parameter", "U8", (10_000,), blake3(data)),))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        try:
            CheckpointStore(Path(sys.argv[1])).put(Snapshot(rows, {"model/w": memoryview(data)}))
        except StorageError as error:
            print(error, "|", error.hint)
        else:
            print("kept")
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(store.folder), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


def test_a_full_disk_leaves_nothing_under_the_final_name(store: CheckpointStore) -> None:
    assert resource.RLIM_INFINITY == -1
    said = limited(store, 4096).stdout
    assert said.startswith("cannot write")
    assert "free some space" in said
    assert [path.name for path in store.folder.rglob("*") if path.is_file()] == []
    assert limited(store, 1 << 20).stdout.strip() == "kept"
    assert len(list(store.folder.rglob("*.safetensors"))) == 1


def test_a_disk_that_fails_to_sync_is_an_error(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    store.folder.mkdir()
    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(StorageError, match="Input/output error"):
        store.put(snapshot())
    assert not [path for path in store.folder.rglob("*") if path.is_file()]


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        order.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split(".")[0])
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    write_durably(tmp_path / "outer" / "inner" / "file", b"text")
    top = tmp_path.name.split(".")[0]
    assert order == [f"sync {top}", "sync outer", "sync ", "rename", "sync inner"]


def test_a_folder_that_is_a_file_is_an_error_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        write_durably(tmp_path / "file" / "inside", b"text")
