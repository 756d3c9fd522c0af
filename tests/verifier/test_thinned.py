"""Claims and answers of thinned runs: what is regenerated counts as what is shown; what is hidden hides no lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from polchain.cli.app import main
from polchain.core.claim import Claim, checkpoint_name, write_listing
from polchain.core.entries import CheckpointEntry, Entry, Update
from polchain.core.manifest import Snapshot
from polchain.errors import BudgetError
from polchain.prover.export import export
from polchain.prover.opening import respond
from polchain.prover.thinning import thin
from polchain.storage.checkpoints import CheckpointStore
from polchain.training.fingerprint import setting_of
from polchain.training.program import Program
from polchain.verifier import regeneration, replay
from polchain.verifier.bench import Bench, run_segment
from polchain.verifier.challenge import Pick, draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.regeneration import replay_costs, stretches
from polchain.verifier.replay import Outcome, replay_pick
from polchain.verifier.sealed import ask
from polchain.verifier.survey import survey
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded, checkpoints_of, copy_of, entries_of, genesis_of
from tests.forgers import warm
from tests.forgers.forge import Workshop, edited, tensors_of, with_rows
from tests.verifier.conftest import SGD

SEED = bytes(range(32))
EVERY = 5
HIDDEN = range(4, 8)  # the states of steps 20 to 35


@pytest.fixture(autouse=True)
def _kept_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polchain.verifier.bench.Worker", warm.KeptWorker)
    monkeypatch.setattr("polchain.prover.thinning.Worker", warm.KeptWorker)
    monkeypatch.setattr("polchain.prover.opening.Worker", warm.KeptWorker)


@pytest.fixture(scope="module")
def run(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `recorded`, thinned to steps 0, 20, 40 and 60."""
    out = tmp_path_factory.mktemp("thinned") / "run"
    shutil.copytree(recorded.claim.parent / "run", out)
    thin(out, 20, DATA)
    assert len(list((out / "checkpoints").iterdir())) == 4
    return out


@pytest.fixture(scope="module")
def stored(run: Path) -> Path:
    """Its claim, with the rows alone of what it does not store."""
    claim = run.with_name("stored")
    summary = export(run, claim, stored_only=True)
    assert (summary.states, summary.thinned, summary.missing) == (4, 9, ())
    return claim


@pytest.fixture(scope="module")
def honest(recorded: Recorded) -> tuple[list[Snapshot], list[float | None]]:
    """A forger's own honest training, under his key: states and losses."""
    return shop_of(recorded).train(60)


def shop_of(recorded: Recorded) -> Workshop:
    return Workshop(recorded.claim, run_id=bytes(16), value=bytes(32), key=recorded.key)


def judge(claim: Path, key: Recorded, **more: object) -> Verdict:
    policy = Policy(keys=frozenset({key.key.public}))
    how: dict[str, object] = {"data": DATA, "recipe": DIGITS, "recipe_arguments": SGD, "seed": SEED, "jobs": 1, **more}
    return verify(claim, policy, **how)  # type: ignore[arg-type]


def opened(claim: Path) -> IntactClaim:
    return check_integrity(Claim.read(claim), Policy())


def hide(claim: Path, *places: int) -> Path:
    """Leave out the tensors of these states, and keep their rows."""
    entries = checkpoints_of(claim)
    for place in places:
        (claim / checkpoint_name(entries[place].state)).unlink(missing_ok=True)
    write_listing(claim)
    return claim


def forged(
    recorded: Recorded,
    out: Path,
    states: Sequence[Snapshot],
    losses: Sequence[float | None],
    edit: Callable[[Entry], Entry] = lambda entry: entry,
) -> Path:
    return shop_of(recorded).claim(out, states, losses, edit)


# Of honest runs


