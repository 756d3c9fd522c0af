"""All of a verification in one call.

Claim -> IntactClaim -> Times, Challenge -> Reproductions -> Verdict

A recipe is replayed in the sandbox where this machine has one, vouched or not. Without one only a vouched recipe is
run, or any where the policy says `unsafe_no_sandbox`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from polchain.core import merkle
from polchain.core.claim import Claim
from polchain.core.digest import Digest
from polchain.core.entries import Start
from polchain.core.genesis import Configuration
from polchain.errors import DatasetError, PolchainError, UnavailableError, UsageError, WorkerError
from polchain.storage.keyfile import default_key_file
from polchain.training.fingerprint import differences, setting_of
from polchain.training.program import Program
from polchain.verifier.behaviour import Behaviour, behaviour_steps, not_tested, observe
from polchain.verifier.bench import Bench
from polchain.verifier.challenge import Challenge, draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome, Reproduction, replay, replay_initial
from polchain.verifier.sandbox import Sandbox, find_sandbox
from polchain.verifier.survey import survey
from polchain.verifier.times import Times
from polchain.verifier.timing import establish
from polchain.verifier.verdict import Verdict, judge, judge_unreplayed
from polchain.verifier.vouching import OwnRecipe, is_vouched

__all__ = ["Progress", "Request", "verify", "verify_intact"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to verify, and how.

    Attributes:
        claim: the claim's folder.
        policy: what the verifier trusts and demands.
        data: the folder with the dataset.
        recipe: the verifier's own copy of the recipe; None for none.
        seed: 32 bytes to draw from; fresh randomness where None.
        full: replay every segment.
        timeout: the most seconds for one replay.
        disputed: steps of the states that somebody disputes: the segments around them are replayed.
    """

    claim: Path
    policy: Policy
    data: Path
    recipe: OwnRecipe | None = None
    seed: bytes | None = None
    full: bool = False
    timeout: float = 3600.0
    disputed: tuple[int, ...] = ()


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
    heads: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Verify one claim: integrity, time, replay, judgement.

    Args:
        claim: the claim's folder.
        policy: what the verifier trusts and demands.
        data: the folder with the dataset.
        recipe: the verifier's own copy of the recipe's script, which vouches for the same program; run up to `record`.
        recipe_arguments: the arguments that the recipe is to have been run with.
        seed: 32 bytes to draw from; fresh randomness where None.
        full: replay every segment.
        timeout: the most seconds that one replay may take.
        heads: signed heads of this log that the verifier got elsewhere, as notes, by a name for messages.
        progress: called with what is being replayed, how many replays are done, and how many there are.

    Raises:
        EvidenceError: the claim is damaged or false; which check refused it is in the name and the words.
        UnavailableError: files, data or a working replay process are missing.
    """
    if seed is not None and len(seed) != 32:
        raise UsageError("a challenge seed is 32 bytes")
    intact = check_integrity(Claim.read(claim), policy, heads)
    own = OwnRecipe.script(Path(recipe), recipe_arguments) if recipe is not None else None
    request = Request(Path(claim), policy, Path(data), own, seed, full, timeout)
    return verify_intact(intact, request, progress)


def verify_intact(intact: IntactClaim, request: Request, progress: Progress | None = None) -> Verdict:
    """Date, replay and judge a claim whose integrity holds.

    Raises:
        UnavailableError: data or a working replay process are missing, or nodes contradict each other.
    """
    policy = request.policy
    times = establish(intact, policy)
    genesis, start = intact.genesis, intact.start
    if genesis.recipe is None or genesis.dataset is None or genesis.configuration is None:
        reason = "a foreign run: its loop was not polchain's, so it is not replayable"
        return judge_unreplayed(intact, policy, [reason], vouched=False, times=times)
    if start is None or not intact.segments:
        reason = "the run has no recorded steps yet"
        return judge_unreplayed(intact, policy, [reason], vouched=False, times=times)
    program = Program(genesis.recipe, intact.recipe)
    setting = setting_of(start.fingerprint)
    sandbox, where = _sandbox(request)
    with Bench(program, setting, request.data, timeout=request.timeout, sandbox=sandbox) as bench:
        vouched = is_vouched(intact, policy, request.recipe, bench)
        if not vouched and sandbox is None and not policy.unsafe_no_sandbox:
            reason = (
                "nobody vouched for the recipe, and without a sandbox a stranger's program is not run "
                f"({where.removeprefix('none: ')}): "
                "pass --recipe PATH, your own copy, or --trust-recipe DIGEST once you have read it"
            )
            return judge_unreplayed(intact, policy, [reason], vouched=False, times=times)
        verdict = _replay_and_judge(intact, start, times, request, bench, vouched, progress)
    return replace(verdict, sandbox=where)


def _sandbox(request: Request) -> tuple[Sandbox | None, str]:
    """The sandbox, or None; and in words what the recipe is run in."""
    if request.policy.unsafe_no_sandbox:
        return None, "none, as --unsafe-no-sandbox asks: the recipe ran as you"
    hidden = [request.claim, default_key_file(), platformdirs.user_config_path("polchain")]
    try:
        sandbox = find_sandbox(request.data, hidden, request.policy.sandbox)
    except UnavailableError as error:
        return None, f"none: {error}{'; ' if error.hint else ''}{error.hint}"
    return sandbox, sandbox.name


def _replay_and_judge(
    intact: IntactClaim,
    start: Start,
    times: Times,
    request: Request,
    bench: Bench,
    vouched: bool,
    progress: Progress | None,
) -> Verdict:
    policy = request.policy
    seen = survey(intact)
    challenge = draw_challenge(
        intact,
        request.seed or secrets.token_bytes(32),
        policy.draws,
        updates=seen.updates,
        top_updates=policy.top_updates,
        flagged=seen.flagged,
        disputed=request.disputed,
        full=request.full,
        budget=policy.budget,
        reserved=behaviour_steps(intact),
    )
    total = len(challenge.picks) + 1
    found: list[Reproduction] = []
    _tell(progress, "reading the data", 0, total)
    try:
        dataset = intact.genesis.dataset
        configuration, leaves = bench.worker().commit_dataset(dataset.samples if dataset is not None else None)
    except PolchainError as error:
        # What a recipe reports ends in an error only where somebody vouched for it.
        if vouched and isinstance(error, DatasetError | WorkerError):
            raise
        reason = f"the recipe does not run here: {error}"
        return judge_unreplayed(intact, policy, [reason], vouched=vouched, times=times)
    remarks = _check_data(intact, configuration, leaves)
    if remarks:
        return judge_unreplayed(intact, policy, remarks, vouched=vouched, times=times)
    _tell(progress, "initial state", 0, total)
    try:
        found.append(replay_initial(intact, bench, start.fingerprint))
        if not seen.false and found[0].outcome is not Outcome.REFUTED:
            for item in replay(intact, challenge, bench, leaves, start.fingerprint):
                found.append(item)
                _tell(progress, item.name, len(found), total)
    except DatasetError as error:
        if vouched:
            raise
        pick = challenge.picks[len(found) - 1] if found else None
        found.append(Reproduction(pick, Outcome.INCONCLUSIVE, math.nan, 0.0, str(error)))
    return judge(
        intact,
        challenge,
        found,
        policy,
        vouched=vouched,
        times=times,
        false_statements=seen.false,
        remarks=differences(start.fingerprint, bench.here),
        survey=seen,
        behaviour=_behaviour(intact, bench, challenge, found, leaves, progress),
    )


def _behaviour(
    intact: IntactClaim,
    bench: Bench,
    challenge: Challenge,
    found: Sequence[Reproduction],
    leaves: Sequence[bytes],
    progress: Progress | None,
) -> list[Behaviour]:
    # The initial state, and the first segment: what the tests compare with.
    if len(found) < 2 or any(item.outcome is not Outcome.EXACT for item in found[:2]):
        return not_tested("the first segment was not reproduced")
    if any(item.outcome is Outcome.REFUTED for item in found):
        return not_tested("the claim is refuted")
    _tell(progress, "tests of behaviour", len(found), len(found))
    return observe(intact, bench, challenge.seed, leaves)


def _check_data(intact: IntactClaim, configuration: Configuration, leaves: tuple[bytes, ...]) -> list[str]:
    dataset = intact.genesis.dataset
    assert dataset is not None
    if len(leaves) != dataset.samples or Digest("sha256", merkle.root(leaves)) != dataset.root:
        found = f"{len(leaves)} samples, {dataset.samples} are committed"
        if len(leaves) == dataset.samples:
            found = f"{dataset.samples} samples as committed, but other contents"
        raise DatasetError(
            f"the data read here is not the data that the claim commits to: {found}",
            hint="ask the prover for the dataset, and point --data at it",
        )
    if configuration != intact.genesis.configuration:
        return ["the recipe asks for another configuration than the genesis states"]
    return []


def _tell(progress: Progress | None, what: str, done: int, total: int) -> None:
    if progress is not None:
        progress(what, done, total)
