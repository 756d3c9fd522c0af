"""`polchain calibrate`: how far honest replays part on other machines, and which checkpoints serve for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli import output
from polchain.cli.charts import error_chart, error_table
from polchain.cli.options import Data, DataSecretFile, Json, check_seconds, data_folder
from polchain.cli.running import Arguments, Module
from polchain.errors import StorageError, UsageError

if TYPE_CHECKING:
    from polchain.verifier.calibrating import Answer
    from polchain.verifier.integrity import IntactClaim

__all__ = ["register"]

WEEK = 7 * 86_400.0


def register(app: typer.Typer) -> None:
    """Add `calibrate`."""
    app.command("calibrate")(calibrate)


def calibrate(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="your own copy of the training script", show_default=False)
    ],
    arguments: Arguments = None,
    module: Module = False,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="where to write the calibration", show_default=False),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CLAIM",
            help="an honest claim that somebody you trust recorded on another machine",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="the public key of whoever recorded it, or a file with it", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=512, help="of the reference [torch's choice]", show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="train no further than this [the recipe's]", show_default=False),
    ] = None,
    lengths: Annotated[
        str, typer.Option(metavar="K,K,...", help="the segments to measure, in steps [as the run bears]")
    ] = "",
    data_secret: DataSecretFile = None,
    quick: Annotated[bool, typer.Option("--quick", help="fewer machines, places and lengths")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="the most that one replay may take")
    ] = WEEK,
    as_json: Json = False,
) -> None:
    """measure how far honest replays part on other machines."""
    check_seconds("--timeout", timeout)
    wanted = _lengths(lengths)
    if out is not None and out.exists():
        raise UsageError(f"{out} exists", hint="name a new file with -o: a calibration is never written over")
    folder = data_folder(data)
    claims = _claims(against or [], key or [])

    from polchain.storage.secretfile import read_secret
    from polchain.verifier.calibrating import Wish
    from polchain.verifier.calibrating import calibrate as measure
    from polchain.verifier.vouching import OwnRecipe

    words = tuple(arguments or ())
    own = OwnRecipe(Path.cwd(), recipe, True, words) if module else OwnRecipe.script(Path(recipe), words)
    secret = read_secret(data_secret) if data_secret is not None else None
    wish = Wish(own, folder, claims, threads, steps, wanted, quick, timeout, secret)
    with output.Progress("calibrating", 1) as progress:
        answer = measure(wish, lambda what, done, total: progress.update(done, total))
    if out is not None:
        _write(out, answer.calibration.encode())
    _show(answer, out, as_json)


def _show(answer: Answer, out: Path | None, as_json: bool) -> None:
    calibration, names = answer.calibration, answer.names
    reference = names[0]
    added = calibration.trained - calibration.initial
    rows: list[tuple[str, object]] = [
        ("recipe", calibration.program),
        (
            "trained",
            f"{output.count(calibration.steps, 'step')}, twice; the late phase begins at step {calibration.late}",
        ),
        (
            "d_ref",
            f"{calibration.trained:.3g} between two seeds, of which the inits account for {calibration.initial:.3g}"
            + ("" if added > 0 else ": it measures nothing, so no tolerance can be shown to be small"),
        ),
        ("moments", f"decay by {calibration.memory:g} a step at the slowest" if calibration.memory else "none"),
    ]
    parts = [output.fields(rows), f"error of the parameters against {reference}, by the length of a segment"]
    parts.append(error_table(calibration.points, names, calibration.late))
    parts.append(error_chart(calibration.points, names, calibration.late))
    if answer.double:
        parts += ["the same in fp64", error_table(answer.double, names, 1)]
    else:
        parts.append(f"fp64: {answer.double_reason}")
    lines: list[tuple[str, object]] = []
    for pair, advice in answer.advice.items():
        name = " / ".join(names[i] for i in pair if i > 0) or reference
        if advice.schedule:
            said = (
                f"every={list(advice.schedule)}: {output.count(advice.checkpoints, 'checkpoint')}, "
                f"a drift of {advice.drift:.2g} at most, of {0.1 * added:.2g} allowed"
            )
        else:
            said = f"only exact replay can serve: {advice.reason}"
        lines.append((name, said))
    parts += ["for a claim that is to be CONSISTENT there", output.fields(lines)]
    parts.append(f"written: {out} ({calibration.digest})" if out is not None else "not written: -o FILE")
    value = {
        "calibration": str(out) if out is not None else None,
        "digest": str(calibration.digest),
        "recipe": str(calibration.program),
        "steps": calibration.steps,
        "late": calibration.late,
        "memory": repr(calibration.memory),
        "trained": repr(calibration.trained),
        "initial": repr(calibration.initial),
        "machines": list(names),
        "points": [_point(point) for point in calibration.points],
        "fp64": [_point(point) for point in answer.double],
        "fp64_reason": answer.double_reason,
        "advice": [
            {
                "pair": list(pair),
                "every": [list(part) for part in advice.schedule],
                "checkpoints": advice.checkpoints,
                "drift": repr(advice.drift),
                "reason": advice.reason,
            }
            for pair, advice in answer.advice.items()
        ],
    }
    output.answer(value, "\n\n".join(parts), as_json=as_json)


def _point(point: object) -> dict[str, object]:
    from polchain.training.rho import PARTS
    from polchain.verifier.calibration import Point

    assert isinstance(point, Point)
    rho = {part: repr(point.errors.of(part)) for part in PARTS}
    return {"pair": list(point.pair), "first": point.first, "steps": point.steps, "update": repr(point.update), **rho}


def _claims(paths: list[Path], keys: list[str]) -> dict[str, IntactClaim]:
    """The claims to calibrate against: intact, and signed by somebody whom the user names."""
    if keys and not paths:
        raise UsageError("--key goes with --against")
    if paths and not keys:
        raise UsageError(
            "whose claim is it? Only an honest one says how far machines part",
            hint="pass the public key of whoever recorded it with --key",
        )
    from polchain.cli.trust import read_keys
    from polchain.core.claim import Claim
    from polchain.verifier.integrity import check_integrity
    from polchain.verifier.policy import Policy

    if not paths:
        return {}
    policy = Policy(keys=read_keys(keys))
    return {str(path): check_integrity(Claim.read(path), policy) for path in paths}


def _lengths(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    words = text.split(",")
    if not all(word.isdecimal() and len(word) < 10 and int(word) > 0 for word in words) or len(words) > 32:
        raise UsageError(f"--lengths {text[:80]}: numbers of steps were expected, such as 1,5,10")
    return tuple(sorted({int(word) for word in words}))


def _write(path: Path, data: bytes) -> None:
    from polchain.storage.checkpoints import write_durably

    try:
        write_durably(path, data)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
