"""`polchain commit`: a checkpoint of a loop that polchain does not own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli import output
from polchain.cli.options import Json, KeyFile, PassphraseFd, PassphraseFile, check_seconds, load_key, optional_first
from polchain.errors import UsageError

if TYPE_CHECKING:
    from polchain.core.keys import PrivateKey
    from polchain.prover.foreign import Committed

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `commit`."""
    app.command("commit")(commit)


def commit(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN] [PATH]", help="the run's folder; the checkpoint", show_default=False),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", metavar="N", min=0, help="the step that PATH is the state of", show_default=False),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="KEY=GROUP",
            help="which group a key of the file is: model, optimizer, schedule or extra; may be repeated",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[float | None, typer.Option("--loss", help="the loss at that step", show_default=False)] = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="log the state, but keep no copy of its tensors")
    ] = False,
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch", metavar="DIR", help="commit new complete checkpoints as they appear in DIR", show_default=False
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="with --watch: commit what is there, and end")] = False,
    settle: Annotated[
        float, typer.Option("--settle", metavar="S", min=0.0, help="with --watch: seconds a file must not have changed")
    ] = 2.0,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    as_json: Json = False,
) -> None:
    """log a checkpoint of a loop that polchain does not own."""
    from polchain.storage.runs import find_run

    groups = _groups(mapping or [])
    check_seconds("--settle", settle)
    if watch is not None:
        if words and len(words) > 1:
            raise UsageError("--watch DIR takes no PATH")
        if step is not None or loss is not None:
            raise UsageError("--step and --loss say something of one PATH, not of --watch DIR")
        run = find_run(Path(words[0]) if words else None)
        key = load_key(run, key_file, passphrase_file, passphrase_fd)
        _watch(run, watch, key, groups, settle, once, not no_store, as_json)
        return
    if once:
        raise UsageError("--once belongs to --watch DIR")
    named, path = optional_first(words or [], ("RUN", "PATH"))
    if step is None:
        raise UsageError("missing option --step", hint="the step that PATH is the state of")
    run = find_run(named)
    key = load_key(run, key_file, passphrase_file, passphrase_fd)
    from polchain.prover.foreign import commit as commit_state

    committed = commit_state(run, Path(path), step, key=key, mapping=groups, store=not no_store, loss=loss)
    _answer(run, committed, as_json)


def _watch(
    run: Path,
    directory: Path,
    key: PrivateKey,
    groups: dict[str, str],
    settle: float,
    once: bool,
    store: bool,
    as_json: bool,
) -> None:
    from polchain.prover.foreign import watch

    output.show_log(logging.INFO)
    watch(
        run,
        directory,
        key=key,
        mapping=groups,
        settle=settle,
        once=once,
        store=store,
        on_commit=lambda committed: _answer(run, committed, as_json),
    )


def _answer(run: Path, committed: Committed, as_json: bool) -> None:
    """One commit: a line, or one JSON object on a line of its own."""
    for remark in committed.remarks:
        output.note(remark)
    entry = committed.entry
    output.answer(
        {
            "run": str(run),
            "step": committed.step,
            "state": str(entry.state),
            "repeated": committed.repeated,
            "remarks": list(committed.remarks),
            "head": {"size": committed.head.size, "root": f"sha256:{committed.head.root.hex()}"},
        },
        f"step {committed.step}  {entry.state}" + ("  already committed" if committed.repeated else ""),
        as_json=as_json,
    )


def _groups(pairs: list[str]) -> dict[str, str]:
    from polchain.core.rows import GROUPS

    groups: dict[str, str] = {}
    for pair in pairs:
        key, equals, group = pair.rpartition("=")
        if not equals or not key or group not in GROUPS:
            raise UsageError(f"--map {pair}: KEY=GROUP was expected", hint=f"the groups are {', '.join(GROUPS)}")
        if groups.setdefault(key, group) != group:
            raise UsageError(f"--map names two groups for {key}")
    return groups
