"""Bytes of a run: a state, its rows, its entry; of all states, and thinned by ten; beside the published scheme.

    python -m benchmarks.stored [--commits 200]

Both examples as they are, committed at each step: what a run takes, and what thinning saves, depends on how many
commits there are and not on how many steps lie between, for the first state and the last stay. A copy of the run is
thinned by ten, each stretch trained again first; then the claims of both are exported and verified with the same draw.
Seconds are of one thinning and of one export of each; `again` is the median of a state of one step that thinning trains
again: the start of a segment, the step, and the digests that are compared.
Every file of a run is counted. The published scheme keeps all states, as `torch.save` writes them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.common import Result, machine, write
from benchmarks.drive import DATA, EXAMPLES, RUNS, run
from polchain.core.keys import PrivateKey
from polchain.storage.keyfile import write_key

THINNED_BY = 10


def sizes(run_folder: Path) -> Result:
    """What lies in a run, in bytes, beside what torch.save makes of the same states."""
    import torch

    from polchain.core.entries import CheckpointEntry
    from polchain.storage.checkpoints import CheckpointStore
    from polchain.storage.ledger import Ledger
    from polchain.training.tensors import tensor_from

    files = {name: _bytes(run_folder / name) for name in ("checkpoints", "manifests")}
    with Ledger(run_folder) as ledger:
        ledger.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        last = next(e for e in map(ledger.entry, range(ledger.size - 1, 0, -1)) if isinstance(e, CheckpointEntry))
        entries = ledger.size
    kept = CheckpointStore(run_folder).get(last.state)
    published = run_folder / "published.pt"
    rows = kept.manifest.tensors()
    torch.save(
        {row.name: tensor_from(bytearray(kept.buffers[row.name]), row.dtype, row.shape) for row in rows}, published
    )
    one = published.stat().st_size
    published.unlink()
    states = len(list((run_folder / "checkpoints").iterdir()))
    return {
        **files,
        "ledger": (run_folder / "ledger.db").stat().st_size,
        "run": _bytes(run_folder),
        "states": states,
        "entries": entries,
        "published_state": one,
        "published_run": one * states,
    }


def thinned(run_folder: Path, key: PrivateKey) -> Result:
    """A copy of a run that commits at each step, thinned by ten: its bytes, its claim and its verdict beside the run's.

    Everything in either folder is counted, the ledger with its heads and tiles too.
    """
    from polchain.prover.thinning import thin

    copy = run_folder.with_name("thinned")
    shutil.copytree(run_folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    # Of states another name is enough: nobody writes into one.
    shutil.copytree(run_folder / "checkpoints", copy / "checkpoints", copy_function=os.link)
    marks: list[float] = []
    begun = time.perf_counter()
    done = thin(copy, THINNED_BY, DATA, on_step=lambda *_: marks.append(time.perf_counter()))
    seconds = {
        "thin_seconds": time.perf_counter() - begun,
        "again": statistics.median(later - sooner for sooner, later in pairwise(marks)),
    }
    found = {"states": done.kept, "removed": done.removed, "replayed": done.replayed, **_ledger_and_all(copy)}
    seed = bytes(32)
    before, after = (_claimed(folder, key, seed) for folder in (run_folder, copy))
    return {
        **found,
        **seconds,
        "export_seconds": before["seconds"],
        "export_thinned_seconds": after["seconds"],
        "claim": before["bytes"],
        "claim_thinned": after["bytes"],
        "same_claim": before["listing"] == after["listing"],
        "verdict": before["verdict"],
        "same_verdict": before["said"] == after["said"],
    }


def _ledger_and_all(run_folder: Path) -> Result:
    from polchain.storage.ledger import Ledger

    with Ledger(run_folder) as ledger:
        ledger.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {"ledger": (run_folder / "ledger.db").stat().st_size, "run": _bytes(run_folder)}


def _claimed(run_folder: Path, key: PrivateKey, seed: bytes) -> Result:
    """A run's full claim, its export's seconds, and all that a verification says of it but its own; removed again."""
    from polchain.prover.export import export
    from polchain.verifier.policy import Policy
    from polchain.verifier.verify import verify

    claim = run_folder.with_name(f"{run_folder.name}-claim")
    begun = time.perf_counter()
    made = export(run_folder, claim, data=DATA)
    seconds = time.perf_counter() - begun
    assert made.recipe is not None
    policy = Policy(keys=frozenset({key.public}), recipes=frozenset({made.recipe}))
    verdict = verify(claim, policy, jobs=1, data=DATA, seed=seed)
    listing = (claim / "claim.json").read_text()
    shutil.rmtree(claim)
    said = verdict.to_json()
    replays = said["replays"]
    assert isinstance(replays, list)
    for item in replays:
        assert isinstance(item, dict)
        del item["seconds"]
    return {"bytes": made.bytes, "seconds": seconds, "listing": listing, "verdict": verdict.outcome.value, "said": said}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(commits: int, folder: Path) -> list[Result]:
    """A row for each example."""
    key = PrivateKey.generate()
    write_key(folder / "key", key, None)
    found = []
    for name, script in EXAMPLES.items():
        here = folder / RUNS[name]
        run(here, script, 1, commits)
        run_folder = here / "runs" / RUNS[name]
        found.append({"example": name, "commits": commits, **sizes(run_folder), "thinned": thinned(run_folder, key)})
        print(found[-1], file=sys.stderr, flush=True)
        shutil.rmtree(here)
    return found


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=200)
    options = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(options.commits, Path(name))
    write("stored", rows, about)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
