"""`polchain init` and `polchain train`: a run's beginning, and the training itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from polchain.cli import output
from polchain.cli.options import (
    Data,
    Json,
    KeyFile,
    PassphraseFd,
    PassphraseFile,
    hand_down,
    load_key,
    passphrase_source,
)
from polchain.errors import DatasetError, PolchainError, UsageError

__all__ = ["register"]

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="the run's folder", show_default=False)]
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="[-- ARGS]", help="the script's own arguments", show_default=False)
]
Script = Annotated[
    str | None, typer.Option("--recipe", metavar="SCRIPT", help="the training script", show_default=False)
]
Module = Annotated[bool, typer.Option("--module", help="SCRIPT is a module's name, as for `python -m`")]


def register(app: typer.Typer) -> None:
    """Add `init` and `train`."""
    app.command("init")(init)
    app.command("train")(train)


def init(
    run: Folder,
    arguments: Arguments = None,
    recipe: Script = None,
    module: Module = False,
    foreign: Annotated[
        bool, typer.Option("--foreign", help="polchain will not own the loop: log checkpoints with `commit`")
    ] = False,
    key_file: KeyFile = None,
    data: Data = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    as_json: Json = False,
) -> None:
    """begin a run: sign its program and data before any step."""
    if foreign == (recipe is not None):
        raise UsageError("init needs --recipe SCRIPT or --foreign, one of them")
    if _exists(run):
        raise UsageError(f"there is a run at {run} already", hint="choose another folder; `polchain train RUN` goes on")
    if not foreign:
        assert recipe is not None
        _become("init", run, recipe, module, arguments or [], key_file, data, passphrase_file, passphrase_fd, as_json)
    if arguments or module or data is not None:
        raise UsageError("--foreign takes no script, arguments or data")
    _init_foreign(run, key_file, passphrase_file, passphrase_fd, as_json)


def train(
    run: Folder,
    arguments: Arguments = None,
    recipe: Script = None,
    module: Module = False,
    key_file: KeyFile = None,
    data: Data = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    as_json: Json = False,
) -> None:
    """run the script, recorded; go on where it was stopped."""
    from polchain.prover.settings import RunSettings

    settings = RunSettings.read(run)
    if _exists(run):
        _as_recorded(run)
    script = recipe or settings.script
    if not script:
        raise UsageError(f"which script? {run} does not say", hint="--recipe SCRIPT")
    if recipe is None:
        module = settings.module
    words = arguments or list(settings.arguments)
    _become("train", run, script, module, words, key_file, data, passphrase_file, passphrase_fd, as_json)


def _exists(run: Path) -> bool:
    from polchain.storage.ledger import DATABASE

    return (run / DATABASE).exists()


def _become(
    mode: str,
    run: Path,
    script: str,
    module: bool,
    arguments: list[str],
    key_file: Path | None,
    data: Path | None,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    as_json: bool,
) -> NoReturn:
    """Turn this process into the one that runs the script (see `cli.child`)."""
    from polchain.prover.settings import RunSettings

    if not module and not Path(script).is_file():
        raise UsageError(f"no script at {script}", hint="--recipe names the training script; a module needs --module")
    if not module and Path(script).suffix != ".py":
        raise UsageError(f"{script} is not a Python script", hint="--recipe names a .py file; a module needs --module")
    data = data or RunSettings.read(run).data
    if data is not None and not data.is_dir():
        raise DatasetError(f"no folder at {data}", hint="say where the data is with --data FOLDER or POLCHAIN_DATA")
    passphrase_source(passphrase_file, passphrase_fd)
    hand_down("POLCHAIN_KEY_FILE", key_file)
    hand_down("POLCHAIN_DATA", data)
    hand_down("POLCHAIN_PASSPHRASE_FILE", passphrase_file)
    if passphrase_fd is not None:
        os.environ["POLCHAIN_PASSPHRASE_FD"] = str(passphrase_fd)
    elif passphrase_file is not None:
        os.environ.pop("POLCHAIN_PASSPHRASE_FD", None)
    _keep_open(os.environ.get("POLCHAIN_PASSPHRASE_FD"))
    from polchain.training.fingerprint import CUBLAS_WORKSPACE, SPIN_COUNT

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that spin while they wait stall each other where the cores are busy; it changes no bit.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    sys.stdout.flush()
    sys.stderr.flush()
    words = [mode, "json" if as_json else "text", "module" if module else "file", str(run), script, *arguments]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "polchain.cli.child", *words])


def _keep_open(descriptor: str | None) -> None:
    if descriptor and descriptor.isdecimal():
        try:
            os.set_inheritable(int(descriptor), True)
        except (OSError, OverflowError) as error:
            raise UsageError(f"no open file descriptor {descriptor} to read a passphrase from") from error


def _as_recorded(run: Path) -> None:
    """Ask torch for the setting that the run was started with, where the environment does not ask for another."""
    from polchain.core.entries import Start
    from polchain.storage.ledger import Ledger

    with Ledger(run) as ledger:
        if ledger.genesis.foreign:
            raise UsageError(f"the run at {run} is a foreign one", hint="`polchain commit` logs its checkpoints")
        start = ledger.entry(1) if ledger.size > 1 else None
    if not isinstance(start, Start):
        return
    from polchain.training.fingerprint import setting_of

    try:
        wanted = setting_of(start.fingerprint).environment()
    except PolchainError:
        return  # The recorder says what differs.
    for name, value in wanted.items():
        if not name.startswith("POLCHAIN_"):
            os.environ.setdefault(name, value)


def _init_foreign(
    run: Path, key_file: Path | None, passphrase_file: Path | None, passphrase_fd: int | None, as_json: bool
) -> None:
    from dataclasses import replace

    from polchain.prover.settings import RunSettings

    settings = RunSettings.read(run)
    settings = replace(settings, key_file=key_file or settings.key_file)
    key = load_key(run, settings.key_file, passphrase_file, passphrase_fd)
    # After the passphrase: this loads torch, and nobody waits for a prompt.
    from polchain.prover.foreign import init_foreign

    with init_foreign(run, key, settings=settings) as ledger:
        output.answer(
            {
                "run": str(run.absolute()),
                "run_id": ledger.genesis.run_id.hex(),
                "public_key": str(key.public),
                "head": {"size": ledger.size, "root": str(ledger.root)},
            },
            output.fields(
                [("run", run), ("key", key.public), ("recipe", "none: a foreign run"), ("head", ledger.root)]
            ),
            as_json=as_json,
        )
