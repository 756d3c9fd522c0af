"""Where the parts of a foreign checkpoint lie: in the keys of a file, in the files of a folder, in shards.

model.safetensors    model-00001-of-00002.safetensors    pytorch_model.bin    adapter_model.bin    model
optimizer.pt                                                                                       optimizer
scheduler.pt         lr_scheduler.bin                                                              schedule
ema.pt               any other weight file, opened                                                 extra
config.json          any other file, and whatever lies deeper, unopened                            extra
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from polchain.errors import FormatError, MissingFileError
from polchain.training.weights import EXTENSIONS, Opened, Unopened, open_weights

__all__ = ["Found", "Part", "key_text", "parts_of_file", "parts_of_folder"]

MODEL_KEYS = frozenset({"model", "state_dict", "model_state_dict", "model_state", "module"})
MODEL_FILES = re.compile(r"(diffusion_)?(pytorch_)?model(_\d+)?|adapter_model")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
MAX_FILES = 10_000
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a checkpoint.

    Attributes:
        group: the group of rows that it becomes.
        key: what it is called: a key of its file, or the file's name without its ending.
        value: tensors, numbers and strings, in mappings and lists.
        files: the file that holds it, or its shards, relative to the checkpoint's folder.
        ordered: whether tensors stand in the order of the model.
    """

    group: str
    key: str
    value: Any
    files: tuple[Path, ...]
    ordered: bool


@dataclass(slots=True)
class Found:
    """The parts of a checkpoint, the files that were not opened, and what has to be said.

    Attributes:
        size: bytes of the opened files.
        refused: whether one of the unopened files is a weight file.
    """

    parts: list[Part] = field(default_factory=list)
    unopened: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    size: int = 0
    refused: bool = False

    def open(self, root: Path, file: Path) -> Opened | None:
        """Open one weight file, or note that it stays closed."""
        opened = open_weights(root / file)
        if isinstance(opened, Unopened):
            self.unopened.append(file)
            self.remarks.append(f"{file}: recorded by its digest, unopened: {opened.reason}")
            self.refused = True
            return None
        self.size += opened.size
        return opened


def parts_of_file(path: Path, mapping: Mapping[str, str]) -> Found:
    """The parts of one checkpoint file.

    Raises:
        MissingFileError, FormatError: it cannot be read, or is damaged.
    """
    found = Found()
    if not path.is_file():
        raise FormatError(f"{path} is neither a file nor a folder")
    opened = found.open(path.parent, Path(path.name))
    if opened is not None:
        default = "model" if _is_bare(opened.value) else None
        found.parts += _split(opened, path.stem, (Path(path.name),), mapping, default)
    return found


def parts_of_folder(path: Path, mapping: Mapping[str, str]) -> Found:
    """The parts of a checkpoint folder.

    Raises:
        MissingFileError: one of its shards is missing.
        FormatError: a weight file is damaged, a tensor is in two shards, or there are too many files.
    """
    found = Found()
    others: list[str] = []
    sets: dict[tuple[str, str], dict[int, Path]] = {}
    counts: dict[tuple[str, str], int] = {}
    for file in _files(path):
        match = SHARD.fullmatch(file.stem)
        if file.suffix.lower() not in EXTENSIONS or len(file.parts) > 1:
            found.unopened.append(file)
            others.append(file.as_posix())
        elif match is None:
            sets[file.name, ""] = {1: file}
        else:
            key = (match["stem"] + file.suffix, match["count"])
            counts[key] = int(match["count"])
            sets.setdefault(key, {})[int(match["number"])] = file
    names = {Path(name).stem: name for name, _ in sets}
    for (name, count), shards in sorted(sets.items()):
        stem = Path(name).stem
        if stem == "pytorch_model" and names.get("model", "").endswith(".safetensors"):
            # The same weights twice: the safer container is the one that is opened.
            found.unopened += shards.values()
            others += [file.as_posix() for file in shards.values()]
            continue
        if count and sorted(shards) != list(range(1, counts[name, count] + 1)):
            raise MissingFileError(f"{path.name} has {len(shards)} of the {int(count)} shards of {name}")
        files = tuple(shards[number] for number in sorted(shards))
        opened = _merged(found, path, files)
        if opened is not None:
            found.parts += _split(opened, stem, files, mapping, _group_of_file(stem))
    _only_one(found)
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        found.remarks.append(f"recorded by digest, unopened: {', '.join(others[:SHOWN])}{more}")
    return found


