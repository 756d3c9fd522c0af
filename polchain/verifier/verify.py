"""All of a verification in one call.

Claim -> IntactClaim -> Times, Challenge -> Reproductions -> Verdict

A recipe is replayed in the sandbox where this machine has one, vouched or not. Without one only a vouched recipe is
run, or any where the policy says `unsafe_no_sandbox`. Segments are replayed several at a time where that is worth it
(`executor`), and with a results file an interrupted verification goes on where it was (`results`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import platformdirs

from polchain.core.claim import Claim
from polchain.errors import ChallengeError, DataSecretError, UnavailableError, UsageError
from polchain.storage.keyfile import default_key_file
from polchain.storage.secretfile import read_secret
from polchain.training.fingerprint import Setting, setting_of
from polchain.training.program import Program
from polchain.verifier.allowance import Allowance
from polchain.verifier.bench import Bench
from polchain.verifier.capacity import Capacity
from polchain.verifier.executor import Executor
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.results import Results
from polchain.verifier.sandbox import Sandbox, find_sandbox
from polchain.verifier.sealed import read_answer
from polchain.verifier.sitting import Progress, Request, Sitting
from polchain.verifier.timing import establish
from polchain.verifier.verdict import Verdict, judge_unreplayed
from polchain.verifier.vouching import OwnRecipe, is_vouched

__all__ = ["Progress", "Request", "verify", "verify_intact"]


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
    jobs: int | None = None,
    resume: Path | str | None = None,
    opening: Path | str | None = None,
    challenge: Path | str | None = None,
    data_secret: Path | str | None = None,
    progress: Progress | None = None,
    setting: Setting | None = None,
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
        jobs: how many segments to replay at a time; what this machine bears where None.
        resume: a file of the verifier's own that keeps what was replayed: the same call goes on where it was.
        opening: the prover's answer to a challenge.
        challenge: that challenge, as the verifier drew it.
        data_secret: the file of the secret that private data is salted with, from its owner.
        progress: called with what is being done, how many steps are replayed, and how many there are.
        setting: replay with this in place of the prover's setting, which may not be had here.

    Raises:
        EvidenceError: the claim is damaged or false; which check refused it is in the name and the words.
        UnavailableError: files, data or a working replay process are missing.
        DataSecretError: the data is private, and its secret is not at hand, or another one.
        UsageError: a results file that is of another verification, or not this user's own.
    """
    if seed is not None and len(seed) != 32:
        raise UsageError("a challenge seed is 32 bytes")
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} segments at a time make no sense")
    intact = check_integrity(Claim.read(claim), policy, heads)
    own = OwnRecipe.script(Path(recipe), recipe_arguments) if recipe is not None else None
    answer = None
    if opening is not None:
        if seed is not None or full:
            raise UsageError("what an opening answers is drawn already: seed= and full= belong to the challenge")
        answer = read_answer(intact, Path(opening), Path(challenge) if challenge is not None else None, policy)
    elif challenge is not None:
        raise UsageError("a challenge goes with the opening that answers it")
    kept = Path(resume) if resume is not None else None
    request = Request(Path(claim), policy, Path(data), own, seed, full, timeout, jobs, kept, setting, answer=answer)
    if data_secret is not None:
        request = replace(request, secrets={Path(data_secret): read_secret(Path(data_secret))})
    return verify_intact(intact, request, progress)


def verify_intact(intact: IntactClaim, request: Request, progress: Progress | None = None) -> Verdict:
    """Date, replay and judge a claim whose integrity holds.

    Raises:
        UnavailableError: data or a working replay process are missing, or nodes contradict each other.
        DataSecretError: the data is private, and its secret is not at hand, or another one was given.
        UsageError: a results file that is of another verification, or not this user's own.
        PolicyError: what the policy's calibration tolerates adds up to too much for this claim.
    """
    _check_secrets(intact, request)
    if request.answer is not None and request.answer.held is not None:
        with tempfile.TemporaryDirectory(prefix="polchain-no-data-") as empty:
            return _resume(intact, replace(request, data=Path(empty)), progress)
    return _resume(intact, request, progress)


