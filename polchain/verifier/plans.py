"""What a calibration measures: the settings that can be had here, and where in the run its segments open.

Early and late, because float noise grows fastest at the start of a training; short segments at more places than long
ones, because they cost less and because what a schedule recommends at the start are short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polchain.errors import UsageError
from polchain.training.fingerprint import Setting

__all__ = ["LENGTHS", "Machine", "Opening", "machines_here", "plan"]

LENGTHS = (1, 2, 5, 10, 20, 50, 100)
QUICK_LENGTHS = (1, 5, 10, 50)
# Two segments of each length are to fit several times.
MOST_OF_RUN = 8
SHORT = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """A setting that can be had here, and what to call it."""

    name: str
    setting: Setting


@dataclass(frozen=True, slots=True)
class Opening:
    """A step to measure at, and the lengths of the segments that open there."""

    first: int
    lengths: tuple[int, ...]

    @property
    def ends(self) -> list[int]:
        """The steps whose states are compared."""
        return sorted({self.first + k for k in self.lengths} | {self.first + 2 * k for k in self.lengths})


def machines_here(threads: int, *, capability: str, cuda: bool, quick: bool) -> tuple[Machine, ...]:
    """The settings that can be had on this machine; the first is the reference.

    Args:
        threads: of the reference.
        capability: the CPU's own (ATen), lower-case.
        cuda: whether the recipe computes on a GPU here.
        quick: fewer of them.
    """
    other = 1 if threads > 1 else 2
    base = Setting(threads, cuda=cuda)
    cpu = [Machine(f"{_threads(other)}", Setting(other))]
    if capability == "avx512":
        cpu.append(Machine("AVX2 only", Setting(threads, "avx2", "AVX2")))
    elif capability == "avx2":
        cpu.append(Machine("SSE4.1 only", Setting(threads, "default", "SSE41")))
    if not quick:
        cpu.append(Machine("oneDNN off", Setting(threads, onednn=False)))
    if cuda:
        return (Machine("CUDA", base), Machine(f"CPU, {_threads(threads)}", Setting(threads)), *cpu[:1])
    return (Machine(_threads(threads), base), *cpu)


def plan(steps: int, lengths: Sequence[int] = (), *, quick: bool = False) -> tuple[Opening, ...]:
    """Where to measure, and what, in a run of so many steps: early and late, short segments more often than long ones.

    Raises:
        UsageError: a length that does not fit twice.
    """
    if any(not 1 <= 2 * k <= steps for k in lengths):
        raise UsageError(
            f"segments of {max(lengths)} steps: two of them do not fit into {steps} steps", hint="--lengths 1,5,10"
        )
    wanted = sorted(set(lengths)) or [k for k in LENGTHS if MOST_OF_RUN * k <= steps] or [1]
    if quick and not lengths:
        wanted = [k for k in wanted if k in QUICK_LENGTHS]
    short = [k for k in wanted if k <= SHORT] or wanted[:1]
    places: dict[int, set[int]] = {}

    def at(first: int, these: Sequence[int]) -> None:
        fits = {k for k in these if first + 2 * k <= steps}
        if fits:
            places.setdefault(first, set()).update(fits)

    for first in (0, steps // 2) if quick else (0, steps // 10, steps // 2, steps - 2 * wanted[-1]):
        at(first, wanted)
    for first in (steps // 20,) if quick else (2, steps // 40, steps // 20, steps // 5, 3 * steps // 4):
        at(first, short)
    if not quick:
        for k in wanted:
            at(steps - 2 * k, [k])  # where a schedule ends, updates shrink from one segment to the next
    return tuple(Opening(first, tuple(sorted(found))) for first, found in sorted(places.items()))


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