def test_a_claim_of_stored_states_is_verified_as_the_whole_one_and_no_step_is_trained_twice(
    stored: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[int] = []
    seen: list[tuple[str, int, int]] = []

    def counted(intact: IntactClaim, segment: object, *more: object, **how: object) -> object:
        done.append(segment.index)  # type: ignore[attr-defined]
        return run_segment(intact, segment, *more, **how)  # type: ignore[arg-type]

    for module in (replay, regeneration):
        monkeypatch.setattr(module, "run_segment", counted)
    verdict = judge(stored, recorded, progress=lambda *said: seen.append(said))
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert sorted(done) == list(range(12))
    assert [said for said in seen if said[0] == "replaying"][-1][1:] == (60, 70), "of the rest the tests are made"
    whole = judge(recorded.claim, recorded)
    assert (verdict.bound, verdict.behaviour, verdict.reasons) == (whole.bound, whole.behaviour, whole.reasons)
    # What was not looked at is said.
    assert not verdict.swap.checked
    said = "screens and largest updates: where states are not disclosed, the log is taken at its word: 12 of 12"
    assert any(remark.startswith(said) for remark in verdict.remarks)
    assert main(["verify", str(stored), "--integrity-only"]) == 0
    assert "INTACT" in capsys.readouterr().out


@pytest.mark.parametrize("closings", [True, False], ids=["with closings", "without"])
def test_a_thinned_run_answers_a_challenge_as_the_whole_run_does(
    run: Path, recorded: Recorded, tmp_path: Path, closings: bool
) -> None:
    whole = recorded.claim.parent / "run"
    export(whole, tmp_path / "sealed.zip", sealed=True)
    export(run, tmp_path / "thinned.zip", sealed=True)
    assert (tmp_path / "thinned.zip").read_bytes() == (tmp_path / "sealed.zip").read_bytes()
    recipe = genesis_of(entries_of(recorded.claim)).recipe
    assert recipe is not None
    policy = Policy(keys=frozenset({recorded.key.public}), recipes=frozenset({recipe.program()}))
    question, _ = ask(opened(tmp_path / "sealed.zip"), SEED, policy, closings=True)
    (tmp_path / "c.json").write_bytes(question.encode())
    for name, folder in (("whole", whole), ("thinned", run)):
        answer = respond(folder, question.encode(), tmp_path / name, data=DATA, closings=closings)
        assert (answer.states, answer.missing) == (13, ()), "a last state that is asked for is an opening's own"
    assert (tmp_path / "thinned").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len(list((run / "checkpoints").iterdir())) == 4, "an answer puts nothing back"
    assert list(tmp_path.glob(".*")) == []
    if not closings:
        return
    verdict = verify(
        tmp_path / "sealed.zip", policy, opening=tmp_path / "thinned", challenge=tmp_path / "c.json",
        data=Path("/nonexistent"), jobs=1,
    )  # fmt: skip
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons


def test_the_tests_of_behaviour_see_a_last_state_that_is_not_shown(recorded: Recorded, tmp_path: Path) -> None:
    claim = hide(copy_of(recorded.claim, tmp_path / "claim"), *range(1, 13))
    results = tmp_path / "results"
    verdict = judge(claim, recorded, resume=results)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert [test.finding.value for test in verdict.behaviour] == ["passed"] * 3
    # Gone on with, it is made again.
    again = judge(claim, recorded, resume=results)
    assert [test.finding.value for test in again.behaviour] == ["passed"] * 3
    assert [item.name for item in again.reproductions if not item.earlier] == ["initial state", "steps 55 to 60"]


# What it costs


def test_a_segment_costs_the_way_from_the_last_state_that_is_shown(recorded: Recorded, stored: Path) -> None:
    assert replay_costs(opened(recorded.claim)) == ()
    assert replay_costs(opened(stored)) == (5, 10, 15, 20) * 3
    picks = [Pick(opened(stored).segments[place], ("drawn",)) for place in (0, 11, 2, 6, 5)]
    ordered, steps = stretches(opened(stored), picks)
    assert [pick.segment.index for pick in ordered] == [0, 2, 11, 5, 6]
    assert steps == {0: 5, 2: 10, 11: 20, 5: 10, 6: 5}
    assert all(steps[index] <= replay_costs(opened(stored))[index] for index in steps)


def test_a_budget_pays_for_what_has_to_be_trained_again(longer: Recorded, tmp_path: Path) -> None:
    whole = opened(longer.claim)
    stay = range(0, len(whole.checkpoints), 10)
    claim = hide(copy_of(longer.claim, tmp_path / "claim"), *(set(range(120)) - set(stay)))
    thinned = opened(claim)
    costs = replay_costs(thinned)
    assert costs == tuple(range(5, 55, 5)) * 12
    seen = survey(whole).updates

    def draws(budget: float, costs: tuple[int, ...]) -> int:
        for number in range(20):
            challenge = draw_challenge(
                thinned, bytes([number]) * 32, 90, updates=seen, top_updates=1, budget=budget, costs=costs
            )
            assert challenge.cost <= budget * 600
            if costs:
                assert sum(stretches(thinned, challenge.picks)[1].values()) <= challenge.cost
        return len(challenge.draws)

    assert 0 < draws(0.9, costs) < draws(0.9, ()), "as many as fit even if each hits the dearest"
    with pytest.raises(BudgetError, match="what is replayed in any case costs"):
        draws(0.05, costs)


def test_where_nothing_is_shown_nothing_is_dearer(long_claim: Path) -> None:
    assert replay_costs(opened(long_claim)) == ()


# Of those who hide what would convict them


def test_a_forged_state_that_is_not_shown_stops_whoever_trains_on_past_it(
    recorded: Recorded, honest: tuple[list[Snapshot], list[float | None]], tmp_path: Path
) -> None:
    states, losses = honest
    momentum = {name: tensor * 50 + 1 for name, tensor in tensors_of(states[5], "optimizer").items()}
    planted = [*states[:5], with_rows(states[5], momentum), *states[6:]]
    shown = judge(forged(recorded, tmp_path / "shown", planted, losses), recorded)
    assert shown.outcome is Ruled.REFUTED
    hidden = judge(hide(forged(recorded, tmp_path / "hidden", planted, losses), *HIDDEN), recorded)
    assert hidden.outcome is Ruled.INCONCLUSIVE, "to hide costs the proof of the lie, and never makes it the truth"
    said = "\n".join(hidden.reasons)
    assert "steps 20 to 25: differs, and the state of step 25 is not disclosed" in said
    for first in (25, 30, 35):
        assert f"steps {first} to {first + 5}: the state of step {first} is not disclosed" in said
    assert said.count("gives another state at step 25 than the log says") == 3
    # None of them counts among the draws that were answered.
    assert hidden.bound.replayed == 40


@pytest.mark.parametrize("step", [25, 40], ids=["between hidden states", "to one that is shown"])
def test_a_false_size_beside_a_hidden_state_is_found_where_that_is_regenerated(
    recorded: Recorded, honest: tuple[list[Snapshot], list[float | None]], tmp_path: Path, step: int
) -> None:
    states, losses = honest
    large = edited(CheckpointEntry, step, update=Update(7.0, 6.0))
    claim = hide(forged(recorded, tmp_path / "claim", states, losses, large), *HIDDEN)
    assert survey(opened(claim)).false == (), "what is shown agrees with it"
    verdict = judge(claim, recorded)
    assert verdict.outcome is Ruled.REFUTED
    assert f"the entry of step {step} claims an update of 7, its states are" in verdict.reasons[0]
    if step == 25:
        # Whoever only passes it on the way to another segment has seen it, too.
        intact = opened(claim)
        assert intact.start is not None
        assert intact.genesis.recipe is not None
        with Bench(Program(intact.genesis.recipe, intact.recipe), setting_of(intact.start.fingerprint), DATA) as bench:
            _, leaves = bench.worker().commit_dataset()
            later = Pick(intact.segments[7], ("drawn",))
            found = replay_pick(intact, later, bench, leaves, intact.start.fingerprint)
        assert found.outcome is Outcome.REFUTED
        assert "the entry of step 25 claims an update of 7" in found.reason


@pytest.mark.parametrize("hidden", [False, True], ids=["shown", "hidden"])
def test_a_state_that_comes_again_is_no_shorter_way(
    recorded: Recorded, honest: tuple[list[Snapshot], list[float | None]], tmp_path: Path, hidden: bool
) -> None:
    # Step 40 is said to be step 20 once more, and what follows is trained from there.
    states, losses = list(honest[0]), list(honest[1])
    shop = shop_of(recorded)
    with shop.worker() as worker:
        tail, said = shop.go_on(worker, states[4], 40, 60)
    claim = forged(recorded, tmp_path / "claim", [*states[:8], states[4], *tail], [*losses[:9], *said])
    verdict = judge(hide(claim, *((4, 5, 6, 7, 8) if hidden else (5, 6, 7, 9))), recorded)
    assert verdict.outcome is (Ruled.INCONCLUSIVE if hidden else Ruled.REFUTED)
    assert verdict.bound.replayed < 60
    assert any(reason.startswith("steps 35 to 40: ") for reason in verdict.reasons)


def test_settings_are_screened_by_rows_alone(
    recorded: Recorded, honest: tuple[list[Snapshot], list[float | None]], tmp_path: Path
) -> None:
    states, losses = honest
    name = next(row.name for row in states[5].manifest.group("schedule") if row.name.endswith("/momentum"))
    changed = [*states[:5], with_rows(states[5], scalars={name: 0.5}), *states[6:]]
    claim = hide(forged(recorded, tmp_path / "claim", changed, losses), *HIDDEN)
    flags = {flag.segment: flag.reason for flag in survey(opened(claim)).flags if "momentum" in flag.reason}
    assert sorted(flags) == [4, 5]
    assert "momentum changes from 0.9 to 0.5" in flags[4]
    assert judge(claim, recorded).outcome is Ruled.INCONCLUSIVE


def test_without_a_first_state_there_is_nothing_to_train_on_from(recorded: Recorded, tmp_path: Path) -> None:
    verdict = judge(hide(copy_of(recorded.claim, tmp_path / "claim"), 0, 1), recorded)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert "steps 0 to 5: the state of step 0 is not disclosed" in verdict.reasons
    assert "steps 5 to 10: the state of step 5 is not disclosed" in verdict.reasons


def test_the_command_tells_how_many_rows_are_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), str(tmp_path / "claim"), "--checkpoints", "stored", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["states"], said["thinned"], said["missing"]) == (4, 9, [])
    assert CheckpointStore(tmp_path / "claim").manifest(checkpoints_of(tmp_path / "claim")[1].state)