def _check_secrets(intact: IntactClaim, request: Request) -> None:
    """Refuse a secret that is not this claim's: whoever passes one thinks that the data is checked with it."""
    dataset = intact.genesis.dataset
    salts = dataset.salts if dataset is not None else None
    for path, secret in request.secrets.items():
        if salts is None:
            raise DataSecretError(f"{path}: the data of this claim is not private, and no secret belongs to it")
        if secret.commitment != salts:
            raise DataSecretError(
                f"{path} is another secret than the one that the claim's data is salted with ({salts})",
                hint="each run has a secret of its own, unless it was given one: ask its owner for this one's",
            )


def _resume(intact: IntactClaim, request: Request, progress: Progress | None) -> Verdict:
    if request.resume is None:
        return _verify(intact, request, None, progress)
    with Results(request.resume, request.claim) as results:
        return _verify(intact, request, results, progress)


def _verify(intact: IntactClaim, request: Request, results: Results | None, progress: Progress | None) -> Verdict:
    policy = request.policy
    if request.answer is not None:
        if request.answer.intact.head != intact.head:
            raise ChallengeError("the answer is about another head than the claim's")
        intact = request.answer.intact
    times = establish(intact, policy)
    genesis, start = intact.genesis, intact.start
    if genesis.recipe is None or genesis.dataset is None or genesis.configuration is None:
        reason = "a foreign run: its loop was not polchain's, so it is not replayable"
        return judge_unreplayed(intact, policy, [reason], vouched=False, times=times)
    if start is None or not intact.segments:
        reason = "the run has no recorded steps yet"
        return judge_unreplayed(intact, policy, [reason], vouched=False, times=times)
    program = Program(genesis.recipe, intact.recipe)
    setting = request.setting or setting_of(start.fingerprint)
    sandbox, where = _sandbox(request)
    held = request.answer.held if request.answer is not None else None
    capacity = Capacity.here(intact, setting, policy.sandbox if sandbox is not None else Allowance(), request.jobs)

    def make(lane: int, lanes: int) -> Bench:
        part = sandbox.share(lanes) if sandbox is not None and lane else sandbox
        gpu = capacity.gpu(lane)
        return Bench(
            program,
            setting,
            request.data,
            timeout=request.timeout,
            sandbox=part,
            gpu=gpu,
            held=held,
            regenerates=request.answer is None,
        )

    with make(0, 1) as bench:
        vouched = is_vouched(intact, policy, request.recipe, bench)
        if not vouched and sandbox is None and not policy.unsafe_no_sandbox:
            reason = (
                "nobody vouched for the recipe, and without a sandbox a stranger's program is not run "
                f"({where.removeprefix('none: ')}): "
                "pass --recipe PATH, your own copy, or --trust-recipe DIGEST once you have read it"
            )
            return judge_unreplayed(intact, policy, [reason], vouched=False, times=times)
        sitting = Sitting(intact, start, times, request, Executor(bench, make, capacity), vouched, results, progress)
        verdict = sitting.verdict(sandbox.name if sandbox is not None else "none")
    return replace(verdict, sandbox=where)


def _sandbox(request: Request) -> tuple[Sandbox | None, str]:
    """The sandbox, or None; and in words what the recipe is run in."""
    if request.policy.unsafe_no_sandbox:
        return None, "none, as --unsafe-no-sandbox asks: the recipe ran as you"
    hidden = [request.claim, default_key_file()]
    hidden += [platformdirs.user_config_path("polchain"), platformdirs.user_state_path("polchain")]
    hidden += [request.resume] if request.resume is not None else []
    hidden += request.secrets
    hidden += request.answer.files if request.answer is not None else ()
    try:
        sandbox = find_sandbox(request.data, hidden, request.policy.sandbox)
    except UnavailableError as error:
        return None, f"none: {error}{'; ' if error.hint else ''}{error.hint}"
    return sandbox, sandbox.name
