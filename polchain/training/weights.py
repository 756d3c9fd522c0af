"""Weight files that somebody else's loop wrote, opened without running anything that is in them.

    .safetensors             parsed by the safetensors library
    .pt .pth .bin .ckpt      torch.load(weights_only=True), never otherwise
    anything else            left unopened

A file that is cut short or contradicts itself is *damaged*, and an error. A sound file that would have to be run to be
read (a pickled module, a TorchScript archive, an object of a class) is *unopened*: its digest is all that is recorded.
Everything is read into memory, never mapped: the loop that writes these files may go on writing.
"""

from __future__ import annotations

import errno
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, deserialize

from polchain.errors import FormatError, ManifestError, MissingFileError
from polchain.training.tensors import TORCH_DTYPES, tensor_from

__all__ = ["EXTENSIONS", "Opened", "Unopened", "open_weights"]

PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt"})
EXTENSIONS = PICKLED | {".safetensors"}
# Twice this is needed in memory; a larger state is written in shards.
OPENED_LIMIT = 256 * 1024**3
ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Opened:
    """What a file holds.

    Attributes:
        value: tensors, numbers and strings, in mappings and lists.
        size: length of the file in bytes.
        ordered: whether tensors stand in the order of the model; safetensors files sort them.
    """

    value: Any
    size: int
    ordered: bool


@dataclass(frozen=True, slots=True)
class Unopened:
    """A file that was not opened, and why."""

    reason: str


def open_weights(path: Path) -> Opened | Unopened:
    """Open a weight file.

    Raises:
        MissingFileError: it is not there, or cannot be read.
        FormatError: it is cut short or damaged.
    """
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        return Unopened("not a weight file")
    try:
        if not path.is_file():
            raise MissingFileError(f"{path} is not a file")
        size = path.stat().st_size
        if size > OPENED_LIMIT:
            return Unopened(f"over {OPENED_LIMIT // 1024**3} GiB")
        if suffix == ".safetensors":
            return Opened(_safetensors(path), size, ordered=False)
        return _pickled(path, size)
    except OSError as error:
        # What a seek to an offset out of a damaged file gives.
        if error.errno == errno.EINVAL:
            raise FormatError(f"{path.name} is cut short or damaged") from error
        raise MissingFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise FormatError(f"{path.name} does not fit into memory") from error


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        found = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        return {name: _tensor(info) for name, info in found}
    except (SafetensorError, ManifestError, ValueError) as error:
        raise FormatError(f"{path.name} is cut short or damaged: {error}") from error


def _tensor(info: dict[str, Any]) -> Any:
    # A dtype that manifests do not have stays bytes, which the file's own digest will cover.
    return (
        tensor_from(info["data"], info["dtype"], tuple(info["shape"]))
        if info["dtype"] in TORCH_DTYPES
        else info["data"]
    )


def _pickled(path: Path, size: int) -> Opened | Unopened:
    with path.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
    if zipped and not _stored(path, size):
        return Unopened("a compressed archive")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return Unopened("it does not load with weights_only")
    except (OSError, MemoryError):
        raise
    # A pickle can make torch raise whatever it likes; none of it says more than this.
    except Exception as error:
        if isinstance(error, EOFError) or "EOF" in str(error) or (zipped and _broken(path)):
            raise FormatError(f"{path.name} is cut short or damaged") from error
        return Unopened("it does not load with weights_only")
    return Opened(value, size, ordered=True)


def _stored(path: Path, size: int) -> bool:
    """Whether an archive holds its members as they are, as torch writes them: others may swell a thousandfold.

    Raises:
        FormatError: it is damaged; or its members share bytes, and are longer together than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            return False
        total = sum(member.file_size for member in members)
        if total > size:
            raise FormatError(f"{path.name} is damaged: its members are {total} bytes, the file has {size}")
        return True
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise FormatError(f"{path.name} is cut short or damaged: {error}") from error


def _broken(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError):
        return True
