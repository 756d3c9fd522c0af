"""All of a verification in one call.

Claim -> IntactClaim -> Challenge -> Reproductions -> Verdict
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from polchain.core import merkle
from polchain.core.claim import Claim
from polchain.core.digest import Digest
from polchain.core.entries import Configuration
from polchain.errors import DatasetError, RecipeError, UsageError
from polchain.training.fingerprint import differences, setting_of
from polchain.training.worker import Program
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Bench, Outcome, Reproduction, measure_updates, replay, replay_initial
from polchain.verifier.verdict import Verdict, judge, judge_unreplayed

__all__ = ["Progress", "recipe_matches", "verify"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to verify, and how.

    Attributes:
        claim: the claim's folder.
        policy: what the verifier trusts and demands.
        data: the folder with the dataset.
        recipe: the verifier's own copy of the recipe: its script, or the folder it lies in; None for none.
        recipe_arguments: the arguments that the verifier expects of that recipe.
        seed: 32 bytes to draw from; fresh randomness where None.
        full: replay every segment.
        timeout: the most seconds for one replay.
    """

    claim: Path
    policy: Policy
    data: Path
    recipe: Path | None = None
    recipe_arguments: tuple[str, ...] = ()
    seed: bytes | None = None
    full: bool = False
    timeout: float = 3600.0


def verify(
    claim: Path | str,
    policy: Policy,
    *,
    data: Path | str = ".",
    recipe: Path | str | None = None,
    recipe_arguments: tuple[str, ...] = (),
    seed: bytes | None = None,
    full: bool = False,
    timeout: float = 3600.0,
    progress: Progress | None = None,
) -> Verdict:
    """Verify one claim: integrity, then replay, then judgement.

    Args:
        claim: the claim's folder.
        policy: what the verifier trusts and demands.
        data: the folder with the dataset.
        recipe: the verifier's own copy of the recipe (its script, or its folder), which vouches for equal files.
        recipe_arguments: the arguments that the recipe is to have been run with.
        seed: 32 bytes to draw from; fresh randomness where None.
        full: replay every segment.
        timeout: the most seconds that one replay may take.
        progress: called with what is being replayed, how many replays are done, and how many there are.

    Raises:
        EvidenceError: the claim is damaged or false; which check refused it is in the name and the words.
        UnavailableError: files, data or a working replay process are missing.
    """
    if seed is not None and len(seed) != 32:
        raise UsageError("a challenge seed is 32 bytes")
    intact = check_integrity(Claim.read(claim), policy)
    request = Request(
        Path(claim), policy, Path(data), Path(recipe) if recipe else None, recipe_arguments, seed, full, timeout
    )
    return verify_intact(intact, request, progress)


def verify_intact(intact: IntactClaim, request: Request, progress: Progress | None = None) -> Verdict:
    """Replay and judge a claim whose integrity holds.

    Raises:
        UnavailableError: data or a working replay process are missing.
    """
    policy = request.policy
    genesis, start = intact.genesis, intact.start
    if genesis.recipe is None or genesis.dataset is None or genesis.configuration is None:
        return judge_unreplayed(
            intact, policy, ["a foreign run: its loop was not polchain's, so it is not replayable"], vouched=False
        )
    vouched = is_vouched(intact, request)
    if start is None or not intact.segments:
        return judge_unreplayed(intact, policy, ["the run has no recorded steps yet"], vouched=vouched)
    if not vouched and not policy.unsafe_no_sandbox:
        reason = "nobody vouched for the recipe, and without a sandbox a stranger's program is not run"
        return judge_unreplayed(intact, policy, [reason], vouched=False)

    updates, false = measure_updates(intact)
    seed = request.seed or secrets.token_bytes(32)
    challenge = draw_challenge(
        intact, seed, policy.draws, updates=updates, top_updates=policy.top_updates, full=request.full
    )
    program = Program(genesis.recipe, intact.recipe)
    total = len(challenge.picks) + 1
    found: list[Reproduction] = []
    with Bench(program, setting_of(start.fingerprint), request.data, timeout=request.timeout) as bench:
        _tell(progress, "reading the data", 0, total)
        try:
            configuration, leaves = bench.worker().commit_dataset()
        except RecipeError as error:
            reason = f"the recipe does not run here: {error}"
            return judge_unreplayed(intact, policy, [reason], vouched=vouched)
        remarks = _check_data(intact, configuration, leaves)
        if remarks:
            return judge_unreplayed(intact, policy, remarks, vouched=vouched)
        _tell(progress, "initial state", 0, total)
        found.append(replay_initial(intact, bench, start.fingerprint))
        if not false and found[0].outcome is not Outcome.REFUTED:
            for item in replay(intact, challenge, bench, leaves, start.fingerprint):
                found.append(item)
                _tell(progress, item.name, len(found), total)
        here = bench.here
    return judge(
        intact,
        challenge,
        found,
        policy,
        vouched=vouched,
        false_statements=false,
        remarks=differences(start.fingerprint, here),
    )


