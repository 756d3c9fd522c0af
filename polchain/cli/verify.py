"""`polchain verify`: integrity, time, replay, verdict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli import output
from polchain.cli.options import Data, Json, check_seconds
from polchain.cli.trust import Trust, read_heads
from polchain.cli.verdicts import show_intact, show_verdict
from polchain.errors import MissingFileError, UsageError

if TYPE_CHECKING:
    from polchain.training.fingerprint import Setting
    from polchain.verifier.integrity import IntactClaim
    from polchain.verifier.vouching import OwnRecipe

__all__ = ["check_kind", "parse_seed", "register"]


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
        Path | None,
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
    as_json: Json = False,
) -> int:
    """check a claim, or rule between several."""
    targets = _named_claims(claim, claims or [])
    wanted = Trust(
        policy, key or [], trust_recipe or [], fraction, confidence, unsafe_no_sandbox, memory,
        network, rpc or [], block_hash or [], tsa or [], budget, calibration or [], accept_consistent,
    ).read()  # fmt: skip
    if full and wanted.budget is not None:
        raise UsageError("--full replays everything, and a budget caps the replays: one of them")
    _check_together(opening, challenge, seed is not None or full or budget is not None or integrity_only)
    heads = read_heads(head or [])
    drawn = parse_seed(seed)
    words = _words(recipe_args)
    check_seconds("--timeout", timeout)
    if len(targets) > 1 or model is not None or task is not None:
        if integrity_only or resume is not None or opening is not None or len(targets) == 1:
            raise UsageError(
                "a ruling takes several claims, more than their integrity, and one sitting",
                hint="polchain verify --claim A --claim B",
            )
        from polchain.cli.dispute import Settling, rule
        from polchain.training.dataset import data_dir

        folder = data.resolve() if data is not None else data_dir()
        own = _own_recipe(recipe, module, words)
        asked = Settling(targets, model, task, folder, own, drawn, full, timeout, jobs, threads, heads)
        return rule(asked, wanted, as_json=as_json)
    target = targets[0]

    from polchain.core.claim import Claim
    from polchain.verifier.integrity import check_integrity

    intact = check_integrity(Claim.read(target), wanted, heads)
    if integrity_only:
        from polchain.verifier.timing import establish

        show_intact(intact, establish(intact, wanted), target, as_json=as_json)
        return 0

    from polchain.training.dataset import data_dir
    from polchain.verifier.sealed import read_answer
    from polchain.verifier.verify import Request, verify_intact

    request = Request(
        claim=target,
        policy=wanted,
        data=data.resolve() if data is not None else data_dir(),
        recipe=_own_recipe(recipe, module, words),
        seed=drawn,
        full=full,
        timeout=timeout,
        jobs=jobs,
        resume=resume,
        setting=_setting(intact, threads),
        answer=read_answer(intact, opening, challenge, wanted) if opening is not None else None,
    )
    with output.Progress("reading the data", 1) as progress:

        def show(what: str, done: int, total: int) -> None:
            if what != progress.what:
                progress.begin(what)
            progress.update(done, total)

        try:
            verdict = verify_intact(intact, request, show)
        except KeyboardInterrupt:
            if resume is not None:
                progress.clear()
                output.note(f"what was replayed is in {resume}: the same command goes on from there")
            raise
    show_verdict(verdict, intact, target, as_json=as_json)
    return verdict.exit_code


def _setting(intact: IntactClaim, threads: int | None) -> Setting | None:
    """The prover's setting with another number of threads; None to keep his."""
    from polchain.training.fingerprint import setting_of

    if threads is None or intact.start is None:
        return None
    return setting_of({**intact.start.fingerprint, "threads": threads})


def _check_together(opening: Path | None, challenge: Path | None, drawn: bool) -> None:
    if challenge is not None and opening is None:
        raise UsageError("--challenge goes with --opening", hint="`polchain respond` makes the opening")
    if opening is not None and drawn:
        raise UsageError("--opening answers a draw that was made: --seed, --full and --budget belong to `challenge`")


def _own_recipe(recipe: Path | None, module: bool, arguments: tuple[str, ...]) -> OwnRecipe | None:
    from polchain.verifier.vouching import OwnRecipe

    if recipe is None:
        if module or arguments:
            raise UsageError("--module and --recipe-args go with --recipe")
        return None
    return OwnRecipe(Path.cwd(), str(recipe), True, arguments) if module else OwnRecipe.script(recipe, arguments)


def _named_claims(claim: Path | None, claims: list[Path]) -> list[Path]:
    named = [*([claim] if claim is not None else []), *claims]
    if not named:
        raise UsageError("which claim?", hint="polchain verify CLAIM")
    for path in named:
        check_kind(path)
    return named


def check_kind(path: Path) -> None:
    """Refuse what is plainly something else than a claim; what a claim must hold, `Claim.read` says."""
    from polchain.core.archive import is_archive
    from polchain.core.claim import LISTING
    from polchain.storage.ledger import DATABASE

    if path.is_file() and not is_archive(path):
        raise MissingFileError(
            f"{path} is a file, not a claim", hint="a claim is the folder, or the zip, that `polchain export` writes"
        )
    if (path / DATABASE).is_file() and not (path / LISTING).exists():
        raise MissingFileError(f"{path} is a run, not a claim", hint="`polchain export RUN OUT` writes a run's claim")


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--recipe-args: {str(error).lower()}") from None


def parse_seed(text: str | None) -> bytes | None:
    """The 32 bytes of `--seed`; None where it was not given.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        raise UsageError("--seed is not hexadecimal", hint="it is the 64 digits that a verdict prints") from None
    if len(seed) != 32:
        raise UsageError(f"--seed is {len(seed)} bytes, not 32")
    return seed
