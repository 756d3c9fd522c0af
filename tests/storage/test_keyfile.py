"""Key files: for their owner alone, encrypted, never overwritten."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from polchain.core.keys import PrivateKey, PublicKey
from polchain.errors import FormatError, KeyUnavailableError, UsageError
from polchain.storage.keyfile import PassphraseSource, default_key_file, read_key, read_public, write_key

NOBODY = PassphraseSource()


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.generate()


@pytest.fixture(scope="module")
def encrypted(key: PrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file under the passphrase `correct horse`; bcrypt takes half a second."""
    path = tmp_path_factory.mktemp("keys") / "key"
    write_key(path, key, b"correct horse")
    return path


@pytest.fixture
def plain(key: PrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "key"
    write_key(path, key, None)
    return path


def passphrase(tmp_path: Path, text: bytes, mode: int = 0o600) -> PassphraseSource:
    path = tmp_path / "passphrase"
    path.write_bytes(text)
    path.chmod(mode)
    return PassphraseSource(file=path)


def test_a_key_is_its_owners_alone(plain: Path, key: PrivateKey) -> None:
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    assert read_key(plain, NOBODY).public == key.public
    assert PublicKey.parse(plain.with_name("key.pub").read_text()) == key.public


def test_the_public_half_needs_no_passphrase(plain: Path, encrypted: Path, key: PrivateKey) -> None:
    assert read_public(plain) == read_public(encrypted) == key.public
    with pytest.raises(UsageError, match="public key"):
        read_public(plain.with_name("key.pub"))
    plain.chmod(0o644)
    with pytest.raises(KeyUnavailableError, match="others can read"):
        read_public(plain)


def test_a_key_is_its_owners_alone_whatever_the_umask(tmp_path: Path, key: PrivateKey) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "deep" / "key", key, None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deep" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_nothing_is_overwritten(plain: Path, tmp_path: Path) -> None:
    before = plain.read_bytes()
    with pytest.raises(UsageError, match="there is a file at"):
        write_key(plain, PrivateKey.generate(), None)
    assert plain.read_bytes() == before

    (tmp_path / "other.pub").write_text("somebody's")
    with pytest.raises(UsageError, match=r"other\.pub already"):
        write_key(tmp_path / "other", PrivateKey.generate(), None)
    assert (tmp_path / "other.pub").read_text() == "somebody's"
    assert not (tmp_path / "other").exists()


def test_a_link_is_not_followed(plain: Path, tmp_path: Path) -> None:
    for name in ("link", "link.pub"):
        (tmp_path / name).symlink_to(tmp_path / "target")
        with pytest.raises(UsageError):
            write_key(tmp_path / "link", PrivateKey.generate(), None)
        assert not (tmp_path / "target").exists()
        (tmp_path / name).unlink()


def test_a_folder_that_cannot_be_made_is_an_error_by_name(plain: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        write_key(plain / "below", PrivateKey.generate(), None)


def test_a_full_disk_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: PrivateKey) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", failing)
        with pytest.raises(UsageError, match="No space left"):
            write_key(tmp_path / "key", key, None)
    assert list(tmp_path.iterdir()) == []
    write_key(tmp_path / "key", key, None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_read_is_refused(plain: Path, mode: int) -> None:
    plain.chmod(mode)
    with pytest.raises(KeyUnavailableError, match="others can read") as caught:
        read_key(plain, NOBODY)
    assert "chmod 600" in caught.value.hint


def test_the_passphrase_opens_the_key(encrypted: Path, key: PrivateKey, tmp_path: Path) -> None:
    assert b"bcrypt" in __import__("base64").b64decode(b"".join(encrypted.read_bytes().split(b"\n")[1:-2]))
    assert read_key(encrypted, passphrase(tmp_path, b"correct horse\n")).public == key.public

    reading, writing = os.pipe()
    os.write(writing, b"correct horse\r\n")
    os.close(writing)
    assert read_key(encrypted, PassphraseSource(descriptor=reading)).public == key.public
    with pytest.raises(OSError, match="Bad file descriptor"):  # what runs here later must not find it
        os.close(reading)


def test_a_wrong_or_missing_passphrase_is_an_error_by_name(
    encrypted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyUnavailableError, match="wrong passphrase"):
        read_key(encrypted, passphrase(tmp_path, b"wrong horse"))
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    monkeypatch.setattr("polchain.storage.keyfile._from_keyring", lambda key_file: None)
    for source in (NOBODY, passphrase(tmp_path, b"")):
        with pytest.raises(KeyUnavailableError, match="is encrypted") as caught:
            read_key(encrypted, source)
        assert "--passphrase-file" in caught.value.hint
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


def test_a_passphrase_file_that_others_can_read_is_refused(encrypted: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailableError, match="others can read the passphrase file"):
        read_key(encrypted, passphrase(tmp_path, b"correct horse", mode=0o644))


@pytest.mark.parametrize("source", [PassphraseSource(descriptor=987), PassphraseSource(file=Path("/nowhere/at/all"))])
def test_a_passphrase_that_cannot_be_read_is_an_error_by_name(encrypted: Path, source: PassphraseSource) -> None:
    where = f"descriptor {source.descriptor}" if source.descriptor is not None else str(source.file)
    with pytest.raises(KeyUnavailableError, match=f"cannot read the passphrase from {where}") as caught:
        read_key(encrypted, source)
    assert caught.value.__suppress_context__


def test_a_key_in_the_clear_asks_for_no_passphrase(plain: Path) -> None:
    read_key(plain, PassphraseSource(file=Path("/nowhere/at/all")))


def test_a_public_key_is_not_taken_for_a_private_one(plain: Path, key: PrivateKey) -> None:
    with pytest.raises(UsageError, match=r"key\.pub is a public key") as caught:
        read_key(plain.with_name(plain.name + ".pub"), NOBODY)
    assert "has no .pub" in caught.value.hint
    plain.write_text(str(key.public))
    with pytest.raises(UsageError, match="is a public key"):
        read_key(plain, NOBODY)


def test_what_is_no_key_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailableError, match="no key at") as caught:
        read_key(tmp_path / "nowhere", NOBODY)
    assert "keygen" in caught.value.hint
    tmp_path.chmod(0o700)
    with pytest.raises(KeyUnavailableError, match="cannot read the key"):
        read_key(tmp_path, NOBODY)
    for data in (b"", b"garbage", bytes(100_000), plain.read_bytes()[:100], plain.read_bytes().replace(b"A", b"B")):
        plain.write_bytes(data)
        with pytest.raises(FormatError):
            read_key(plain, NOBODY)


def test_the_environment_names_files_and_holds_no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLCHAIN_KEY_FILE", "/a/key")
    monkeypatch.setenv("POLCHAIN_PASSPHRASE", "correct horse")
    assert default_key_file() == Path("/a/key")
    assert PassphraseSource.from_environment() == NOBODY
    monkeypatch.setenv("POLCHAIN_PASSPHRASE_FILE", "/a/file")
    assert PassphraseSource.from_environment() == PassphraseSource(file=Path("/a/file"))
    monkeypatch.delenv("POLCHAIN_KEY_FILE")
    assert default_key_file().name == "key"
