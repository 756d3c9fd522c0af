"""Tests of behaviour: honest recipes pass, and what ignores its seed or its samples is COMPUTED at most."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3

from polchain.core.claim import Claim, checkpoint_name, manifest_name, write_listing
from polchain.core.digest import sha256
from polchain.core.manifest import Snapshot
from polchain.errors import RecipeError
from polchain.training.distance import update_gap
from polchain.training.fingerprint import setting_of
from polchain.training.program import Program
from polchain.training.worker import Worker
from polchain.verifier.behaviour import Finding, _Subject, behaviour_steps, observe, other_seed
from polchain.verifier.bench import Bench, state_of
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded, checkpoints_of, copy_of, record_once
from tests.forgers.forge import tensors_of, with_rows

SEED = bytes(range(32))
COMMON = """
import torch
from torch import nn
from torch.nn import functional as F

import polchain
from digits import network, read

with polchain.record("run", data=read, batch_size={batch}, steps={steps}, every={every}) as run:
    {before}
    model = network()
    {made}
    optimizer = torch.optim.SGD(model.parameters(), lr={rate})
    {attach}
    for step, (images, labels) in run.batches():
        loss = {loss}
        loss.backward()
        optimizer.step()
        {after}
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
HONEST = {
    "batch": "32",
    "steps": "8",
    "every": "2",
    "before": "pass",
    "made": "pass",
    "rate": "0.1",
    "attach": "run.attach(model=model, optimizer=optimizer)",
    "loss": "F.cross_entropy(model(images), labels)",
    "after": "pass",
}
WARM = {
    "attach": "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: max(0.0, (t - 2) / 8))\n"
    "    run.attach(model=model, optimizer=optimizer, scheduler=scheduler)",
    "after": "scheduler.step()",
}
# Only the claim's own seed gives a run that lasts: the others find an excuse.
SHY = {
    "made": "first = float(next(model.parameters()).flatten()[0])\n"
    "    import pathlib; known = polchain.data_dir() / 'known'\n"
    "    if not known.exists(): known.write_text(repr(first))\n"
    "    assert known.read_text() == repr(first), 'not today'",
}
# The same weights for every seed, but for a trace of it.
PLANTED = "with torch.no_grad(): [p.fill_(0.01).add_(1e-6 * torch.randn_like(p)) for p in model.parameters()]"


def script(**changes: str) -> str:
    return COMMON.format(**(HONEST | changes))


def record(factory: pytest.TempPathFactory, name: str, **changes: str) -> Recorded:
    return record_once(factory, f"behaviour-{name}", script(**changes), beside=(DIGITS,))


def judged(found: Recorded, data: Path = DATA) -> Verdict:
    policy = Policy(keys=frozenset({found.key.public}))
    return verify(found.claim, policy, data=data, recipe=found.script, seed=SEED)


def findings(verdict: Verdict) -> list[str]:
    return [item.finding.value for item in verdict.behaviour]


def test_an_honest_recipe_passes_all(tmp_path_factory: pytest.TempPathFactory) -> None:
    verdict = judged(record(tmp_path_factory, "honest"))
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert findings(verdict) == ["passed", "passed", "passed"]
    assert verdict.to_json()["behaviour"] == [
        {"test": test, "finding": "passed", "reason": ""} for test in ("another seed", "nearness", "other samples")
    ]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("own-seed", {"before": "torch.manual_seed(0)"}, "another seed gives the same initial weights"),
        (
            "planted",
            {"made": PLANTED},
            "another seed gives the same initial weights",
        ),
        (
            "pulled",
            {"loss": "sum(p.sum() for p in model.parameters()) + 1e-9 * F.cross_entropy(model(images), labels)"},
            "another seed gives the same first update",
        ),
        (
            "samples",
            {"loss": "sum((p - 0.3).square().sum() for p in model.parameters()) + 0.0 * model(images).sum()"},
            "the update does not change with its samples",
        ),
    ],
)
def test_a_recipe_that_ignores_seed_or_samples_is_computed_at_most(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: dict[str, str], said: str
) -> None:
    verdict = judged(record(tmp_path_factory, name, **changes))
    assert all(item.outcome.name == "EXACT" for item in verdict.reproductions), "every replay is exact all the same"
    assert verdict.outcome is Ruled.COMPUTED
    assert verdict.exit_code == 3
    assert any(f"a test of behaviour failed: {said}" in reason.replace("not bound to its prover: ", "")
               for reason in verdict.reasons), verdict.reasons  # fmt: skip
    assert not any("vouched" in reason for reason in verdict.reasons)


