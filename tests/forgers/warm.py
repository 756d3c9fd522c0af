"""Children that stay warm between jobs, for forgers and for the verifiers that they meet.

A child is recipe-free and forks for each job, into a room of its own where there is a sandbox: the next claim finds in
it nothing of the one before. To start it, an import of torch, is most of what a short training or verification costs.
One child is kept for each setting, with a sandbox and without.
"""

from __future__ import annotations

import atexit
import os
import resource
import time
from pathlib import Path
from typing import Any

from polchain.training.fence import Fence
from polchain.training.fingerprint import Setting
from polchain.training.program import Program
from polchain.training.worker import Worker
from polchain.verifier import bench as verifier
from tests.claims import DATA

_kept: dict[tuple[Setting, float | None], Worker] = {}


class Kept(Worker):
    """A worker that nobody closes."""

    def close(self) -> None:
        """Nothing: the child ends with this process."""


def worker(
    program: Program, setting: Setting, data: Path = DATA, *, fence: Fence | None = None, **options: Any
) -> Worker:
    """A kept worker where the data are the tests' own, else a new one. Called as `Worker` is."""
    if data.resolve() != DATA.resolve():
        return Worker(program, setting, data, fence=fence, **options)
    wanted = Kept(program, setting, DATA.resolve(), fence=fence, **options)
    # A sandbox limits a child's time when it starts.
    key = (setting, None if fence is None else wanted.timeout)
    if key not in _kept:
        _kept[key] = wanted
        atexit.register(Worker.close, wanted)
        return wanted
    Worker.close(wanted)
    found = _kept[key]
    for name in ("program", "timeout", "voice", "fence", "kept"):
        setattr(found, name, getattr(wanted, name))
    return found


def keep() -> None:
    """Let every verifier of this process have kept children."""
    verifier.Worker = worker  # type: ignore[assignment, misc]


def seconds() -> float:
    """CPU seconds that this process, its children and the kept ones have used so far; what they forked is counted once
    it has ended, and is waited for a moment."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    for kept in _kept.values():
        if kept._process is not None:
            found += _ticks(kept._process.pid) / os.sysconf("SC_CLK_TCK")
    return found


def _ticks(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + 1
    while children.exists() and children.read_text() and time.monotonic() < end:
        time.sleep(0.001)
    # Fields 14 to 17, counted from 1: user and system time, its own and that of the children it has waited for.
    return sum(int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])
