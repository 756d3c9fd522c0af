"""What a verification costs, as a share of the training that it checks.

    python -m benchmarks.cost [--row 0]

Two runs of tests/scripts/accelerated.py on one CPU thread, 2,000 segments of 10 steps and 400 segments of 25 steps,
each verified in the same sitting: the one under the default policy (f = 0.05, c = 0.99, r = 90), the other at
`--budget 5%`. `--row` measures one of them again and keeps the other.

    training     seconds of all steps, by the clock, nothing recorded: from PIECE of them before and PIECE after
    replays      everything after the data was read: initial state, replays, tests of behaviour
    starts       of that, what every replay takes before its first step: a process, the sandbox, data, model
    share        (replays - starts) / training

Start-up (the first process, reading the data) and integrity are printed beside, and are in none of the shares. The
table stands in docs/verifying.md, made of benchmarks/results/cost.json.
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

from polchain.core.keys import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.verifier.policy import Policy
from polchain.verifier.verify import verify

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "cost.json"
SCRIPT = ROOT / "tests" / "scripts" / "accelerated.py"
DATA = ROOT / "examples" / "data"
PAGE = ROOT / "docs" / "verifying.md"
MARKS = "<!-- cost: made by `python -m benchmarks.cost` -->", "<!-- /cost -->"
LIMIT = 0.06
# What, segments, steps of each, policy.
ROWS = (("default policy", 2000, 10, Policy()), ("--budget 5%", 400, 25, Policy(budget=0.05)))
PIECE = 1_000


@dataclass(frozen=True)
class Row:
    """One verification, in seconds.

    Attributes:
        segments: of the run.
        replays: how many segments were replayed.
        segment: seconds of training that one segment is.
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
    segment: float
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
    plain = ("--width", str(width), "--steps", str(PIECE), "--off")
    train(folder, words)
    before = train(folder, plain)
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
    training = steps * (before + train(folder, plain)) / 2
    reading = next(at for name, at in moments if name == "reading the data")
    initial = next(at for name, at in moments if name == "initial state")
    done = [item for item in verdict.reproductions if item.pick is not None]
    return Row(
        what, segments, len(done), training / segments, training, reading - begun, initial - reading, ended - initial,
        sum(item.start for item in done), verdict.outcome.value, f"{verdict.bound.supported:.3g}",
    )  # fmt: skip


def read() -> list[Row]:
    """The rows of the results file."""
    return [Row(**row) for row in json.loads(RESULTS.read_text())]


def report(rows: list[Row]) -> str:
    """The table, in Markdown. Seconds of whole runs, but for `one segment`."""
    lines = [
        "| policy | segments | one segment | training | replayed | replays | of these, starts | share of training "
        "| integrity | verdict | draws support f |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.segments} | {row.segment:.2f} s | {row.training:.0f} s | {row.replays} "
        f"| {row.replaying:.1f} s | {row.starts:.1f} s | {row.share:.1%} | {row.integrity:.1f} s | {row.verdict} "
        f"| {row.supports} |"
        for row in rows
    ]
    return "\n".join(lines)


def on_page() -> str:
    """The table that stands in docs/verifying.md."""
    return PAGE.read_text().partition(MARKS[0])[2].partition(MARKS[1])[0].strip()


def write_page() -> None:
    """Put the table of the results file there."""
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{report(read())}\n\n{MARKS[1]}{after}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--row", type=int, choices=range(len(ROWS)), help="measure this row alone")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of segments; for a quick try")
    options = parser.parse_args()
    rows = read() if options.row is not None else []
    for number, (what, segments, every, policy) in enumerate(ROWS):
        if options.row in (None, number):
            with tempfile.TemporaryDirectory() as name:
                row = measure(Path(name), what, int(segments * options.scale), every, options.width, policy)
            rows[number : number + 1] = [row]
            print(report([row]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    if options.scale == 1.0:
        RESULTS.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        write_page()
    sys.exit(any(row.share > LIMIT for row in rows) and options.scale == 1.0)


if __name__ == "__main__":
    main()
