"""What a recipe finds around it in the sandbox, as bubblewrap's arguments.

    read-only    /usr and the loader's files; this Python, its standard library and site-packages; polchain; the data
    its own      /tmp and /dev/shm, empty and of limited size; /dev with null, zero, random and their like; /proc of
                 its own processes alone, read-only but for runs on a GPU
    the GPU's    /dev/nvidia* and /sys, where the run was on one
    nothing      everything else: no home, no claim, no key, not even where they lie inside of what is shown

Files keep the names that they have on the host, so that what Python has loaded already is found again.
"""

from __future__ import annotations

import os
import pwd
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import polchain
from polchain.errors import UsageError
from polchain.training.fence import PRIVATE, SHARED_MEMORY

__all__ = ["arguments", "check_data", "homes"]

# bin, lib and their like are links into /usr on most systems, and folders on the others.
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
LOADER = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
# What arithmetic libraries ask about the processor.
PROCESSOR = ("/sys/devices/system/cpu", "/sys/devices/system/node")
# Where they are not among the packages of this Python: PYTHONPATH, an editable install.
PACKAGES = ("torch", "numpy", "blake3", "safetensors")
STORES = ("/nix/store", "/gnu/store")
OWN = tuple(Path(path) for path in ("/dev", "/proc", "/sys", PRIVATE))


def arguments(data: Path, hidden: Sequence[Path], show: Sequence[Path], *, scratch: int, cuda: bool) -> list[str]:
    """bubblewrap's arguments for the files of a room.

    Args:
        data: the folder with the dataset.
        hidden: files and folders that are not shown, wherever they lie.
        show: folders that are shown besides.
        scratch: bytes of /tmp, and of /dev/shm.
        cuda: whether the GPU is shown.
    """
    covered = [path.resolve() for path in hidden]
    kept = [path for path in (data.resolve(), *show) if not _inside(path, covered)]
    shown = _outermost([*_python(), *(path for path in kept if path.exists())])
    words = ["--ro-bind", "/usr", "/usr"]
    for name in SYSTEM:
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            words += ["--ro-bind", name, name]
    for name in (*LOADER, *STORES):
        words += ["--ro-bind-try", name, name]
    words += ["--proc", "/proc", "--dev", "/dev"]
    words += ["--perms", "1777", "--size", str(scratch), "--tmpfs", PRIVATE]
    words += ["--perms", "1777", "--size", str(scratch), "--tmpfs", SHARED_MEMORY]
    for name in ("/sys",) if cuda else PROCESSOR:
        words += ["--ro-bind-try", name, name]
    for node in sorted(Path("/dev").glob("nvidia*")) if cuda else ():
        words += ["--dev-bind-try", str(node), str(node)]
    for path in shown:
        words += ["--ro-bind", str(path), str(path)]
    if data.resolve() not in kept:
        words += ["--dir", str(data.resolve())]
    for path in covered:
        if not _inside(path, shown):
            continue
        words += _blank(path)
    # CUDA names its threads through /proc, and gives up where it cannot.
    sealed = ("/dev", "/") if cuda else ("/dev", "/proc", "/")
    return [*words, *(word for path in sealed for word in ("--remount-ro", path))]


def check_data(data: Path) -> None:
    """Check that the data folder is one that can be shown.

    Raises:
        UsageError: it holds the home folder, or is one that the sandbox has of its own.
    """
    path = data.resolve()
    hint = "name the dataset's own folder with --data, or an empty one where the recipe reads none"
    for home in homes():
        if home.is_relative_to(path):
            raise UsageError(f"the data folder {path} holds your home folder, which a recipe must not see", hint=hint)
    systems = not path.is_relative_to(SHARED_MEMORY) and _inside(path, OWN[:3])
    if systems or any(own.is_relative_to(path) for own in (*OWN, Path(SHARED_MEMORY), Path("/usr"))):
        raise UsageError(f"the data folder {path} is one that a sandbox has of its own", hint=hint)


def homes() -> list[Path]:
    """The user's home folder, as the environment and the system name it."""
    found = []
    with suppress(RuntimeError):
        found.append(Path.home())
    with suppress(KeyError):
        found.append(Path(pwd.getpwuid(os.getuid()).pw_dir))
    return [path.resolve() for path in found if path != Path("/")]


def _python() -> list[Path]:
    """Where this Python, torch and polchain lie."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *site.getsitepackages()}
    paths |= {
        value for name, value in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    paths |= {sys.executable, os.path.dirname(polchain.__file__)}
    paths |= {path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")}
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            paths |= {os.path.dirname(spec.origin) if spec.submodule_search_locations else spec.origin}
    found = [Path(path) for path in paths if path and os.path.exists(path)]
    # By the name that Python uses, and by the one that its links lead to.
    return [path for each in found for path in {each, each.resolve()} if not _too_much(path)]


def _too_much(path: Path) -> bool:
    return any(home.is_relative_to(path) for home in homes()) or any(own.is_relative_to(path) for own in OWN)


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths that lie in none of the others nor in what is shown anyway, parents first."""
    kept: list[Path] = [Path("/usr"), *map(Path, SYSTEM)]
    system = len(kept)
    for path in sorted(set(paths), key=lambda path: (len(path.parts), path)):
        if not _inside(path, kept):
            kept.append(path)
    return kept[system:]


def _inside(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _blank(path: Path) -> list[str]:
    if path.is_dir():
        return ["--perms", "0555", "--size", "4096", "--tmpfs", str(path), "--remount-ro", str(path)]
    return ["--ro-bind", "/dev/null", str(path)] if path.exists() else []
