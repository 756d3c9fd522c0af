"""The verdict on one claim.

The first that applies:

    REFUTED        a signed statement is false, and which
    INCONCLUSIVE   something is missing, and what: an unmet bound, an unpinned key, a beacon's block, a foreign run
    COMPUTED       reproduced, but nobody vouched for the recipe, or it failed a test of behaviour
    CONSISTENT     as VERIFIED, but some segments within tau, by a calibration that the verifier believes
    VERIFIED       integrity; key pinned; recipe vouched; initial state regenerated from the seed; all replayed
                   segments reproduced exactly; the bound within the policy

Replay proves that a program ran; only the program's text makes it learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from polchain.core.digest import Digest
from polchain.core.encoding import JSON
from polchain.verifier.behaviour import Behaviour, Finding
from polchain.verifier.challenge import Challenge
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome, Reproduction
from polchain.verifier.soundness import Bound, Swap, escape_probability
from polchain.verifier.survey import Survey, swap_of
from polchain.verifier.tau import Road
from polchain.verifier.times import Times, plain
from polchain.verifier.timing import establish

__all__ = ["MEANING", "Ruled", "Verdict", "judge", "judge_unreplayed"]

REPRODUCED = (Outcome.EXACT, Outcome.WITHIN)
MEANING = "Replay proves that a program ran; only the program's text makes it learning."


class Ruled(Enum):
    """The outcome for one claim."""

    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    COMPUTED = "COMPUTED"
    CONSISTENT = "CONSISTENT"
    VERIFIED = "VERIFIED"

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return {Ruled.VERIFIED: 0, Ruled.REFUTED: 1}.get(self, 3)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one claim, and everything that it rests on.

    Attributes:
        outcome: the verdict.
        reasons: why, most important first.
        bound: what the replayed sample proves.
        reproductions: what each replay found, the initial state first.
        challenge: what was drawn; None where nothing was.
        vouched: whether the verifier had accepted the recipe's text.
        program: digest of the recipe's text, entry point and arguments; None for a foreign run.
        origin: whose log, which run.
        entries, steps: sizes of the log.
        last_state: digest of the state at the last of these steps; None where no state is committed.
        key: the signing key.
        pinned: whether that key came from outside the claim.
        remarks: what was not checked, or differs without being wrong.
        times: when the log was written; None where that was not looked into.
        swap: how likely weights from elsewhere were swapped in unseen, or why that was not checked.
        flags: what a screen flagged ("steps A to B"), and why.
        behaviour: the tests of the recipe's behaviour.
        sandbox: what the recipe was run in: the sandbox's name, or `none` and why; empty where nothing was run.
        road: what was tolerated between the prover's machine and this one, and whose word that is; None where nothing.
        accepted: whether the policy accepts this outcome.
    """

    outcome: Ruled
    reasons: tuple[str, ...]
    bound: Bound
    reproductions: tuple[Reproduction, ...]
    challenge: Challenge | None
    vouched: bool
    program: Digest | None
    origin: str
    entries: int
    steps: int
    last_state: str | None
    key: str
    pinned: bool
    remarks: tuple[str, ...]
    times: Times | None = None
    swap: Swap = field(default_factory=lambda: Swap.unchecked("nothing was replayed"))
    flags: tuple[tuple[str, str], ...] = ()
    behaviour: tuple[Behaviour, ...] = ()
    sandbox: str = ""
    road: Road | None = None
    accepted: bool = False

    @property
    def exit_code(self) -> int:
        """0 VERIFIED, and CONSISTENT where the policy accepts it; 1 REFUTED; 3 otherwise."""
        return 0 if self.accepted else self.outcome.exit_code

    @property
    def within(self) -> int:
        """How many replays, the initial state included, were reproduced within tau and not exactly."""
        return sum(1 for item in self.reproductions if item.outcome is Outcome.WITHIN)

    def to_json(self) -> dict[str, JSON]:
        """The machine-readable verdict, as docs/verifying.md has it; floats as decimal strings."""
        replays: list[JSON] = [
            {
                "what": item.name,
                "picked": list(item.pick.reasons) if item.pick is not None else ["initial"],
                "outcome": item.outcome.name,
                "rho": repr(item.rho),
                "tau": repr(item.tau),
                "noise": repr(item.noise),
                "seconds": f"{item.seconds:.3f}",
                "earlier": item.earlier,
                "reason": item.reason,
            }
            for item in self.reproductions
        ]
        value: dict[str, JSON] = {
            "verdict": self.outcome.value,
            "meaning": MEANING,
            "reasons": list(self.reasons),
            "origin": self.origin,
            "key": self.key,
            "key_pinned": self.pinned,
            "entries": self.entries,
            "steps": self.steps,
            "recipe_vouched": self.vouched,
            "bound": self.bound.to_json(),
            "swap": self.swap.to_json(),
            "screens": [{"what": what, "reason": reason} for what, reason in self.flags],
            "behaviour": [
                {"test": item.test, "finding": item.finding.value, "reason": item.reason} for item in self.behaviour
            ],
            "replays": replays,
            "sandbox": self.sandbox,
            "remarks": list(self.remarks),
            **(self.times.to_json() if self.times is not None else {"anchors": [], "intervals": []}),
        }
        if self.last_state is not None:
            value["last_state"] = self.last_state
        if self.program is not None:
            value["recipe"] = str(self.program)
        if self.challenge is not None:
            value["challenge_seed"] = self.challenge.seed.hex()
            if self.challenge.budget is not None:
                value["budget"] = repr(self.challenge.budget)
        if self.road is not None:
            value["calibration"] = self.road.to_json()
        return value


