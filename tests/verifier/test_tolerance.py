"""Comparison: an honest run is never convicted for the machine that it is verified on.

A false REFUTED is the second worst thing that a verifier can say. Whatever an honest prover may differ in (threads,
instruction sets, versions, a GPU, libraries that draw weights) must end in INCONCLUSIVE at worst.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from polchain.core.claim import Claim
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import Scalar, ScalarRow
from polchain.training.fingerprint import Setting, setting_of
from polchain.training.program import Program
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Bench, Outcome, replay, replay_initial
from polchain.verifier.tolerance import comparable, examine, false_setting, largest_error, other_versions
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, record_once
from tests.forgers.forge import with_rows

# Long segments at a high learning rate: the last bit grows to a tenth of the update and more.
CHAOTIC = """
import torch
from torch import nn
from torch.nn import functional as F

import polchain
from digits import read


def block(width):
    return nn.Sequential(nn.Conv2d(width, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())


with polchain.record("run", data=read, batch_size=32, steps=90, every=30) as run:
    model = nn.Sequential(
        block(1), *(block(16) for _ in range(4)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    run.attach(model=model, optimizer=optimizer)
    for _, (images, labels) in run.batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
# A loop that changes a setting by hand in the middle of training, under a scheduler, which hides it from `record`.
BY_HAND = """
import torch
from torch.nn import functional as F

import polchain
from digits import network, read

with polchain.record("run", data=read, batch_size=32, steps=60, every=5) as run:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    run.attach(model=model, optimizer=optimizer, scheduler=scheduler)
    for step, (images, labels) in run.batches():
        if step == 42:
            optimizer.param_groups[0]["momentum"] = 0.5
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""


def test_two_threads_replayed_with_one_are_never_refuted(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = record_once(tmp_path_factory, "two-threads", CHAOTIC, threads=2, beside=(DIGITS,))
    intact = check_integrity(Claim.read(found.claim), Policy(keys=frozenset({found.key.public})))
    assert intact.start is not None
    assert setting_of(intact.start.fingerprint).threads == 2
    assert intact.genesis.recipe is not None
    challenge = draw_challenge(intact, bytes(32), 90)
    program = Program(intact.genesis.recipe, intact.recipe)
    with Bench(program, Setting(threads=1), DATA) as bench:
        _, leaves = bench.worker().commit_dataset()
        initial = replay_initial(intact, bench, intact.start.fingerprint)
        found_here = list(replay(intact, challenge, bench, leaves, intact.start.fingerprint))
    assert initial.outcome is not Outcome.REFUTED
    assert len(found_here) == len(challenge.picks) == 3
    assert all(item.outcome is not Outcome.REFUTED for item in found_here), [item.reason for item in found_here]


def test_a_setting_that_the_loop_itself_changes_is_no_lie(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = record_once(
        tmp_path_factory, "by-hand", BY_HAND, beside=(DIGITS,), refused="another one after it was put back"
    )
    verdict = verify(found.claim, Policy(keys=frozenset({found.key.public})), data=DATA, recipe=found.script)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert any("schedule/settings/0/momentum" in reason for reason in verdict.reasons)


# Settings


def rows(**settings: Scalar) -> Manifest:
    return Manifest.of(ScalarRow(f"schedule/settings/0/{name}", value) for name, value in settings.items())


@pytest.mark.parametrize(
    ("claimed", "rebuilt", "said"),
    [
        ({"lr": 0.1}, {"lr": 0.1}, ""),
        ({"lr": 1e-9}, {"lr": 0.05}, "0/lr is 1e-09, the recipe makes it 0.05"),
        ({"lr": 0.05}, {"lr": 0.049}, "0/lr is 0.05, the recipe makes it 0.049"),
        ({"lr": 0.1}, {"lr": 0.1 + 1e-9}, ""),  # the last bits of a schedule
        ({"lr": 3.1e-17}, {"lr": 0.0}, ""),  # the end of a cosine on another libm
        ({"lr": math.nan}, {"lr": 0.1}, "0/lr is nan, the recipe makes it 0.1"),
        ({"momentum": 0}, {"momentum": 0.9}, "0/momentum is 0, the recipe makes it 0.9"),
        ({"nesterov": True}, {"nesterov": False}, "0/nesterov is True, the recipe makes it False"),
        ({"lr": "0.1"}, {"lr": 0.1}, "0/lr is 0.1, the recipe makes it 0.1"),
        ({"foreach": None}, {"foreach": None}, ""),
        ({"lr": 0.1, "later": 3}, {"lr": 0.1}, ""),  # a setting that another torch has
        ({"lr": 0.1}, {"lr": 0.1, "later": 3}, ""),
        ({}, {"lr": 0.1}, ""),
    ],
)
def test_a_setting_is_false_where_the_recipe_contradicts_it(
    claimed: dict[str, Scalar], rebuilt: dict[str, Scalar], said: str
) -> None:
    assert false_setting(rows(**claimed), rows(**rebuilt)) == said


def test_a_schedulers_own_numbers_are_no_settings() -> None:
    mine = Manifest((ScalarRow("schedule/scheduler/last_epoch", 3),))
    theirs = Manifest((ScalarRow("schedule/scheduler/last_epoch", 4),))
    assert false_setting(mine, theirs) == ""


# What keeps a difference from convicting

HERE = {
    "torch": "2.13.0+cpu",
    "python": "3.11.7",
    "device": "cpu",
    "machine": "x86_64",
    "blas": "mkl",
    "precision": "fp32",
}
GPU = {**HERE, "device": "cuda", "gpu": "H100", "cuda": "13.0", "cudnn": 91000, "driver": "580.1", "sdp": "math"}


@pytest.mark.parametrize(
    ("base", "changes", "obstacle"),
    [
        (HERE, {}, ""),
        (HERE, {"torch": "2.13.0+cu130"}, ""),
        (HERE, {"python": "3.11.9"}, ""),
        (HERE, {"cpu": "another", "threads": 64, "polchain": "9"}, ""),
        (HERE, {"torch": "2.12.1"}, "torch"),
        (HERE, {"python": "3.12.1"}, "python"),  # the sum of floats is another one since 3.12
        (HERE, {"machine": "aarch64"}, "machine"),
        (HERE, {"blas": "open"}, "blas"),
        (HERE, {"device": "cuda", "gpu": "H100"}, "device"),
        (HERE, {"precision": "bf16"}, "precision"),
        (GPU, {}, ""),
        (GPU, {"gpu": "H200"}, "gpu"),
        (GPU, {"cuda": "12.6"}, "cuda"),  # the same torch, another build
        (GPU, {"cudnn": 90100}, "cudnn"),
        (GPU, {"driver": "550.3"}, "driver"),
        (GPU, {"sdp": "flash"}, "sdp"),
        (GPU, {"tf32": True}, "tf32"),
    ],
)
def test_another_library_or_device_convicts_nobody(
    base: dict[str, str | int], changes: dict[str, str | int], obstacle: str
) -> None:
    found = comparable({**base, **changes}, base)
    assert [text.split()[2] for text in found][:1] == ([obstacle] if obstacle else [])


def test_a_library_of_another_version_convicts_nobody() -> None:
    same = f"torch=={torch.__version__}"
    assert other_versions([same, "bcrypt==0.1", "typing_extensions==0.1", "polchain==99"]) == []
    assert other_versions([same, "numpy==0.1"])[0].startswith("recorded with numpy 0.1, here ")
    assert other_versions(["no-such-library==1.0"]) == ["recorded with no-such-library 1.0, here none"]
    assert other_versions(["", "=="]) != []


# The examination of a segment that differs


def state(value: float, moment: float | None = None) -> Snapshot:
    tensors = {"model/w": torch.full((10,), value)}
    if moment is not None:
        tensors["optimizer/w/exp_avg"] = torch.full((10,), moment)
    return with_rows(Snapshot(Manifest(()), {}), tensors)


def check(
    claimed: Snapshot,
    first: Snapshot,
    *others: Snapshot,
    again: Snapshot | None = None,
    obstacles: tuple[str, ...] = (),
    other_cpu: bool = False,
) -> tuple[bool, str]:
    found = examine(
        state(0.0), claimed, first, lambda: again or first, lambda: list(others), list(obstacles), other_cpu=other_cpu
    )
    return found.refuted, found.reason


def test_a_difference_far_over_the_noise_convicts() -> None:
    refuted, reason = check(state(9.0), state(1.0), state(1.01), state(0.99))
    assert refuted
    assert "the claimed model state is off by rho 8" in reason


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda: check(state(1.04), state(1.0), state(1.0), state(1.0)), "too little to convict"),
        (lambda: check(state(1.5), state(1.0), state(1.1), state(1.0)), "within ten times this machine's noise"),
        (lambda: check(state(9.0), state(1.0), state(1.0)), "noise could not be measured"),
        (lambda: check(state(9.0), state(1.0)), "noise could not be measured"),
        (lambda: check(state(9.0), state(1.0), again=state(1.1)), "the verifier does not reproduce itself"),
        (lambda: check(state(9.0), state(1.0), obstacles=("recorded with torch 1",)), "but recorded with torch 1"),
        (lambda: check(state(9.0), state(1.0), state(1.0), state(1.0), other_cpu=True), "another CPU model"),
    ],
)
def test_whatever_may_be_the_machines_fault_convicts_nobody(found: object, words: str) -> None:
    refuted, reason = found()  # type: ignore[operator]
    assert not refuted
    assert words in reason


def test_altered_moments_count_as_much_as_altered_weights() -> None:
    opening, claimed, replayed = state(0.0, 0.0), state(1.0, 5.0), state(1.0, 1.0)
    assert largest_error(opening, claimed, replayed) == (4.0, "optimizer")


def test_an_absent_moment_is_not_zeros() -> None:
    rho, group = largest_error(state(0.0), state(1.0), state(1.0, 0.5))
    assert (rho, group) == (math.inf, "optimizer")


def test_a_state_that_is_not_finite_is_infinitely_far() -> None:
    assert largest_error(state(0.0), state(math.nan), state(1.0))[0] == math.inf


def test_every_setting_has_two_others_that_differ_from_it() -> None:
    for setting in (Setting(1), Setting(8), Setting(2, onednn_isa="AVX2"), Setting(2, onednn=False)):
        others = setting.others()
        assert len({setting, *others}) == 3


def test_an_initial_state_of_other_libraries_is_inconclusive(intact: IntactClaim) -> None:
    # Another version of a library may draw other initial weights: here every row differs, and nobody is convicted.
    assert intact.start is not None
    assert intact.genesis.recipe is not None
    recipe = replace(intact.genesis.recipe, imports=(*intact.genesis.recipe.imports, "timm==0.0.1"))
    changed = object.__new__(IntactClaim)
    for name in IntactClaim.__slots__:
        object.__setattr__(changed, name, getattr(intact, name))
    object.__setattr__(changed, "genesis", replace(intact.genesis, recipe=recipe))
    object.__setattr__(changed, "seed", bytes(32))  # so that another state is built than the one claimed
    with Bench(Program(intact.genesis.recipe, intact.recipe), Setting(threads=1), DATA) as bench:
        found = replay_initial(changed, bench, intact.start.fingerprint)
        assert found.outcome is Outcome.INCONCLUSIVE
        object.__setattr__(changed, "genesis", intact.genesis)
        assert replay_initial(changed, bench, intact.start.fingerprint).outcome is Outcome.REFUTED
