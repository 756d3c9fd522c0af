"""`polchain report`: makes a certificate, or checks one against a verification of one's own."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from polchain.cli import output
from polchain.cli.asking import Options
from polchain.cli.certify import check_new, write_report
from polchain.cli.verify import verify
from polchain.cli.verifying import Settled, settle
from polchain.errors import UnavailableError, UsageError

__all__ = ["register"]

# The one list of what is left out; the page on certificates repeats it.
NOT_COMPARED: Final = (
    "when, where and with which versions it was made, names of the claims' files, seconds, what the recipe was run in",
    'how that machine differs from the claim\'s: of "NAME: recorded with VALUE, here OTHER" NAME and VALUE are the'
    " claim's; OTHER, and which of them are there, is its maker's word",
)
POSITIVE: Final = ("VERIFIED", "CONSISTENT", "COMPUTED")
SHOWN: Final = 12
OWN: Final = ("report", "integrity_only", "resume", "as_json")


def register(app: typer.Typer) -> None:
    """Add `report`."""
    app.command("report")(_with_options_of_verify())


def report(out: Path | None, check: Path | None, *, as_json: bool, **given: Any) -> int:
    """make a certificate of a verification, or check one."""
    if (out is None) == (check is None):
        raise UsageError("--out writes a certificate, --check checks one: one of them")
    options = Options.of({**given, "resume": None})
    if check is not None:
        return _check(check, options, as_json=as_json)
    assert out is not None
    check_new(out)
    settled = settle(options, certified=True)
    write_report(settled.facts(), out)
    rows = [("certificate", out), ("says", settled.word)]
    output.answer({"certificate": str(out.absolute()), "outcome": settled.word}, output.fields(rows), as_json=as_json)
    return settled.exit_code


def _with_options_of_verify() -> Any:
    """`report` with the options of `verify`, each as it is there: what checks a page asks as what made it asked."""
    hints = get_type_hints(verify, include_extras=True)
    own: dict[str, Any] = {
        "out": Annotated[
            Path | None,
            typer.Option(
                "-o", "--out", metavar="FILE", help="the certificate to write; must be new", show_default=False
            ),
        ],
        "check": Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="a certificate to compare with a fresh verification", show_default=False),
        ],
    }
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(verify).parameters.items()
        if name not in OWN
    ]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    mine = [inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in own.items()]
    last = inspect.Parameter("as_json", kind, default=False, annotation=hints["as_json"])

    def command(**values: Any) -> int:
        return report(**values)

    command.__doc__ = report.__doc__
    all_of_them = [*parameters, *mine, last]
    command.__signature__ = inspect.Signature(all_of_them)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in all_of_them}
    return command


def _check(path: Path, options: Options, *, as_json: bool) -> int:
    """Compare a certificate with its own facts, and those with what a verification finds here."""
    from polchain.verifier.embedded import extract, read_page
    from polchain.verifier.report import PAGE, page_again, versions

    if options.seed is not None:
        raise UsageError("--check draws as the certificate says, and then anew: no --seed")
    page = read_page(path)
    shown = extract(page)
    again = page_again(shown)
    if again != page:
        made, here = shown["made"]["versions"], versions()
        other = [f"{name} {made[name]} (here {here[name]})" for name in PAGE if made[name] != here[name]]
        if other:
            raise UnavailableError(
                f"{path}: this page cannot be made again here, for it says to be made by {', '.join(other)}",
                hint="check it with those versions; until then it may have been altered",
            )
        return _answer(
            path, shown, ["what the page shows is not what the facts that it holds give"], (), as_json=as_json
        )
    ruling = shown["kind"] == "ruling"
    if ruling != options.several or len(shown["claims"]) != len(options.targets):
        count = len(shown["claims"])
        raise UsageError(
            f"{path} is of {'a ruling between ' if ruling else ''}{output.count(count, 'claim')}",
            hint="name the claims, and --model or --task, as its last section does",
        )
    found, notes = _compare(shown, options)
    return _answer(path, shown, found, notes, as_json=as_json)


def _compare(shown: dict[str, Any], options: Options) -> tuple[list[str], list[str]]:
    """What differs between a certificate's facts and what is found here; and what was not compared."""
    from polchain.verifier.certificate import compared, differences

    asked = shown["asked"]
    same_draw = replace(options, seed=asked["seed"] or None, full=asked["full"], threads=asked["threads"] or None)
    if asked["opening"] != (options.opening is not None):
        raise UsageError("a certificate with an opening is checked with one, and no other", hint="see --opening")
    settled = settle(same_draw, certified=True)
    found = differences(compared(shown), compared(settled.facts()))
    if found or settled.complete or not _positive(settled):
        return found, []
    if options.opening is not None:
        return found, ["another draw: the challenge is the only one, so trust it only if you drew it"]
    # Whoever made the certificate chose its draw, perhaps among many.
    fresh = settle(replace(same_draw, seed=None), certified=True)
    if (fresh.word, fresh.exit_code, fresh.named) != (settled.word, settled.exit_code, settled.named):
        found.append(f"the certificate's own draw gives {_said(settled)}, a fresh one {_said(fresh)}")
    return found, []


def _said(settled: Settled) -> str:
    return f"{settled.word} ({' and '.join(settled.named)})" if settled.named else settled.word


def _positive(settled: Settled) -> bool:
    """Whether it says something that a lucky draw might say too."""
    return settled.ruling is not None or settled.word in POSITIVE


def _answer(path: Path, shown: dict[str, Any], found: list[str], notes: Any, *, as_json: bool) -> int:
    result = shown["result"]
    says = result["ruling"] if shown["kind"] == "ruling" else result["verdict"]
    left = [*NOT_COMPARED, *notes]
    word = "DIFFERS" if found else "SAME"
    rows: list[tuple[str, object]] = [("certificate", path), ("says", says)]
    more = [f"and {len(found) - SHOWN} more: --json"] if len(found) > SHOWN else []
    for label, lines in (("differs", [*found[:SHOWN], *more]), ("not compared", left)):
        rows += [(label if number == 0 else "", line) for number, line in enumerate(lines)]
    data = {"same": not found, "outcome": says, "differences": found, "not_compared": left}
    text = f"{output.styled(word, 'bold red' if found else 'bold green')}\n\n{output.fields(rows)}"
    output.answer(data, text, as_json=as_json)
    return 1 if found else 0
