"""Training state, to rows and back. Nothing is ever pickled.

Read from the objects, not only from `state_dict()`:

    model/<name>                    parameters, all buffers (non-persistent ones too), modules' extra state
    optimizer/<parameter>/<key>     by the parameter's name, never by index; an absent state is not zeros
    schedule/settings/<i>/<key>     every setting of every parameter group: learning rate, betas, decay
    schedule/scheduler/<key>        the scheduler's own numbers
    extra/<name>/...                whatever else crosses steps: gradient scaler, EMA, a second model, tensors

Where there are several optimizers or schedulers, their names follow `optimizer/`, `settings/` and `scheduler/`.
Tied tensors are one row and alias rows. `module.` at the front and `_orig_mod.` anywhere are wrappers' and stripped.

The `schedule/` rows are only ever read: optimizer and scheduler come from the recipe, rebuilt and stepped.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from polchain.core.manifest import Snapshot
from polchain.core.rows import AliasRow, Scalar, ScalarRow, TensorRow
from polchain.errors import ManifestError, RecipeError
from polchain.training.captured import Captured
from polchain.training.tensors import DTYPE_NAMES, raw_bytes, tensor_from

__all__ = ["TrainingState", "plain_name"]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The attached objects of a run.

    Attributes:
        model: the model.
        optimizers, schedulers: by name; the name of an only one is empty.
        extra: whatever else crosses steps: modules, tensors, or objects with state_dict and load_state_dict.
    """

    model: nn.Module
    optimizers: Mapping[str, Optimizer]
    schedulers: Mapping[str, Any]
    extra: Mapping[str, Any]

    def check(self) -> None:
        """Refuse, by name, what could be recorded but not replayed.

        Raises:
            RecipeError: LBFGS-like or loss-driven objects, parameters nobody attached, state that is not data.
        """
        for name, scheduler in self.schedulers.items():
            if isinstance(scheduler, ReduceLROnPlateau) or not isinstance(scheduler, LRScheduler):
                raise RecipeError(
                    f"scheduler {name or 'attached'} is a {type(scheduler).__name__}, which is not a schedule of steps",
                    hint="a schedule driven by the loss cannot be rebuilt: use one that depends on the step alone",
                )
        for optimizer in self.optimizers.values():
            if isinstance(optimizer, torch.optim.LBFGS):
                raise RecipeError(
                    "LBFGS keeps lists of tensors, which polchain cannot record", hint="use SGD, Adam or AdamW"
                )
            # Some (Adagrad) are built with state; it says that no step was taken yet.
            if any(float(kept.get("step", 1)) != 0 for kept in optimizer.state.values()):
                raise RecipeError(
                    f"{type(optimizer).__name__} has taken steps before it is attached",
                    hint="attach before the first step",
                )
        self.capture()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter that an attached optimizer steps."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                yield from group["params"]

    def device(self) -> torch.device:
        """Where the model is: the device of its first parameter, else the CPU."""
        first = next(iter(self.model.parameters()), None)
        return torch.device("cpu") if first is None else first.device

    def capture(self) -> Captured:
        """Every row of the state, tensors by reference.

        Raises:
            RecipeError: something is neither tensor nor number, or cannot be named; it is named.
        """
        captured = Captured()
        _capture_module(captured, "model/", self.model)
        for name, value in self.extra.items():
            if isinstance(value, nn.Module):
                _capture_module(captured, f"extra/{name}/", value)
            elif isinstance(value, torch.Tensor):
                captured.add(f"extra/{name}", "state", value)
            elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
                _capture_tree(captured, f"extra/{name}", value.state_dict())
            else:
                raise RecipeError(
                    f"{name} is a {type(value).__qualname__}, which has no state_dict",
                    hint="attach modules, tensors, or objects with state_dict and load_state_dict",
                )
        names = self._parameter_names()
        for key, optimizer in self.optimizers.items():
            _capture_optimizer(captured, f"{key}/" if key else "", optimizer, names)
        for key, scheduler in self.schedulers.items():
            _capture_tree(
                captured, f"schedule/scheduler/{key}" if key else "schedule/scheduler", scheduler.state_dict()
            )
        return captured

    def settings(self) -> dict[str, Scalar]:
        """The rows of the optimizers' settings alone.

        Raises:
            RecipeError: as `capture`.
        """
        captured = Captured()
        for key, optimizer in self.optimizers.items():
            _capture_settings(captured, f"{key}/" if key else "", optimizer)
        return captured.scalars

    def restore(self, snapshot: Snapshot) -> None:
        """Copy a snapshot's model, optimizer and extra rows into the objects; `schedule/` rows are not read.

        Raises:
            ManifestError: the rows are not those of these objects; the first that does not fit is named.
        """
        with torch.no_grad():
            live = self.capture()
            rows = {row.name: row for row in snapshot.manifest.rows}
            wanted = {n for n in rows if n.startswith(("model/", "extra/"))}
            have = {n for n in (*live.tensors, *live.aliases, *live.scalars) if n.startswith(("model/", "extra/"))}
            if wanted != have:
                raise ManifestError(f"the recipe's state and the checkpoint's differ in {sorted(wanted ^ have)[0]}")
            for name in sorted(wanted & live.tensors.keys()):
                tensor = live.tensors[name][1]
                raw_bytes(tensor).copy_(raw_bytes(_tensor(snapshot, name, tensor)))
            self._restore_trees(snapshot)
            names = self._parameter_names()
            for key, optimizer in self.optimizers.items():
                _restore_optimizer(snapshot, f"{key}/" if key else "", optimizer, names)

    def _restore_trees(self, snapshot: Snapshot) -> None:
        for name, value in self.extra.items():
            if isinstance(value, nn.Module):
                _restore_extra_state(snapshot, f"extra/{name}/", value)
            elif not isinstance(value, torch.Tensor):
                value.load_state_dict(_rebuild(snapshot, f"extra/{name}", value.state_dict()))
        _restore_extra_state(snapshot, "model/", self.model)

    def _parameter_names(self) -> dict[int, str]:
        names: dict[int, str] = {}
        for name, parameter in self.model.named_parameters():
            names.setdefault(id(parameter), plain_name(name))
        for key, value in self.extra.items():
            if isinstance(value, nn.Module):
                for name, parameter in value.named_parameters():
                    names.setdefault(id(parameter), f"{key}.{plain_name(name)}")
            elif isinstance(value, nn.Parameter):
                names.setdefault(id(value), key)
        return names


