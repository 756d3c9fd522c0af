"""The verdict: which of REFUTED, INCONCLUSIVE, COMPUTED and VERIFIED applies first, and what it says is missing."""

from __future__ import annotations

import gzip
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from polchain.cli.verdicts import show_verdict
from polchain.core.claim import Claim, checkpoint_name, manifest_name, write_listing
from polchain.core.digest import sha256
from polchain.core.entries import CheckpointEntry
from polchain.core.genesis import Genesis
from polchain.core.keys import PrivateKey
from polchain.errors import DatasetError, KeyMismatchError, UsageError
from polchain.verifier.challenge import Challenge, draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome, Reproduction
from polchain.verifier.verdict import Ruled, Verdict, judge, judge_unreplayed
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded, checkpoints_of, copy_of, entries_of, write_log
from tests.forgers.forge import ZERO
from tests.verifier.conftest import SGD

SEED = bytes(range(32))
EXACT, REFUTED, INCONCLUSIVE = Outcome.EXACT, Outcome.REFUTED, Outcome.INCONCLUSIVE


@pytest.fixture(scope="module")
def challenge(intact: IntactClaim) -> Challenge:
    return draw_challenge(intact, SEED, 90)


def reproduced(
    challenge: Challenge, *special: tuple[int, Outcome], initial: Outcome | None = EXACT
) -> list[Reproduction]:
    """Every pick reproduced exactly, but for some by their place in the challenge; None: not replayed."""
    outcomes = dict(special)
    found = [] if initial is None else [Reproduction(None, initial, 0.0, 0.0, "the initial state")]
    for place, pick in enumerate(challenge.picks):
        outcome = outcomes.get(place, EXACT)
        found.append(Reproduction(pick, outcome, math.nan, 0.1, "" if outcome is EXACT else "it differs"))
    return found


