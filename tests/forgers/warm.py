"""Children that stay warm between jobs, for forgers and for the verifiers that they meet.

A child is recipe-free and forks for each job, so the next claim finds in it nothing of the one before; to start it, an
import of torch, is most of what a short training or verification costs. One child is kept for each setting.
"""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from polchain.training.fingerprint import Setting
from polchain.training.program import Program
from polchain.training.worker import Worker
from tests.claims import DATA

_kept: dict[Setting, Worker] = {}


class Kept(Worker):
    """A worker that whoever is done with it does not close."""

    def close(self) -> None:
        """Nothing: the process ends with the tests."""


def worker(program: Program, setting: Setting, data: Path = DATA, **options: Any) -> Worker:
    """A kept worker where the data are the tests' own and nothing is fenced; else a new one. Called as `Worker` is."""
    if data.resolve() != DATA.resolve() or options.get("fence") is not None:
        return Worker(program, setting, data, **options)
    if setting not in _kept:
        _kept[setting] = Kept(program, setting, DATA.resolve())
        atexit.register(Worker.close, _kept[setting])
    found = _kept[setting]
    found.program, found.timeout, found.voice = program, options.get("timeout", 3600.0), options.get("voice", "")
    return found
