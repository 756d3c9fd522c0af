"""What this machine has signed and may have sent: the reason why nothing is paid for twice.

    <folder>/lock                 held while a nonce is chosen, signed for, written down and sent
    <folder>/<key>.json           {"key": "...", "nonce": 7, "transaction": "0x02..."}
    <folder>/final/<key>.json     the same, once its block is final

One folder for each chain and account. A transaction is written, and durable, before it is sent; after a crash the same
bytes are sent again, and a chain takes the same bytes once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

from polchain.core.encoding import Fields, decode, encode
from polchain.errors import FormatError, StorageError

__all__ = ["Intent", "Journal", "default_folder"]

LIMIT = 65536


@dataclass(frozen=True, slots=True)
class Intent:
    """A signed transaction, and what it is for."""

    key: str
    nonce: int
    transaction: bytes


def default_folder(chain_id: int, genesis: bytes, account: bytes) -> Path:
    """Where the journal of an account lies: one for all runs, because they share its nonces.

    `genesis` is the hash of block 0: a local chain that was begun anew knows nothing of what the old one took.
    """
    return user_state_path("polchain") / "ethereum" / f"{chain_id}-{genesis[:8].hex()}-0x{account.hex()}"


class Journal:
    """The journal of one account on one chain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the journal against other processes; waits for them.

        Raises:
            StorageError: the folder cannot be made or opened.
        """
        try:
            (self.folder / "final").mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot write down what is sent, in {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def find(self, key: str) -> Intent | None:
        """What was signed for this, if anything was."""
        for path in (self._path(key), self.folder / "final" / f"{key}.json"):
            try:
                return _read(path, key)
            except FileNotFoundError:
                continue
        return None

    def open(self) -> list[Intent]:
        """What was signed and is not final, by nonce."""
        intents = [_read(path, path.stem) for path in self.folder.glob("*.json")]
        return sorted(intents, key=lambda intent: intent.nonce)

    def write(self, intent: Intent) -> None:
        """Write an intent down; when this returns, it survives a power cut.

        Raises:
            StorageError: the disk refused. Then nothing may be sent.
        """
        path = self._path(intent.key)
        partial = path.with_suffix(".partial")
        transaction = f"0x{intent.transaction.hex()}"
        data = encode({"key": intent.key, "nonce": intent.nonce, "transaction": transaction})
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
            self._sync()
        except OSError as error:
            raise StorageError(f"cannot write down what is sent, in {self.folder}: {error.strerror}") from error

    def remove(self, intent: Intent) -> None:
        """Forget what was certainly not taken."""
        self._path(intent.key).unlink(missing_ok=True)
        self._sync()

    def settle(self, key: str) -> None:
        """Put aside what is final: its nonce need not be thought of again."""
        try:
            self._path(key).rename(self.folder / "final" / f"{key}.json")
        except FileNotFoundError:
            return

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _sync(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path, key: str) -> Intent:
    fields = Fields(decode(path.read_bytes(), limit=LIMIT, what=str(path)), str(path))
    intent = Intent(fields.str("key"), fields.int("nonce"), _bytes(fields.str("transaction", max_length=LIMIT), path))
    fields.done()
    if intent.key != key:
        raise FormatError(f"{path} was written for something else")
    return intent


def _bytes(text: str, path: Path) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise FormatError(f"{path}: the transaction is not hexadecimal") from error
