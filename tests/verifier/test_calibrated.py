"""The calibrated road, on real runs: what honest machines may differ by, and what a forger gains by it: nothing.

One calibration is really made here, by the command line. Children stay warm between verifications.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.published_check import tensors_of
from polchain.cli.app import main
from polchain.core.claim import Claim
from polchain.core.entries import Start
from polchain.errors import PolicyError
from polchain.storage.checkpoints import CheckpointStore
from polchain.training.fingerprint import Setting, native_setting
from polchain.training.parts import errors_between, false_row
from polchain.training.program import Program
from polchain.training.rho import PARTS, Errors
from polchain.verifier.bench import Bench
from polchain.verifier.calibration import Calibration, Point
from polchain.verifier.integrity import check_integrity
from polchain.verifier.plans import machines_here
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome
from polchain.verifier.tau import Tolerance, tolerance_between
from polchain.verifier.units import examine_unit
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import Request, verify_intact
from polchain.verifier.vouching import OwnRecipe
from tests.claims import DATA, DIGITS, Recorded, checkpoints_of, record_once
from tests.court import Court, Dates, foreign_claim
from tests.disputes import nearly, weights_of
from tests.forgers import warm
from tests.forgers.attacks import moments_within_tolerance
from tests.forgers.forge import Forgery, Workshop, edited, with_rows
from tests.verifier.test_tolerance import CHAOTIC

Verify = Callable[..., Verdict]
ONE = Setting(1)
STEPS = 30
SGD = ("--optimizer", "sgd", "--steps", str(STEPS))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """An honest run, recorded with two threads."""
    return record_once(tmp_path_factory, "digits-two-30", DIGITS, SGD, threads=2)


@pytest.fixture(scope="module")
def answer(two: Recorded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `polchain calibrate` says: one thread against two, a lower instruction set, and the claim of `two`."""
    out = tmp_path_factory.mktemp("lab") / "lab.json"
    words = ["calibrate", str(DIGITS), "--data", str(DATA), "--threads", "1", "--quick", "--lengths", "5,10"]
    words += ["--against", str(two.claim), "--key", str(two.key.public), "--json", "-o", str(out), "--", *SGD]
    with redirect_stdout(io.StringIO()) as said:
        assert main(words) == 0
    with redirect_stdout(io.StringIO()):
        assert main(words) == 2, "a calibration is never written over"
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


@pytest.fixture(scope="module")
def lab(answer: dict[str, Any]) -> Calibration:
    """The calibration that it wrote."""
    return Calibration.read(Path(answer["calibration"]))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Verify:
    """`judged(claim, key, calibrations)`: the verdict of a verifier who replays with one thread."""
    monkeypatch.setattr("polchain.verifier.bench.Worker", warm.KeptWorker)

    def says(
        claim: Path,
        key: Any,
        calibrations: Sequence[Calibration] = (),
        *,
        script: Path = DIGITS,
        words: tuple[str, ...] = SGD,
        setting: Setting = ONE,
        **policy: Any,
    ) -> Verdict:
        demands = Policy(keys=frozenset({key}), unsafe_no_sandbox=True, calibrations=tuple(calibrations), **policy)
        intact = check_integrity(Claim.read(claim), demands)
        own = OwnRecipe.script(script, words)
        return verify_intact(intact, Request(claim, demands, DATA, own, timeout=120, jobs=1, setting=setting))

    return says


def tolerance_of(calibration: Calibration) -> Tolerance:
    """What it tolerates between two threads and one."""
    found = tolerance_between(calibration, calibration.fingerprints[1], calibration.fingerprints[0])
    assert isinstance(found, Tolerance), found
    return found


def noisy(calibration: Calibration, **parts: float) -> Calibration:
    """The same calibration with other honest errors."""

    def louder(point: Point) -> Point:
        return replace(point, errors=Errors.by_part(lambda part: parts.get(part, point.errors.of(part))))

    return replace(calibration, points=tuple(louder(point) for point in calibration.points))


# Losses


