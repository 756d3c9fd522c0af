"""`polchain anchor`: signed heads, published where time can be trusted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polchain.cli import output
from polchain.cli.ethereum import (
    Account,
    DryRun,
    Keystore,
    KeystorePassphraseFd,
    KeystorePassphraseFile,
    MaxFee,
    NetworkName,
    Rpc,
    quote_fields,
    quote_json,
)
from polchain.cli.options import Json, check_seconds
from polchain.cli.receipts import published_json, published_rows
from polchain.cli.sources import Named
from polchain.errors import AnchorUnavailableError, UsageError

if TYPE_CHECKING:
    from polchain.anchors.ethereum import EthereumAnchor
    from polchain.prover.anchoring import Published, Waiting
    from polchain.prover.sources import Failure, Sources

__all__ = ["published_json", "published_rows", "register"]

UNAVAILABLE = 4
TIMEOUT = 3600.0
# How long what is being sent when the parent ends may still take.
LAST_SECONDS = 60.0


def register(app: typer.Typer) -> None:
    """Add `anchor`."""
    app.command("anchor")(anchor)


def anchor(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="the runs' folders; several share a transaction", show_default=False),
    ] = None,
    network: NetworkName = None,
    rpc: Rpc = None,
    keystore: Keystore = None,
    keystore_passphrase_file: KeystorePassphraseFile = None,
    keystore_passphrase_fd: KeystorePassphraseFd = None,
    account: Account = None,
    max_fee: MaxFee = None,
    tsa: Annotated[
        list[str] | None,
        typer.Option("--tsa", metavar="URL", help="a time-stamping authority (RFC 3161); may be repeated"),
    ] = None,
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option("--wait", help="wait until it is final")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="the longest that --wait waits; 3600")
    ] = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="publish nothing new; ask what became of what is pending")
    ] = False,
    every: Annotated[
        int | None,
        typer.Option("--every", metavar="STEPS", min=1, help="stay, and anchor the newest head that often"),
    ] = None,
    until_parent_ends: Annotated[
        int | None,
        typer.Option("--until-parent-ends", metavar="PID", hidden=True, help="with --every: end with that process"),
    ] = None,
    as_json: Json = False,
) -> None:
    """publish the newest head of a run where time can be trusted."""
    from polchain.prover.settings import RunSettings
    from polchain.storage.runs import find_run

    _check_words(runs or [], tsa, dry_run, wait, timeout, upgrade, every, until_parent_ends)
    found = list(runs or [find_run(None)])
    settings = RunSettings.read(found[0])
    named = Named(network, rpc, keystore, keystore_passphrase_file, keystore_passphrase_fd, account, max_fee, settings)
    seconds = TIMEOUT if timeout is None else check_seconds("--timeout", timeout)
    if upgrade:
        _upgrade(found, named, wait, seconds, as_json)
        return
    if dry_run:
        _quote(found, named, as_json)
        return
    sources = named.sources(tsa or settings.tsa)
    if every is not None:
        _follow(found[0], sources, every, wait, seconds, until_parent_ends, as_json)
        return
    _once(found, sources, wait, seconds, as_json)


def _check_words(
    runs: Sequence[Path],
    tsa: list[str] | None,
    dry_run: bool,
    wait: bool,
    timeout: float | None,
    upgrade: bool,
    every: int | None,
    until_parent_ends: int | None,
) -> None:
    if timeout is not None and not wait:
        raise UsageError("--timeout belongs to --wait")
    if dry_run and (wait or upgrade or every is not None):
        raise UsageError("--dry-run sends nothing: it goes without --wait, --upgrade and --every")
    if upgrade and (tsa or every is not None):
        raise UsageError("--upgrade publishes nothing: it goes without --tsa and --every")
    if every is not None and len(runs) > 1:
        raise UsageError("--every follows one run", hint="one `polchain anchor` for each")
    if until_parent_ends is not None and every is None:
        raise UsageError("--until-parent-ends belongs to --every")


def _once(runs: list[Path], sources: Sources, wait: bool, timeout: float, as_json: bool) -> None:
    from polchain.prover.anchored import AnchorBook
    from polchain.prover.anchorlog import different
    from polchain.prover.sources import attempt

    done = attempt(runs, sources)
    for run in different(runs):
        AnchorBook(run).set_trouble(done.trouble(run))
    published, failed = list(done.published), list(done.failed)
    if wait and sources.network is not None and any(not one.final for one in published):
        published, late = _wait(published, sources.anchor(), timeout)
        failed += late
    _answer(published, failed, as_json)


def _upgrade(runs: list[Path], named: Named, wait: bool, timeout: float, as_json: bool) -> None:
    from polchain.prover.anchoring import source_of, upgrade
    from polchain.prover.sources import Failure

    network, connected = named.opening(paying=False)
    anchor = connected()
    published: list[Published] = []
    failed: list[Failure] = []
    for run in runs:
        try:
            published += upgrade(run, anchor)
        except AnchorUnavailableError as error:
            failed.append(Failure(source_of(network), run, error))
    if wait:
        published, late = _wait(published, anchor, timeout)
        failed += late
    _answer(published, failed, as_json, nothing="nothing is pending")


def _quote(runs: list[Path], named: Named, as_json: bool) -> None:
    from polchain.prover.anchoring import quote

    network, connected = named.opening()
    found = quote(runs, connected())
    said: dict[str, Any] = {"network": network.name, "runs": [str(run) for run in runs], "sends": found is not None}
    rows: list[tuple[str, object]] = [("network", network.name), *(("run", run) for run in runs)]
    if found is None:
        rows.append(("cost", "none: the newest head is published already, or on its way"))
    else:
        said |= quote_json(found)
        rows += quote_fields(found)
    output.answer(said, output.fields(rows), as_json=as_json)


def _wait(published: list[Published], anchor: EthereumAnchor, timeout: float) -> tuple[list[Published], list[Failure]]:
    """Wait until these are final; if they are not in time, they come back as they are."""
    from polchain.prover.anchoring import source_of, wait
    from polchain.prover.sources import Failure
    from polchain.prover.waiting import as_kept

    with output.Progress(anchor.network.name, 1, "blocks") as progress:
        totals: dict[int, int] = {}
        said = ""

        def show(state: Waiting) -> None:
            nonlocal said
            if state.problem and state.problem != said:
                progress.clear()
                output.note(f"{state.problem}; asking again")
            said = state.problem
            if state.block is None or state.to_go is None:
                progress.what = f"{anchor.network.name}, in no block yet"
                progress.update(0, 1)
                return
            total = totals.setdefault(state.block, max(1, state.to_go))
            progress.what = f"{anchor.network.name} block {state.block}, {state.to_go} to go"
            progress.update(max(0, total - state.to_go), total, state.seconds)

        try:
            return wait(published, anchor, timeout=timeout, on_progress=show), []
        except AnchorUnavailableError as error:
            return as_kept(published), [Failure(source_of(anchor.network), None, error)]


def _follow(
    run: Path, sources: Sources, every: int, wait: bool, timeout: float, parent: int | None, as_json: bool
) -> None:
    from polchain.prover.following import Events, Follower
    from polchain.prover.sources import Failure
    from polchain.storage.database import DATABASE

    def orphaned() -> bool:
        return parent is not None and os.getppid() != parent

    stopped = threading.Event()
    if parent is not None:
        threading.Thread(target=_end_with_parent, args=(orphaned,), daemon=True).start()
        # A training that was just begun has not written its genesis yet.
        while not (run / DATABASE).exists() and not orphaned():
            stopped.wait(1.0)
    events = Events(
        published=lambda one: output.note("; ".join(f"{name} {value}" for name, value in published_rows(one)[1:4])),
        problem=lambda what: output.note(f"{what}; trying again"),
        sleep=stopped.wait,
        ended=orphaned,
    )
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    follower = Follower(run, sources, every, events, wait, timeout)
    failed: list[Failure] = []
    try:
        follower.follow()
    except AnchorUnavailableError as error:
        failed.append(Failure(sources.names()[-1], run, error))
    finally:
        signal.signal(signal.SIGTERM, before)
    _answer(follower.found, failed, as_json, nothing="nothing was anchored")


def _end_with_parent(orphaned: Callable[[], bool]) -> None:
    """A node may never finish its answer: when the parent has ended, this process does too, some time later."""
    while not orphaned():
        time.sleep(1.0)
    time.sleep(LAST_SECONDS)
    os._exit(UNAVAILABLE)  # What was about to be sent is in the journal.


def _answer(published: list[Published], failed: Sequence[Failure], as_json: bool, *, nothing: str = "") -> None:
    """What was published, and what was not: exit 4 where nothing was, or a network failed.

    Raises:
        AnchorUnavailableError: nothing was published, and why.
    """
    if failed and not published:
        if len(failed) == 1:
            raise failed[0].error
        said = "; ".join(f"{one.source}: {one.error}" for one in failed)
        raise AnchorUnavailableError(f"no source of time worked: {said}", hint=failed[-1].error.hint)
    chain = any(one.source.startswith("ethereum-") for one in failed)
    if not as_json:
        for one in failed:
            name = type(one.error).__name__
            output.failure(name, f"{one.source}: {one.error}", one.error.hint, UNAVAILABLE, as_json=False)
    pending = sorted({str(one.run) for one in published if not one.final})
    if pending:
        output.note(f"pending: `polchain anchor {' '.join(pending)} --upgrade` asks the network again")
    output.answer(
        {
            "anchors": [published_json(one) for one in published],
            "failed": [_failure_json(one) for one in failed],
        },
        "\n\n".join(output.fields(published_rows(one)) for one in published) or nothing,
        as_json=as_json,
    )
    if chain:
        raise typer.Exit(UNAVAILABLE)


def _failure_json(one: Failure) -> dict[str, Any]:
    return {
        "source": one.source,
        "run": str(one.run) if one.run is not None else None,
        "name": type(one.error).__name__,
        "message": str(one.error),
        "hint": one.error.hint,
    }
