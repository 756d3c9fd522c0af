"""Bytes of a sealed claim and of one challenge to it, beside the full claim; and the verdict of each for one draw.

    python -m benchmarks.sealed [--segments 2000]

A small network on the digits, a checkpoint every two steps; the default policy draws 90; samples are disclosed. Writes
benchmarks/results/sealed.json, and ends with exit 1 where the two verdicts differ, or a challenge and its opening are a
tenth of the full claim or more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from polchain.core.claim import Claim
from polchain.core.digest import Digest
from polchain.core.keys import PrivateKey
from polchain.prover.export import export
from polchain.prover.opening import respond
from polchain.storage.keyfile import write_key
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.sealed import ask
from polchain.verifier.verdict import Verdict
from polchain.verifier.verify import verify

RESULTS = Path(__file__).parent / "results" / "sealed.json"
MOST = 0.1
DATA = Path(__file__).parents[1] / "examples" / "data"
EVERY = 2
SEED = bytes(range(32))
SCRIPT = """\
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import polchain


def read():
    table = np.loadtxt(polchain.data_dir() / "digits.csv.gz", delimiter=",", dtype=np.float32, max_rows=512)
    return [(torch.from_numpy(row[:64]) / 16, int(row[64])) for row in table]


with polchain.record("run", data=read, batch_size=16, steps=int(sys.argv[1]), every=int(sys.argv[2])) as run:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    run.attach(model=model, optimizer=optimizer)
    for _, (images, labels) in run.batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured: bytes of each file, and how each verdict was reached."""

    segments: int
    asked: int
    full: int
    sealed: int
    challenge: int
    opening: int
    verdicts: tuple[tuple[str, Verdict, float], ...]

    @property
    def moved(self) -> int:
        """Bytes of the challenge and its opening."""
        return self.challenge + self.opening

    @property
    def holds(self) -> bool:
        """Whether little moves, and nothing is lost by it."""
        return self.moved < MOST * self.full and len({verdict.outcome for _, verdict, _ in self.verdicts}) == 1

    def to_json(self) -> dict[str, object]:
        """The figures, for the file."""
        sizes = {"full": self.full, "sealed": self.sealed, "challenge": self.challenge, "opening": self.opening}
        return {
            "segments": self.segments,
            "asked for": self.asked,
            "bytes": sizes,
            "percent": {
                "sealed": round(100 * self.sealed / self.full, 2),
                "moved": round(100 * self.moved / self.full, 2),
            },
            "verdicts": {name: verdict.outcome.value for name, verdict, _ in self.verdicts},
        }


def measure(folder: Path, segments: int) -> Result:
    """Record a run, and verify both of its claims with one seed."""
    key = PrivateKey.generate()
    write_key(folder / "key", key, None)
    (folder / "train.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, "train.py", str(segments * EVERY), str(EVERY)],
        cwd=folder,
        env={
            **os.environ, "POLCHAIN_KEY_FILE": str(folder / "key"), "POLCHAIN_DATA": str(DATA), "OMP_NUM_THREADS": "1",
        },
        check=True,
    )  # fmt: skip
    whole = export(folder / "run", folder / "full.zip")
    sealed = export(folder / "run", folder / "sealed.zip", sealed=True)
    recipe = whole.recipe
    assert isinstance(recipe, Digest)
    policy = Policy(keys=frozenset({key.public}), recipes=frozenset({recipe}))
    question, _ = ask(check_integrity(Claim.read(folder / "sealed.zip"), policy), SEED, policy)
    (folder / "c.json").write_bytes(question.encode())
    answer = respond(folder / "run", question.encode(), folder / "r.opening", data=DATA)
    verdicts = []
    for name in ("sealed", "full"):
        begun = time.monotonic()
        if name == "sealed":
            found = verify(
                folder / "sealed.zip", policy, data=folder / "nowhere",
                opening=folder / "r.opening", challenge=folder / "c.json",
            )  # fmt: skip
        else:
            found = verify(folder / "full.zip", policy, data=DATA, seed=SEED)
        verdicts.append((name, found, time.monotonic() - begun))
    return Result(
        segments=segments,
        asked=len(question.segments),
        full=whole.bytes,
        sealed=sealed.bytes,
        challenge=len(question.encode()),
        opening=answer.bytes,
        verdicts=tuple(verdicts),
    )


def table(result: Result) -> str:
    """The figures, for people."""
    rows = [
        ("full claim", result.full),
        ("sealed claim", result.sealed),
        ("challenge", result.challenge),
        (f"opening, for {result.asked} of {result.segments:,} segments", result.opening),
        ("challenge and opening", result.moved),
        ("sealed claim, challenge and opening", result.sealed + result.moved),
    ]
    lines = [f"{'':<44}{'bytes':>14}{'of the full claim':>20}"]
    lines += [f"{what:<44}{size:>14,}{100 * size / result.full:>18.2f} %" for what, size in rows]
    for name, verdict, seconds in result.verdicts:
        lines.append(f"{name}: {verdict.outcome.value} in {seconds:.1f} s; {verdict.bound}")
    return "\n".join(lines)


def main() -> int:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=2000)
    segments = parser.parse_args().segments
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), segments)
    print(table(found))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found.to_json(), indent=2, sort_keys=True) + "\n")
    return 0 if found.holds else 1


if __name__ == "__main__":
    sys.exit(main())
