"""The canonical zip: one form, which every zip reader reads, and no other form is read."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from polchain.core import archive
from polchain.core.archive import Member, is_archive, read_archive, write_archive
from polchain.core.claim import Claim, checkpoint_name, manifest_name, write_listing
from polchain.core.digest import blake3
from polchain.core.manifest import Manifest
from polchain.core.place import Place
from polchain.core.rows import ScalarRow
from polchain.errors import FormatError, MissingFileError, PolchainError

FILES = {"a": b"one", "b/c": b"", "b/d.bin": bytes(range(100)), "ü": b"two"}
STATE = Manifest((ScalarRow("extra/x", 3),)).state()


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """An archive of a few small files."""
    write_archive(tmp_path / "x.zip", [(name, [data]) for name, data in FILES.items()])
    return tmp_path / "x.zip"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A claim as a folder."""
    root = tmp_path / "claim"
    files = {
        "entries.jsonl": b'{"a":1}\n',
        "heads/last.note": b"a head\n",
        "recipe/train.py": b"print()\n",
        manifest_name(STATE): Manifest((ScalarRow("extra/x", 3),)).encode(),
        checkpoint_name(STATE): bytes(100),
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    write_listing(root)
    return root


def pack(folder: Path, out: Path) -> Path:
    write_archive(out, [(p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file()])
    return out


def read_all(path: Path) -> dict[str, bytes]:
    return {one.name: Place(path, one).read(one.name, 1000) for one in read_archive(path)}


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        read_all(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def read_claim(path: Path) -> None:
    claim = Claim.read(path)
    for name in claim.files:
        claim.check_file(name)


def test_the_same_files_are_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    write_archive(tmp_path / "y.zip", [(name, tmp_path / name) for name in reversed(FILES)])
    assert (tmp_path / "y.zip").read_bytes() == packed.read_bytes()
    # Whatever the platform and the zlib: computed once, and to stay so.
    assert blake3(packed.read_bytes()).hex == "1da9fdbd2ee6bd9406a3de0ce4e29f0e4cbe1c3bc192fa2dec70635b4e1161a8"


def test_it_reads_back_aligned_and_in_order(packed: Path) -> None:
    assert read_all(packed) == FILES
    members = read_archive(packed)
    assert [one.name for one in members] == sorted(FILES, key=str.encode)
    assert all(one.offset % 64 == 0 for one in members)


def test_any_zip_reader_reads_it(packed: Path) -> None:
    with zipfile.ZipFile(packed) as theirs:
        assert theirs.testzip() is None
        assert {name: theirs.read(name) for name in theirs.namelist()} == FILES
        assert {one.date_time for one in theirs.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_an_empty_archive_is_one(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.zip", [])
    assert read_archive(tmp_path / "x.zip") == ()
    assert is_archive(tmp_path / "x.zip")


def test_a_claim_is_the_same_as_a_folder_and_as_a_zip(folder: Path, tmp_path: Path) -> None:
    zipped = pack(folder, tmp_path / "claim.zip")
    as_folder, as_zip = Claim.read(folder), Claim.read(zipped)
    assert as_folder.files == as_zip.files
    assert list(as_folder.entries()) == list(as_zip.entries())
    assert as_folder.recipe() == as_zip.recipe()
    assert as_folder.manifest(STATE) == as_zip.manifest(STATE)
    place = as_zip.checkpoint(STATE)
    assert place is not None
    assert bytes(place.map()) == (folder / checkpoint_name(STATE)).read_bytes()
    read_claim(zipped)
    with zipfile.ZipFile(zipped) as theirs:
        theirs.extractall(tmp_path / "unpacked")
    read_claim(tmp_path / "unpacked")
    assert pack(tmp_path / "unpacked", tmp_path / "again.zip").read_bytes() == zipped.read_bytes()


def test_a_zip_of_other_files_than_the_listing_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "recipe" / "more.py").touch()
    with pytest.raises(FormatError, match=r"more\.py' is in the claim's zip, but claim\.json does not list it"):
        Claim.read(pack(folder, tmp_path / "more.zip"))
    (folder / "recipe" / "more.py").unlink()
    (folder / "recipe" / "train.py").unlink()
    with pytest.raises(MissingFileError, match=r"recipe/train\.py is listed in claim\.json, but is not there"):
        Claim.read(pack(folder, tmp_path / "less.zip"))
    (folder / "claim.json").unlink()
    with pytest.raises(MissingFileError, match=r"claim\.json"):
        Claim.read(pack(folder, tmp_path / "none.zip"))


def foreign(out: Path, **how: object) -> Path:
    """An archive as another program writes it."""
    with zipfile.ZipFile(out, "w") as theirs:
        for name, data in FILES.items():
            info = zipfile.ZipInfo(name)
            for key, value in how.items():
                setattr(info, key, value)
            theirs.writestr(info, data)
    return out


def with_extra(out: Path) -> Path:
    return foreign(out, extra=struct.pack("<2H2Q", 1, 16, 3, 3))


def linked(out: Path) -> Path:
    return foreign(out, external_attr=(stat.S_IFLNK | 0o777) << 16)


def compressed(out: Path) -> Path:
    return foreign(out, compress_type=zipfile.ZIP_DEFLATED)


def doubled(out: Path) -> Path:
    with zipfile.ZipFile(out, "w") as theirs:
        theirs.writestr(zipfile.ZipInfo("a"), b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            theirs.writestr(zipfile.ZipInfo("a"), b"one")
    return out


def named(name: str) -> Callable[[Path], Path]:
    def make(out: Path) -> Path:
        with zipfile.ZipFile(out, "w") as theirs:
            theirs.writestr(zipfile.ZipInfo(name), b"")
        return out

    return make


def forced64(out: Path) -> Path:
    with zipfile.ZipFile(out, "w") as theirs, theirs.open(zipfile.ZipInfo("a"), "w", force_zip64=True) as file:
        file.write(b"one")
    return out


def streamed(out: Path) -> Path:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as theirs:
        theirs.writestr(zipfile.ZipInfo("a"), b"one")
    out.write_bytes(pipe.getvalue())
    return out


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (foreign, "does not begin where it must"),
        (with_extra, "does not begin where it must"),
        (linked, "'a' is a link"),
        (compressed, "'a' is compressed"),
        (doubled, "'a' is there twice"),
        (named("/etc/passwd"), "'/etc/passwd' is not a path inside it"),
        (named("../a"), "is not a path inside it"),
        (named("folder/"), "is not a path inside it"),
        (forced64, "does not begin where it must|zip64 fields"),
        (streamed, "does not begin where it must"),
    ],
)
def test_what_others_write_is_refused_by_name(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=says):
        read_all(make(tmp_path / "x.zip"))


def test_what_lies_around_it_is_refused(packed: Path) -> None:
    honest = packed.read_bytes()
    end = len(honest) - 22
    for data, says in (
        (honest + b"\0", "something behind it"),
        (honest + honest, "its directory says more than"),
        (b"#!/bin/sh\n" + honest, "damaged|cut short"),
        (honest[:-2] + b"\x04\0more", "a comment"),
        (honest[:end] + honest[end:].replace(struct.pack("<HH", 4, 4), struct.pack("<HH", 3, 4)), "several parts"),
        (honest[: len(honest) // 2], "something behind it|cut short"),
        (b"PK\x03\x04", "too short"),
    ):
        packed.write_bytes(data)
        with pytest.raises(FormatError, match=says):
            read_all(packed)


def test_files_that_overlap_or_hide_something_are_refused(packed: Path) -> None:
    honest = packed.read_bytes()
    first, *_, last = read_archive(packed)
    at = honest.index(b"PK\x01\x02")
    entry = honest.index(b"PK\x01\x02", at + 4)
    # The second entry points at the first file's header: two names for the same bytes.
    packed.write_bytes(honest[: entry + 42] + struct.pack("<I", first.header) + honest[entry + 46 :])
    assert "files overlap, or other bytes lie between" in refused(packed)
    # Bytes between the files and the directory, which the end record steps over.
    (begun,) = struct.unpack("<I", honest[-6:-2])
    hidden = honest[:at] + b"hidden!!" + honest[at:-6] + struct.pack("<I", begun + 8) + b"\0\0"
    packed.write_bytes(hidden)
    assert "something between its files and its directory" in refused(packed)
    # The local header has another name than the directory: two readers, two archives.
    place = last.header + 30
    packed.write_bytes(honest[:place] + b"\xc3\xbd" + honest[place + 2 :])
    assert "is not the one that the directory gives it" in refused(packed)


def test_every_bit_counts(packed: Path) -> None:
    honest = packed.read_bytes()
    for place in range(len(honest)):
        changed = bytearray(honest)
        changed[place] ^= 1 << place % 8
        packed.write_bytes(changed)
        with pytest.raises(PolchainError):
            read_all(packed)


def test_noise_ends_in_a_named_error(packed: Path) -> None:
    honest = packed.read_bytes()
    chance = random.Random(5)
    for _ in range(500):
        data = bytearray(honest)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            how = chance.randrange(4)
            if how == 0:
                del data[at : at + chance.randint(1, 40)]
            elif how == 1:
                data[at:at] = chance.randbytes(chance.randint(1, 40))
            elif how == 2:
                data[at : at + 4] = b"\xff" * 4
            else:
                data[at : at + 8] = data[chance.randrange(len(data) + 1) :][:8]
        packed.write_bytes(data)
        if bytes(data) != honest:
            with pytest.raises(PolchainError):
                read_all(packed)


def test_large_files_and_offsets_have_zip64_fields_and_small_ones_none(tmp_path: Path) -> None:
    members: list[Member] = []
    for name, size in (("a", 5), ("b", 2**32 - 2), ("c", 2**32 + 7), ("d", 1)):
        members.append(archive._placed(name, size, 0, members[-1].end if members else 0))
    path = tmp_path / "big.zip"
    with path.open("wb") as file:  # sparse: nothing of the files' bytes is written
        for one in members:
            file.seek(one.header)
            file.write(archive._local(one))
        file.seek(members[-1].end)
        file.write(archive._directory(members))
    assert read_archive(path) == tuple(members)
    with zipfile.ZipFile(path) as theirs:
        assert [(one.filename, one.file_size) for one in theirs.infolist()] == [(m.name, m.size) for m in members]
        assert theirs.infolist()[3].header_offset > 2**32
        assert not theirs.infolist()[0].extra


def test_as_many_files_as_need_zip64_are_counted(tmp_path: Path) -> None:
    names = [f"recipe/{number}" for number in range(2**16 - 1)]
    members: list[Member] = []
    for name in sorted(names):
        members.append(archive._placed(name, 0, 0, members[-1].end if members else 0))
    path = tmp_path / "many.zip"
    path.write_bytes(b"".join(map(archive._local, members)) + archive._directory(members))
    assert len(read_archive(path)) == len(names)


@pytest.mark.parametrize("form", ["folder", "pipe", "nothing", "link to nothing"])
def test_what_is_no_file_is_no_archive(form: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    if form == "folder":
        path.mkdir()
    elif form == "pipe":
        os.mkfifo(path)
    elif form == "link to nothing":
        path.symlink_to("nowhere")
    assert not is_archive(path)
    with pytest.raises(PolchainError):
        read_archive(path)


def test_names_are_checked_before_they_are_written(tmp_path: Path) -> None:
    for number, names in enumerate((["../a"], ["/a"], ["a", "a"])):
        with pytest.raises(FormatError):
            write_archive(tmp_path / f"{number}.zip", [(name, [b""]) for name in names])
