"""Children that stay warm between jobs, for forgers and for the verifiers that they meet.

A child is recipe-free and forks for each job, into a room of its own where there is a sandbox: the next claim finds in
it nothing of the one before. To start it, an import of torch, is most of what a short training or verification costs.
So whoever is done with a child leaves it here, and the next worker with the same setting takes it.
"""

from __future__ import annotations

import atexit
import os
import resource
import shutil
import socket
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from polchain.training.words import Words
from polchain.training.worker import Worker
from polchain.verifier import bench as verifier

MOST_IDLE = 2  # of one setting
MOST = 12  # of all: a time limit of its own makes a child of nobody else's setting, and each has 200 MB
# What a child takes over from its parent.
INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    control: socket.socket
    words: Words


_idle: dict[Hashable, deque[_Child]] = defaultdict(deque)
_started: list[subprocess.Popen[bytes]] = []
_folders: list[Path] = []


class KeptWorker(Worker):
    """A worker that takes an idle child where there is one, and leaves it when it closes."""

    def close(self) -> None:
        """Leave the child to others; one that is one too many is ended."""
        self._close_rooms()
        idle = _idle[self._key()]
        if self._process is not None and self._process.poll() is None and len(idle) < MOST_IDLE:
            assert self._control is not None
            idle.append(_Child(self._process, self._control, self._words))
            _folders.append(self._folder)  # it is the child's home
            self._process = self._control = None
            _make_room(self._key())
            return
        super().close()

    def interrupt(self) -> None:
        """From another thread: nothing more is begun. What is under way is short here, and its child worth keeping."""
        self._interrupted = True

    def _start(self) -> None:
        self._stop()
        idle = _idle[self._key()]
        while idle:
            try:
                child = idle.pop()
            except IndexError:  # another thread has taken it
                break
            if child.process.poll() is None:
                self._words.close()
                self._process, self._control, self._words = child.process, child.control, child.words
                return
        super()._start()
        assert self._process is not None
        _started.append(self._process)

    def _key(self) -> Hashable:
        """What a child is given when it starts, and keeps."""
        # Not the limits themselves: where nobody set the memory, they follow what is free at the moment.
        limits = None if self.fence is None else (self.timeout, getattr(self.fence, "_allowance", None))
        return self.setting, self.gpu, self.data.resolve(), limits, *map(os.environ.get, INHERITED)


def keep() -> None:
    """Let every verifier of this process have kept children."""
    verifier.Worker = KeptWorker  # type: ignore[misc]


def _make_room(but: Hashable) -> None:
    """End those that wait for a setting that was not asked for lately, where there are too many."""
    _idle[but] = _idle.pop(but)  # the newest is the last
    for key in list(_idle):
        while sum(map(len, _idle.values())) > MOST and key != but and _idle[key]:
            _end_child(_idle[key].popleft())


def _end_child(child: _Child) -> None:
    """A child ends when its control socket closes."""
    child.control.close()
    child.process.wait()
    child.words.close()


def seconds() -> float:
    """CPU seconds that this process, its children and the kept ones have used so far; what they forked is counted once
    it has ended, and is waited for a moment."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    _started[:] = [process for process in _started if process.returncode is None]
    return found + sum(_ticks(process.pid) for process in _started) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + 1
    while children.exists() and children.read_text() and time.monotonic() < end:
        time.sleep(0.001)
    # Fields 14 to 17, counted from 1: user and system time, its own and that of the children it has waited for.
    return sum(int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])


@atexit.register
def _end() -> None:
    for child in (child for idle in _idle.values() for child in idle):
        _end_child(child)
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)
