"""Options that several commands share, and what follows from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.errors import DatasetError, MissingFileError, UsageError

if TYPE_CHECKING:
    from polchain.core.keys import PrivateKey
    from polchain.core.task import Task
    from polchain.storage.keyfile import PassphraseSource

__all__ = [
    "Data",
    "DataSecretFile",
    "Json",
    "KeyFile",
    "PassphraseFd",
    "PassphraseFile",
    "check_seconds",
    "data_folder",
    "hand_down",
    "load_key",
    "optional_first",
    "passphrase_source",
    "read_task",
]

MAX_DESCRIPTOR = 2**31 - 1
YEAR = 366 * 86_400

Json = Annotated[bool, typer.Option("--json", help="answer with one JSON object")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="the private key [POLCHAIN_KEY_FILE]", show_default=False),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="a file with the key's passphrase, readable by you alone [POLCHAIN_PASSPHRASE_FILE]",
        show_default=False,
    ),
]
PassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd",
        metavar="N",
        min=0,
        max=MAX_DESCRIPTOR,
        help="an open file descriptor to read the passphrase from [POLCHAIN_PASSPHRASE_FD]",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FOLDER", help="the only folder that the recipe reads [POLCHAIN_DATA]", show_default=False
    ),
]

DataSecretFile = Annotated[
    Path | None,
    typer.Option(
        "--data-secret",
        metavar="FILE",
        help="the secret that private data is salted with, from its owner",
        show_default=False,
    ),
]


def data_folder(named: Path | None) -> Path:
    """The folder that a recipe reads: the one that is named, else POLCHAIN_DATA, else the working directory.

    Raises:
        DatasetError: there is none at the name.
    """
    if named is None:
        from polchain.training.dataset import data_dir

        return data_dir()
    if not named.is_dir():
        raise DatasetError(f"no folder at {named}", hint="say where the data is with --data FOLDER or POLCHAIN_DATA")
    return named.resolve()


def passphrase_source(file: Path | None, descriptor: int | None) -> PassphraseSource:
    """Where the passphrase comes from: the flags, else the environment.

    Raises:
        UsageError: two flags at once.
    """
    from polchain.storage.keyfile import PassphraseSource

    if file is not None and descriptor is not None:
        raise UsageError("--passphrase-file and --passphrase-fd: one of them")
    if file is None and descriptor is None:
        return PassphraseSource.from_environment()
    return PassphraseSource(descriptor=descriptor, file=file)


def load_key(run: Path, key_file: Path | None, file: Path | None, descriptor: int | None) -> PrivateKey:
    """The key that signs a run: the flag, `POLCHAIN_KEY_FILE`, the run's polchain.toml, else the user's own."""
    from polchain.prover.settings import RunSettings
    from polchain.storage.keyfile import read_key

    return read_key(key_file or RunSettings.read(run).key_file, passphrase_source(file, descriptor))


def optional_first(words: list[str], names: tuple[str, str]) -> tuple[Path | None, str]:
    """Two positionals of which the first may be left out: `(None, only)` or `(first, second)`.

    Raises:
        UsageError: none, or more than two.
    """
    if len(words) not in (1, 2):
        problem = f"missing argument {names[1]}" if not words else f"more than [{names[0]}] {names[1]}: {words[2]}"
        raise UsageError(problem)
    return (Path(words[0]), words[1]) if len(words) == 2 else (None, words[0])


def check_seconds(option: str, value: float) -> float:
    """A number of seconds that a clock can wait for.

    Raises:
        UsageError: it is none.
    """
    if not 0 <= value <= YEAR:
        raise UsageError(f"{option} {value:g}: a number of seconds up to {YEAR} was expected")
    return value


def hand_down(name: str, value: Path | None) -> None:
    """Put a flag's path where the process that runs the script looks for it."""
    if value is not None:
        os.environ[name] = str(value.absolute())


def read_task(path: Path) -> Task:
    """A task's file.

    Raises:
        MissingFileError: it cannot be read.
        FormatError: it is no task.
    """
    from polchain.core.task import TASK_LIMIT, Task

    try:
        with path.open("rb") as file:
            return Task.parse(file.read(TASK_LIMIT + 2))
    except OSError as error:
        raise MissingFileError(f"--task {path}: cannot be read: {error.strerror}") from error
