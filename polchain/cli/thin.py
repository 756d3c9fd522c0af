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
    keep_every: Annotated[int, typer.Option("--keep-every", metavar="STEPS", min=1, help="keep a state that often")],
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="the run's folder", show_default=False)] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="train only N stretches again before, drawn at random", show_default=False
        ),
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """remove states that training again gives, after seeing so."""
    from polchain.prover.settings import RunSettings
    from polchain.prover.thinning import thin as remove
    from polchain.storage.runs import find_run
    from polchain.training.dataset import data_dir

    folder = find_run(run)
    where = (data or RunSettings.read(folder).data or data_dir()).resolve()
    with output.Progress("training again", 0) as progress:
        done = remove(folder, keep_every, where, sample=sample, on_step=progress.update)
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
            "freed": done.freed,
            "lost": list(done.lost),
        },
        output.fields(
            [
                ("run", done.path),
                ("kept", output.count(done.kept, "state")),
                (
                    "removed",
                    f"{output.count(done.removed, 'state')}, {output.size(done.freed)}"
                    if done.removed
                    else f"nothing: no more than one in {done.every} steps is stored, besides the first and the last",
                ),
                ("seen", f"{done.replayed:,} of {output.count(done.steps, 'step')} trained again, to the bit"),
            ]
        ),
        as_json=as_json,
    )