def test_equal_states_with_another_loss_are_never_verified(
    two: Recorded, lab: Calibration, judged: Verify, tmp_path: Path
) -> None:
    """By another fingerprint than his own a prover opens the calibrated road, on which losses need only be near."""
    shop = Workshop(two.claim)
    theirs = shop.start
    shop.start = replace(theirs, fingerprint=lab.fingerprints[0])  # trained as this verifier replays
    states, losses = shop.train(STEPS)
    shop.start = theirs
    lied = [None if loss is None else loss * 0.97 for loss in losses]
    for name, told, outcomes in (("as it was", losses, {Ruled.VERIFIED}), ("lied", lied, {Ruled.CONSISTENT})):
        claim = Forgery(shop, states, told).claim(tmp_path / name.replace(" ", "-"))
        assert judged(claim, shop.key.public, [lab]).outcome in outcomes, name


# Honest runs


def test_a_calibration_measures_the_machine_and_says_what_serves(lab: Calibration, answer: dict[str, Any]) -> None:
    assert [found["threads"] for found in lab.fingerprints[:2]] == [1, 2]
    assert lab.trained > lab.initial > 0
    assert lab.memory == 0.9, "the momentum of the recipe"
    assert {point.steps for point in lab.points} == {5, 10}
    assert max(point.errors.parameters for point in lab.points) < 1e-3
    assert answer["digest"] == str(lab.digest)
    assert answer["machines"][:2] == ["1 thread", "2 threads"]
    assert len(answer["points"]) == len(lab.points)
    assert answer["advice"][0]["every"] == [[0, 10]]
    assert all(float(point["parameters"]) < 1e-12 for point in answer["fp64"])
    assert answer["fp64"], answer["fp64_reason"]


def test_an_honest_claim_of_elsewhere_is_measured_too(two: Recorded, lab: Calibration, answer: dict[str, Any]) -> None:
    # Recorded with two threads, which are measured here as well: the claim only adds points to the pair.
    mine = [point for point in lab.points if point.pair == (0, 1)]
    assert {point.first for point in mine} > {0, 5, 10, 15, 20}, "every checkpoint that two segments follow"
    assert len(lab.fingerprints) == len(answer["machines"]) <= 3


def test_two_threads_verified_with_one_are_consistent_where_calibrated(
    two: Recorded, lab: Calibration, judged: Verify
) -> None:
    key = two.key.public
    lab = noisy(lab, optimizer=1e-3, tensors=1e-3)  # errors have long tails, which a quick calibration does not see
    alone = judged(two.claim, key)
    assert alone.outcome is Ruled.INCONCLUSIVE, "without a calibration, bits decide"
    verdict = judged(two.claim, key, [lab])
    assert verdict.outcome is Ruled.CONSISTENT, verdict.reasons
    assert verdict.exit_code == 3
    assert f"1 exact and 6 within tau, by the calibration {lab.digest}" in verdict.reasons[0]
    within = [item for item in verdict.reproductions if item.outcome is Outcome.WITHIN]
    assert len(within) == verdict.within == 6
    assert all(0 < item.rho <= item.tau <= 0.01 and item.noise > 0 for item in within)
    assert verdict.road is not None
    assert 0 < verdict.road.drift < 0.1 * (lab.trained - lab.initial)
    value = verdict.to_json()
    assert value["calibration"] == verdict.road.to_json()


def test_another_instruction_set_is_consistent_where_calibrated(
    two: Recorded, lab: Calibration, judged: Verify, tmp_path: Path
) -> None:
    native = native_setting()
    lower = machines_here(1, capability=native.capability, cuda=False, quick=True)[2:]
    if not lower:
        pytest.skip("this CPU has no lower instruction set that torch knows")
    shop = Workshop(two.claim)
    shop.start = replace(shop.start, fingerprint={**shop.start.fingerprint, "threads": 1})
    claim = shop.claim(tmp_path / "claim", *shop.train(STEPS))
    # Errors have long tails, and a quick calibration of one short training does not see them.
    patient = noisy(lab, optimizer=1e-2, tensors=1e-3)
    verdict = judged(claim, shop.key.public, [patient], setting=lower[0].setting, accept_consistent=True)
    assert verdict.outcome is Ruled.CONSISTENT, verdict.reasons
    assert verdict.exit_code == 0, "the policy accepts it"


