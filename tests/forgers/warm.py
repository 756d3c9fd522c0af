"""Children that stay warm between jobs, for forgers and for the verifiers that they meet.

A child is recipe-free and forks for each job, into a room of its own where there is a sandbox: the next claim finds in
it nothing of the one before. To start it, an import of torch, is most of what a short training or verification costs.
One child is kept for each setting, with a sandbox and without.
"""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from polchain.training.fence import Fence
from polchain.training.fingerprint import Setting
from polchain.training.program import Program
from polchain.training.worker import Worker
from tests.claims import DATA

_kept: dict[tuple[Setting, bool, float], Worker] = {}


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
    key = (setting, fence is not None, wanted.timeout)
    if key not in _kept:
        _kept[key] = wanted
        atexit.register(Worker.close, wanted)
        return wanted
    Worker.close(wanted)
    found = _kept[key]
    for name in ("program", "voice", "fence", "kept"):
        setattr(found, name, getattr(wanted, name))
    return found
