"""`polchain export` and `polchain fsck`: a run's claim, and a run's health."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli import output
from polchain.cli.options import Data, Json, optional_first

if TYPE_CHECKING:
    from polchain.prover.export import ExportSummary

__all__ = ["register"]

DAMAGED = 1


class Checkpoints(Enum):
    """Whose tensors a claim discloses."""

    all = "all"
    stored = "stored"
    none = "none"


def register(app: typer.Typer) -> None:
    """Add `export` and `fsck`."""
    app.command("export")(export)
    app.command("fsck")(fsck)


def export(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[RUN] OUT", help="the run's folder; the claim, which must be new: a folder or X.zip"),
    ],
    checkpoints: Annotated[
        Checkpoints, typer.Option(help="whose tensors to disclose: of all states, of those stored; none seals it")
    ] = Checkpoints.all,
    data: Data = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="leave out states that the run no longer has")
    ] = False,
    as_json: Json = False,
) -> None:
    """write the claim: all that a verifier needs, as folder or zip."""
    from polchain.prover.export import export as write_claim
    from polchain.prover.settings import RunSettings
    from polchain.prover.status import failed_check
    from polchain.storage.runs import find_run

    run, out = optional_first(words, ("RUN", "OUT"))
    # The progress line knows its total only once the log was read.
    with (
        output.on_interrupt("nothing was written: the same command begins anew"),
        output.Progress("exporting", 0, "states") as progress,
    ):
        done = write_claim(
            find_run(run),
            Path(out),
            allow_missing=allow_missing,
            sealed=checkpoints is Checkpoints.none,
            stored_only=checkpoints is Checkpoints.stored,
            data=(data or RunSettings.read(find_run(run)).data or Path()).resolve(),
            on_state=progress.update,
        )
    failed = failed_check(find_run(run))
    if failed is not None:
        output.note(f"this run has failed its self-check, so the claim will not be VERIFIED: {failed}")
    if done.exposing:
        output.note(
            "the data is private, and checkpoints that lie close together expose gradients, from which samples can be "
            "made out: `--checkpoints none` discloses none"
        )
    if done.pending:
        output.note(
            f"{output.count(done.pending, 'receipt')} not final yet: `polchain anchor --upgrade`, and export anew"
        )
    if done.thinned:
        output.note(
            f"{output.count(done.thinned, 'state')} by rows alone: whoever verifies trains them again, "
            "and measures no swap bound"
        )
    if done.missing:
        output.note(f"left out: the states of {output.count(len(done.missing), 'step')} that are not there")
    output.answer(
        {
            "claim": str(done.path.absolute()),
            "entries": done.entries,
            "states": done.states,
            "missing": list(done.missing),
            "thinned": done.thinned,
            "sealed": done.sealed,
            "receipts": done.receipts,
            "bytes": done.bytes,
            "public_key": str(done.key),
            "recipe": str(done.recipe) if done.recipe is not None else None,
            "head": {"size": done.entries, "root": str(done.root)},
        },
        output.fields(
            [
                ("claim", done.path),
                ("entries", done.entries),
                ("states", f"{'none: sealed' if done.sealed else done.states}, {output.size(done.bytes)} in all"),
                ("anchors", _receipts(done)),
                ("key", done.key),
                ("recipe", done.recipe or "none: a foreign run"),
                ("head", done.root),
            ]
        ),
        as_json=as_json,
    )


def _receipts(done: ExportSummary) -> str:
    if not done.receipts:
        return "none: nothing shows when this run was made; `polchain anchor`"
    return f"{done.receipts}, {done.pending} of them pending" if done.pending else str(done.receipts)


def fsck(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="the run's folder", show_default=False)] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="remove leftovers, and put back a head.note that is behind")
    ] = False,
    as_json: Json = False,
) -> None:
    """check every byte that a run keeps."""
    from polchain.prover.fsck import check
    from polchain.storage.runs import find_run

    with output.Progress("checking", 0, "entries") as progress:
        found = check(find_run(run), repair=repair, on_state=progress.update)
    lines = [f"damaged: {output.sanitise(text)}" for text in found.damage]
    lines += [f"{'mended' if text in found.mended else 'note'}: {output.sanitise(text)}" for text in found.leftovers]
    summary = f"{output.count(found.entries, 'entry')}, {output.count(found.states, 'state')}"
    if found.thinned:
        summary += f", {output.count(found.thinned, 'state')} thinned"
    lines.append(f"{summary}: {'damaged' if found.damage else 'clean'}")
    if found.leftovers and found.damage:
        output.note("from a damaged run no state is removed: what seems to be left over may be what is missing")
    elif found.leftovers and not repair:
        output.note("a note is no damage: an interrupted run leaves such things; --repair removes them")
    output.answer(
        {
            "run": str(found.path),
            "clean": not found.damage,
            "entries": found.entries,
            "states": found.states,
            "thinned": found.thinned,
            "damage": list(found.damage),
            "leftovers": list(found.leftovers),
            "repaired": repair,
        },
        "\n".join(lines),
        as_json=as_json,
    )
    if found.damage:
        raise typer.Exit(DAMAGED)
