"""Parameters that are not finite are found by name, whatever their type and size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from polchain.training.finite import first_not_finite


def model_of(*tensors: torch.Tensor) -> nn.Module:
    model = nn.Module()
    for number, tensor in enumerate(tensors):
        model.register_parameter(f"w{number}", nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
    return model


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("at", [0, 70_000, -1])
def test_one_element_is_enough(bad: float, dtype: torch.dtype, at: int) -> None:
    tensor = torch.ones(100_003, dtype=dtype)
    model = model_of(torch.ones(3), tensor, torch.full((2,), 7))
    assert first_not_finite(model) is None
    tensor[at] = bad
    assert first_not_finite(model) == "w1"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_one_byte_are_looked_at_too(dtype: torch.dtype) -> None:
    tensor = torch.ones(50).to(dtype)
    assert first_not_finite(model_of(tensor)) is None
    tensor[7] = math.nan
    assert first_not_finite(model_of(tensor)) == "w0"


def test_the_largest_number_is_finite_and_nothing_is_as_well() -> None:
    largest = [torch.full((5,), torch.finfo(dtype).max, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert first_not_finite(model_of(*largest, torch.ones(0, 3))) is None
    assert first_not_finite(nn.ReLU()) is None