def judge(
    intact: IntactClaim,
    challenge: Challenge,
    reproductions: Sequence[Reproduction],
    policy: Policy,
    *,
    vouched: bool,
    times: Times | None = None,
    false_statements: Sequence[str] = (),
    remarks: Sequence[str] = (),
    causes: Sequence[str] = (),
    survey: Survey | None = None,
    behaviour: Sequence[Behaviour] = (),
    road: Road | None = None,
    unanswered: Sequence[str] = (),
) -> Verdict:
    """The verdict that these reproductions carry.

    Args:
        intact: the claim.
        challenge: what was to be replayed.
        reproductions: what came of it, the initial state included; fewer than picked where one convicted.
        policy: what the verifier demands.
        vouched: whether the recipe's text is accepted.
        times: when the log was written, as `establish` found; None for what is known without asking anybody.
        false_statements: signed statements that were found false without replay.
        remarks: what else the reader should know.
        causes: why replays that differ may do so though the claim is honest; said only with them.
        survey: what the disclosed states say by themselves; without it there is no swap bound.
        behaviour: what came of the tests of behaviour.
        road: what was tolerated between the prover's machine and this one; None where nothing was.
        unanswered: what a challenge to a sealed claim lacks, or its answer.
    """
    times = times or establish(intact, Policy())
    refuting = list(false_statements)
    refuting += [f"{item.name}: {item.reason}" for item in reproductions if item.outcome is Outcome.REFUTED]
    bound = _bound(intact, challenge, reproductions, policy)
    swap = _swap(intact, challenge, reproductions, bound, survey, policy, road)
    missing = [*unanswered, *_missing(intact, challenge, reproductions, bound, times)]
    if not swap.within(policy.max_swap_escape):
        missing.append(f"a swap is to escape with probability {policy.max_swap_escape:g} at most: {swap}")
    doubts = [f"a test of behaviour failed: {test.reason}" for test in behaviour if test.finding is Finding.FAILED]
    if refuting:
        outcome, reasons = Ruled.REFUTED, refuting
    elif missing:
        outcome, reasons = Ruled.INCONCLUSIVE, [*causes, *missing]
    elif not vouched or doubts:
        outcome = Ruled.COMPUTED
        unread = f"{_how(reproductions, road)}, but nobody vouched for the recipe: read it, then pass --trust-recipe"
        reasons = [*([] if vouched else [unread]), *doubts]
    else:
        within = any(item.outcome is Outcome.WITHIN for item in reproductions)
        outcome = Ruled.CONSISTENT if within else Ruled.VERIFIED
        reasons = [f"{_how(reproductions, road)}; {bound}"]
    unscreened = survey.remarks if survey is not None else ()
    verdict = _verdict(
        intact, outcome, reasons, bound, reproductions, challenge, vouched, times, [*remarks, *unscreened]
    )
    segments = intact.segments
    flags = [(str(segments[flag.segment]), plain(flag.reason)) for flag in survey.flags] if survey is not None else []
    tested = tuple(replace(item, reason=plain(item.reason)) for item in behaviour)
    accepted = outcome is Ruled.VERIFIED or (outcome is Ruled.CONSISTENT and policy.accept_consistent)
    return replace(verdict, swap=swap, flags=tuple(flags), behaviour=tested, road=road, accepted=accepted)


def judge_unreplayed(
    intact: IntactClaim, policy: Policy, reasons: Sequence[str], *, vouched: bool, times: Times | None = None
) -> Verdict:
    """The verdict on a claim of which nothing could be replayed: INCONCLUSIVE, with what is missing."""
    times = times or establish(intact, Policy())
    bound = Bound(0, policy.fraction, policy.confidence, 1.0, 0, intact.steps)
    missing = [*reasons, *times.missing, *_unpinned(intact)]
    return _verdict(intact, Ruled.INCONCLUSIVE, missing, bound, (), None, vouched, times, ())


def _bound(intact: IntactClaim, challenge: Challenge, reproductions: Sequence[Reproduction], policy: Policy) -> Bound:
    exact = {r.pick.segment.index for r in reproductions if r.pick is not None and r.outcome in REPRODUCED}
    segments = intact.segments
    replayed = sum(segment.steps for segment in segments if segment.index in exact)
    # A draw counts only where the segment that holds it was reproduced.
    answered = sum(1 for step in challenge.draws if any(s.first <= step < s.last for s in segments if s.index in exact))
    complete = intact.steps > 0 and replayed == intact.steps
    escape = 0.0 if complete else escape_probability(policy.fraction, answered)
    return Bound(answered, policy.fraction, policy.confidence, escape, replayed, intact.steps)


