"""What a stranger's recipe may use in the sandbox, as TOML:

    [sandbox]
    memory = 0.0            GiB, all its processes and temporary files together; 0: what is free here, less a tenth
    processes = 256         processes and threads, besides those that the run's own thread setting needs
    scratch = 1.0           GiB of temporary files; also the size of the largest
    output = 1.0            MiB of what it prints that are kept; the rest is dropped
    show = []               folders that it is shown besides, read-only: libraries outside Python's own, say

Time is the verifier's `--timeout`, for each replay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polchain.errors import PolicyError

__all__ = ["GIB", "LEAST", "Allowance", "free_memory"]

GIB = 1024**3
MIB = 1024**2
RESERVE = 0.1
LEAST = GIB // 2
MOST_GIB = 1 << 20
MOST_PROCESSES = 100_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a recipe may use in the sandbox.

    Attributes:
        memory: GiB for all its processes and temporary files together; 0 for what is free, less a tenth.
        processes: how many processes and threads, besides those that the run's thread setting needs.
        scratch: GiB of temporary files.
        output: MiB of what it prints that are kept.
        show: folders that it is shown besides, read-only.
    """

    memory: float = 0.0
    processes: int = 256
    scratch: float = 1.0
    output: float = 1.0
    show: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("memory", self.memory), ("scratch", self.scratch), ("output", self.output)):
            if not (math.isfinite(value) and 0 <= value <= MOST_GIB):
                raise PolicyError(f"the sandbox's {name} is {value}: not between 0 and {MOST_GIB}")
        if not 1 <= self.processes <= MOST_PROCESSES:
            raise PolicyError(f"the sandbox's processes are {self.processes}: not between 1 and {MOST_PROCESSES}")

    @classmethod
    def parse(cls, value: object, folder: Path) -> Allowance:
        """Read the policy's table; `folder` is where its relative paths begin.

        Raises:
            PolicyError: an unknown name, or a value of the wrong kind.
        """
        if not isinstance(value, Mapping):
            raise PolicyError("sandbox is a table: [sandbox]")
        known = ("memory", "processes", "scratch", "output", "show")
        for name in value:
            if name not in known:
                raise PolicyError(f"sandbox: unknown name {name!r}", hint=f"known: {', '.join(known)}")
        numbers = {name: _number(name, value[name]) for name in known[:4] if name in value}
        processes = numbers.pop("processes", cls().processes)
        if processes != int(processes):
            raise PolicyError("the sandbox's processes are a whole number")
        show = value.get("show", [])
        if not isinstance(show, list) or not all(isinstance(path, str) for path in show):
            raise PolicyError("the sandbox's show is a list of strings")
        return cls(**numbers, processes=int(processes), show=tuple((folder / path).resolve() for path in show))

    def bytes(self) -> int:
        """The memory, in bytes, on this machine as it is now."""
        if self.memory:
            return int(self.memory * GIB)
        return free_memory()


def free_memory() -> int:
    """Bytes that are free on this machine now, less a tenth."""
    return max(LEAST, int((1 - RESERVE) * _available()))


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PolicyError(f"the sandbox's {name} is a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise PolicyError(f"the sandbox's {name} is no number that could be meant")
    return number


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return LEAST
