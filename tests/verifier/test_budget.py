"""The budget: replays cost no more than was said, and what the sample then proves is said too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.cli.app import main
from polchain.core.claim import Claim
from polchain.errors import PolicyError, UsageError
from polchain.verifier.challenge import draw_challenge, draws_within
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.soundness import draws_needed, supported_fraction
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded
from tests.verifier.conftest import LONGER, SGD

SEED = bytes(range(32))


@pytest.fixture(scope="module")
def long(long_claim: Path) -> IntactClaim:
    return check_integrity(Claim.read(long_claim), Policy())


# How many draws a budget has room for


@pytest.mark.parametrize(
    ("lengths", "room", "draws"),
    [
        ([10] * 100, 95, 9),
        ([10] * 100, 100, 10),
        ([10] * 100, 9, 0),
        ([10] * 100, 0, 0),
        ([10] * 99 + [60], 95, 4),  # the first draw may hit the longest
        ([10] * 99 + [60], 59, 0),
        ([10] * 100, 1000, 100),  # everything fits: at least the draws that the policy wants
        ([10] * 3, 1000, 90),
        ([], 0, 90),
    ],
)
def test_known_numbers_of_draws(lengths: list[int], room: int, draws: int) -> None:
    assert draws_within(lengths, room, 90) == draws


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(0, 2000), st.randoms(use_true_random=False))
def test_whatever_is_drawn_it_fits(lengths: list[int], room: int, source: object) -> None:
    draws = draws_within(lengths, room, 0)
    assert sum(sorted(lengths, reverse=True)[:draws]) <= room
    hit = {source.randrange(len(lengths)) for _ in range(draws)}  # type: ignore[attr-defined]
    assert sum(lengths[index] for index in hit) <= room
    assert draws == len(lengths) or sum(sorted(lengths, reverse=True)[: draws + 1]) > room, "and no more would"


@pytest.mark.parametrize("budget", [0.02, 0.05, 0.07, 0.2, 0.5, 1.0])
def test_all_replays_together_stay_within_the_budget(long: IntactClaim, budget: float) -> None:
    for trial in range(20):
        challenge = draw_challenge(long, bytes([trial]) * 32, 90, budget=budget, reserved=20)
        assert challenge.cost == challenge.steps + 20
        assert challenge.cost <= budget * long.steps
        assert len(challenge.draws) == len(draw_challenge(long, SEED, 90, budget=budget, reserved=20).draws)


def test_the_number_of_draws_is_settled_before_anything_is_drawn(long: IntactClaim) -> None:
    # 9,970 steps in segments of 10; 5 % are 498. First, last and the largest are replayed in any case.
    fixed = draw_challenge(long, SEED, 0)
    assert fixed.steps == 80
    challenge = draw_challenge(long, SEED, 90, budget=0.05)
    assert len(challenge.draws) == (498 - 80) // 10 == 41
    # The same prefix that more draws would have.
    assert challenge.draws == draw_challenge(long, SEED, 90).draws[:41]
    assert challenge.budget == 0.05


def test_a_larger_budget_never_draws_less(long: IntactClaim) -> None:
    counts = [len(draw_challenge(long, SEED, 90, budget=b / 100).draws) for b in range(2, 101, 7)]
    assert counts == sorted(counts)
    assert counts[-1] == len(long.segments) - 8


def test_a_long_segment_is_paid_for_first(uneven: IntactClaim) -> None:
    # 300 of 3,000 steps are one segment, which is always replayed: a tenth of the run, whatever the draws.
    with pytest.raises(UsageError, match=r"costs 360 of the run's 3000 steps, the budget is 300: the least budget is"):
        draw_challenge(uneven, SEED, 90, budget=0.1)
    challenge = draw_challenge(uneven, SEED, 90, budget=0.15)
    assert 200 in {pick.segment.index for pick in challenge.picks}
    assert len(challenge.draws) == 9


def test_a_budget_that_the_fixed_picks_exceed_names_the_least_one(long: IntactClaim) -> None:
    with pytest.raises(UsageError) as caught:
        draw_challenge(long, SEED, 90, budget=0.005)
    assert "costs 80 of the run's 9970 steps, the budget is 49: the least budget is 0.81%" in str(caught.value)
    assert caught.value.hint == "--budget 9.83% has room for the 90 draws that the policy demands"
    least = draw_challenge(long, SEED, 90, budget=0.0081)
    assert (least.draws, least.steps) == ((), 80)
    assert len(draw_challenge(long, SEED, 90, budget=0.0983).draws) == 90


def test_a_short_run_is_told_that_a_budget_makes_no_sense(intact: IntactClaim) -> None:
    with pytest.raises(UsageError) as caught:
        draw_challenge(intact, SEED, 90, budget=0.5, reserved=10)
    assert "costs 70 of the run's 60 steps, the budget is 30" in str(caught.value)
    assert caught.value.hint == "leave the budget out: so short a run is replayed whole, or nearly"


def test_a_budget_and_everything_contradict_each_other(long: IntactClaim) -> None:
    with pytest.raises(UsageError, match="a budget caps the replays, and --full replays everything"):
        draw_challenge(long, SEED, 90, full=True, budget=0.5)


# The policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("budget = 0", "budget is 0.0: not a share"),
        ("budget = 1.5", "not a share of the run's steps"),
        ("budget = nan", "not a share of the run's steps"),
        ("budget = '5%'", "budget is a number"),
        ("budget = true", "budget is a number"),
        ("max_swap_escape = 1.01", "not a probability"),
        ("max_swap_escape = nan", "not a probability"),
        ("max_swap_escape = 'low'", "max_swap_escape is a number"),
    ],
)
def test_what_is_no_budget_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        Policy.read(path)
    assert words in str(caught.value)


def test_a_policy_has_its_budget_and_its_limit_and_none_by_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("budget = 0.05\nmax_swap_escape = 0.01\n")
    assert (Policy.read(path).budget, Policy.read(path).max_swap_escape) == (0.05, 0.01)
    assert (Policy().budget, Policy().max_swap_escape) == (None, None)


# The whole road


def policy_of(run: Recorded, **more: object) -> Policy:
    return replace(Policy(keys=frozenset({run.key.public})), **more)  # type: ignore[arg-type]


def test_a_verdict_on_a_budget_says_what_its_draws_support(longer: Recorded) -> None:
    policy = policy_of(longer, budget=0.3)
    verdict = verify(longer.claim, policy, data=DATA, recipe=DIGITS, recipe_arguments=LONGER, seed=SEED)
    assert verdict.challenge is not None
    assert verdict.challenge.cost <= 0.3 * 600
    draws = len(verdict.challenge.draws)
    assert 0 < draws < 90
    assert all(item.outcome.name == "EXACT" for item in verdict.reproductions)
    share = supported_fraction(draws, 0.99)
    # Honest, and reproduced: but so few draws do not support the 5 % that the policy demands.
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert len(verdict.reasons) == 1
    assert f"{draws} draws support f = " in verdict.reasons[0]
    value = verdict.to_json()
    assert value["bound"]["supported"] == repr(share)  # type: ignore[index, call-overload]
    assert value["budget"] == "0.3"
    # A policy that accepts that share takes the same draws for an answer.
    accepting = replace(policy, fraction=share * 1.001)
    assert draws_needed(accepting.fraction, 0.99) <= draws
    again = verify(longer.claim, accepting, data=DATA, recipe=DIGITS, recipe_arguments=LONGER, seed=SEED)
    assert again.outcome is Ruled.VERIFIED, again.reasons
    assert again.challenge == verdict.challenge, "how many draws there are is the budget's matter, not the policy's"


def test_a_limit_on_swaps_decides_where_a_policy_sets_one(longer: Recorded) -> None:
    policy = policy_of(longer, budget=0.3, fraction=0.4)
    arguments = {"data": DATA, "recipe": DIGITS, "recipe_arguments": LONGER, "seed": SEED}
    verdict = verify(longer.claim, policy, **arguments)  # type: ignore[arg-type]
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert verdict.swap.checked
    strict = replace(policy, max_swap_escape=verdict.swap.escape / 2)
    verdict = verify(longer.claim, strict, **arguments)  # type: ignore[arg-type]
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons[0].startswith("a swap is to escape with probability")


def test_the_command_takes_a_budget_in_percent(
    longer: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = str(longer.key.public)
    words = ["verify", str(longer.claim), "--key", key, "--recipe", str(DIGITS), "--recipe-args", " ".join(LONGER)]
    words += ["--data", str(DATA), "--seed", SEED.hex()]
    assert main([*words, "--budget", "25%", "--fraction", "0.5"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("VERIFIED\n")
    (line,) = [line for line in shown.splitlines() if line.startswith("budget ")]
    assert "% of the steps, of at most 25 %: " in line
    assert " draws support f = 0." in line
    for label in ("swap", "behaviour"):
        assert any(line.startswith(f"{label} ") for line in shown.splitlines()), label

    assert main([*words, "--budget", "0.05", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["name"] == "BudgetError"
    assert "the least budget is" in error["message"]

    policy = tmp_path / "policy.toml"
    policy.write_text("budget = 0.25\n")
    for more in (["--budget", "25%"], ["--policy", str(policy)]):
        assert main([*words, *more, "--full"]) == 2
        assert "--full replays everything, and a budget caps the replays" in capsys.readouterr().err
    for wrong in ("5%%", "5 per cent", "0", "-1%", "101%", "nan", "", "%"):
        assert main([*words, "--budget", wrong]) == 2
        assert "not a share, such as 5% or 0.05" in capsys.readouterr().err, wrong


def test_a_run_that_is_replayed_whole_needs_no_budget(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", str(recorded.claim), "--key", str(recorded.key.public), "--recipe", str(DIGITS)]
    words += ["--recipe-args", " ".join(SGD), "--data", str(DATA), "--budget", "5%"]
    assert main(words) == 2
    assert "leave the budget out" in capsys.readouterr().err
