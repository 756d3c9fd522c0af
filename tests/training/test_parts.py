"""Reproduction error by part: known values, and what must never pass for small."""

from __future__ import annotations

import math

import pytest
import torch

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import Scalar, ScalarRow
from polchain.training.moments import slowest_decay
from polchain.training.parts import errors_between, false_row, initial_gap, same_schedule
from polchain.training.rho import Errors, worst
from tests.forgers.forge import with_rows

EMPTY = Snapshot(Manifest(()), {})
BIG, SMALL = "model/big.weight", "model/small.bias"


def state(big: float = 0.0, small: float = 0.0, **others: torch.Tensor) -> Snapshot:
    """A model of 990 and of 10 parameters, each with one value; `others` by row, `__` for a slash."""
    weights = {BIG: torch.full((990,), big), SMALL: torch.full((10,), small)}
    return with_rows(
        EMPTY, {**weights, **{name.replace("__", "/"): value for name, value in others.items()}}, roles=ROLES
    )


ROLES = {BIG: "parameter", SMALL: "parameter", "model/norm.running_mean": "buffer"}
MOMENTS = "optimizer/big.weight/exp_avg", "optimizer/big.weight/exp_avg_sq"


def test_equal_states_have_no_error() -> None:
    assert errors_between(state(), state(1.0, 1.0), state(1.0, 1.0)) == Errors()


def test_rho_is_the_difference_over_the_replayed_movement() -> None:
    found = errors_between(state(), state(1.1, 1.1), state(1.0, 1.0))
    assert found.parameters == pytest.approx(0.1, rel=1e-6)
    assert found.tensors == pytest.approx(0.1, rel=1e-6)


def test_a_small_tensor_that_is_altered_wholly_does_not_hide_in_the_whole() -> None:
    found = errors_between(state(), state(1.0, 2.0), state(1.0, 1.0))
    assert found.parameters == pytest.approx(0.1)  # the square root of 10 in 1,000
    assert found.tensors == pytest.approx(1.0)
    assert found.name("tensors") == SMALL


def test_a_tensor_that_is_only_rounding_is_measured_against_its_fair_share() -> None:
    found = errors_between(state(), state(1.0, 2e-7), state(1.0, 1e-7))
    assert found.tensors == pytest.approx(1e-7, rel=0.01), "its own movement is of the size of its error"


def test_a_tensor_that_does_not_move_has_to_be_equal() -> None:
    assert errors_between(state(), state(1.0, 1e-9), state(1.0, 0.0)).tensors == math.inf
    assert errors_between(state(), state(1.0, 0.0), state(1.0, 0.0)) == Errors()


def test_an_update_of_size_zero_tolerates_nothing() -> None:
    assert errors_between(state(1.0), state(1.0 + 1e-6), state(1.0)).parameters == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_infinitely_far(value: float) -> None:
    assert errors_between(state(), state(value), state(1.0)).parameters == math.inf
    assert errors_between(state(), state(1.0), state(value)).parameters == math.inf
    assert errors_between(state(value), state(1.0), state(2.0)).parameters == math.inf


def test_what_two_runs_differed_by_before_does_not_count_again() -> None:
    before, claimed_before = state(1.0, 1.0), state(1.5, 1.0)
    same = errors_between(before, state(2.5, 2.0), state(2.0, 2.0), claimed_before)
    assert same == Errors(), "both moved by one"
    other = errors_between(before, state(2.6, 2.0), state(2.0, 2.0), claimed_before)
    assert other.parameters == pytest.approx(0.1, rel=0.01)


def test_second_moments_do_not_hide_behind_first_ones() -> None:
    first, second = MOMENTS
    honest = with_rows(state(), {first: torch.full((990,), 1.0), second: torch.full((990,), 1e-6)})
    forged = with_rows(state(), {first: torch.full((990,), 1.0), second: torch.full((990,), 2e-6)})
    found = errors_between(state(), forged, honest)
    assert found.optimizer == pytest.approx(1.0)
    assert found.name("optimizer") == second
    assert found.parameters == 0.0


def test_buffers_and_extra_have_their_own_parts() -> None:
    before = state(model__x=torch.zeros(4), extra__ema=torch.zeros(4))
    here = state(1.0, 1.0, model__x=torch.ones(4), extra__ema=torch.ones(4))
    claimed = state(1.0, 1.0, model__x=torch.full((4,), 1.5), extra__ema=torch.full((4,), 3.0))
    found = errors_between(before, claimed, here)
    assert (found.parameters, found.buffers, found.extra) == (0.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("name", "tolerated"),
    [
        ("model/norm.running_mean", True),
        ("model/norm.running_var", True),
        ("model/codebook", False),
        ("extra/teacher/weight", False),
        ("optimizer/w/exp_avg", True),
    ],
)
def test_what_may_never_forget_an_error_has_to_be_equal(name: str, tolerated: bool) -> None:
    here, claimed = (with_rows(state(1.0), {name: torch.full((4,), value)}) for value in (1.0, 1.0 + 1e-6))
    assert false_row(claimed, here) == ("" if tolerated else name)


