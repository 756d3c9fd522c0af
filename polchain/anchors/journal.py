"""What this machine has signed and may have sent: the reason why nothing is paid for twice.

    <folder>/lock                 held while a nonce is chosen, signed for, written down and sent
    <folder>/<key>.json           {"key": "...", "nonce": 7, "transaction": "0x02..."}
    <folder>/final/<key>.json     the same, once its block is final
    <folder>/refused/<key>-<16 hex>.json
                                  the same, once the node has refused it; a node may say so and send it all the same

One folder for each chain and account. A transaction is written, and durable, before it is sent; after a crash the same
bytes are sent again, and a chain takes the same bytes once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

from polchain.core.encoding import Fields, decode, encode
from polchain.errors import AnchorUnavailableError, FormatError, StorageError

__all__ = ["Intent", "Journal", "default_folder"]

LIMIT = 65536
PATIENCE = 60.0  # seconds for another process to finish


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
        """Hold the journal against other processes; waits for them, a minute at most.

        Raises:
            AnchorUnavailableError: another process holds it for longer.
            StorageError: the folder cannot be made or opened.
        """
        try:
            (self.folder / "final").mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot write down what is sent, in {self.folder}: {error.strerror}") from error
        try:
            _lock(descriptor)
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

    def refused(self, key: str) -> list[Intent]:
        """What else was signed for this, by nonce: a node refused it, or another transaction took its nonce."""
        found = (_read(path, key) for path in self.folder.glob(f"refused/{key}-*.json"))
        return sorted(found, key=lambda intent: intent.nonce)

    def open(self) -> list[Intent]:
        """What was signed, was not refused, and is not final, by nonce."""
        intents = [_read(path, path.stem) for path in self.folder.glob("*.json")]
        return sorted(intents, key=lambda intent: intent.nonce)

    def write(self, intent: Intent) -> None:
        """Write an intent down; when this returns, it survives a power cut.

        Raises:
            StorageError: the disk refused. Then nothing may be sent.
        """
        self._write(intent, self._path(intent.key))

    def refuse(self, intent: Intent) -> None:
        """Put aside what was refused: its nonce is free, and it may come all the same.

        Raises:
            StorageError: the disk refused.
        """
        name = hashlib.sha256(intent.transaction).hexdigest()[:16]
        self._write(intent, self.folder / "refused" / f"{intent.key}-{name}.json")
        self._path(intent.key).unlink(missing_ok=True)
        _sync(self.folder)

    def _write(self, intent: Intent, path: Path) -> None:
        partial = path.with_suffix(".partial")
        transaction = f"0x{intent.transaction.hex()}"
        data = encode({"key": intent.key, "nonce": intent.nonce, "transaction": transaction})
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
            _sync(path.parent)
        except OSError as error:
            raise StorageError(f"cannot write down what is sent, in {self.folder}: {error.strerror}") from error

    def settle(self, key: str) -> None:
        """Put aside what is final: its nonce need not be thought of again."""
        try:
            self._path(key).rename(self.folder / "final" / f"{key}.json")
        except FileNotFoundError:
            return

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _lock(descriptor: int) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise AnchorUnavailableError(
                    "another process is sending from the same account",
                    hint="wait until it is done; if it hangs, its node may not answer: end it and try again",
                ) from None
            time.sleep(0.05)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
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