def plain_name(name: str) -> str:
    """A parameter's name without what DataParallel and torch.compile put into it."""
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _capture_module(captured: Captured, prefix: str, module: nn.Module) -> None:
    for name, parameter in sorted(module.named_parameters(remove_duplicate=False)):
        captured.add(prefix + plain_name(name), "parameter", parameter)
    for name, buffer in sorted(module.named_buffers(remove_duplicate=False)):
        captured.add(prefix + plain_name(name), "buffer", buffer)
    for path, part in _with_extra_state(module):
        _capture_tree(captured, prefix + path, part.get_extra_state())


def _with_extra_state(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module.named_modules():
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            yield plain_name(f"{name}._extra_state" if name else "_extra_state"), part


def _restore_extra_state(snapshot: Snapshot, prefix: str, module: nn.Module) -> None:
    for path, part in _with_extra_state(module):
        part.set_extra_state(_rebuild(snapshot, prefix + path, part.get_extra_state()))


def _capture_tree(captured: Captured, prefix: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in value:
            _capture_tree(captured, f"{prefix}/{key}", value[key])
    elif isinstance(value, list | tuple | set):
        for index, item in enumerate(sorted(value) if isinstance(value, set) else value):
            _capture_tree(captured, f"{prefix}/{index}", item)
    elif isinstance(value, torch.Tensor) and not prefix.startswith("schedule/"):
        captured.add(prefix, "state", value)
    else:
        captured.scalar(prefix, value)


def _rebuild(snapshot: Snapshot, prefix: str, template: Any) -> Any:
    if isinstance(template, Mapping):
        made: Any = copy.copy(template)  # not its type: a defaultdict is not made from pairs
        for key in template:
            made[key] = _rebuild(snapshot, f"{prefix}/{key}", template[key])
        return made
    if isinstance(template, list | tuple | set):
        items = sorted(template) if isinstance(template, set) else template
        parts = [_rebuild(snapshot, f"{prefix}/{index}", item) for index, item in enumerate(items)]
        return type(template)(*parts) if hasattr(template, "_fields") else type(template)(parts)
    if isinstance(template, torch.Tensor):
        return _tensor(snapshot, prefix, template).to(template.device, copy=True)
    if prefix not in snapshot.manifest or not isinstance(row := snapshot.manifest[prefix], ScalarRow):
        raise ManifestError(f"{prefix} is not a number in the checkpoint")
    return row.value


def _tensor(snapshot: Snapshot, name: str, like: torch.Tensor) -> torch.Tensor:
    row = snapshot.manifest[name]
    if isinstance(row, AliasRow):
        row = snapshot.manifest[row.target]
    if not isinstance(row, TensorRow) or row.dtype != DTYPE_NAMES[like.dtype] or row.shape != tuple(like.shape):
        raise ManifestError(f"{name} has another dtype or shape in the checkpoint than in the recipe")
    return tensor_from(snapshot.buffers[row.name], row.dtype, row.shape)


def _capture_optimizer(captured: Captured, key: str, optimizer: Optimizer, names: Mapping[int, str]) -> None:
    parameters = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise RecipeError(
                    f"{type(optimizer).__name__} steps a parameter of shape {list(parameter.shape)}"
                    " that no attached module owns",
                    hint="attach the module or parameter it belongs to: run.attach(..., name=module)",
                )
            parameters.add(parameter)
            for part, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(part, str) or "/" in part:
                    raise RecipeError(f"{type(optimizer).__name__} names its state {part!r}")
                row = f"optimizer/{key}{names[id(parameter)]}/{part}"
                if isinstance(value, torch.Tensor):
                    captured.add(row, "state", value)
                else:
                    captured.scalar(row, value)
    _capture_settings(captured, key, optimizer)
    for owner in optimizer.state:
        if owner not in parameters:
            raise RecipeError(f"{type(optimizer).__name__} keeps state that belongs to no parameter")


def _capture_settings(captured: Captured, key: str, optimizer: Optimizer) -> None:
    for index, group in enumerate(optimizer.param_groups):
        for setting, value in group.items():
            if setting not in ("params", "param_names"):
                _capture_tree(captured, f"schedule/settings/{key}{index}/{setting}", value)


def _restore_optimizer(snapshot: Snapshot, key: str, optimizer: Optimizer, names: Mapping[int, str]) -> None:
    optimizer.state.clear()
    owners = {names[id(p)]: (p, group) for group in optimizer.param_groups for p in group["params"]}
    made: dict[str, torch.Tensor] = {}
    prefix = f"optimizer/{key}"
    for row in snapshot.manifest.group("optimizer"):
        if not row.name.startswith(prefix):
            continue
        name, _, part = row.name.removeprefix(prefix).rpartition("/")
        if name not in owners:
            raise ManifestError(f"{row.name} belongs to no parameter of the recipe's optimizer")
        parameter, group = owners[name]
        source = snapshot.manifest[row.target] if isinstance(row, AliasRow) else row
        value: Any
        if isinstance(source, ScalarRow):
            value = source.value
        elif isinstance(source, TensorRow):
            if source.name not in made:
                made[source.name] = _fresh(snapshot, source, part, parameter, group)
            value = made[source.name]
        else:
            raise ManifestError(f"{row.name} is neither tensor nor number")
        optimizer.state[parameter][part] = value


def _fresh(
    snapshot: Snapshot, row: TensorRow, part: str, parameter: torch.Tensor, group: Mapping[str, Any]
) -> torch.Tensor:
    """A new tensor for one optimizer row: its own dtype, the parameter's device and memory format.

    `Optimizer.load_state_dict` would cast it to the parameter's dtype. Adam's `step` stays on the CPU unless the
    kernel wants it beside the parameter, as torch itself has it.
    """
    stays = part == "step" and not (group.get("capturable") or group.get("fused"))
    device = torch.device("cpu") if stays else parameter.device
    source = tensor_from(snapshot.buffers[row.name], row.dtype, row.shape)
    if row.shape == tuple(parameter.shape):
        made = torch.empty_like(parameter, dtype=source.dtype, device=device, requires_grad=False)
    else:
        made = torch.empty(row.shape, dtype=source.dtype, device=device)
    raw_bytes(made).copy_(raw_bytes(source))
    return made
