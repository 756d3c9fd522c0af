"""The published check of a claim's states, in a process of its own.

    python -m tests.forgers.alone CLAIM OPTIMIZER

Whether it is bit-exact hangs on everything that a process has set before; one that runs many tests has set much. Prints
the error of every segment, and which ones the check would look at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from polchain.core.claim import Claim
from polchain.storage.checkpoints import CheckpointStore
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from tests.forgers.victims import published_check

ROOT = Path(__file__).parents[2]


def errors_of(claim: Path, optimizer: str) -> tuple[list[float], list[int]]:
    """The error of every segment's parameters, and the segments with the largest updates."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.forgers.alone", str(claim), optimizer],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors, largest = json.loads(done.stdout)
    return errors, largest


def main() -> None:
    """Check, and print."""
    claim, optimizer = Path(sys.argv[1]), sys.argv[2]
    intact = check_integrity(Claim.read(claim), Policy())
    assert intact.order is not None
    states = [CheckpointStore(claim).get(entry.state) for entry in intact.checkpoints]
    batches = [list(intact.order.batches(segment.first, segment.last)) for segment in intact.segments]
    check = published_check(optimizer)
    print(json.dumps([check.errors(states, batches, range(len(batches))), check.largest(states, batches)]))


if __name__ == "__main__":
    main()
