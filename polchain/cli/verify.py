"""`polchain verify`: integrity, replay, verdict."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from polchain.cli import output
from polchain.cli.listing import program_text
from polchain.cli.options import Data, Json, check_seconds
from polchain.errors import MissingFileError, PolchainError, UsageError

if TYPE_CHECKING:
    from polchain.core.digest import Digest
    from polchain.core.note import PublicKey
    from polchain.verifier.integrity import IntactClaim
    from polchain.verifier.policy import Policy
    from polchain.verifier.verdict import Verdict
    from polchain.verifier.vouching import OwnRecipe

__all__ = ["register", "show_verdict"]

T = TypeVar("T")
KEY_LIMIT = 16_384
SHOWN = 120
STYLES = {"VERIFIED": "bold green", "CONSISTENT": "bold green", "REFUTED": "bold red"}


def register(app: typer.Typer) -> None:
    """Add `verify`."""
    app.command("verify")(verify)


def verify(
    claim: Annotated[
        Path | None, typer.Argument(metavar="CLAIM", help="the claim's folder", show_default=False)
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
    full: Annotated[bool, typer.Option("--full", help="replay every segment")] = False,
    integrity_only: Annotated[
        bool, typer.Option("--integrity-only", help="check hashes, signatures and order; replay nothing")
    ] = False,
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="run a recipe that nobody vouched for, on this machine, as you")
    ] = False,
    seed: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="draw from these 32 bytes, to redraw a challenge", show_default=False),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="the most that one replay may take")
    ] = 3600.0,
    as_json: Json = False,
) -> int:
    """check a claim: its log, and sampled stretches of its training."""
    target = _only_claim(claim, claims or [])
    wanted = _policy(policy, key or [], trust_recipe or [], fraction, confidence, unsafe_no_sandbox)
    drawn = _seed(seed)
    words = _words(recipe_args)
    check_seconds("--timeout", timeout)

    from polchain.core.claim import Claim
    from polchain.verifier.integrity import check_integrity

    if integrity_only:
        intact = check_integrity(Claim.read(target), wanted)
        show_intact(intact, target, as_json=as_json)
        return 0

    from polchain.training.dataset import data_dir
    from polchain.verifier.verify import Request, verify_intact

    intact = check_integrity(Claim.read(target), wanted)
    request = Request(
        claim=target,
        policy=wanted,
        data=data.resolve() if data is not None else data_dir(),
        recipe=_own_recipe(recipe, module, words),
        seed=drawn,
        full=full,
        timeout=timeout,
    )
    with output.Progress("replaying", 1, "replays") as progress:
        verdict = verify_intact(intact, request, lambda what, done, total: progress.update(done, total))
    show_verdict(verdict, intact, target, as_json=as_json)
    return verdict.exit_code


def show_intact(intact: IntactClaim, target: Path, *, as_json: bool) -> None:
    """Print what integrity alone says."""
    key = str(intact.genesis.key)
    pinned = "pinned" if intact.pinned else "not pinned: it is the key that the claim itself names"
    rows = [
        ("claim", target),
        ("log", intact.head.origin),
        ("size", f"{output.count(intact.head.size, 'entry')}, {output.count(intact.steps, 'step')}"),
        ("key", f"{key} ({pinned})"),
        ("not checked", "that the training was done (nothing was replayed), and when"),
    ]
    data = {
        "verdict": "INTACT",
        "origin": intact.head.origin,
        "entries": intact.head.size,
        "steps": intact.steps,
        "key": key,
        "key_pinned": intact.pinned,
    }
    output.answer(data, f"{output.styled('INTACT', 'bold')}\n\n{output.fields(rows)}", as_json=as_json)


def show_verdict(verdict: Verdict, intact: IntactClaim, target: Path, *, as_json: bool) -> None:
    """Print a verdict: the word, what it means, what it rests on, what was not checked."""
    from polchain.verifier.verdict import MEANING

    word = verdict.outcome.value
    recipe = intact.genesis.recipe
    replays = [item for item in verdict.reproductions if item.pick is not None]
    exact = sum(1 for item in replays if item.outcome.name == "EXACT")
    rows: list[tuple[str, object]] = [
        (("because" if i == 0 else ""), reason) for i, reason in enumerate(verdict.reasons)
    ]
    rows += [
        ("claim", target),
        ("log", verdict.origin),
        ("size", f"{output.count(verdict.entries, 'entry')}, {output.count(verdict.steps, 'step')}"),
        *([("last state", f"{verdict.last_state} at step {verdict.steps}")] if verdict.last_state is not None else []),
        ("key", f"{verdict.key} ({'pinned' if verdict.pinned else 'not pinned'})"),
    ]
    if recipe is not None:
        words = " ".join([recipe.entry, *recipe.arguments])
        rows.append(("recipe", f"{words} ({'vouched' if verdict.vouched else 'not vouched'})"))
        rows.append(("", verdict.program))
    if replays and intact.genesis.dataset is not None:
        rows.append(
            ("data", f"{output.count(intact.genesis.dataset.samples, 'sample')}, {intact.genesis.dataset.root}")
        )
    if replays:
        seconds = sum(item.seconds for item in verdict.reproductions)
        picked = len(verdict.challenge.picks) if verdict.challenge is not None else 0
        if word == "REFUTED" and len(replays) < picked:
            done = f"{len(replays)} of {picked} picked segments, in {seconds:.1f} s: stopped at the first contradiction"
        else:
            done = f"{exact} of {picked} picked segments exactly, in {seconds:.1f} s"
        rows.append(("replayed", done))
        if word != "REFUTED":
            rows.append(("bound", verdict.bound))
    if verdict.challenge is not None:
        rows.append(("redraw", f"--seed {verdict.challenge.seed.hex()}"))
    rows += [(("not checked" if i == 0 else ""), remark) for i, remark in enumerate(verdict.remarks)]
    text = f"{output.styled(word, STYLES.get(word, 'bold yellow'))}\n{MEANING}\n\n{output.fields(rows)}"
    if recipe is not None and not verdict.vouched:
        text += "\n\n" + program_text(intact.recipe)
    output.answer({**verdict.to_json(), "claim": str(target)}, text, as_json=as_json)


def _own_recipe(recipe: Path | None, module: bool, arguments: tuple[str, ...]) -> OwnRecipe | None:
    from polchain.verifier.vouching import OwnRecipe

    if recipe is None:
        if module or arguments:
            raise UsageError("--module and --recipe-args go with --recipe")
        return None
    return OwnRecipe(Path.cwd(), str(recipe), True, arguments) if module else OwnRecipe.script(recipe, arguments)


def _only_claim(claim: Path | None, claims: list[Path]) -> Path:
    named = [*([claim] if claim is not None else []), *claims]
    if not named:
        raise UsageError("which claim?", hint="polchain verify CLAIM")
    if len(named) > 1:
        raise UsageError("two claims: a ruling between claims is not supported yet", hint="verify each alone")
    _check_kind(named[0])
    return named[0]


def _check_kind(path: Path) -> None:
    """Refuse what is plainly something else than a claim; what a claim must hold, `Claim.read` says."""
    from polchain.core.claim import LISTING
    from polchain.storage.ledger import DATABASE

    if path.is_file():
        raise MissingFileError(
            f"{path} is a file, not a claim", hint="a claim is the folder that `polchain export` writes"
        )
    if (path / DATABASE).is_file() and not (path / LISTING).exists():
        raise MissingFileError(f"{path} is a run, not a claim", hint="`polchain export RUN OUT` writes a run's claim")


def _policy(
    path: Path | None,
    keys: list[str],
    recipes: list[str],
    fraction: float | None,
    confidence: float | None,
    unsafe: bool,
) -> Policy:
    import os

    from polchain.verifier.policy import Policy

    named = path or (Path(os.environ["POLCHAIN_POLICY"]) if os.environ.get("POLCHAIN_POLICY") else None)
    policy = Policy.read(named) if named is not None else Policy()
    return replace(
        policy,
        keys=policy.keys | {_key(text) for text in keys},
        recipes=policy.recipes | {_digest(text) for text in recipes},
        fraction=policy.fraction if fraction is None else fraction,
        confidence=policy.confidence if confidence is None else confidence,
        unsafe_no_sandbox=policy.unsafe_no_sandbox or unsafe,
    )


def _key(text: str) -> PublicKey:
    from polchain.core.note import PublicKey

    if text.startswith(("ed25519:", "ssh-ed25519 ")):
        return _parsed("--key", text, PublicKey.parse)
    try:
        with Path(text).open("rb") as file:
            data = file.read(KEY_LIMIT)
    except OSError:
        raise MissingFileError(
            f"--key {text}: neither a public key nor a file with one",
            hint="ed25519:<hex>, or the .pub file that keygen wrote",
        ) from None
    if b"PRIVATE KEY-----" in data:
        raise UsageError(
            f"--key {text}: that is a private key", hint="pass the .pub file, and never send this one to anybody"
        )
    return _parsed("--key", text, lambda _: PublicKey.parse(data.decode("utf-8", "replace").strip()))


def _digest(text: str) -> Digest:
    from polchain.core.digest import Digest

    return _parsed("--trust-recipe", text, Digest.parse)


def _parsed(option: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except PolchainError as error:
        raise UsageError(f"{option} {text[:SHOWN]}: {error}", hint=error.hint) from None


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--recipe-args: {str(error).lower()}") from None


def _seed(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        raise UsageError("--seed is not hexadecimal", hint="it is the 64 digits that a verdict prints") from None
    if len(seed) != 32:
        raise UsageError(f"--seed is {len(seed)} bytes, not 32")
    return seed