def test_a_library_upgrade_that_changes_bits_is_never_refuted(
    two: Recorded, lab: Calibration, judged: Verify, tmp_path: Path
) -> None:
    # Trained with other bits than this verifier's (two threads), and the fingerprint says another torch.
    shop = Workshop(two.claim)
    older = {**shop.start.fingerprint, "torch": "2.12.1+cpu"}
    states, losses = shop.train(STEPS)
    claim = shop.claim(tmp_path / "claim", states, losses, edited(Start, fingerprint=older))
    key = shop.key.public
    assert judged(claim, key).outcome is Ruled.INCONCLUSIVE
    refused = judged(claim, key, [lab])
    assert refused.outcome is Ruled.INCONCLUSIVE
    assert any("does not name the prover's machine" in remark for remark in refused.remarks)
    upgraded = replace(lab, fingerprints=(lab.fingerprints[0], older, *lab.fingerprints[2:]))
    assert judged(claim, key, [upgraded]).outcome is Ruled.CONSISTENT


def test_early_chaos_is_within_no_tolerance(tmp_path_factory: pytest.TempPathFactory, lab: Calibration) -> None:
    # And it convicts nobody: tests/verifier/test_tolerance.py has the same run.
    found = record_once(tmp_path_factory, "two-threads", CHAOTIC, threads=2, beside=(DIGITS,))
    intact = check_integrity(Claim.read(found.claim), Policy())
    points = tuple(Point((0, 1), first, 30, 1.0, Errors.by_part(lambda part: 0.3)) for first in (0, 60))
    assert intact.genesis.recipe is not None
    with Bench(Program(intact.genesis.recipe, intact.recipe), ONE, DATA) as bench:
        _, leaves = bench.worker().commit_dataset()
        tolerance = tolerance_of(replace(lab, points=points, late=60, steps=90))
        unit = examine_unit(intact, intact.segments[0], bench, tolerance, leaves)
    assert not unit.within, "its errors are far over the cap, whatever a calibration says"
    assert unit.rho > unit.tau
    assert "over tau 0.01" in unit.reason


# Policies


def test_a_policy_whose_drift_condition_fails_is_refused_with_its_figures(
    two: Recorded, lab: Calibration, judged: Verify
) -> None:
    vacuous = replace(lab, trained=lab.initial + 1e-4)
    with pytest.raises(PolicyError, match=r"6 segments with a tolerated drift of \S+ each may drift by") as caught:
        judged(two.claim, two.key.public, [vacuous])
    assert f"adds to the distance of two initialisations ({lab.initial:.3g})" in str(caught.value)
    assert caught.value.exit_code == 2


# Forgers


def test_moments_altered_within_tolerance_are_refused(
    two: Recorded, lab: Calibration, judged: Verify, tmp_path: Path
) -> None:
    shop = Workshop(two.claim)
    forgery = moments_within_tolerance.forge(shop, 0.03)
    tau = tolerance_of(noisy(lab, optimizer=0.02)).tau(0, 5)
    assert tau is not None
    assert passes_segment_by_segment(forgery, tau), "its teeth: within tau, group by group"
    claim = forgery.claim(tmp_path / "claim")
    key = shop.key.public
    for calibration in (lab, noisy(lab, optimizer=0.02)):
        verdict = judged(claim, key, [calibration])
        assert verdict.outcome in (Ruled.INCONCLUSIVE, Ruled.REFUTED), verdict.reasons
    # Where moments are noisy, it is the next segment's parameters, replayed straight through, that tell.
    told = [reason for reason in verdict.reasons if reason.startswith("steps 0 to 5: the claimed ")]
    assert told, verdict.reasons
    unit, _, alone = told[0].partition("; ")
    assert "of step 10 differ by rho" in unit
    assert "optimizer" not in unit
    assert "of the optimizer rows" in alone, "alone, it is the moments that differ"


def passes_segment_by_segment(forgery: Forgery, tau: Errors) -> bool:
    """A comparison that opens every segment with the claimed state, and compares group by group within tau."""
    stops = forgery.shop.stops()
    with forgery.shop.worker() as worker:
        for number, (before, claimed) in enumerate(pairwise(forgery.states)):
            [replayed], _ = forgery.shop.go_on(worker, before, stops[number], stops[number + 1])
            found = errors_between(before, claimed, replayed)
            if false_row(claimed, replayed) or any(found.of(part) > tau.of(part) for part in PARTS):
                return False
            assert found.parameters == 0.0, "no parameter is touched"
    return True


