"""Private keys in files: OpenSSH format, encrypted, readable by their owner alone, never overwritten.

The passphrase comes from a file descriptor, a file that only its owner can read, the system's keyring, or a prompt;
never from an argument or the environment, where other processes can see it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from polchain.core.keys import PrivateKey, PublicKey
from polchain.errors import FormatError, KeyUnavailableError, UsageError

__all__ = ["PassphraseSource", "default_key_file", "read_key", "read_public", "write_key"]

KEY_LIMIT = 65_536
PUBLIC = (b"ssh-", b"ed25519:")
KEYRING_SERVICE = "polchain"


@dataclass(frozen=True, slots=True)
class PassphraseSource:
    """Where the passphrase comes from; the first that is set, else keyring, else a prompt.

    Attributes:
        descriptor: an open file descriptor to read it from.
        file: a file that only its owner can read.
    """

    descriptor: int | None = None
    file: Path | None = None

    @classmethod
    def from_environment(cls) -> PassphraseSource:
        """`POLCHAIN_PASSPHRASE_FD` or `POLCHAIN_PASSPHRASE_FILE`, where one is set.

        Raises:
            UsageError: the descriptor is not a number.
        """
        number = os.environ.get("POLCHAIN_PASSPHRASE_FD")
        if number:
            if not number.isdecimal() or len(number) > 9:
                raise UsageError("POLCHAIN_PASSPHRASE_FD is not the number of a file descriptor")
            return cls(descriptor=int(number))
        name = os.environ.get("POLCHAIN_PASSPHRASE_FILE")
        return cls(file=Path(name) if name else None)

    def given(self) -> bytes | None:
        """The passphrase, where a descriptor or a file was named.

        Raises:
            KeyUnavailableError: it cannot be read, or others can read the file too.
        """
        try:
            if self.descriptor is not None:
                # Closed: what runs in this process later, a training script, must not find it.
                with os.fdopen(self.descriptor, "rb", closefd=self.descriptor > 2) as file:
                    return file.read(4096).rstrip(b"\r\n")
            if self.file is not None:
                mode = self.file.stat().st_mode
                if stat.S_IMODE(mode) & 0o077:
                    raise KeyUnavailableError(
                        f"others can read the passphrase file {self.file}", hint=f"chmod 600 {self.file}"
                    )
                return self.file.read_bytes()[:4096].rstrip(b"\r\n")
        except OSError as error:
            where = f"descriptor {self.descriptor}" if self.descriptor is not None else str(self.file)
            raise KeyUnavailableError(f"cannot read the passphrase from {where}: {error.strerror}") from None
        return None

    def obtain(self, key_file: Path) -> bytes | None:
        """The passphrase for a key file, from wherever it can be had; None where nobody can be asked."""
        found = self.given()
        if found is not None:
            return found
        found = _from_keyring(key_file)
        if found is None and sys.stdin.isatty():
            found = getpass.getpass(f"passphrase for {key_file}: ").encode()
        return found


def default_key_file() -> Path:
    """`POLCHAIN_KEY_FILE`, else `key` in the user's configuration folder."""
    named = os.environ.get("POLCHAIN_KEY_FILE")
    return Path(named) if named else platformdirs.user_config_path("polchain") / "key"


def write_key(path: Path, key: PrivateKey, passphrase: bytes | None) -> None:
    """Write a new key file, 0600, and its public half beside it as `<path>.pub`.

    Raises:
        UsageError: there is a file already; nothing is overwritten.
    """
    data = key.to_openssh(passphrase)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    _write_new(path, data, 0o600)
    try:
        _write_new(path.with_name(path.name + ".pub"), f"{key.public.openssh()}\n".encode(), 0o644)
    except UsageError:
        path.unlink()
        raise


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        raise UsageError(f"there is a file at {path} already", hint="name another one, or move it away") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def read_key(path: Path, source: PassphraseSource) -> PrivateKey:
    """Read a private key; the passphrase is asked for only where the key is encrypted.

    Raises:
        KeyUnavailableError: no such file, others can read it, or the passphrase is missing or wrong.
        UsageError: it is a public key.
        FormatError: not an Ed25519 key in OpenSSH format.
    """
    data = _read(path)
    with contextlib.suppress(KeyUnavailableError):
        return PrivateKey.from_openssh(data, None)
    passphrase = source.obtain(path)
    if not passphrase:
        why = "there is no terminal to ask for its passphrase" if passphrase is None else "the passphrase is empty"
        raise KeyUnavailableError(
            f"the key {path} is encrypted, and {why}",
            hint="--passphrase-file FILE or --passphrase-fd N; POLCHAIN_PASSPHRASE_FILE for a script run by hand",
        )
    return PrivateKey.from_openssh(data, passphrase)


def read_public(path: Path) -> PublicKey:
    """The public half of a private key's file; no passphrase is needed.

    Raises:
        KeyUnavailableError, UsageError, FormatError: as `read_key`.
    """
    return PublicKey.of_private_file(_read(path))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(KEY_LIMIT + 1)
        # Before its mode: a public key is everybody's to read.
        if data.startswith(PUBLIC):
            raise UsageError(f"{path} is a public key", hint="the private one has no .pub")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise KeyUnavailableError(f"others can read the key {path}", hint=f"chmod 600 {path}")
    except FileNotFoundError:
        raise KeyUnavailableError(f"no key at {path}", hint="`polchain keygen` makes one") from None
    except OSError as error:
        raise KeyUnavailableError(f"cannot read the key {path}: {error.strerror}") from None
    if len(data) > KEY_LIMIT:
        raise FormatError(f"{path} is no key")
    return data


def _from_keyring(key_file: Path) -> bytes | None:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    try:
        found = keyring.get_password(KEYRING_SERVICE, str(key_file))
    except keyring.errors.KeyringError:
        return None
    return None if found is None else found.encode()
