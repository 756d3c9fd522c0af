"""`polchain thin`: fewer states on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polchain.cli import output
from polchain.cli.options import Data, Json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `thin`."""
    app.command("thin")(thin)


def thin(
    keep_every: Annotated[
        int, typer.Option("--keep-every", metavar="STEPS", min=1, help="keep a state for each so many steps")
    ],
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="the run's folder", show_default=False)] = None,
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="see that of N stretches alone, drawn at random", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and change nothing")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """remove states, once it is seen that training gives them again."""
    from polchain.prover.settings import RunSettings
    from polchain.prover.thinning import thin as remove
    from polchain.storage.runs import find_run
    from polchain.training.dataset import data_dir

    folder = find_run(run)
    where = (data or RunSettings.read(folder).data or data_dir()).resolve()
    with (
        output.on_interrupt("what is removed can be trained again, the rest is there: the same command goes on"),
        output.Progress("training again", 0) as progress,
    ):
        done = remove(folder, keep_every, where, sample=sample, dry_run=dry_run, on_step=progress.update)
    trained = f"{done.replayed:,} of {output.count(done.steps, 'step')} trained again, to the bit"
    if done.lost:
        steps = ", ".join(f"{step:,}" for step in done.lost[:6])
        output.note(f"not there, though nothing left them out: the states of steps {steps}; see `polchain fsck`")
    output.answer(
        {
            "run": str(done.path),
            "keep_every": done.every,
            "kept": done.kept,
            "removed": done.removed,
            "replayed": done.replayed,
            "widest": done.widest,
            "dry_run": dry_run,
            "freed": done.freed,
            "lost": list(done.lost),
        },
        output.fields(
            [
                ("run", done.path),
                ("kept", f"{output.count(done.kept, 'state')}, {output.count(done.widest, 'step')} apart at most"),
                (
                    "removed",
                    f"{'nothing yet: it would be ' if dry_run else ''}{output.count(done.removed, 'state')},"
                    f" {output.size(done.freed)}"
                    if done.removed
                    else f"nothing: no more than one in {done.every} steps is stored, besides the first and the last",
                ),
                *([("seen", trained)] if done.replayed else []),
            ]
        ),
        as_json=as_json,
    )