def key_text(key: object) -> str:
    """A mapping's key as part of a row's name."""
    if isinstance(key, str):
        return str(key)
    # Nothing else is printed whole: it may be longer than it looks.
    small = key is None or isinstance(key, bool | float) or (isinstance(key, int) and key.bit_length() < 64)
    return str(key) if small else f"<{type(key).__name__}>"


def _files(path: Path) -> Iterator[Path]:
    count = 0
    for folder, subfolders, names in os.walk(path, onerror=_cannot_list):
        subfolders.sort()
        for name in sorted(names):
            file = Path(folder) / name
            if not file.is_file():
                raise FormatError(f"{file} is not a plain file")
            count += 1
            if count > MAX_FILES:
                raise FormatError(
                    f"{path} holds more than {MAX_FILES} files", hint="commit the checkpoint's own folder"
                )
            yield file.relative_to(path)
    if not count:
        raise MissingFileError(f"{path} is an empty folder", hint="name a file or a folder that the loop has saved")


def _cannot_list(error: OSError) -> NoReturn:
    raise error


def _merged(found: Found, root: Path, shards: tuple[Path, ...]) -> Opened | None:
    opened = [one for one in (found.open(root, file) for file in shards) if one is not None]
    if len(opened) <= 1:
        return opened[0] if opened else None
    merged: dict[Any, Any] = {}
    for one in opened:
        if not isinstance(one.value, Mapping) or one.value.keys() & merged.keys():
            raise FormatError(f"{shards[0]} and its other shards hold a tensor twice, or something else than tensors")
        merged.update(one.value)
    return Opened(merged, 0, all(one.ordered for one in opened))


def _split(
    opened: Opened, stem: str, files: tuple[Path, ...], mapping: Mapping[str, str], default: str | None
) -> list[Part]:
    """The parts of one file; `default` is the group of whatever holds no key that is known."""
    value = opened.value
    if stem in mapping:
        return [Part(mapping[stem], stem, value, files, opened.ordered)]
    groups: dict[Any, str] = {}
    if isinstance(value, Mapping):
        groups = {key: group for key in value if (group := mapping.get(key_text(key)) or _recognised(key, value[key]))}
    rest: Any = {key: value[key] for key in value if key not in groups} if groups else value
    parts = [Part(group, key_text(key), value[key], files, opened.ordered) for key, group in groups.items()]
    if default is not None and (not groups or _is_bare(rest)):
        return [*parts, Part(default, stem, rest, files, opened.ordered)]
    if isinstance(rest, Mapping):
        return parts + [Part("extra", key_text(key), rest[key], files, opened.ordered) for key in rest]
    return [Part("extra", stem, rest, files, opened.ordered)]


def _recognised(key: object, value: object) -> str | None:
    if not isinstance(key, str) or not isinstance(value, Mapping | list | tuple):
        return None
    if key in MODEL_KEYS:
        return "model"
    return _settings_group(key)


def _group_of_file(stem: str) -> str:
    return "model" if MODEL_FILES.fullmatch(stem) else _settings_group(stem) or "extra"


def _settings_group(name: str) -> str | None:
    if name.startswith("optim"):
        return "optimizer"
    return "schedule" if name.startswith(("scheduler", "lr_scheduler")) else None


def _is_bare(value: object) -> bool:
    """Whether a value is a state_dict and nothing more: names and tensors."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) for key in value)
        and all(isinstance(item, torch.Tensor) or key.endswith("_extra_state") for key, item in value.items())
    )


def _only_one(found: Found) -> None:
    """In a folder with no model, the only file of nothing but tensors is the model."""
    if any(part.group == "model" for part in found.parts):
        return
    bare = [at for at, part in enumerate(found.parts) if part.key == _stem(part) and _is_bare(part.value)]
    if len(bare) == 1 and found.parts[bare[0]].group == "extra":
        part = found.parts[bare[0]]
        found.parts[bare[0]] = Part("model", part.key, part.value, part.files, part.ordered)


def _stem(part: Part) -> str:
    match = SHARD.fullmatch(part.files[0].stem)
    return match["stem"] if match else part.files[0].stem
