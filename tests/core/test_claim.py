"""Reading a claim: a stranger's folder, of which nothing is taken at its word."""

from __future__ import annotations

import json
import os
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from polchain.core import claim as module
from polchain.core import place as places
from polchain.core.claim import Claim, checkpoint_name, manifest_name, write_listing
from polchain.core.digest import blake3, sha256
from polchain.core.encoding import encode
from polchain.core.manifest import Manifest
from polchain.core.place import Place, hash_file
from polchain.core.rows import ScalarRow
from polchain.errors import FormatError, ManifestError, MissingFileError, PolchainError

MANIFEST = Manifest((ScalarRow("extra/x", 3),))
STATE = MANIFEST.state()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A claim folder with every kind of file; its log is not a log, which is nothing to a reader."""
    root = tmp_path / "claim"
    files = {
        "entries.jsonl": b'{"a":1}\n{"b":2}\n',
        "heads/last.note": b"a head\n",
        "recipe/train.py": b"print()\n",
        "recipe/inner/model.py": b"",
        manifest_name(STATE): MANIFEST.encode(),
        checkpoint_name(STATE): bytes(100),
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    write_listing(root)
    return root


def listing(root: Path, *files: dict[str, Any], **top: Any) -> None:
    (root / "claim.json").write_bytes(encode({"format": "polchain-claim/v1", "files": list(files)} | top))


def ref(path: str, data: bytes = b"") -> dict[str, Any]:
    return {"path": path, "size": len(data), "digest": str(blake3(data))}


def read_all(root: Path) -> Claim:
    claim = Claim.read(root)
    for name in claim.files:
        claim.check_file(name)
    return claim


def refused(root: Path) -> str:
    with pytest.raises(PolchainError) as caught:
        read_all(root)
    assert type(caught.value) in (FormatError, MissingFileError)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_claim_is_what_its_listing_says(folder: Path) -> None:
    claim = Claim.read(folder)
    assert list(claim.files) == sorted(claim.files)
    assert list(claim.entries()) == [b'{"a":1}', b'{"b":2}']
    assert claim.head() == b"a head\n"
    assert claim.recipe() == {"train.py": b"print()\n", "inner/model.py": b""}
    assert claim.manifest(STATE) == MANIFEST
    assert claim.checkpoint(STATE) == Place(folder / checkpoint_name(STATE))
    assert claim.manifest(sha256(b"")) is None
    assert claim.checkpoint(sha256(b"")) is None


def test_a_listing_is_written_the_same_each_time(folder: Path) -> None:
    before = (folder / "claim.json").read_bytes()
    write_listing(folder)
    assert (folder / "claim.json").read_bytes() == before


def test_where_there_is_no_claim_that_is_said(tmp_path: Path, folder: Path) -> None:
    assert "no claim at" in refused(tmp_path / "nowhere")
    assert "no claim at" in refused(folder / "claim.json")
    (tmp_path / "empty").mkdir()
    assert "claim.json is not in the claim" in refused(tmp_path / "empty")


def test_every_byte_of_every_file_counts(folder: Path) -> None:
    for path in [p for p in sorted(folder.rglob("*")) if p.is_file()]:
        honest = path.read_bytes()
        for place in range(0, len(honest), max(1, len(honest) // 40)):
            changed = bytearray(honest)
            changed[place] ^= 1
            path.write_bytes(changed)
            refused(folder)
        path.write_bytes(honest + b"\n")
        refused(folder)
        path.write_bytes(honest)
    Claim.read(folder)


def test_every_file_is_needed_and_none_is_added(folder: Path) -> None:
    for path in [p for p in sorted(folder.rglob("*")) if p.is_file()]:
        moved = folder.parent / "moved"
        path.rename(moved)
        assert path.name in refused(folder)
        moved.rename(path)
    for name in ("more", "recipe/more.py", "manifests/more.json", ".hidden"):
        (folder / name).touch()
        assert "does not list it" in refused(folder)
        (folder / name).unlink()
    (folder / "empty").mkdir()
    assert "does not list it" in refused(folder)
    (folder / "empty").rmdir()
    Claim.read(folder)


def test_a_file_swapped_for_another_is_refused(folder: Path) -> None:
    (folder / "recipe/train.py").write_bytes(b"evil()\n ")
    assert "recipe/train.py is not the file that claim.json lists" in refused(folder)


@pytest.mark.parametrize("name", ["claim.json", "entries.jsonl", "recipe/train.py", "recipe", "recipe/inner"])
def test_links_are_refused_even_to_the_right_file(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "real")
    (folder / name).symlink_to(folder.parent / "real")
    refused(folder)


def test_a_link_that_is_listed_is_refused(folder: Path) -> None:
    (folder / "recipe/link.py").symlink_to("train.py")
    write_listing(folder)
    assert "is a link" in refused(folder)


@pytest.mark.parametrize("name", ["claim.json", "entries.jsonl", "recipe/train.py"])
@pytest.mark.parametrize("form", ["folder", "pipe"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(folder: Path, name: str, form: str) -> None:
    (folder / name).unlink()
    if form == "folder":
        (folder / name).mkdir()
    else:
        os.mkfifo(folder / name)
    refused(folder)


def test_an_empty_file_replaced_by_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "recipe/inner/model.py").unlink()
    os.mkfifo(folder / "recipe/inner/model.py")
    assert "not a plain file" in refused(folder)


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../secret", "./a", "a//b", "a\\b", "claim.json", ""]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_bytes(b"")
    root = tmp_path / "claim"
    root.mkdir()
    listing(root, ref(path))
    refused(root)


def test_names_too_long_for_a_disk_are_missing_by_name(folder: Path) -> None:
    for path in ("recipe/" + "x" * 300, "recipe/" + "/".join(["y" * 200] * 2)):
        listing(folder, ref(path))
        shutil.rmtree(folder / "recipe", ignore_errors=True)
        for item in folder.iterdir():
            if item.name != "claim.json":
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        assert "is not there" in refused(folder)


def test_names_that_a_terminal_would_obey_are_shown_escaped(folder: Path) -> None:
    (folder / "evil\x1b[2J").touch()
    assert "\\x1b" in refused(folder)
    os.rename(folder / "evil\x1b[2J", os.fsencode(folder) + b"/evil\xff")
    refused(folder)


def test_a_listing_is_strict(folder: Path) -> None:
    files = [ref("recipe/a"), ref("recipe/b")]
    for wrong in (
        {"format": "polchain-claim/v2"},
        {"format": 1},
        {"files": {}},
        {"files": [1]},
        {"files": files[::-1]},
        {"files": [files[0], files[0]]},
        {"files": [files[0] | {"more": 1}]},
        {"files": [{"path": "recipe/a", "size": 0}]},
        {"files": [files[0] | {"size": -1}]},
        {"files": [files[0] | {"size": "0"}]},
        {"files": [files[0] | {"digest": "md5:00"}]},
        {"more": 1},
    ):
        listing(folder, **wrong)
        assert "claim.json" in refused(folder) or "digest" in refused(folder)
    for data in (b"", b"{}", b"[]", b"\xff", b'{"files":[],"files":[],"format":"polchain-claim/v1"}', b"[" * 100_000):
        (folder / "claim.json").write_bytes(data)
        refused(folder)


def test_counts_and_sizes_have_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim.read(folder)
    for name, limit, use in (
        ("ENTRIES_LIMIT", 10, lambda: list(claim.entries())),
        ("MAX_ENTRIES", 1, lambda: list(claim.entries())),
        ("ENTRY_LIMIT", 3, lambda: list(claim.entries())),
        ("HEAD_LIMIT", 3, claim.head),
        ("RECIPE_LIMIT", 3, claim.recipe),
        ("MANIFEST_LIMIT", 3, lambda: claim.manifest(STATE)),
        ("MAX_FILES", 1, lambda: Claim.read(folder)),
        ("LISTING_LIMIT", 10, lambda: Claim.read(folder)),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, limit)
            with pytest.raises(FormatError):
                use()  # type: ignore[no-untyped-call]
        use()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "recipe",
        "heads/first.note",
        "heads/last.note/more",
        "manifests/more.json",
        f"manifests/{'0' * 64}.safetensors",
        f"manifests/{'A' * 64}.json",
        f"checkpoints/{'0' * 63}.safetensors",
        f"checkpoints/{'0' * 64}.safetensors.more",
        f"x/checkpoints/{'0' * 64}.safetensors",
    ],
)
def test_a_name_that_no_claim_has_is_refused_before_anything_is_hashed(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    listing(tmp_path, ref(path))
    monkeypatch.setattr(places, "hash_file", forbidden)
    assert "is no file of a claim" in refused(tmp_path)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("entries.jsonl", 4 * 1024**3),
        ("heads/last.note", 65_536),
        ("recipe/train.py", 256 * 1024),
        (manifest_name(STATE), 256 * 1024**2),
    ],
)
def test_a_file_over_its_kinds_limit_is_refused_before_anything_is_hashed(
    tmp_path: Path, path: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    os.truncate(tmp_path / path, limit + 1)
    listing(tmp_path, ref(path) | {"size": limit + 1})
    monkeypatch.setattr(places, "hash_file", forbidden)
    assert "over the limit of" in refused(tmp_path)


def forbidden(path: Path) -> Any:
    pytest.fail(f"{path} was hashed")


def test_tensors_are_hashed_only_when_they_are_asked_for(folder: Path) -> None:
    huge = folder / checkpoint_name(STATE)
    os.truncate(huge, 2**40)
    files = json.loads((folder / "claim.json").read_text())["files"]
    listing(folder, *(item | {"size": huge.stat().st_size} if "check" in item["path"] else item for item in files))
    assert Claim.read(folder).checkpoint(STATE) == Place(huge)
    os.truncate(huge, 2**40 + 1)
    with pytest.raises(FormatError, match="is not the file that"):
        Claim.read(folder)


def test_a_file_that_is_not_listed_cannot_be_checked(folder: Path) -> None:
    with pytest.raises(MissingFileError, match="is not in the claim"):
        Claim.read(folder).check_file("recipe/other.py")


def test_no_more_is_asked_of_memory_than_a_file_has(folder: Path) -> None:
    claim = Claim.read(folder)
    tracemalloc.start()
    assert list(claim.entries())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_listing_that_nobody_would_read_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTING_LIMIT", 100)
    with pytest.raises(FormatError, match="more than a claim may have"):
        write_listing(folder)


def test_entries_are_lines_and_the_last_one_ends(folder: Path) -> None:
    (folder / "entries.jsonl").write_bytes(b'{"a":1}\n{"b":2}')
    write_listing(folder)
    with pytest.raises(FormatError, match="the last line is not ended"):
        list(Claim.read(folder).entries())
    (folder / "entries.jsonl").write_bytes(b"")
    write_listing(folder)
    with pytest.raises(FormatError):
        list(Claim.read(folder).entries())


def test_a_manifest_of_another_state_is_refused(folder: Path) -> None:
    other = Manifest((ScalarRow("extra/x", 4),))
    (folder / manifest_name(STATE)).write_bytes(other.encode())
    write_listing(folder)
    with pytest.raises(ManifestError, match="another state"):
        Claim.read(folder).manifest(STATE)


def test_a_claim_without_a_log_is_missing_it_by_name(folder: Path) -> None:
    (folder / "entries.jsonl").unlink()
    shutil.rmtree(folder / "heads")
    write_listing(folder)
    claim = Claim.read(folder)
    for use, name in ((claim.head, "heads/last.note"), (lambda: list(claim.entries()), "entries.jsonl")):
        with pytest.raises(MissingFileError, match=name):
            use()


@pytest.mark.parametrize("data", [b"", b"x", bytes(3_000_000)], ids=len)
def test_a_file_is_hashed_as_b3sum_does(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert hash_file(tmp_path / "file") == blake3(data)


def test_a_folder_of_rubbish_is_refused_by_name(folder: Path) -> None:
    chance = random.Random(0)
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    honest = {path: path.read_bytes() for path in paths}
    for _ in range(150):
        path = chance.choice(paths)
        data = bytearray(honest[path])
        for _ in range(chance.randint(1, 4)):
            start = chance.randint(0, len(data))
            data[start : start + chance.randint(0, 9)] = chance.randbytes(chance.randint(0, 9))
        path.write_bytes(data)
        if bytes(data) != honest[path]:
            refused(folder)
        path.write_bytes(honest[path])