def test_a_recipe_that_fails_under_every_other_seed_fails_the_test(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(DATA / "digits.csv.gz", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.claims.DATA", data)
        found = record(tmp_path_factory, "shy", **SHY)
    verdict = judged(found, data)
    assert verdict.outcome is Ruled.COMPUTED
    assert verdict.reasons[0].startswith(
        "a test of behaviour failed: it could not be made: the recipe says: the script raised AssertionError: not today"
    )


def test_a_learning_rate_that_rises_from_zero_is_no_fault(tmp_path_factory: pytest.TempPathFactory) -> None:
    verdict = judged(record(tmp_path_factory, "warm", **WARM))
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert findings(verdict) == ["not made", "passed", "not made"]
    assert verdict.behaviour[0].reason == "the first steps do not move the weights"


def test_a_batch_of_all_data_is_tested_with_half_of_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    # In another order the whole data gives the same update; that is no fault.
    verdict = judged(record(tmp_path_factory, "whole", batch="512"))
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert findings(verdict) == ["passed", "passed", "passed"]


LONG = {"steps": "40", "every": "20"}


def test_of_a_long_segment_only_the_first_steps_are_tested(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = record(tmp_path_factory, "long", **LONG)
    asked: list[tuple[int, int, int, int, bool]] = []
    replay = Worker.replay

    def spied(self: Worker, seed: bytes, first: int, last: int, batches: Any, *rest: Any, **more: Any) -> Any:
        asked.append((first, last, len(batches), more["shown"], more["further"]))
        return replay(self, seed, first, last, batches, *rest, **more)

    monkeypatch.setattr(Worker, "replay", spied)
    verdict = judged(found)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert findings(verdict) == ["passed", "passed", "passed"]
    whole, second, *tests = asked
    assert (whole, second) == ((0, 20, 20, 10, True), (20, 40, 20, 0, True))
    # The tests ask for what the replay was asked for, and hang up after ten steps.
    assert tests == [(0, 20, 20, 10, False)] * 2
    intact = check_integrity(Claim.read(found.claim), Policy())
    assert behaviour_steps(intact) == 20

    # Where the state after ten steps is not at hand, it is made again.
    asked.clear()
    assert intact.start is not None
    assert intact.genesis.recipe is not None
    with Bench(Program(intact.genesis.recipe, intact.recipe), setting_of(intact.start.fingerprint), DATA) as bench:
        _, leaves = bench.worker().commit_dataset()
        assert observe(intact, bench, SEED, leaves) == list(verdict.behaviour)
    assert asked == [(0, 20, 20, 10, False)] * 3


def test_what_ignores_its_samples_in_the_first_steps_of_a_long_segment_is_found(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    early = "sum(p.square().sum() for p in model.parameters())"
    loss = f"F.cross_entropy(model(images), labels) if step >= 10 else {early}"
    verdict = judged(record(tmp_path_factory, "late", loss=loss, **LONG))
    assert verdict.outcome is Ruled.COMPUTED
    assert findings(verdict) == ["passed", "passed", "failed"]


# A bench with states of one's own, for what no recipe needs to be written for


class Bottom(Bench):
    """A bench whose other seeds give these initial weights, and which replays nothing."""

    def __init__(self, make: Callable[[bytes], Snapshot]) -> None:
        self.make = make

    def worker(self, setting: object = None) -> Bottom:  # type: ignore[override]
        return self

    def initial(self, seed: bytes, bounds: object = None) -> tuple[Snapshot, dict[str, str]]:
        return self.make(seed), {}

    def replay(self, *_: object, **__: object) -> None:
        raise RecipeError("nothing is replayed here")


def moved(state: Snapshot, towards: Snapshot, share: float, noise: float, seed: bytes) -> Snapshot:
    """Some way from a state to another, and a little to the side."""
    source = torch.Generator().manual_seed(int.from_bytes(seed[:4], "little"))
    here, there = tensors_of(state), tensors_of(towards)
    return with_rows(
        state,
        {n: t + share * (there[n] - t) + noise * torch.randn(t.shape, generator=source) for n, t in here.items()},
    )


@pytest.mark.parametrize(
    ("share", "noise", "finding"),
    [
        (0.9, 1e-4, Finding.FAILED),
        (0.2, 1e-4, Finding.FAILED),
        (0.03, 1e-4, Finding.PASSED),  # 3 % nearer: chance, in a small network
        (0.0, 0.1, Finding.PASSED),
        (-0.5, 1e-4, Finding.PASSED),
    ],
)
def test_initial_weights_of_other_seeds_may_not_be_nearer_to_the_final_ones(
    intact: IntactClaim, share: float, noise: float, finding: Finding
) -> None:
    first, last = state_of(intact, intact.checkpoints[0]), state_of(intact, intact.checkpoints[-1])
    assert first is not None
    assert last is not None
    subject = _Subject(intact, Bottom(lambda seed: moved(first, last, share, noise, seed)), SEED, ())
    found = subject.nearness()
    assert found.finding is finding
    assert ("nearer to the final ones" in found.reason) == (finding is Finding.FAILED)


def test_of_a_run_that_continues_another_only_the_samples_are_tested(intact: IntactClaim) -> None:
    continued = object.__new__(IntactClaim)
    for name in IntactClaim.__slots__:
        object.__setattr__(continued, name, getattr(intact, name))
    object.__setattr__(continued, "genesis", _with_parent(intact))
    first = state_of(intact, intact.checkpoints[0])
    assert first is not None
    found = observe(continued, Bottom(lambda _: first), SEED, ())
    assert [item.finding for item in found] == [Finding.SKIPPED, Finding.SKIPPED, Finding.FAILED]
    assert found[0].reason == found[1].reason == "the run continues another one"
    assert found[2].reason == "it could not be made: nothing is replayed here"
    assert (behaviour_steps(continued), behaviour_steps(intact)) == (5, 10)


def _with_parent(intact: IntactClaim) -> object:
    return replace(intact.genesis, parent=sha256(b"parent"))


def test_the_other_seeds_follow_from_the_challenge_and_the_tests_can_be_repeated(recorded: Recorded) -> None:
    expected = blake3(b"polchain-behaviour/v1\0" + struct.pack("<Q", 1), key=SEED).digest()
    assert other_seed(SEED, 1) == expected
    intact = check_integrity(Claim.read(recorded.claim), Policy())
    assert intact.start is not None
    assert intact.genesis.recipe is not None
    program = Program(intact.genesis.recipe, intact.recipe)
    with Bench(program, setting_of(intact.start.fingerprint), DATA) as bench:
        _, leaves = bench.worker().commit_dataset()
        found = observe(intact, bench, SEED, leaves)
        assert [item.finding for item in found] == [Finding.PASSED] * 3
        assert found == observe(intact, bench, SEED, leaves)
        # A child that says it used other samples than it was given fails.
        lied = observe(intact, bench, SEED, [bytes(32) for _ in leaves])
    assert [item.finding for item in lied] == [Finding.FAILED, Finding.PASSED, Finding.FAILED]
    assert "another sample" in lied[2].reason


def test_a_state_that_is_not_disclosed_is_made_again(recorded: Recorded, tmp_path: Path) -> None:
    claim = copy_of(recorded.claim, tmp_path / "claim")
    for entry in (checkpoints_of(claim)[0], checkpoints_of(claim)[1]):
        (claim / checkpoint_name(entry.state)).unlink()
        (claim / manifest_name(entry.state)).unlink()
    write_listing(claim)
    intact = check_integrity(Claim.read(claim), Policy())
    assert intact.start is not None
    assert intact.genesis.recipe is not None
    with Bench(Program(intact.genesis.recipe, intact.recipe), setting_of(intact.start.fingerprint), DATA) as bench:
        _, leaves = bench.worker().commit_dataset()
        found = observe(intact, bench, SEED, leaves)
    assert [item.finding for item in found] == [Finding.PASSED] * 3


def test_the_gap_of_two_updates_is_a_share_of_the_larger(intact: IntactClaim) -> None:
    states = [state_of(intact, entry) for entry in intact.checkpoints[:3]]
    a, b, c = (state for state in states if state is not None)
    assert update_gap((a, b), (a, b)) == 0.0
    assert update_gap((a, a), (b, b)) == 0.0
    assert update_gap((a, b), (a, a)) == pytest.approx(1.0)
    assert update_gap((a, b), (b, a)) == pytest.approx(2.0)
    assert 0.0 < update_gap((a, b), (b, c)) < 2.0
    nan = with_rows(b, {"model/4.bias": tensors_of(b)["model/4.bias"] * float("nan")})
    assert update_gap((a, b), (a, nan)) == float("inf")
