"""The secret of private data in a file: `core.salts` says what is in it. Readable by its owner alone, never
overwritten; a run keeps its own as `data.secret`, and no claim has it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from polchain.core.archive import open_plain
from polchain.core.salts import SECRET_LIMIT, DataSecret
from polchain.errors import DataSecretError, FormatError, StorageError, UsageError
from polchain.storage.checkpoints import make_folder, sync_folder

__all__ = ["SECRET", "read_secret", "write_secret"]

SECRET = "data.secret"


def read_secret(path: Path) -> DataSecret:
    """Read a secret.

    Raises:
        DataSecretError: no such file, or others can read it.
        FormatError: it is no secret.
    """
    try:
        file = open_plain(path)
        if file is None:
            raise FormatError(f"{path} is not a plain file")
        with file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise DataSecretError(f"others can read the data secret {path}", hint=f"chmod 600 {path}")
            data = file.read(SECRET_LIMIT + 1)
    except FileNotFoundError:
        raise DataSecretError(f"no data secret at {path}", hint="its owner keeps it in his run's folder") from None
    except OSError as error:
        raise DataSecretError(f"cannot read the data secret {path}: {error.strerror}") from None
    try:
        return DataSecret.parse(data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def write_secret(path: Path, secret: DataSecret) -> None:
    """Write a secret to a new file, 0600; durable when this returns.

    Raises:
        UsageError: there is a file already; nothing is overwritten.
        StorageError: the disk refused.
    """
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"there is a file at {path} already", hint="move it away; never delete a secret") from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret.encode())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
