"""What the tests of training share: sessions in this process, and scripts run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from polchain.core.keys import PrivateKey
from polchain.core.manifest import Snapshot
from polchain.storage.keyfile import write_key
from polchain.training.dataset import MapDataset
from polchain.training.host import Options, Stretch, configure
from polchain.training.randomness import BatchOrder
from polchain.training.session import Session
from polchain.training.snapshot import take
from polchain.training.state import TrainingState
from tests.claims import DATA
from tests.recording import recorder

SEED = bytes(range(32))
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class MemoryHost:
    """A session's host that keeps its checkpoints in memory, and can begin at one of them."""

    opening: tuple[int, Snapshot] | None = None
    last: int | None = None
    seed: bytes = SEED
    witnesses: bool = False
    checkpoints: dict[int, Snapshot] = field(default_factory=dict)
    losses: dict[int, float | None] = field(default_factory=dict)
    samples: list[tuple[int, bytes]] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    ended: bool = False
    opened: Snapshot | None = None

    def begin(self, options: Options) -> tuple[bytes, MapDataset]:
        dataset = options.dataset()
        self.order = BatchOrder(self.seed, len(dataset), options.configuration.batch_size)
        return self.seed, dataset

    def attached(self, session: Session) -> Stretch:
        last = self.last or session.configuration.steps
        if self.opening is None:
            return Stretch(0, last)
        step, snapshot = self.opening
        session.rewind(snapshot, step)
        self.opened = take(session.state)
        return Stretch(step, last)

    def indices(self, step: int) -> Sequence[int]:
        return self.order.indices(step)

    def sample(self, index: int, encoding: bytes) -> None:
        self.samples.append((index, encoding))

    def checkpoint(self, step: int, state: TrainingState, loss: float | None) -> None:
        self.checkpoints[step], self.losses[step] = take(state), loss

    def finished(self) -> None:
        self.ended = True

    def close(self, failed: bool) -> None:
        self.closed.append(failed)


@pytest.fixture
def memory_session() -> Callable[..., Session]:
    """`memory_session(data=..., steps=...)` is what record() gives, with its checkpoints in `host.checkpoints`."""

    def make(host: MemoryHost | None = None, **options: Any) -> Session:
        chosen = {"data": [float(i) for i in range(12)], "steps": 8, "batch_size": 4, "every": 2, "precision": "fp32"}
        chosen |= options
        configuration = configure(*(chosen.pop(name) for name in ("steps", "batch_size", "every", "precision")))
        return Session(host or MemoryHost(), Options(configuration=configuration, **chosen))

    make.host = MemoryHost  # type: ignore[attr-defined]
    return make


@dataclass
class Done:
    """A process that has ended: its status, and the last line that it said, above a hint."""

    status: int
    output: str

    @property
    def said(self) -> str:
        lines = [line for line in self.output.splitlines() if line.strip() and not line.startswith("hint: ")]
        return lines[-1] if lines else ""


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("POLCHAIN_", "PYTEST"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


@dataclass
class Desk:
    """A user's folder with a key: scripts are written into it and run."""

    folder: Path
    key: PrivateKey

    def write(self, text: str, name: str = "train.py") -> Path:
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return path

    def start(self, *arguments: str, script: str = "train.py") -> subprocess.Popen[str]:
        """A script in a new process of its own."""
        return subprocess.Popen(
            [sys.executable, script, *arguments],
            cwd=self.folder,
            env=environment(POLCHAIN_KEY_FILE=str(self.folder / "key")),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, script: str = "train.py", **variables: str) -> Done:
        """A script in a fork of the warm process, until it ends."""
        # Where a script reads nothing, the data folder is the one that the kept child of self-checks was told.
        data = self.folder if "data_dir" in (self.folder / script).read_text() else DATA
        given = environment(**{"POLCHAIN_KEY_FILE": str(self.folder / "key"), "POLCHAIN_DATA": str(data), **variables})
        done = recorder().run(self.folder / script, arguments, self.folder, given)
        return Done(done.status, done.output)


@pytest.fixture(scope="session")
def key() -> PrivateKey:
    """A private key; in a file it is in the clear, so that no test waits for bcrypt."""
    return PrivateKey.generate()


@pytest.fixture
def desk(tmp_path: Path, key: PrivateKey) -> Desk:
    """A folder with a key in it, where scripts can be run."""
    write_key(tmp_path / "key", key, None)
    return Desk(tmp_path, key)
