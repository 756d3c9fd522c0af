"""Which parameter a foreign optimizer's state belongs to.

A saved optimizer knows its parameters by number:

    {"state": {0: {"exp_avg": tensor, ...}, 1: ...}, "param_groups": [{"params": [0, 1], "lr": 0.1, ...}]}

A number says nothing to whoever holds the model alone, so each is given its parameter's name, or all are given up:

    by name      the groups carry `param_names`, or the state is keyed by name (FSDP)
    by order     one group, as many parameters as the model has, and every known shape fits
    by shape     no shape is in two groups, each is as often in the optimizer as in the model, and the order agrees

A model from a safetensors file has no order: there each shape must be the model's only one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from polchain.training.state import plain_name

__all__ = ["Model", "Names", "name_parameters"]

Shape = tuple[int, ...]
# Floating tensors of a model's state_dict that no optimizer steps.
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Model:
    """The parameters of one recognised model: prefix of their names, shapes by name, and whether they are in order."""

    prefix: str
    shapes: Mapping[str, Shape]
    ordered: bool


@dataclass(frozen=True, slots=True)
class Names:
    """Parameter names by the optimizer's own numbers.

    Attributes:
        matched: True where they were found by order and shape rather than written in the file.
    """

    by_id: Mapping[Any, str]
    matched: bool


def name_parameters(
    state: Mapping[Any, Any], groups: Sequence[Mapping[Any, Any]], models: Sequence[Model]
) -> Names | None:
    """The name of every parameter that has state; None where one of them cannot be named beyond doubt."""
    order: list[tuple[int, Any]] = []
    written: dict[Any, str] = {}
    for index, group in enumerate(groups):
        ids = group.get("params")
        if not isinstance(ids, list | tuple) or not all(isinstance(item, int | str) for item in ids):
            return None
        order += [(index, item) for item in ids]
        names = group.get("param_names")
        if isinstance(names, list | tuple) and len(names) == len(ids) and all(isinstance(name, str) for name in names):
            written.update(zip(ids, map(plain_name, names), strict=True))
        written.update({item: plain_name(item) for item in ids if isinstance(item, str) and not item.isdigit()})
    needed = {item for item, parts in state.items() if parts}
    if len({item for _, item in order}) != len(order) or not needed <= {item for _, item in order}:
        return None
    if needed <= written.keys():
        return _written({item: written[item] for item in needed}, models)
    shapes = {item: _shape(state[item]) for item in needed}
    if any(shape is None for shape in shapes.values()):
        return None
    found = [names for model in models if (names := _by_order(order, shapes, model) or _by_shape(order, shapes, model))]
    return Names(found[0], matched=True) if len(found) == 1 else None


def _written(names: dict[Any, str], models: Sequence[Model]) -> Names | None:
    if len(set(names.values())) != len(names):
        return None
    if len(models) <= 1 or not names:
        return Names(names, matched=False)
    owners = [model for model in models if all(model.prefix + name in model.shapes for name in names.values())]
    if len(owners) != 1:
        return None
    return Names({item: owners[0].prefix + name for item, name in names.items()}, matched=False)


def _candidates(model: Model) -> list[tuple[str, Shape]]:
    return [(name, shape) for name, shape in model.shapes.items() if not name.endswith(STATISTICS)]


def _by_order(order: Sequence[tuple[int, Any]], shapes: Mapping[Any, Any], model: Model) -> dict[Any, str] | None:
    candidates = _candidates(model)
    if not model.ordered or len({group for group, _ in order}) != 1 or len(candidates) != len(order):
        return None
    pairs = [(item, name, shape) for (_, item), (name, shape) in zip(order, candidates, strict=True) if item in shapes]
    return {item: name for item, name, _ in pairs} if all(shapes[item] == shape for item, _, shape in pairs) else None


def _by_shape(order: Sequence[tuple[int, Any]], shapes: Mapping[Any, Any], model: Model) -> dict[Any, str] | None:
    candidates = _candidates(model)
    known = [(group, item) for group, item in order if item in shapes]
    there, here = Counter(shapes.values()), Counter(shape for _, shape in candidates)
    if any(here[shape] != count or (count > 1 and not model.ordered) for shape, count in there.items()):
        return None
    if len({(group, shapes[item]) for group, item in known}) != len(there):
        return None
    # Where every shape is the only one of its kind, the order need not agree.
    ordered = model.ordered and max(there.values()) > 1
    waiting = {shape: [at for at, (_, other) in enumerate(candidates) if other == shape] for shape in there}
    names: dict[Any, str] = {}
    last: dict[int, int] = {}
    for group, item in known:
        at = waiting[shapes[item]].pop(0)
        if ordered and at < last.get(group, -1):
            return None
        last[group] = at
        names[item] = candidates[at][0]
    return names


def _shape(parts: Any) -> Shape | None:
    """A parameter's shape, from its state: the one shape that its tensors have, leaving counters aside."""
    if not isinstance(parts, Mapping):
        return None
    tensors = [value for part, value in parts.items() if isinstance(value, torch.Tensor) and part != "step"]
    shapes = {tuple(value.shape) for value in tensors if value.dim() > 0} or {tuple(value.shape) for value in tensors}
    return shapes.pop() if len(shapes) == 1 else None
