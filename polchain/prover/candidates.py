"""What `commit --watch` finds in a folder: checkpoints that a foreign loop saves, complete or still being written.

    ckpt_500.pt   epoch=2-step=500.ckpt   checkpoint-500/        step 500: the last integer in the name
    .ckpt_500.pt  ckpt_500.tmp.pt  model-00001-of-00002.bin      no candidates: hidden, unfinished, one shard of several

A candidate is complete when neither length nor time of any of its files has changed for some seconds, and it can be
read. One that cannot be read is left alone until it changes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from polchain.errors import MissingFileError
from polchain.storage.database import DATABASE
from polchain.training.weights import EXTENSIONS

__all__ = ["MAX_STEP", "Candidate", "Patience", "find_candidates", "look_at"]

log = logging.getLogger("polchain")

MAX_STEP = 2**40
# Far more than a checkpoint has: a folder this full is something else.
MAX_FILES = 10_000
SHOWN = 10
UNFINISHED = re.compile(r"(^|[._-])(tmp|temp|partial|part|incomplete)([._-]|$)|~$", re.IGNORECASE)
SHARD = re.compile(r"-\d+-of-\d+$")

# Name, length and time of change of every file.
Look = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint that may be complete, as it looked."""

    step: int
    path: Path
    look: Look


def find_candidates(directory: Path) -> list[Candidate]:
    """The candidates directly under a directory, by rising step.

    Raises:
        MissingFileError: no such directory.
    """
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise MissingFileError(f"{directory} cannot be watched: {error.strerror}", hint="name a folder") from None
    found = []
    for path in paths:
        step, look = _step(path), look_at(path)
        if step is not None and look:
            found.append(Candidate(step, path, look))
    return sorted(found, key=lambda candidate: (candidate.step, candidate.path))


def look_at(path: Path) -> Look:
    """How a candidate looks now; empty where it is none, or has unfinished files, or went away."""
    try:
        if path.is_file():
            files = [path] if path.suffix.lower() in EXTENSIONS else []
        elif (path / DATABASE).exists():
            # A run of ours.
            files = []
        else:
            files = []
            for file in path.rglob("*"):
                if file.is_file():
                    files.append(file)
                if len(files) > MAX_FILES or _unfinished(file.name):
                    return ()
            files = sorted(files) if any(file.suffix.lower() in EXTENSIONS for file in files) else []
        states = [(file, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((file.relative_to(path.parent).as_posix(), s.st_size, s.st_mtime_ns) for file, s in states)


@dataclass(slots=True)
class Patience:
    """Since when each candidate looks as it does; which were given up, looking how; which one gave a step its state."""

    settle: float
    since: dict[Path, tuple[Look, float]] = field(default_factory=dict)
    given_up: dict[Path, Look] = field(default_factory=dict)
    taken: dict[int, Path] = field(default_factory=dict)
    nameless: set[str] = field(default_factory=set)

    def see(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Note how they look now; returns those that were not given up."""
        now = time.monotonic()
        seen = {candidate.path: candidate.look for candidate in candidates}
        self.since = {
            path: (look, self.since[path][1] if path in self.since and self.since[path][0] == look else now)
            for path, look in seen.items()
        }
        return [one for one in candidates if self.given_up.get(one.path) != one.look]

    def settled(self, candidate: Candidate) -> bool:
        """Whether it has looked the same for long enough."""
        return time.monotonic() - self.since[candidate.path][1] >= self.settle

    def give_up(self, candidate: Candidate, why: object) -> None:
        """Leave it alone until it changes; said once."""
        self.given_up[candidate.path] = candidate.look
        name, reason = candidate.path.name, str(why)
        for said in (f"{candidate.path} is ", f"{name} is "):  # once is enough
            reason = reason.removeprefix(said)
        log.warning("%s is left alone: %s", name, reason)

    def see_nameless(self, directory: Path) -> None:
        """Say once which checkpoints are no candidates for want of a step in their names."""
        names = []
        for path in sorted(directory.iterdir()):
            if _number(path) is None and not _is_piece(path) and path.name not in self.nameless and look_at(path):
                names.append(path.name)
        self.nameless.update(names)
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            log.warning("left alone, for want of a step in the name: %s%s", ", ".join(names[:SHOWN]), more)


def _step(path: Path) -> int | None:
    return None if _is_piece(path) else _number(path)


def _is_piece(path: Path) -> bool:
    return _unfinished(path.name) or SHARD.search(path.stem) is not None


def _number(path: Path) -> int | None:
    name = path.stem if path.suffix.lower() in EXTENSIONS else path.name
    numbers = re.findall(r"[0-9]+", name)
    step = int(numbers[-1]) if numbers and len(numbers[-1]) < 16 else MAX_STEP + 1
    return step if step <= MAX_STEP else None


def _unfinished(name: str) -> bool:
    return name.startswith(".") or UNFINISHED.search(name) is not None