def _swap(
    intact: IntactClaim,
    challenge: Challenge,
    reproductions: Sequence[Reproduction],
    bound: Bound,
    survey: Survey | None,
    policy: Policy,
    road: Road | None,
) -> Swap:
    always = {
        item.pick.segment.index
        for item in reproductions
        if item.pick is not None and item.pick.fixed and item.outcome in REPRODUCED
    }
    recipe, dataset = intact.genesis.recipe, intact.genesis.dataset
    # d_ref is the recipe's, whatever machine the claim was recorded on.
    known = [
        item.trained
        for item in policy.calibrations
        if recipe is not None and (item.program, item.dataset) == (recipe.program(), dataset)
    ]
    drift = road.drift if road is not None else 0.0
    return swap_of(intact, survey, always, bound.draws, min(known, default=None), drift)


def _how(reproductions: Sequence[Reproduction], road: Road | None) -> str:
    """How many replays were exact, how many within tau, and by whose calibration."""
    within = sum(1 for item in reproductions if item.outcome is Outcome.WITHIN)
    if not within:
        return f"{len(reproductions)} replays, all exact"
    exact = len(reproductions) - within
    whose = f", by the calibration {road.digest}" if road is not None else ""
    return f"{len(reproductions)} replays, {exact} exact and {within} within tau{whose}"


def _missing(
    intact: IntactClaim, challenge: Challenge, reproductions: Sequence[Reproduction], bound: Bound, times: Times
) -> list[str]:
    missing = [f"{item.name}: {item.reason}" for item in reproductions if item.outcome is Outcome.INCONCLUSIVE]
    answered = {item.pick.segment.index for item in reproductions if item.pick is not None}
    missing += [
        f"steps {pick.segment.first} to {pick.segment.last} were picked, but not replayed"
        for pick in challenge.picks
        if pick.segment.index not in answered
    ]
    if not any(item.pick is None for item in reproductions):
        missing.append("the initial state was not regenerated")
    if intact.genesis.parent is not None:
        missing.append("the run continues another one, which cannot be verified yet")
    if intact.start is not None and intact.start.source not in ("prover", "beacon"):
        missing.append(f"the seed is said to be a {intact.start.source}'s, which cannot be checked yet")
    missing += times.missing
    if not bound.met:
        missing.append(f"the bound is {bound}")
    return missing + _unpinned(intact)


def _unpinned(intact: IntactClaim) -> list[str]:
    return (
        []
        if intact.pinned
        else ["the prover's key is not pinned: pass the key that you know to be the prover's with --key"]
    )


def _verdict(
    intact: IntactClaim,
    outcome: Ruled,
    reasons: Sequence[str],
    bound: Bound,
    reproductions: Sequence[Reproduction],
    challenge: Challenge | None,
    vouched: bool,
    times: Times,
    remarks: Sequence[str],
) -> Verdict:
    recipe = intact.genesis.recipe
    source = intact.start.source if intact.start is not None else ""
    weak = ["the seed is the prover's own choice, not a beacon's: it could have been picked among many"]
    exported = intact.final.files if intact.final is not None else ()
    loose = [f"{ref.path}, which the final entry names, was not compared with the last state" for ref in exported]
    changed = [
        f"the log {'rotates its key to' if change.kind == 'rotate' else 'revokes the key'} {change.key}"
        for change in intact.key_changes
    ]
    early = [*_ends_early(intact), *changed]
    timed = (*times.remarks, *times.forks)
    return Verdict(
        outcome=outcome,
        reasons=tuple(plain(reason) for reason in reasons),
        bound=bound,
        reproductions=tuple(reproductions),
        challenge=challenge,
        vouched=vouched,
        program=recipe.program() if recipe is not None else None,
        origin=intact.head.origin,
        entries=intact.head.size,
        steps=intact.steps,
        last_state=str(intact.checkpoints[-1].state) if intact.checkpoints else None,
        key=str(intact.genesis.key),
        pinned=intact.pinned,
        remarks=tuple(
            plain(text) for text in (*remarks, *early, *(weak if source == "prover" else []), *loose, *timed)
        ),
        times=times,
    )


def _ends_early(intact: IntactClaim) -> list[str]:
    """What the genesis announces and the log does not have: its prover may have stopped where it looked best."""
    configuration = intact.genesis.configuration
    if configuration is None or intact.cut:
        return []
    unended = "" if intact.final is not None else ", without a final entry"
    if intact.steps < configuration.steps:
        return [f"the genesis allows {configuration.steps} steps; the log ends at {intact.steps}{unended}"]
    return ["the log ends at its last step, without a final entry"] if unended else []