@pytest.mark.parametrize(
    ("row", "why"),
    [("model/4.bias", "tensors of step 15"), ("optimizer/0.bias/momentum_buffer", "optimizer of step 15")],
)
def test_a_small_tensor_altered_wholly_does_not_hide(
    two: Recorded, lab: Calibration, judged: Verify, tmp_path: Path, row: str, why: str
) -> None:
    shop = Workshop(two.claim)
    states, losses = shop.train(STEPS)
    group = row.partition("/")[0]
    altered = tensors_of(states[3], group)[row] * 1.01
    states[3] = with_rows(states[3], {row: altered})
    claim = shop.claim(tmp_path / "claim", states, losses)
    # A tolerance of a hundredth for all together: the altered tensor is lost in it.
    verdict = judged(claim, shop.key.public, [noisy(lab, parameters=1e-3)])
    assert verdict.outcome in (Ruled.INCONCLUSIVE, Ruled.REFUTED)
    assert any(why in reason for reason in verdict.reasons), verdict.reasons


def test_a_forger_who_claims_the_setting_that_computes_here_gains_nothing(
    two: Recorded, lab: Calibration, judged: Verify, tmp_path: Path
) -> None:
    # Bits that one thread does not give, said to be of one thread: equal settings must agree exactly.
    shop = Workshop(two.claim)
    states, losses = shop.train(STEPS)
    said = {**shop.start.fingerprint, "threads": 1}
    claim = shop.claim(tmp_path / "claim", states, losses, edited(Start, fingerprint=said))
    verdict = judged(claim, shop.key.public, [lab])
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert any("the very setting" in remark for remark in verdict.remarks)


# Rulings


def test_in_a_ruling_tau_is_work_where_the_policy_accepts_it_and_never_exact(
    two: Recorded, lab: Calibration, tmp_path: Path
) -> None:
    last = CheckpointStore(two.claim).get(checkpoints_of(two.claim)[-1].state)
    thief = foreign_claim(tmp_path / "thief", [nearly(weights_of(last))])
    tolerant = {"calibrations": [noisy(lab, optimizer=1e-3, tensors=1e-3)], "threads": 1}
    with Court().open() as court:
        court.dates = {two.claim: Dates(evidence=100), thief: Dates(evidence=200)}
        ruling = court.both_ways(two.claim, thief, **tolerant)
        assert (ruling.word, ruling.named) == ("NOT PROVEN", ()), "nobody accepted CONSISTENT"
        ruling = court.both_ways(two.claim, thief, accept_consistent=True, **tolerant)
        assert (ruling.word, ruling.named) == ("PROVEN", ("A",)), ruling.reasons()
        (_, verdict), *_ = ruling.claims[0].verdicts
        assert verdict.outcome is Ruled.CONSISTENT
        # A copy between the owner's seed and his first evidence: only exact work shows that he came to it by himself.
        court.dates = {two.claim: Dates(evidence=200, start=60, beacon=50), thief: Dates(evidence=100)}
        ruling = court.both_ways(two.claim, thief, accept_consistent=True, **tolerant)
        assert (ruling.word, ruling.named) == ("CONTESTED", ()), ruling.sentence()
        ruling = court.both_ways(two.claim, thief)
        assert (ruling.word, ruling.named) == ("PROVEN", ("A",)), "with the prover's two threads it is exact"


def test_a_claim_that_drifts_out_of_the_policy_does_not_end_the_ruling(
    two: Recorded, lab: Calibration, tmp_path: Path
) -> None:
    last = CheckpointStore(two.claim).get(checkpoints_of(two.claim)[-1].state)
    other = foreign_claim(tmp_path / "other", [nearly(weights_of(last))])
    vacuous = replace(lab, trained=lab.initial + 1e-4)
    with Court().open() as court:
        ruling = court.both_ways(two.claim, other, calibrations=[vacuous], threads=1, accept_consistent=True)
    assert ruling.word == "NOT PROVEN"
    assert any("A: its replays were compared exactly, by no calibration: 6 segments" in x for x in ruling.unchecked)
