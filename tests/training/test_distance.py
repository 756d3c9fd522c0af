"""Distances between states: known values, and what has no distance is infinitely far."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from polchain.core.digest import blake3
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import AliasRow, ScalarRow, TensorRow, group_of
from polchain.training.distance import (
    Distance,
    cosine_distance,
    distance,
    group_error,
    norm,
    reproduction_error,
    update_size,
    worst_tensor,
)
from polchain.training.tensors import DTYPE_NAMES, tensor_bytes

INFINITE = Distance(math.inf, math.inf, math.inf)


def state(role: str = "parameter", scalars: dict[str, Any] | None = None, **tensors: Any) -> Snapshot:
    """A state of the model's tensors by name; `optimizer__m=...` is `optimizer/m`."""
    rows: list[Any] = [ScalarRow(name, value) for name, value in (scalars or {}).items()]
    buffers = {}
    for name, values in tensors.items():
        tensor = values if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=torch.float32)
        row = name.replace("__", "/") if "__" in name else f"model/{name}"
        data = bytes(tensor_bytes(tensor))
        rows.append(TensorRow(row, role, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), blake3(data)))
        buffers[row] = memoryview(data)
    return Snapshot(Manifest.of(rows), buffers)


def test_the_norms_of_a_difference() -> None:
    a, b = state(w=[1.0, 2.0], b=[0.0]), state(w=[4.0, -2.0], b=[12.0])
    assert distance(a, b) == distance(b, a) == Distance(19.0, 13.0, 12.0)
    assert distance(a, a) == Distance(0.0, 0.0, 0.0)
    update = update_size(a, b)
    assert (update.l2, update.linf) == (13.0, 12.0)
    assert norm(state(w=[3.0], b=[4.0])) == 5.0


def test_small_differences_are_not_lost_beside_large_values() -> None:
    gap = distance(state(w=[1e8, 1.0]), state(w=[1e8, 1.0 + 2**-20]))
    assert gap == Distance(2**-20, 2**-20, 2**-20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2], ids=str)
def test_every_floating_dtype_is_measured(dtype: torch.dtype) -> None:
    a, b = state(w=torch.tensor([1.0, 2.0]).to(dtype)), state(w=torch.tensor([4.0, 6.0]).to(dtype))
    assert distance(a, b).l2 == 5.0


def test_buffers_integers_and_other_groups_stay_out() -> None:
    a = state(w=[0.0], optimizer__m=[1.0], count=torch.tensor([1]))
    b = state(w=[3.0], optimizer__m=[9.0], count=torch.tensor([9]))
    assert distance(a, b).l2 == 3.0
    assert distance(state("buffer", w=[0.0]), state("buffer", w=[1.0])).l2 == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_infinitely_far(bad: float) -> None:
    assert distance(state(w=[1.0, bad]), state(w=[1.0, 2.0])) == INFINITE
    assert reproduction_error(state(w=[0.0]), state(w=[1.0]), state(w=[bad])) == math.inf
    assert reproduction_error(state(w=[bad]), state(w=[1.0]), state(w=[2.0])) == math.inf


@pytest.mark.parametrize(
    "other", [state(v=[1.0]), state(w=[1.0], v=[1.0]), state(), state(w=[[1.0]]), state(w=torch.ones(1).double())]
)
def test_states_with_other_rows_are_infinitely_far(other: Snapshot) -> None:
    assert distance(state(w=[1.0]), other) == INFINITE
    assert cosine_distance(state(w=[1.0]), other) == math.inf
    assert reproduction_error(state(w=[0.0]), state(w=[1.0]), other) == math.inf


def test_empty_tensors_have_no_distance() -> None:
    assert distance(state(w=torch.zeros(0, 3)), state(w=torch.zeros(0, 3))) == Distance(0.0, 0.0, 0.0)


def test_rho_is_the_error_over_the_update() -> None:
    opening, claimed, replayed = state(w=[0.0, 0.0]), state(w=[3.0, 4.0]), state(w=[3.0, 4.5])
    moved = math.hypot(3.0, 4.5)
    assert reproduction_error(opening, claimed, replayed) == pytest.approx(0.5 / moved)
    assert reproduction_error(opening, claimed, claimed) == 0.0
    assert reproduction_error(opening, claimed, opening) == math.inf, "nothing moved, yet something differs"
    assert reproduction_error(opening, opening, opening) == 0.0


def test_rho_of_a_group_counts_moments_that_are_new_by_their_length() -> None:
    opening = state(w=[0.0])
    claimed = state("state", w=[1.0], optimizer__m=[3.0, 4.0])
    replayed = state("state", w=[1.0], optimizer__m=[3.0, 4.5])
    assert group_error(opening, claimed, replayed, "optimizer") == pytest.approx(0.5 / math.hypot(3.0, 4.5))
    assert group_error(opening, claimed, replayed, "model") == 0.0
    assert group_error(opening, claimed, opening, "optimizer") == math.inf, "an absent state is not zeros"


def test_the_angle_between_states() -> None:
    east, north, west = state(a=[2.0], b=[0.0]), state(a=[0.0], b=[5.0]), state(a=[-1.0], b=[0.0])
    assert cosine_distance(east, east) == 0.0
    assert cosine_distance(east, north) == 1.0
    assert cosine_distance(east, west) == 2.0
    # A row with equal bytes still has a length.
    assert cosine_distance(state(a=[1.0], b=[1.0]), state(a=[1.0], b=[-1.0])) == pytest.approx(1.0)
    zero = state(a=[0.0], b=[0.0])
    assert cosine_distance(zero, zero) == 0.0
    assert cosine_distance(zero, east) == 1.0


def test_the_first_row_that_differs_is_named_tensors_first() -> None:
    a = state(w=[1.0], b=[1.0], scalars={"extra/n": 1})
    assert worst_tensor(a, a) == ""
    assert worst_tensor(a, state(w=[2.0], b=[1.0], scalars={"extra/n": 2})) == "model/w"
    assert worst_tensor(a, state(w=[1.0], scalars={"extra/n": 1})) == "model/b"
    for number in (2, 1.0, True, None):
        assert worst_tensor(a, state(w=[1.0], b=[1.0], scalars={"extra/n": number})) == "extra/n"
    nan = state(scalars={"extra/n": math.nan})
    assert worst_tensor(nan, state(scalars={"extra/n": float("nan")})) == ""


def test_an_alias_is_measured_once() -> None:
    def tied(value: float) -> Snapshot:
        plain = state(w=[value])
        return Snapshot(Manifest.of([*plain.manifest.rows, AliasRow("model/tied", "model/w")]), plain.buffers)

    assert distance(tied(0.0), tied(3.0)).l2 == 3.0
    assert all(group_of(row.name) == "model" for row in tied(0.0).manifest.rows)
