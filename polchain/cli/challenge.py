"""`polchain challenge` and `polchain respond`: what a verifier asks of a sealed claim, and what its prover shows."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from polchain.cli import output
from polchain.cli.asking import check_kind, parse_seed
from polchain.cli.options import Data, Json, optional_first
from polchain.cli.trust import Trust
from polchain.errors import UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `challenge` and `respond`."""
    app.command("challenge")(challenge)
    app.command("respond")(respond)


def challenge(
    claim: Annotated[Path, typer.Argument(metavar="CLAIM", help="the claim: a folder or a zip")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="the challenge; must be new")],
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="the prover's public key, or a file with it; from outside the claim", show_default=False
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="what you trust and demand, in TOML [POLCHAIN_POLICY]", show_default=False),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(metavar="F", help="the forged share of steps that must be caught [0.05]", show_default=False),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(metavar="C", help="with at least this probability [0.99]", show_default=False)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="the most that replays may cost, in steps of the run, such as 5%", show_default=False
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="ask for every segment")] = False,
    around: Annotated[
        list[int] | None,
        typer.Option(metavar="STEP", help="ask for the segments around this checkpoint too", show_default=False),
    ] = None,
    closings: Annotated[
        bool, typer.Option("--closings", help="ask for closing states too: without them a difference convicts nobody")
    ] = False,
    no_samples: Annotated[bool, typer.Option("--no-samples", help="ask for no samples: you have the data")] = False,
    seed: Annotated[
        str | None, typer.Option(metavar="HEX", help="draw from these 32 bytes", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """draw what the prover of a sealed claim is to disclose."""
    wanted = Trust(
        policy, key or [], [], fraction, confidence, False, None, None, [], [], [], budget
    ).read()  # fmt: skip
    if full and wanted.budget is not None:
        raise UsageError("--full asks for everything, and a budget caps the replays: one of them")
    drawn = parse_seed(seed)
    check_kind(claim)
    if os.path.lexists(out):
        raise UsageError(f"there is something at {out} already", hint="a challenge is drawn once: name a new file")

    from polchain.core.claim import Claim
    from polchain.storage.checkpoints import write_durably
    from polchain.verifier.integrity import check_integrity
    from polchain.verifier.sealed import ask

    intact = check_integrity(Claim.read(claim), wanted)
    question, picked = ask(
        intact,
        drawn or secrets.token_bytes(32),
        wanted,
        full=full,
        around=around or [],
        closings=closings,
        samples=not no_samples,
    )
    write_durably(out, question.encode())
    if not intact.pinned:
        output.note("the prover's key is not pinned: pass the key that you know to be the prover's with --key")
    asked, steps = len(question.segments), sum(last - first for first, last in question.segments)
    output.answer(
        {
            "challenge": str(out.absolute()),
            "digest": str(question.digest),
            "origin": question.origin,
            "head": {"size": question.size, "root": str(question.root)},
            "seed": question.seed.hex(),
            "draws": len(picked.draws),
            "segments": asked,
            "steps": steps,
            "states": len(question.states),
            "samples": question.samples,
        },
        output.fields(
            [
                ("challenge", out),
                ("digest", question.digest),
                ("log", question.origin),
                ("head", f"{output.count(question.size, 'entry')}, {question.root}"),
                ("draws", len(picked.draws)),
                (
                    "asks for",
                    f"{asked} of {output.count(len(intact.segments), 'segment')}, {steps:,} of {intact.steps:,} steps",
                ),
                (
                    "",
                    f"{output.count(len(question.states), 'state')}, {'samples' if question.samples else 'no samples'}",
                ),
                ("keep it", "`polchain verify CLAIM --opening ANSWER --challenge` takes this file, and no other"),
            ]
        ),
        as_json=as_json,
    )


def respond(
    words: Annotated[list[str], typer.Argument(metavar="[RUN] CHALLENGE", help="the run's folder; the challenge")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="the opening; must be new")],
    data: Data = None,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="disclose no samples: the verifier has the data")
    ] = False,
    no_closings: Annotated[
        bool, typer.Option("--no-closings", help="disclose no states that are only to be compared with")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="leave out states that the run no longer has")
    ] = False,
    as_json: Json = False,
) -> None:
    """answer a challenge: disclose what it asks for, and no more."""
    from polchain.core.question import read_question
    from polchain.prover.opening import respond as write_answer
    from polchain.prover.settings import RunSettings
    from polchain.storage.runs import find_run
    from polchain.training.dataset import data_dir

    run, name = optional_first(words, ("RUN", "CHALLENGE"))
    folder = find_run(run)
    asked = read_question(Path(name))
    where = data or RunSettings.read(folder).data or data_dir()
    done = write_answer(
        folder,
        asked,
        out,
        data=where.resolve(),
        samples=not no_samples,
        closings=not no_closings,
        allow_missing=allow_missing,
    )
    if done.missing:
        output.note(f"left out: the states of {output.count(len(done.missing), 'step')} that are not there")
    if done.private:
        output.note(
            f"the opening discloses {output.count(done.samples, 'sample')} of private data, with their salts: "
            "send it to whoever may see them"
        )
    output.answer(
        {
            "opening": str(done.path.absolute()),
            "challenge": str(done.challenge),
            "segments": done.segments,
            "states": done.states,
            "missing": list(done.missing),
            "samples": done.samples,
            "bytes": done.bytes,
        },
        output.fields(
            [
                ("opening", f"{done.path}, {output.size(done.bytes)}"),
                ("answers", done.challenge),
                (
                    "discloses",
                    f"{output.count(done.states, 'state')}, for {done.segments:,} of {done.of_segments:,} segments",
                ),
                ("", f"{done.samples:,} of {output.count(done.of_samples, 'sample')}"),
            ]
        ),
        as_json=as_json,
    )
