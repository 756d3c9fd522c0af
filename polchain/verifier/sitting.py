"""A sitting: what of a verification needs the recipe to be run.

    draw the challenge; read the data; build the initial state; replay the picks; test the behaviour; judge

A sitting that is interrupted leaves what was reproduced exactly in the results file, where there is one. The next goes
through the same steps, but does not replay those again.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from polchain.core.entries import Start
from polchain.core.genesis import Configuration
from polchain.core.salts import DataSecret, commit_leaves, find_secret
from polchain.errors import DatasetError, PolchainError, WorkerError
from polchain.training.fingerprint import Setting, differences
from polchain.verifier.behaviour import Behaviour, behaviour_steps, not_tested, observe, other_batches
from polchain.verifier.bench import Bench
from polchain.verifier.challenge import Challenge, Pick, draw_challenge
from polchain.verifier.executor import Done, Executor
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.policy import Policy
from polchain.verifier.regeneration import is_disclosed, replay_costs, stretches
from polchain.verifier.replay import UNREPLAYED, Outcome, Reproduction, replay_initial, replay_pick
from polchain.verifier.results import Belonging, Results
from polchain.verifier.sealed import Answered, unasked
from polchain.verifier.survey import survey
from polchain.verifier.tau import Tolerance
from polchain.verifier.times import Times
from polchain.verifier.units import Calibrated, unit_steps
from polchain.verifier.verdict import REPRODUCED, Verdict, judge, judge_unreplayed
from polchain.verifier.vouching import OwnRecipe

__all__ = ["Progress", "Request", "Sitting"]

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
        jobs: how many segments to replay at a time; None for what this machine bears.
        resume: where to keep what was replayed, and to go on from; None for nowhere.
        setting: replay with this in place of the prover's setting; None for the prover's.
        disputed: steps of the states that somebody disputes: the segments around them are replayed.
        answer: a challenge and its answer, which disclose what a sealed claim does not; None where it is not sealed.
        secrets: of private data, what its owner handed over, by the files; each is this claim's.
        replayed: segments of this log that this verifier has reproduced exactly before, by index, and the seconds of
            each: they are not replayed again.
        exact: tolerate nothing, whatever calibration is named.
    """

    claim: Path
    policy: Policy
    data: Path
    recipe: OwnRecipe | None = None
    seed: bytes | None = None
    full: bool = False
    timeout: float = 3600.0
    jobs: int | None = None
    resume: Path | None = None
    setting: Setting | None = None
    disputed: tuple[int, ...] = ()
    answer: Answered | None = None
    secrets: Mapping[Path, DataSecret] = field(default_factory=dict)
    replayed: Mapping[int, float] = field(default_factory=dict)
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Sitting:
    """One sitting of a verification: Challenge -> Reproductions -> Verdict.

    Attributes:
        intact: the claim, which has a recipe that may be run.
        start: its start entry.
        times: when the log was written.
        request: what to verify, and how.
        executor: what replays.
        vouched: whether the verifier accepts the recipe's text.
        results: the open results file; None where nothing is kept.
        progress: whom to tell.
    """

    intact: IntactClaim
    start: Start
    times: Times
    request: Request
    executor: Executor
    vouched: bool
    results: Results | None
    progress: Progress | None

    @property
    def bench(self) -> Bench:
        """The first lane's bench, which does what is not replaying picks."""
        return self.executor.bench

    def verdict(self, sandbox: str) -> Verdict:
        """Draw, replay, judge.

        Args:
            sandbox: the name of what the recipe is run in.

        Raises:
            UnavailableError: data, the secret of private data, or a working replay process are missing.
            UsageError: the results file is of another verification.
        """
        intact, policy, request = self.intact, self.request.policy, self.request
        seen, answer = survey(intact), request.answer
        # A unit takes a second segment, which no challenge asks for.
        tolerant = policy if answer is None and not self.request.exact else replace(policy, calibrations=())
        calibrated = Calibrated(intact, tolerant, seen, self.start, vouched=self.vouched)
        seed = request.seed or (self.results.seed if self.results is not None else None) or secrets.token_bytes(32)

        def draw(costs: Sequence[int] = ()) -> Challenge:
            if answer is not None:
                return answer.challenge
            return draw_challenge(
                intact,
                seed,
                policy.draws,
                updates=seen.updates,
                top_updates=policy.top_updates,
                flagged=seen.flagged,
                disputed=request.disputed,
                full=request.full,
                budget=policy.budget,
                reserved=behaviour_steps(intact),
                costs=costs,
            )

        challenge = draw(replay_costs(intact))
        leaves, missing = self._read_data(challenge)
        if missing:
            return judge_unreplayed(intact, policy, missing, vouched=self.vouched, times=self.times)
        self._tell("initial state", 0, challenge)
        tolerance = None
        try:
            found = [replay_initial(intact, self.bench, self.start.fingerprint, calibrated.tolerance)]
        except DatasetError as error:
            if self.vouched:
                raise
            found = [Reproduction(None, Outcome.INCONCLUSIVE, math.nan, 0.0, str(error))]
        else:
            tolerance = calibrated.tolerance(self.bench.here) if self.bench.here else None
            if tolerance is not None:
                challenge = draw(unit_steps(intact))
            kept = request.replayed
            if self.results is not None:
                kept = self.results.begin(
                    Belonging.of(
                        intact,
                        challenge,
                        vouched=self.vouched,
                        sandbox=sandbox,
                        setting=self.bench.setting,
                        calibration=str(calibrated.road.digest) if calibrated.road is not None else "",
                    )
                )
            if not seen.false and found[0].outcome is not Outcome.REFUTED:
                found += self._replay(challenge, leaves, kept, tolerance)
        behaviour = self._behaviour(challenge, found, leaves)
        apart = differences(self.start.fingerprint, self.bench.here)
        doubtful = any(item.outcome is Outcome.INCONCLUSIVE and item.reason.startswith("differs") for item in found)
        return judge(
            intact,
            challenge,
            [replace(item, shown=None, ended=None) for item in found],
            policy,
            vouched=self.vouched,
            times=self.times,
            false_statements=seen.false,
            remarks=[*apart, *calibrated.remarks],
            causes=_causes(apart, self.request) if doubtful else (),
            survey=seen,
            behaviour=behaviour,
            road=calibrated.road,
            unanswered=[*answer.missing, *unasked(challenge, seen, intact)] if answer is not None else (),
        )

    def _read_data(self, challenge: Challenge) -> tuple[Sequence[bytes], list[str]]:
        """The leaf hashes of the data read here, or disclosed, which are those committed; or what is missing."""
        self._tell("reading the data", 0, challenge)
        dataset, answer = self.intact.genesis.dataset, self.request.answer
        secret = None
        if dataset is not None and (answer is None or answer.leaves is None):
            secret = find_secret(dataset, self.request.secrets.values())
        leaves: Sequence[bytes]
        try:
            if answer is not None and answer.leaves is not None:
                return answer.leaves, _check_configuration(self.intact, self.bench.worker().configuration())
            configuration, leaves = self.bench.worker().commit_dataset(dataset.samples if dataset is not None else None)
        except PolchainError as error:
            # What a recipe reports ends in an error only where somebody vouched for it.
            if self.vouched and isinstance(error, DatasetError | WorkerError):
                raise
            return (), [f"the recipe does not run here: {error}"]
        return leaves, _check_data(self.intact, configuration, leaves, secret)

    def _replay(
        self, challenge: Challenge, leaves: Sequence[bytes], kept: Mapping[int, float], tolerance: Tolerance | None
    ) -> list[Reproduction]:
        picks: Sequence[Pick] = challenge.picks
        costs = {pick.segment.index: pick.segment.steps for pick in picks}
        if challenge.costs and tolerance is None:
            picks, costs = stretches(self.intact, picks)
        total = sum(costs.values()) + challenge.reserved
        last = self.intact.checkpoints[-1]
        earlier = {
            pick.segment.index: Reproduction(pick, Outcome.EXACT, 0.0, kept[pick.segment.index], earlier=True)
            for pick in picks
            # The last state is needed besides: where it is not disclosed, it is made again.
            if pick.segment.index in kept and (pick.segment.last != last.step or is_disclosed(self.intact, last))
        }
        steps = sum(costs[index] for index in earlier)
        self._tell("replaying", steps, challenge, total)

        def work(pick: Pick, bench: Bench) -> Done:
            try:
                item = replay_pick(self.intact, pick, bench, leaves, self.start.fingerprint, tolerance)
            except DatasetError as error:
                if self.vouched:
                    raise
                item = Reproduction(pick, Outcome.INCONCLUSIVE, math.nan, 0.0, str(error))
                return Done(item, last=True, again=True)
            undone = item.outcome is Outcome.INCONCLUSIVE and item.reason.startswith(UNREPLAYED)
            return Done(item, last=item.outcome is Outcome.REFUTED, again=undone)

        def arrived(item: Reproduction) -> None:
            nonlocal steps
            assert item.pick is not None
            if self.results is not None and item.outcome is Outcome.EXACT:
                self.results.add(item.pick.segment.index, item.seconds)
            steps += costs[item.pick.segment.index]
            self._tell("replaying", steps, challenge, total)

        return self.executor.run(picks, work, earlier, arrived)

    def _behaviour(
        self, challenge: Challenge, found: Sequence[Reproduction], leaves: Sequence[bytes]
    ) -> list[Behaviour]:
        # The initial state, and the first segment: what the tests compare with.
        if len(found) < 2 or any(item.outcome not in REPRODUCED for item in found[:2]):
            return not_tested("the first segment was not reproduced")
        if any(item.outcome is Outcome.REFUTED for item in found):
            return not_tested("the claim is refuted")
        held = self.bench.held
        if held is not None and not held.has(other_batches(self.intact, challenge.seed)):
            return not_tested("the samples that it takes are not disclosed")
        self._tell("tests of behaviour", challenge.cost - challenge.reserved, challenge)
        ended = next((item.ended for item in found if item.ended is not None), None)
        return observe(self.intact, self.bench, challenge.seed, leaves, found[1].shown, ended)

    def _tell(self, what: str, done: int, challenge: Challenge, total: int | None = None) -> None:
        if self.progress is not None:
            self.progress(what, done, challenge.cost if total is None else total)


def _causes(apart: Sequence[str], request: Request) -> list[str]:
    """Why the replays of an honest claim may differ here, and what to do about it."""
    if not apart:
        return []
    own = "leave out --threads, or " if request.setting is not None else ""
    advice = f"{own}name a calibration of this recipe with --calibration (polchain calibrate makes one)"
    return [f"replays may differ though the claim is honest ({'; '.join(apart)}): {advice}"]


def _check_data(
    intact: IntactClaim, configuration: Configuration, leaves: tuple[bytes, ...], secret: DataSecret | None
) -> list[str]:
    dataset = intact.genesis.dataset
    assert dataset is not None
    if commit_leaves(leaves, secret) != dataset:
        found = f"{len(leaves)} samples, {dataset.samples} are committed"
        if len(leaves) == dataset.samples:
            found = f"{dataset.samples} samples as committed, but other contents"
        raise DatasetError(
            f"the data read here is not the data that the claim commits to: {found}",
            hint="ask the prover for the dataset, and point --data at it",
        )
    return _check_configuration(intact, configuration)


def _check_configuration(intact: IntactClaim, configuration: Configuration) -> list[str]:
    if configuration != intact.genesis.configuration:
        return ["the recipe asks for another configuration than the genesis states"]
    return []
