"""Screens: honest runs have few flags, and what no gradients can have done is flagged, named, and replayed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polchain.core.claim import Claim, checkpoint_name, manifest_name, write_listing
from polchain.core.entries import CheckpointEntry, Entry
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import Scalar, ScalarRow
from polchain.storage.checkpoints import CheckpointStore
from polchain.training.moments import reach
from polchain.training.snapshot import take
from polchain.training.state import TrainingState
from polchain.verifier.bench import state_of
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.screens import SettingsScreen, outliers, screen_pair
from polchain.verifier.survey import Survey, survey, swap_of
from tests.claims import Recorded, checkpoints_of, copy_of
from tests.forgers.forge import Workshop, tensors_of, with_rows

SEED = bytes(range(32))


def intact_of(claim: Path) -> IntactClaim:
    return check_integrity(Claim.read(claim), Policy())


def seen_in(claim: Path) -> Survey:
    return survey(intact_of(claim))


# Honest runs


def test_honest_runs_have_few_flags(recorded: Recorded, other: Recorded, longer: Recorded) -> None:
    for run in (recorded, other, longer):
        found = seen_in(run.claim)
        assert not found.false
        assert len(found.flags) <= 5
        # A loss may be odd by chance. What no gradients can do, and what is set, is never flagged.
        assert all("the loss is" in flag.reason or "the update is" in flag.reason for flag in found.flags)


def train(
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    gradients: Callable[[int], torch.Tensor],
    steps: int,
    every: int,
    schedule: Callable[[torch.optim.Optimizer], object] | None = None,
) -> list[Snapshot]:
    """The states of a model whose gradients are invented, trained by a real optimizer."""
    model = torch.nn.Linear(len(gradients(0)), 1, bias=False)
    optimizer = make([*model.parameters()])
    scheduler = schedule(optimizer) if schedule is not None else None
    state = TrainingState(model, {"": optimizer}, {"": scheduler} if scheduler is not None else {}, {})
    states = []
    for step in range(steps):
        if step % every == 0:
            states.append(copied(take(state)))
        model.weight.grad = gradients(step).reshape(1, -1).clone()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()  # type: ignore[attr-defined]
    return [*states, copied(take(state))]


def copied(state: Snapshot) -> Snapshot:
    return Snapshot(state.manifest, {name: memoryview(bytes(data)) for name, data in state.buffers.items()})


def flags_of(states: list[Snapshot], every: int) -> list[str]:
    return [reason for a, b in itertools.pairwise(states) for reason in screen_pair(a, b, every)]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([(0.9, 0.999), (0.9, 0.95), (0.5, 0.9), (0.0, 0.99), (0.95, 0.9), (0.99, 0.999)]),
    st.sampled_from([torch.optim.Adam, torch.optim.AdamW]),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
    st.floats(0.3, 3.0),
    st.integers(1, 7),
    st.integers(0, 2**31),
)
def test_no_gradients_are_ever_flagged(
    betas: tuple[float, float],
    optimizer: type[torch.optim.Adam],
    amsgrad: bool,
    decay: float,
    growth: float,
    every: int,
    seed: int,
) -> None:
    # Sparse, heavy-tailed, growing or vanishing by any factor a step.
    source = torch.Generator().manual_seed(seed)

    def gradients(step: int) -> torch.Tensor:
        noise = torch.randn(8, generator=source) ** 3 * (torch.rand(8, generator=source) < 0.3)
        return (noise * min(max(growth**step, 1e-15), 1e15)).float()

    states = train(
        lambda p: optimizer(p, lr=0.01, betas=betas, weight_decay=decay, amsgrad=amsgrad), gradients, 40, every
    )
    assert flags_of([*states[:-1]] if 40 % every else states, every) == []


def test_the_worst_gradients_come_within_a_hair_of_the_bound() -> None:
    # Gradients that grow by b2 / b1 a step are the worst that the derivation allows: so it is not idle.
    states = train(
        lambda p: torch.optim.Adam(p, lr=0.01), lambda step: torch.full((2,), (0.999 / 0.9) ** step * 1e-9), 200, 200
    )
    m, v = (tensors_of(states[1], "optimizer")[f"optimizer/weight/{part}"] for part in ("exp_avg", "exp_avg_sq"))
    assert 0.999 < float((m / v.sqrt()).max()) / reach(0.9, 0.999) < 1.001
    assert flags_of(states, 200) == []


@pytest.mark.parametrize("betas", [(0.9, 0.8), (1.0, 0.999), (-0.1, 0.999), (0.9, 1.0), (math.nan, 0.9)])
def test_betas_that_bound_nothing_flag_nothing(betas: tuple[float, float]) -> None:
    assert reach(*betas) == math.inf


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=601),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: min(1.0, t / 50) * (1 - t / 600)),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 600),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 200, 0.1),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 1e-4, 0.1, step_size_up=40),
        lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    ],
    ids=["one cycle", "warm-up from zero", "cosine", "steps", "cyclic", "exponential"],
)
def test_schedules_are_flagged_in_few_segments(schedule: Callable[[torch.optim.Optimizer], object]) -> None:
    source = torch.Generator().manual_seed(3)
    states = train(
        lambda p: torch.optim.AdamW(p, lr=0.01), lambda _: torch.randn(4, generator=source), 600, 4, schedule
    )
    assert flags_of(states, 4) == []
    screen = SettingsScreen()
    for number, state in enumerate(states):
        screen.look(state.manifest, number - 1)
    flags, remarks = screen.result(len(states) - 1)
    assert len(flags) <= 7, [flag.reason for flag in flags]
    assert all(flag.reason.startswith("0/lr changes from") for flag in flags)
    assert all("0/lr" in remark for remark in remarks)


def test_other_optimizers_with_such_moments_are_not_taken_for_adam() -> None:
    source = torch.Generator().manual_seed(5)
    for kind in (torch.optim.RAdam, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.SGD):
        states = train(lambda p, k=kind: k(p, lr=0.1), lambda _: torch.randn(4, generator=source), 40, 4)  # type: ignore[misc]
        assert flags_of(states, 4) == []


def test_two_optimizers_are_each_held_to_their_own_settings() -> None:
    model = torch.nn.ModuleDict({"g": torch.nn.Linear(3, 1), "d": torch.nn.Linear(3, 1), "s": torch.nn.Linear(3, 1)})
    optimizers: dict[str, torch.optim.Optimizer] = {
        "g": torch.optim.Adam(model["g"].parameters(), lr=0.1),
        "d": torch.optim.Adam(model["d"].parameters(), lr=0.001),
        "s": torch.optim.SGD(model["s"].parameters(), lr=9.0),
    }
    state = TrainingState(model, optimizers, {}, {})
    source = torch.Generator().manual_seed(9)
    states = []
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=source)
        for optimizer in optimizers.values():
            optimizer.step()
        states.append(copied(take(state)))
    assert flags_of(states, 1) == []
    # 0.1 is a step for the one, and a hundred for the other; of the third nothing is known.
    for name, said in (("g", []), ("d", ["model/d.bias moved further than Adam can: 13.8 times that"]), ("s", [])):
        row = f"model/{name}.bias"
        assert screen_pair(states[1], with_rows(states[2], {row: tensors_of(states[1])[row] + 0.1}), 1) == said


# Forged states


@pytest.fixture(scope="module")
def honest(longer: Recorded) -> list[Snapshot]:
    intact = intact_of(longer.claim)
    found = [state_of(intact, entry) for entry in intact.checkpoints]
    return [state for state in found if state is not None]


def scaled(state: Snapshot, part: str, factor: float) -> Snapshot:
    rows = {n: t * factor for n, t in tensors_of(state, "optimizer").items() if n.endswith(f"/{part}")}
    return with_rows(state, rows)


def jumped(state: Snapshot, distance: float) -> Snapshot:
    return with_rows(state, {"model/4.bias": tensors_of(state)["model/4.bias"] + distance})


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda s: jumped(s, 0.2), "model/4.bias moved further than Adam can: 1.8"),
        (lambda s: jumped(s, math.nan), "model/4.bias moved further than Adam can: beyond all measure"),
        (lambda s: scaled(s, "exp_avg", 1e6), "/exp_avg is larger than gradients make it"),
        (lambda s: scaled(s, "exp_avg_sq", 0.9), "/exp_avg_sq shrank further than it can: 1.1"),
        (lambda s: scaled(s, "exp_avg_sq", 0.0), "/exp_avg_sq shrank further than it can"),
        (lambda s: scaled(s, "exp_avg_sq", math.nan), "/exp_avg_sq shrank further than it can: beyond all measure"),
        (lambda s: scaled(s, "exp_avg_sq", -1.0), "/exp_avg_sq shrank further than it can"),
    ],
    ids=["jump", "nan weight", "planted momentum", "smaller moment", "moment gone", "nan moment", "negative moment"],
)
def test_what_no_gradients_can_do_is_flagged(
    honest: list[Snapshot], forge: Callable[[Snapshot], Snapshot], said: str
) -> None:
    assert screen_pair(honest[60], honest[61], 5) == []
    reasons = screen_pair(honest[60], forge(honest[61]), 5)
    assert any(said in reason for reason in reasons), reasons


def test_a_moment_that_is_no_longer_there_is_flagged(honest: list[Snapshot]) -> None:
    rows = [row for row in honest[61].manifest.rows if row.name != "optimizer/4.bias/exp_avg_sq"]
    assert screen_pair(honest[60], Snapshot(Manifest.of(rows), honest[61].buffers), 5) == [
        "optimizer/4.bias/exp_avg_sq is gone"
    ]


def test_a_step_within_the_bound_is_not_flagged(honest: list[Snapshot]) -> None:
    # 5 steps of at most 0.003 * 7.27: the screen is no more than a bound.
    assert screen_pair(honest[60], jumped(honest[60], 0.1), 5) == []
    assert screen_pair(honest[60], jumped(honest[60], 0.12), 5) != []


def manifest(**values: Scalar) -> Manifest:
    return Manifest.of(
        ScalarRow(f"schedule/settings/{name.replace('__', '/')}", value) for name, value in values.items()
    )


CONSTANT: dict[str, Scalar] = {"0__lr": 0.1, "0__eps": 1e-8, "0__betas__0": 0.9, "0__amsgrad": False}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"0__eps": 1e-3}, "0/eps changes from 1e-08 to 0.001"),
        ({"0__betas__0": 0.5}, "0/betas/0 changes from 0.9 to 0.5"),
        ({"0__amsgrad": True}, "0/amsgrad changes from False to True"),
        ({"0__lr": 1e-9}, "0/lr changes from 0.1 to 1e-09"),
        ({"0__lr": 0.0}, "0/lr changes from 0.1 to 0"),
        ({"0__lr": -0.1}, "0/lr changes from 0.1 to -0.1"),
        ({"0__lr": math.nan}, "0/lr changes from 0.1 to nan"),
        ({"0__lr": "0.1"}, "0/lr changes from 0.1 to '0.1'"),
        ({"0__wd": 0.1}, "0/wd changes from nothing to 0.1"),
        ({"0__lr": 0.08}, ""),
    ],
)
def test_a_setting_that_changes_is_flagged_where_it_does(change: dict[str, Scalar], said: str) -> None:
    screen = SettingsScreen()
    for number in range(200):
        screen.look(manifest(**(CONSTANT | change if number == 77 else CONSTANT)), number - 1)
    flags, remarks = screen.result(199)
    assert not remarks
    assert [flag.segment for flag in flags] == ([76, 77] if said else [])
    if said:
        assert flags[0].reason == said


def test_momentum_may_be_cycled_where_the_schedule_says_so() -> None:
    screen = SettingsScreen()
    for number in range(10):
        screen.look(manifest(**{"0__max_momentum": 0.95, "0__momentum": 0.85 + number / 100}), number - 1)
    assert screen.result(9) == ([], [])


def test_a_setting_that_changes_all_the_time_is_a_schedule_and_said_to_be() -> None:
    screen = SettingsScreen()
    for number in range(100):
        screen.look(manifest(**{"0__weight_decay": number / 100}), number - 1)
    flags, remarks = screen.result(99)
    assert not flags
    assert remarks == ["the setting 0/weight_decay changes in too many segments to be screened, as a schedule does"]


def test_nothing_is_compared_across_a_state_that_is_not_shown() -> None:
    screen = SettingsScreen()
    screen.look(manifest(**CONSTANT), -1)
    screen.skip()
    screen.look(manifest(**(CONSTANT | {"0__eps": 1.0})), 1)
    assert screen.result(2) == ([], [])


def test_outliers_are_those_unlike_their_neighbours_of_the_same_length() -> None:
    updates: list[float | None] = [1.0 + 0.05 * math.sin(i) for i in range(100)]
    losses: list[float | None] = [2.0 * 0.98**i * (1 + 0.02 * math.sin(7 * i)) for i in range(100)]
    lengths = [10] * 100
    assert outliers(updates, losses, lengths) == []
    found = outliers([*updates[:40], 5.0, *updates[41:60], 1e-9, *updates[61:]], losses, lengths)
    assert {flag.segment: flag.reason for flag in found} == {
        40: "the update is 5 times those around",
        60: "the update is 1e-09 times those around",
    }
    (flag,) = outliers(updates, [*losses[:70], 9.0, *losses[71:]], lengths)
    assert flag.segment == 70
    assert flag.reason.startswith("the loss is 9, around it 0.48")
    # A longer segment has a larger update, and no neighbours like it.
    assert outliers([*updates[:40], 5.0, *updates[41:]], losses, [*lengths[:40], 50, *lengths[41:]]) == []
    assert outliers([None] * 100, [None] * 100, lengths) == []
    # Of many, the most glaring few.
    wild = [100.0 if i % 7 == 0 else value for i, value in enumerate(updates)]
    assert len(outliers(wild, losses, lengths)) == 3


# The whole road


def write(shop: Workshop, out: Path, states: list[Snapshot], edit: Callable[[Entry], Entry] = lambda e: e) -> Path:
    return shop.claim(out, states, [entry.loss for entry in shop.stolen.checkpoints], edit)


def test_flagged_segments_join_the_challenge_and_say_why(
    longer: Recorded, honest: list[Snapshot], tmp_path: Path
) -> None:
    states = [*honest]
    states[61] = jumped(states[61], 0.3)
    states[91] = with_rows(states[91], None, {"schedule/settings/0/eps": 1e-3})

    def lied(entry: Entry) -> Entry:
        return replace(entry, loss=9.0) if isinstance(entry, CheckpointEntry) and entry.step == 150 else entry

    intact = intact_of(write(Workshop(longer.claim), tmp_path / "claim", states, lied))
    found = survey(intact)
    assert {29, 60, 61, 90, 91} <= set(found.flagged)
    assert found.flagged[90] == ["0/eps changes from 1e-08 to 0.001"]
    assert any("the loss is 9" in reason for reason in found.flagged[29])
    challenge = draw_challenge(intact, SEED, 0, updates=found.updates, top_updates=0, flagged=found.flagged)
    picked = {pick.segment.index: pick.reasons for pick in challenge.picks}
    assert set(picked) == {0, 119, *found.flagged}
    assert "screen: 0/eps changes from 1e-08 to 0.001" in picked[90]
    assert all(pick.fixed for pick in challenge.picks)


def test_where_a_state_is_not_disclosed_that_is_said_and_there_is_no_swap_bound(
    longer: Recorded, tmp_path: Path
) -> None:
    claim = copy_of(longer.claim, tmp_path / "claim")
    state = checkpoints_of(claim)[50].state
    (claim / checkpoint_name(state)).unlink()
    (claim / manifest_name(state)).unlink()
    write_listing(claim)
    intact = intact_of(claim)
    found = survey(intact)
    assert found.unmeasured == (49, 50)
    assert found.remarks == (
        "screens and largest updates: where states are not disclosed, the log is taken at its word: 2 of 120 updates",
    )
    entry = checkpoints_of(claim)[50]
    assert entry.update is not None
    assert found.updates[49] == (entry.update.l2, 0.0, 0.0)
    swap = swap_of(intact, found, (), 90)
    assert str(swap) == "not checked: 2 of 120 updates could not be measured from disclosed states"
    assert str(swap_of(intact, None, (), 90)) == "not checked: the updates were not measured"


def test_the_swap_bound_of_a_real_run_is_what_its_states_give(longer: Recorded, honest: list[Snapshot]) -> None:
    intact = intact_of(longer.claim)
    found = survey(intact)
    first, last = tensors_of(honest[0]), tensors_of(honest[-1])
    names = [row.name for row in honest[0].manifest.tensors() if row.role == "parameter"]
    travelled = math.sqrt(sum(float((last[n].double() - first[n].double()).square().sum()) for n in names))
    assert found.travelled == pytest.approx(travelled)
    assert found.moved == set(names)
    always = {pick.segment.index for pick in draw_challenge(intact, SEED, 0, updates=found.updates).picks}
    swap = swap_of(intact, found, always, 90)
    assert swap.distance == pytest.approx(travelled / 2)
    # By hand: all segments have five steps, so the cheapest are the largest that are not always replayed.
    sizes = sorted((size for i, (size, *_) in enumerate(found.updates) if i not in always), reverse=True)
    whole = next(n for n in range(len(sizes) + 1) if sum(sizes[:n]) >= swap.distance)
    assert (whole - 1) * 5 / 600 < swap.share <= whole * 5 / 600
    assert swap.escape == pytest.approx((1 - swap.share) ** 90)
    assert swap_of(intact, found, range(120), 90).escape == 0.0
    store = CheckpointStore(longer.claim)
    assert store.get(intact.checkpoints[0].state).manifest == honest[0].manifest
