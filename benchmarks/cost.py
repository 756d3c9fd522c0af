"""What a verification costs, as a share of the training that it checks.

    python -m benchmarks.cost [--every 10] [--width 32]

Two runs of tests/scripts/accelerated.py on one CPU thread, one of 2,000 segments and one of 400, each verified in the
same sitting: the long one under the default policy (f = 0.05, c = 0.99, r = 90), the other at `--budget 5%`.

    training     seconds of all steps, by the clock, nothing recorded
    replays      everything after the data was read: initial state, replays, tests of behaviour
    starts       of that, what every replay takes before its first step: a process, the sandbox, data, model
    share        (replays - starts) / training

Start-up (the first process, reading the data) and integrity are printed beside, and are in none of the shares.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from polchain.core.note import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.verifier.policy import Policy
from polchain.verifier.verify import verify

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "cost.json"
SCRIPT = ROOT / "tests" / "scripts" / "accelerated.py"
DATA = ROOT / "examples" / "data"
LIMIT = 0.06


@dataclass(frozen=True)
class Row:
    """One verification, in seconds.

    Attributes:
        segments: of the run.
        replays: how many segments were replayed.
        training: of all steps.
        integrity, startup: before anything was replayed.
        replaying: all the rest.
        starts: of `replaying`, before the first steps.
        verdict: what it said.
        supports: the f that the draws support.
    """

    what: str
    segments: int
    replays: int
    training: float
    integrity: float
    startup: float
    replaying: float
    starts: float
    verdict: str
    supports: str

    @property
    def share(self) -> float:
        """Replaying, without starts, over training."""
        return (self.replaying - self.starts) / self.training


def train(folder: Path, words: tuple[str, ...]) -> float:
    """Run the script: seconds a step, as it says."""
    environment = {
        **os.environ,
        "POLCHAIN_KEY_FILE": str(folder / "key"),
        "POLCHAIN_DATA": str(DATA),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, SCRIPT, *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    found = re.search(r"([\d.]+) seconds a step", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def measure(folder: Path, what: str, segments: int, every: int, width: int, policy: Policy) -> Row:
    """Record a run, and verify it."""
    steps = segments * every
    words = ("--width", str(width), "--steps", str(steps), "--every", str(every))
    key = PrivateKey.generate()
    write_key(folder / "key", key, None)
    training = steps * train(folder, (*words, "--off"))
    train(folder, words)
    export(folder / "run", folder / "claim")
    begun = time.monotonic()
    moments: list[tuple[str, float]] = []
    verdict = verify(
        folder / "claim",
        Policy(keys=frozenset([key.public]), budget=policy.budget),
        jobs=1,
        data=DATA,
        recipe=SCRIPT,
        recipe_arguments=words,
        progress=lambda name, *_: moments.append((name, time.monotonic())),
    )
    ended = time.monotonic()
    reading = next(at for name, at in moments if name == "reading the data")
    initial = next(at for name, at in moments if name == "initial state")
    done = [item for item in verdict.reproductions if item.pick is not None]
    return Row(
        what, segments, len(done), training, reading - begun, initial - reading, ended - initial,
        sum(item.start for item in done), verdict.outcome.value, f"{verdict.bound.supported:.3g}",
    )  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of segments; for a quick try")
    options = parser.parse_args()
    rows = []
    for what, segments, policy in (
        ("default policy", 2000, Policy()),
        ("--budget 5%", 400, Policy(budget=0.05)),
    ):
        with tempfile.TemporaryDirectory() as name:
            rows.append(measure(Path(name), what, int(segments * options.scale), options.every, options.width, policy))
        row = rows[-1]
        print(
            f"{row.what}: {row.segments} segments, {row.replays} replayed; training {row.training:.1f} s, replays "
            f"{row.replaying:.1f} s, of which starts {row.starts:.1f} s: {row.share:.1%} of training "
            f"({row.replaying / row.training:.1%} with starts); integrity {row.integrity:.1f} s, start-up "
            f"{row.startup:.1f} s; {row.verdict}, draws support f = {row.supports}",
            flush=True,
        )
    RESULTS.parent.mkdir(exist_ok=True)
    if options.scale == 1.0:
        RESULTS.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    sys.exit(any(row.share > LIMIT for row in rows) and options.scale == 1.0)


if __name__ == "__main__":
    main()
