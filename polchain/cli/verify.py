"""`polchain verify`: integrity, time, replay, verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polchain.cli.asking import Options, check_together
from polchain.cli.certify import check_new, write_report
from polchain.cli.options import Data, Json
from polchain.cli.trust import read_heads
from polchain.cli.verdicts import show_intact
from polchain.cli.verifying import read_intact, settle
from polchain.errors import UsageError

__all__ = ["register", "verify"]


def register(app: typer.Typer) -> None:
    """Add `verify`."""
    app.command("verify")(verify)


def verify(
    claim: Annotated[
        Path | None, typer.Argument(metavar="CLAIM", help="the claim: a folder or a zip", show_default=False)
    ] = None,
    claims: Annotated[
        list[Path] | None, typer.Option("--claim", metavar="CLAIM", help="the same, named", show_default=False)
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="the prover's public key, or a file with it; from outside the claim", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="your own copy of the recipe's script: vouches for it", show_default=False),
    ] = None,
    module: Annotated[bool, typer.Option("--module", help="PATH is a module's name, as for `python -m`")] = False,
    recipe_args: Annotated[
        str, typer.Option(metavar="WORDS", help="the arguments that the recipe is to have been run with")
    ] = "",
    trust_recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="DIGEST", help="vouch for a recipe that you have read, by its digest", show_default=False),
    ] = None,
    data: Data = None,
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
    full: Annotated[bool, typer.Option("--full", help="replay every segment")] = False,
    integrity_only: Annotated[
        bool, typer.Option("--integrity-only", help="check hashes, signatures and order; replay nothing")
    ] = False,
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="run any recipe without the sandbox, on this machine, as you")
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=0.1,
            help="the most that a recipe may use in the sandbox [what is free, less a tenth]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="draw from these 32 bytes, to redraw a challenge", show_default=False),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="the most that one replay may take")
    ] = 3600.0,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=512,
            help="segments to replay at a time [as many as cores, memory and GPUs bear]",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="keep in this file what was replayed; after an interruption, go on from it",
            show_default=False,
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="a network whose time you believe [POLCHAIN_NETWORK]", show_default=False),
    ] = None,
    rpc: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="a node of it to ask; all must agree [POLCHAIN_RPC]", show_default=False),
    ] = None,
    block_hash: Annotated[
        list[str] | None,
        typer.Option(metavar="HASH", help="a block that you know to be of it, and final", show_default=False),
    ] = None,
    tsa: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|DIGEST", help="the certificate of an authority whose time you believe", show_default=False
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="a calibration that you believe: yours, or its maker's", show_default=False),
    ] = None,
    accept_consistent: Annotated[bool, typer.Option("--accept-consistent", help="CONSISTENT will do: exit 0")] = False,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=512, help="replay with so many, not the prover's", show_default=False),
    ] = None,
    head: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="a signed head of this log, from outside the claim", show_default=False),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="the weights that several claims are about", show_default=False),
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="the task that several claims are of", show_default=False),
    ] = None,
    opening: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="the prover's answer to your challenge: see `challenge`", show_default=False),
    ] = None,
    challenge: Annotated[
        Path | None, typer.Option(metavar="FILE", help="that challenge, as you drew it", show_default=False)
    ] = None,
    data_secret: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="the secret that private data is salted with, from its owner", show_default=False
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write a certificate too, an HTML page; must be new", show_default=False),
    ] = None,
    as_json: Json = False,
) -> int:
    """check a claim, or rule between several."""
    options = Options.of(locals())
    if report is not None:
        check_new(report)
    if integrity_only:
        return _integrity(options, report, as_json=as_json)
    settled = settle(options, certified=report is not None)
    try:
        if report is not None:
            write_report(settled.facts(), report)
    finally:
        settled.show(as_json=as_json)  # a full disk does not cost the verdict
    return settled.exit_code


def _integrity(options: Options, report: Path | None, *, as_json: bool) -> int:
    policy = options.trust.read()
    if options.several:
        raise UsageError(
            "a ruling takes several claims, more than their integrity, and one sitting",
            hint="polchain verify --claim A --claim B",
        )
    check_together(options, drawn=True)
    if report is not None:
        raise UsageError("--integrity-only replays nothing: there is nothing to certify")
    intact = read_intact(options, policy, read_heads(options.head))
    from polchain.verifier.timing import establish

    show_intact(intact, establish(intact, policy), options.targets[0], as_json=as_json)
    return 0
