"""Checkpoints of somebody else's loop, as rows.

    a file      {"model": ..., "optimizer": ..., "scheduler": ..., "epoch": 3}, a bare state_dict, a .safetensors file
    a folder    model.safetensors, or its shards; pytorch_model.bin; optimizer.pt; scheduler.pt; others unopened

    model, state_dict, model_state_dict, module      model/<name>; several models: model/<key>.<name>
    optimizer...                                     optimizer/<parameter>/<key>, and schedule/settings/<i>/<key>
    scheduler..., lr_scheduler...                    schedule/scheduler/<key>
    any other key                                    extra/<key>/...
    what is no data, and other files                 extra/<file>, by digest alone

A mapping (`net=model`, `ema=extra`) says where else a key, or a file by its name without the ending, belongs. Whatever
could not be recorded as rows of its own is said in the remarks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.place import hash_file
from polchain.core.rows import GROUPS, MAX_NAME, FileRow
from polchain.errors import FormatError, MissingFileError, RecipeError, UsageError
from polchain.training.captured import Captured
from polchain.training.folder import Found, Part, key_text, parts_of_file, parts_of_folder
from polchain.training.naming import Model, name_parameters
from polchain.training.snapshot import hash_rows
from polchain.training.state import plain_name
from polchain.training.tensors import dtype_name, tensor_bytes

__all__ = ["Foreign", "check_mapping", "read_foreign"]

MAX_DEPTH = 32
MAX_VALUES = 1_000_000
# As manifests read them back: 4096 characters, 40 digits.
MAX_STRING = 4096
MAX_BITS = 128
# Views of one storage are each written whole: so many times what the files hold, at most.
SWELL = 4
SHOWN = 3
SHORT = 200

Files = tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A foreign checkpoint by value, and what has to be said about it.

    Attributes:
        snapshot: its rows.
        remarks: one sentence each.
        unrecognised: the keys of a checkpoint that was opened and among which none is a model's; else empty.
    """

    snapshot: Snapshot
    remarks: tuple[str, ...]
    unrecognised: tuple[str, ...] = ()


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Check that every key is mapped to a group.

    Raises:
        UsageError: it is not; the groups are named.
    """
    for key, group in mapping.items():
        if group not in GROUPS:
            raise UsageError(f"{key} cannot be mapped to {group!r}", hint=f"map it to one of {', '.join(GROUPS)}")


def read_foreign(path: Path, mapping: Mapping[str, str] | None = None) -> Foreign:
    """Read a checkpoint file or folder. Nothing in it is executed.

    Raises:
        UsageError: the mapping names no group, or a key that is not there.
        MissingFileError: no such file or folder, or one of its shards is missing.
        FormatError: a weight file is cut short or damaged, or a limit is passed.
    """
    mapping = mapping or {}
    check_mapping(mapping)
    root = path if path.is_dir() else path.parent
    try:
        if not path.exists():
            raise MissingFileError(f"no checkpoint at {path}", hint="name a file or a folder that the loop has saved")
        found = parts_of_folder(path, mapping) if path.is_dir() else parts_of_file(path, mapping)
        remarks = found.remarks + _unused(mapping, found)
        capture = _Capture(limit=SWELL * found.size + 2**20)
        capture.parts(found.parts)
        remarks += capture.remarks + [_left(*item) for item in capture.left.items()]
        files = [_file_row(root, file) for file in (*found.unopened, *chain(*capture.left))]
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror or error}") from error
    captured = capture.captured
    unrecognised: tuple[str, ...] = ()
    if not any(name.startswith("model/") for name in captured.tensors):
        remarks.append("no model was recognised: --map KEY=model says where it is")
        # A model may be there that cannot be rows, or in a file that cannot be opened: digests cover it.
        if not found.refused and not any(part.group == "model" and part.files in capture.left for part in found.parts):
            unrecognised = tuple(sorted({part.key for part in found.parts}))
    buffers = {name: tensor_bytes(tensor) for name, (_, tensor) in captured.tensors.items()}
    manifest = captured.rows(hash_rows(buffers))
    for row in files:
        if row.name in manifest:
            raise FormatError(f"the checkpoint has both a file and a value named {row.name.removeprefix('extra/')}")
    return Foreign(Snapshot(Manifest.of((*manifest.rows, *files)), buffers), tuple(remarks), unrecognised)


def _unused(mapping: Mapping[str, str], found: Found) -> list[str]:
    keys = {part.key for part in found.parts}
    missing = sorted(mapping.keys() - keys)
    if missing and not found.refused:
        raise UsageError(f"the checkpoint has no {missing[0]!r} to map", hint=f"it has {', '.join(sorted(keys)[:20])}")
    return [f"no file that could be opened has {key!r}, which --map names" for key in missing]


def _left(files: Files, reasons: list[str]) -> str:
    more = "; and so on" if len(reasons) == SHOWN else ""
    return f"{files[0]}: recorded by digest as well, for what cannot be a row: {'; '.join(reasons)}{more}"


def _file_row(root: Path, file: Path) -> FileRow:
    name = f"extra/{file.as_posix()}"
    if len(name) > MAX_NAME or not name.isprintable():
        raise FormatError(f"the file name {name[:80]!r} is too long or does not print")
    return FileRow(name, (root / file).stat().st_size, hash_file(root / file))


@dataclass(slots=True)
class _Capture:
    """Rows from parts, within limits; what cannot be a row is left to the digest of its file."""

    limit: int
    captured: Captured = field(default_factory=Captured)
    left: dict[Files, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    values: int = 0
    size: int = 0

    def parts(self, parts: list[Part]) -> None:
        """Models first: the optimizers' rows are named by their parameters."""
        models = [part for part in parts if part.group == "model"]
        named = [self._model(part, f"{part.key}." if len(models) > 1 else "") for part in models]
        optimizers = [one for part in parts if part.group == "optimizer" for one in _unpack(part, _is_optimizer)]
        for part in optimizers:
            self._optimizer(part, f"{part.key}/" if len(optimizers) > 1 else "", named)
        schedules = [one for part in parts if part.group == "schedule" for one in _unpack(part, _is_scheduler)]
        for part in schedules:
            name = f"schedule/scheduler/{part.key}" if len(schedules) > 1 else "schedule/scheduler"
            self._walk(name, part.value, part.files)
        for part in parts:
            if part.group == "extra":
                self._walk(f"extra/{part.key}", part.value, part.files)

    def _model(self, part: Part, prefix: str) -> Model:
        before = len(self.captured.tensors)
        items = part.value.items() if isinstance(part.value, Mapping) else [(part.key, part.value)]
        for key, item in items:
            self._walk(f"model/{prefix}{plain_name(key_text(key))}", item, part.files)
        new = islice(self.captured.tensors.items(), before, None)
        shapes = {name.removeprefix("model/"): tuple(t.shape) for name, (role, t) in new if role == "parameter"}
        return Model(prefix, shapes, part.ordered)

    def _optimizer(self, part: Part, key: str, models: list[Model]) -> None:
        if not _is_optimizer(part.value):
            self.remarks.append(f"{part.key} is no optimizer's state_dict, so it is under extra/")
            self._walk(f"extra/{part.key}", part.value, part.files)
            return
        state, groups = part.value["state"], part.value["param_groups"]
        names = name_parameters(state, groups, models)
        if names is None:
            self.remarks.append(
                f"{part.key}: which parameter its state belongs to cannot be told, so it is under extra/; "
                "an optimizer made of model.named_parameters() says it"
            )
            self._walk(f"extra/{part.key}/state", state, part.files)
        else:
            if names.matched:
                self.remarks.append(f"{part.key}: its state was matched with the model's parameters by order and shape")
            for owner, name in names.by_id.items():
                self._walk(f"optimizer/{key}{name}", state[owner], part.files)
        for index, group in enumerate(groups):
            settings = {name: value for name, value in group.items() if name not in ("params", "param_names")}
            self._walk(f"schedule/settings/{key}{index}", settings, part.files)
        for other, value in part.value.items():
            if other not in ("state", "param_groups"):
                self._walk(f"extra/{part.key}/{key_text(other)}", value, part.files)

    def _walk(self, name: str, value: Any, files: Files, depth: int = 0) -> None:
        """Rows of everything in a value. Depth and number are bounded: a list may hold itself."""
        if self.values >= MAX_VALUES:
            self._leave(files, f"all that follows the first {MAX_VALUES} values")
        elif isinstance(value, Mapping | list | tuple):
            self.values += 1
            if depth == MAX_DEPTH:
                self._leave(files, f"{name[:SHORT]} is nested too deep")
                return
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                self._walk(f"{name}/{key_text(key)[:MAX_NAME]}", item, files, depth + 1)
        else:
            self.values += 1
            try:
                self._leaf(name, value)
            except RecipeError as error:
                self._leave(files, str(error))
            # torch refuses in its own ways what an odd tensor is asked; strings may hold half a character.
            except (RuntimeError, ValueError):
                self._leave(files, f"{name[:SHORT]} is a {type(value).__name__} that cannot be read")

    def _leaf(self, name: str, value: object) -> None:
        if name.endswith("/"):
            raise RecipeError(f"{name[:SHORT]} has no name")
        if isinstance(value, torch.Tensor) and not name.startswith("schedule/"):
            self._tensor(name, value)
            return
        if isinstance(value, str) and len(value.encode()) > MAX_STRING:
            raise RecipeError(f"{name[:SHORT]} is a text of {len(value)} characters")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise RecipeError(f"{name[:SHORT]} is a number of {value.bit_length()} bits")
        self.captured.scalar(name, value)

    def _tensor(self, name: str, tensor: torch.Tensor) -> None:
        dtype_name(tensor, name[:SHORT])
        if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.is_nested:
            raise RecipeError(f"{name[:SHORT]} is a {type(tensor).__name__}, not a plain tensor")
        size = tensor.numel() * tensor.element_size()
        if size > tensor.untyped_storage().nbytes():
            raise RecipeError(f"{name[:SHORT]} is an expanded tensor: its elements share memory")
        if self.size + size > self.limit:
            raise RecipeError(f"{name[:SHORT]} would make the state larger than its files")
        role = "state"
        if name.startswith("model/"):
            role = "parameter" if tensor.is_floating_point() or tensor.is_complex() else "buffer"
        self.captured.add(name, role, tensor)
        self.size += size if name in self.captured.tensors else 0

    def _leave(self, files: Files, reason: str) -> None:
        reasons = self.left.setdefault(files, [])
        if len(reasons) < SHOWN and reason not in reasons:
            reasons.append(reason[: 2 * SHORT])


def _unpack(part: Part, is_one: Callable[[object], bool]) -> list[Part]:
    """The optimizers or schedulers in a part: one, or a list or mapping of several."""
    value = part.value
    if is_one(value) or not isinstance(value, Mapping | list | tuple):
        return [part]
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    inner = [Part(part.group, f"{part.key}/{key_text(key)}", item, part.files, part.ordered) for key, item in items]
    return inner if all(is_one(one.value) for one in inner) else [part]


def _is_optimizer(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    state, groups = value.get("state"), value.get("param_groups")
    return (
        isinstance(state, Mapping)
        and all(isinstance(parts, Mapping) for parts in state.values())
        and isinstance(groups, list | tuple)
        and all(isinstance(group, Mapping) for group in groups)
    )


def _is_scheduler(value: object) -> bool:
    return isinstance(value, Mapping) and "last_epoch" in value