def test_the_worse_of_two_ends_counts_part_by_part() -> None:
    found = worst(Errors(1.0, 2.0, 0.0, 5.0, 0.0, ("a",) * 5), Errors(3.0, 1.0, 1.0, 0.0, 0.0, ("b",) * 5))
    assert found == Errors(3.0, 2.0, 1.0, 5.0, 0.0)
    assert found.names == ("b", "a", "b", "a", "a")


# What no tolerance covers


def counters(step: float, count: int = 3) -> Snapshot:
    tensors = {"optimizer/w/step": torch.tensor(step), "model/norm.num_batches_tracked": torch.tensor(count)}
    return with_rows(
        state(1.0), {**tensors, "optimizer/w/exp_avg": torch.ones(3)}, {"extra/scaler/_growth_tracker": count}
    )


@pytest.mark.parametrize(
    ("claimed", "row"),
    [
        (lambda: counters(10.0), ""),
        (lambda: with_rows(counters(10.0), {"optimizer/w/exp_avg": torch.full((3,), 7.0)}), ""),  # a matter of rho
        (lambda: counters(11.0), "optimizer/w/step"),
        (lambda: counters(10.0 + 1e-5), "optimizer/w/step"),
        (lambda: counters(math.nan), "optimizer/w/step"),
        (lambda: counters(10.0, 4), "extra/scaler/_growth_tracker"),
        (lambda: with_rows(counters(10.0), {"optimizer/w/exp_avg": torch.ones(4)}), "optimizer/w/exp_avg"),
        (lambda: with_rows(counters(10.0), {"optimizer/w/exp_avg": torch.ones(3).double()}), "optimizer/w/exp_avg"),
        (lambda: with_rows(counters(10.0), {"optimizer/w/other": torch.zeros(3)}), "optimizer/w/other"),
        (lambda: with_rows(counters(10.0), {BIG: torch.ones(990).long()}), BIG),
    ],
)
def test_counters_integers_shapes_and_the_set_of_rows_are_equal(claimed: object, row: str) -> None:
    assert false_row(claimed(), counters(10.0)) == row  # type: ignore[operator]


def test_a_row_that_is_missing_is_false() -> None:
    assert false_row(state(1.0), state(1.0, model__x=torch.ones(1))) == "model/x"
    assert false_row(state(1.0, model__x=torch.ones(1)), state(1.0)) == "model/x"


def schedule(**rows: Scalar) -> Manifest:
    return Manifest.of(ScalarRow(f"schedule/{name.replace('__', '/')}", value) for name, value in rows.items())


@pytest.mark.parametrize(
    ("claimed", "same"),
    [
        ({"settings__0__lr": 0.1, "scheduler__last_epoch": 3}, True),
        ({"settings__0__lr": 0.1 + 1e-9, "scheduler__last_epoch": 3}, True),
        ({"settings__0__lr": 0.1001, "scheduler__last_epoch": 3}, False),
        ({"settings__0__lr": 0.1, "scheduler__last_epoch": 4}, False),
        ({"settings__0__lr": math.nan, "scheduler__last_epoch": 3}, False),
        ({"settings__0__lr": "0.1", "scheduler__last_epoch": 3}, False),
        ({"settings__0__lr": 0.1, "settings__0__later": True, "scheduler__last_epoch": 3}, True),
        ({"settings__0__lr": 0.1}, False),
    ],
)
def test_a_schedule_agrees_but_for_its_last_bits(claimed: dict[str, Scalar], same: bool) -> None:
    assert same_schedule(schedule(**claimed), schedule(settings__0__lr=0.1, scheduler__last_epoch=3)) is same


def test_initial_states_are_compared_relative_to_themselves() -> None:
    assert initial_gap(state(1.0, 1.0), state(1.0, 1.0)) == 0.0
    assert initial_gap(state(1.0, 1.0), state(1.0, 1.01)) == pytest.approx(0.0099, rel=0.01)
    assert initial_gap(state(1.0), counters(1.0)) == math.inf


# How long an optimizer remembers


@pytest.mark.parametrize(
    ("kinds", "settings", "decay"),
    [
        ((), {"lr": 0.1}, 0.0),
        (("momentum_buffer",), {"momentum": 0.9}, 0.9),
        (("exp_avg", "exp_avg_sq"), {"betas__0": 0.9, "betas__1": 0.999}, 0.999),
        (("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), {"betas__0": 0.9, "betas__1": 0.999}, 1.0),
        (("square_avg",), {"alpha": 0.99}, 0.99),
        (("sum",), {"lr": 0.1}, 1.0),
        (("exp_avg",), {}, 1.0),
        (("exp_avg",), {"betas__0": 7.0}, 1.0),
    ],
)
def test_what_an_optimizer_remembers_the_longest(
    kinds: tuple[str, ...], settings: dict[str, Scalar], decay: float
) -> None:
    rows = with_rows(EMPTY, {f"optimizer/w/{kind}": torch.zeros(2) for kind in (*kinds, "step")[: len(kinds)]})
    found = Manifest.of((*rows.manifest.rows, *schedule(**{f"settings__0__{k}": v for k, v in settings.items()}).rows))
    assert slowest_decay(found) == decay
