"""A private run's secret: drawn or given before the genesis, kept in the run's folder, needed wherever data is read.

The file is written first, and the genesis that names it is signed after. So a folder that holds one and no run belongs
to a private run that was killed on the way: whatever begins there is private too, and never plain by accident.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from polchain.core.genesis import DatasetRef
from polchain.core.salts import DataSecret
from polchain.errors import DataSecretError, UsageError
from polchain.prover.launch import Launch
from polchain.storage.secretfile import SECRET, read_secret, write_secret

__all__ = ["choose_secret", "keep_secret", "kept_secret"]


def choose_secret(run: Path, launch: Launch) -> DataSecret | None:
    """The secret of a run that is about to begin; nothing is written yet. None where its data is plain.

    Raises:
        UsageError: the folder holds another secret than the one that was given.
        DataSecretError, FormatError: the given one, or the one in the folder, cannot be read.
    """
    path = run / SECRET
    given = read_secret(launch.data_secret) if launch.data_secret is not None else None
    if path.exists():
        kept = read_secret(path)
        if given is not None and given != kept:
            raise UsageError(f"{path} is another secret than the one given", hint="move it away, or name no other")
        return kept
    if given is None and launch.private:
        return DataSecret(secrets.token_bytes(32))
    return given


def keep_secret(run: Path, secret: DataSecret) -> None:
    """Write a chosen secret to the run's folder, where it is not there yet; durable when this returns.

    Raises:
        StorageError: the disk refused.
        UsageError: another process began a run there meanwhile.
    """
    path = run / SECRET
    if not path.exists():
        write_secret(path, secret)


def kept_secret(run: Path, dataset: DatasetRef) -> DataSecret | None:
    """The secret that a run's genesis names, from its folder; None where its data is plain.

    Raises:
        DataSecretError: it is gone, or another one.
        FormatError: it is damaged.
    """
    if dataset.salts is None:
        return None
    path = run / SECRET
    if not path.exists():
        raise DataSecretError(
            f"{path} is gone: the secret that this run's data is salted with",
            hint="put back your copy of it: without it the run cannot go on, and nobody can replay it",
        )
    secret = read_secret(path)
    if secret.commitment != dataset.salts:
        raise DataSecretError(
            f"{path} is another secret than the one that this run's data is salted with",
            hint="put back the one that the run was begun with",
        )
    return secret
