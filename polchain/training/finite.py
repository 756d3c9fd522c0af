"""Whether a model's parameters are finite, in one pass over each and one answer from each device."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["first_not_finite"]


def first_not_finite(model: nn.Module) -> str | None:
    """The name of the first parameter with an infinite or undefined element; None where there is none.

    The largest magnitude of a tensor is read once and is as finite as the tensor is. Whether each element is finite
    would be asked in several passes, with memory for their answers, and of a GPU once a tensor.
    """
    named = [(name, _normed(p.detach())) for name, p in model.named_parameters() if p.is_floating_point() and p.numel()]
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for _, tensor in named:
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    with torch.no_grad():
        largest = [torch.stack(torch._foreach_norm(tensors, math.inf)) for tensors in groups.values()]
    if all(bool(torch.isfinite(some).all()) for some in largest):
        return None
    return next(name for name, tensor in named if not bool(torch.isfinite(tensor).all()))


def _normed(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that torch has norms of: it has none of numbers of one byte."""
    return tensor.float() if tensor.dtype.itemsize == 1 else tensor