def is_vouched(intact: IntactClaim, request: Request) -> bool:
    """Whether the verifier has accepted the claim's program: by digest, or by a copy of its own.

    Raises:
        UsageError: the verifier's own copy is another program.
    """
    recipe = intact.genesis.recipe
    assert recipe is not None
    if request.recipe is not None:
        recipe_matches(intact, request.recipe, request.recipe_arguments)
        return True
    return recipe.program() in request.policy.recipes


def recipe_matches(intact: IntactClaim, copy: Path, arguments: tuple[str, ...]) -> None:
    """Check that the claim's program is the verifier's own copy, file by file, with these arguments.

    Raises:
        UsageError: a file differs or is missing, the entry point is another, or the arguments are others.
    """
    recipe = intact.genesis.recipe
    assert recipe is not None
    hint = "read the claim's recipe, or vouch for its digest with --trust-recipe once you have"
    entry = _entry_file(intact)
    if copy.is_dir():
        folder = copy
    else:
        # `python -m pkg.mod` has its files named from the folder that holds pkg.
        depth = entry.count("/")
        own = copy.resolve()
        folder = own.parents[depth] if depth < len(own.parents) else own.parent
        if own != folder / entry:
            raise UsageError(f"the claim's recipe is {entry}, yours is {copy.name}", hint=hint)
    for name, text in intact.recipe.items():
        own = folder / name
        if not own.is_file() or own.read_bytes() != text:
            raise UsageError(f"the claim's {name} is not the {name} beside your recipe", hint=hint)
    if recipe.arguments != arguments:
        raise UsageError(
            f"the claim's recipe was run with arguments {list(recipe.arguments)}, yours are {list(arguments)}",
            hint="arguments are part of the program: accept them with --recipe-args, or not",
        )


def _entry_file(intact: IntactClaim) -> str:
    """The file that a claim's recipe begins with.

    Raises:
        UsageError: it names a module that is none of its files: whatever is installed under that name would be run.
    """
    recipe = intact.genesis.recipe
    assert recipe is not None
    stem = recipe.entry.replace(".", "/")
    names = (f"{stem}.py", f"{stem}/__main__.py") if recipe.module else (recipe.entry,)
    for name in names:
        if name in intact.recipe:
            return name
    raise UsageError(
        f"the claim's recipe is the module {recipe.entry}, which is not among its files",
        hint="what is installed here under that name is not the prover's program: do not vouch for it",
    )


def _check_data(intact: IntactClaim, configuration: Configuration, leaves: tuple[bytes, ...]) -> list[str]:
    dataset = intact.genesis.dataset
    assert dataset is not None
    if len(leaves) != dataset.samples or Digest("sha256", merkle.root(leaves)) != dataset.root:
        raise DatasetError(
            f"the data read here ({len(leaves)} samples) is not the data that the claim commits to ({dataset.samples})",
            hint="ask the prover for the dataset, and point --data at it",
        )
    if configuration != intact.genesis.configuration:
        return ["the recipe asks for another configuration than the genesis states"]
    return []


def _tell(progress: Progress | None, what: str, done: int, total: int) -> None:
    if progress is not None:
        progress(what, done, total)