def verdict_of(
    intact: IntactClaim, challenge: Challenge, found: Sequence[Reproduction], *, vouched: bool = True, **more: object
) -> Verdict:
    return judge(intact, challenge, found, Policy(), vouched=vouched, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("vouched", [True, False], ids=["vouched", "unvouched"])
@pytest.mark.parametrize(
    ("special", "initial", "more", "outcome", "words"),
    [
        ([], EXACT, {}, Ruled.VERIFIED, "13 replays, all exact; all 60 steps were replayed"),
        ([(2, REFUTED)], EXACT, {}, Ruled.REFUTED, "it differs"),
        ([], REFUTED, {}, Ruled.REFUTED, "initial state: the initial state"),
        ([], EXACT, {"false_statements": ["a lie"]}, Ruled.REFUTED, "a lie"),
        ([(2, INCONCLUSIVE)], EXACT, {}, Ruled.INCONCLUSIVE, "it differs"),
        ([], INCONCLUSIVE, {}, Ruled.INCONCLUSIVE, "initial state"),
        ([], None, {}, Ruled.INCONCLUSIVE, "the initial state was not regenerated"),
        ([(2, INCONCLUSIVE), (3, REFUTED)], INCONCLUSIVE, {}, Ruled.REFUTED, "it differs"),
        ([(1, INCONCLUSIVE)], EXACT, {"false_statements": ["a lie"]}, Ruled.REFUTED, "a lie"),
    ],
)
def test_the_first_outcome_that_applies_is_the_verdict(
    intact: IntactClaim,
    challenge: Challenge,
    special: list[tuple[int, Outcome]],
    initial: Outcome | None,
    more: dict[str, object],
    outcome: Ruled,
    words: str,
    vouched: bool,
) -> None:
    verdict = verdict_of(intact, challenge, reproduced(challenge, *special, initial=initial), vouched=vouched, **more)
    if outcome is Ruled.VERIFIED and not vouched:
        assert verdict.outcome is Ruled.COMPUTED
        assert "nobody vouched for the recipe" in verdict.reasons[0]
    else:
        assert verdict.outcome is outcome
        assert any(words in reason for reason in verdict.reasons)
    assert verdict.exit_code == {Ruled.VERIFIED: 0, Ruled.REFUTED: 1}.get(verdict.outcome, 3)


def test_a_refutation_says_where_the_replays_stopped(
    intact: IntactClaim, challenge: Challenge, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = verdict_of(intact, challenge, reproduced(challenge, (2, REFUTED))[:4])
    show_verdict(verdict, intact, Path("claim"), as_json=False)
    assert f"3 of {len(challenge.picks)} picked segments, in 0.3 s: stopped at the first contradiction" in (
        capsys.readouterr().out
    )


def test_a_pick_that_was_not_answered_is_missing(intact: IntactClaim, challenge: Challenge) -> None:
    found = reproduced(challenge)
    skipped = found.pop()
    verdict = verdict_of(intact, challenge, found)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert skipped.pick is not None
    assert f"{skipped.name} were picked, but not replayed" in verdict.reasons
    # And its draws do not count.
    held = sum(skipped.pick.segment.first <= step < skipped.pick.segment.last for step in challenge.draws)
    assert verdict.bound.draws == 90 - held


def test_a_bound_that_is_not_met_is_inconclusive(long_claim: Path) -> None:
    key = entries_of(long_claim)[0]
    assert isinstance(key, Genesis)
    long = check_integrity(Claim.read(long_claim), Policy(keys=frozenset({key.key})))
    few = draw_challenge(long, SEED, 20)
    verdict = verdict_of(long, few, reproduced(few))
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith("the bound is not met: 20 draws")
    enough = draw_challenge(long, SEED, 90)
    assert verdict_of(long, enough, reproduced(enough)).outcome is Ruled.VERIFIED


def test_an_unpinned_key_is_inconclusive_even_where_everything_is_exact(recorded: Recorded) -> None:
    unpinned = check_integrity(Claim.read(recorded.claim), Policy())
    challenge = draw_challenge(unpinned, SEED, 90)
    verdict = verdict_of(unpinned, challenge, reproduced(challenge))
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons == (
        "the prover's key is not pinned: pass the key that you know to be the prover's with --key",
    )


def test_a_run_that_continues_another_is_not_verified_yet(long_claim: Path, intact: IntactClaim) -> None:
    # `parent` excuses optimizer state at step 0, so it must cost the verdict.
    continued = object.__new__(IntactClaim)
    for name in IntactClaim.__slots__:
        object.__setattr__(continued, name, getattr(intact, name))
    object.__setattr__(continued, "genesis", replace(intact.genesis, parent=sha256(b"parent")))
    challenge = draw_challenge(continued, SEED, 90)
    verdict = verdict_of(continued, challenge, reproduced(challenge))
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons == ("the run continues another one, which cannot be verified yet",)


# The whole road, with real replays


def policy_of(recorded: Recorded) -> Policy:
    return Policy(keys=frozenset({recorded.key.public}))


def test_an_honest_claim_is_verified(recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA.parent)  # the data folder may be named from here, though the replay runs elsewhere
    seen: list[str] = []
    verdict = verify(
        recorded.claim, policy_of(recorded), data="data", recipe=DIGITS, recipe_arguments=SGD, seed=SEED,
        progress=lambda what, done, total: seen.append(what),
    )  # fmt: skip
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert verdict.exit_code == 0
    assert verdict.bound.complete
    assert {item.outcome for item in verdict.reproductions} == {EXACT}
    assert seen[:2] == ["reading the data", "initial state"]
    value = verdict.to_json()
    assert value["verdict"] == "VERIFIED"
    assert value["challenge_seed"] == SEED.hex()
    # The program's digest vouches as well as a copy does; other arguments would be another program.
    assert verdict.program is not None
    assert verdict.program in Policy(recipes=frozenset({verdict.program})).recipes


def test_a_thinned_state_is_regenerated_and_must_be_the_logs(recorded: Recorded, tmp_path: Path) -> None:
    claim = copy_of(recorded.claim, tmp_path / "claim")
    entries = checkpoints_of(claim)
    for entry in entries[5:8]:
        (claim / checkpoint_name(entry.state)).unlink()
    write_listing(claim)
    verdict = verify(claim, policy_of(recorded), data=DATA, recipe=DIGITS, recipe_arguments=SGD)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert {item.outcome for item in verdict.reproductions} == {EXACT}
    assert not verdict.swap.checked, "undisclosed states measure no updates"


def test_a_missing_checkpoint_is_inconclusive_and_named(recorded: Recorded, tmp_path: Path) -> None:
    claim = copy_of(recorded.claim, tmp_path / "claim")
    state = checkpoints_of(claim)[6].state
    (claim / checkpoint_name(state)).unlink()
    (claim / manifest_name(state)).unlink()
    write_listing(claim)
    verdict = verify(claim, policy_of(recorded), data=DATA, recipe=DIGITS, recipe_arguments=SGD)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert "steps 30 to 35: the state of step 30 is not disclosed" in verdict.reasons
    # The segment that ends there is compared by its roots, and needs no disclosure.
    assert not any("steps 25 to 30" in reason for reason in verdict.reasons)
    assert any(reason.startswith("the bound is not met") for reason in verdict.reasons)


def test_missing_data_and_other_data_are_errors_that_say_so(recorded: Recorded, tmp_path: Path) -> None:
    arguments = {"recipe": DIGITS, "recipe_arguments": SGD}
    with pytest.raises(DatasetError, match="the recipe says: the data cannot be read") as caught:
        verify(recorded.claim, policy_of(recorded), data=tmp_path, **arguments)  # type: ignore[arg-type]
    assert caught.value.exit_code == 4
    text = gzip.decompress((DATA / "digits.csv.gz").read_bytes()).decode().splitlines()
    text[100] = text[100][:-1] + str((int(text[100][-1]) + 1) % 10)  # one label of one sample
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress("\n".join(text).encode()))
    with pytest.raises(DatasetError, match=r"commits to: \d+ samples as committed, but other contents") as caught:
        verify(recorded.claim, policy_of(recorded), data=tmp_path, **arguments)  # type: ignore[arg-type]
    assert caught.value.exit_code == 4


def test_the_wrong_key_is_an_error_before_anything_is_run(recorded: Recorded, other: Recorded) -> None:
    with pytest.raises(KeyMismatchError) as caught:
        verify(recorded.claim, policy_of(other), data=DATA)
    assert caught.value.exit_code == 1


def test_a_seed_that_is_none_is_a_usage_error(recorded: Recorded) -> None:
    with pytest.raises(UsageError, match="a challenge seed is 32 bytes"):
        verify(recorded.claim, policy_of(recorded), data=DATA, seed=b"short")


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (None, []),
        (-1, ["the log ends at its last step, without a final entry"]),
        (5, ["the genesis allows 60 steps; the log ends at 10, without a final entry"]),
        (1, ["the genesis allows 60 steps; the log ends at 0, without a final entry"]),
    ],
)
def test_a_log_that_ends_early_is_said_to(
    recorded: Recorded, tmp_path: Path, kept: int | None, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    claim = copy_of(recorded.claim, tmp_path / "claim")
    for folder in ("manifests", "checkpoints"):
        shutil.rmtree(claim / folder)
    entries = entries_of(claim)[:kept]
    write_log(claim, entries, recorded.key)
    intact = check_integrity(Claim.read(claim), policy_of(recorded))
    verdict = judge_unreplayed(intact, Policy(), ["nothing was replayed"], vouched=False)
    assert [remark for remark in verdict.remarks if "final entry" in remark] == said
    show_verdict(verdict, intact, claim, as_json=False)
    shown = capsys.readouterr().out
    states = [entry for entry in entries if isinstance(entry, CheckpointEntry)]
    if states:
        assert verdict.to_json()["last_state"] == verdict.last_state == str(states[-1].state)
        assert f"last state   {states[-1].state} at step {states[-1].step}\n" in shown
    else:
        assert verdict.last_state is None
        assert "last_state" not in verdict.to_json()
        assert "last state" not in shown


def test_a_foreign_run_is_inconclusive_and_needs_no_data(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    roots = {group: sha256(group.encode()) for group in ("model", "optimizer", "schedule", "extra")}
    entries = [Genesis(bytes(16), key.public), *(CheckpointEntry(ZERO, step, roots, ZERO) for step in (10, 20))]
    write_log(tmp_path / "claim", entries, key)
    verdict = verify(tmp_path / "claim", Policy(keys=frozenset({key.public})), data=tmp_path)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.exit_code == 3
    assert verdict.reasons == ("a foreign run: its loop was not polchain's, so it is not replayable",)
    assert verdict.program is None


def test_a_run_that_has_not_begun_is_inconclusive(recorded: Recorded, tmp_path: Path) -> None:
    claim = copy_of(recorded.claim, tmp_path / "claim")
    for folder in ("manifests", "checkpoints"):
        for path in (claim / folder).iterdir():
            path.unlink()
        (claim / folder).rmdir()
    write_log(claim, entries_of(claim)[:1], recorded.key)
    verdict = verify(claim, policy_of(recorded), data=DATA, recipe=DIGITS, recipe_arguments=SGD)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons == ("the run has no recorded steps yet",)
