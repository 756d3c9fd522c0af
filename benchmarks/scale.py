"""A log of up to a million entries: append, start-up, proofs, `log`, the full check, the integrity of its claim.

    python -m benchmarks.scale [--most 1000000]

A ledger grows tenfold from 1,000 entries on. It is filled with the rows that appending writes, many in a transaction;
at each size the durable appends are measured, taking turns with bare SQLite: one table, one row of the entry's bytes a
transaction, WAL, synchronous=FULL, the same disk. The rest is measured in a process of its own:

    open           to read, from a new process' first look at the file
    inclusion      a proof of a random entry, made and checked; consistency likewise, from a random older size
    log            `polchain log`, text, to nowhere
    check          what `fsck` does with the log: every entry, link and signature
    integrity      `check_integrity` of the claim: entries, links, chain, order, batches recomputed from the seed
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.common import Result, in_child, machine, rounds, write
from polchain.core.claim import ENTRIES, HEAD, Claim, write_listing
from polchain.core.digest import Digest, blake3, sha256
from polchain.core.entries import CheckpointEntry, Start, Update, chain_base, encode_entry, extend_chain, leaf_data
from polchain.core.genesis import Configuration, DatasetRef, FileRef, Genesis, RecipeRef
from polchain.core.keyline import key_line
from polchain.core.keys import PrivateKey
from polchain.core.merkle import leaf_hash
from polchain.core.note import TreeHead, sign_head
from polchain.core.rows import GROUPS
from polchain.storage.ledger import Ledger
from polchain.training.randomness import BatchOrder, run_seed
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy

RECIPE = b"print('the recipe')\n"
APPENDS, ROUNDS = 200, 7


class Log:
    """A ledger that is filled quickly, and appended to durably."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.key = folder, PrivateKey.generate()
        file = FileRef("train.py", len(RECIPE), blake3(RECIPE))
        self.genesis = Genesis(
            run_id=bytes(range(16)),
            key=self.key.public,
            recipe=RecipeRef("train.py", False, (), (file,), ("numpy==2.0",)),
            dataset=DatasetRef(50_000, sha256(b"data")),
            configuration=Configuration(most + 10_000, 32, ((0, 1),), "fp32", True),
        )
        (folder / "recipe").mkdir(parents=True)
        (folder / "recipe" / "train.py").write_bytes(RECIPE)
        with Ledger.create(folder, self.genesis, self.key) as ledger:
            value = bytes(range(32))
            ledger.append(Start(ledger.root, "prover", value, {}))
            seed = run_seed(value, leaf_hash(leaf_data(encode_entry(self.genesis))), "prover")
        self.order = BatchOrder(seed, 50_000, 32)
        self.chain, self.step = chain_base(self.genesis), 0

    def next(self, prev: Digest) -> CheckpointEntry:
        """The next entry, of a state that nobody trained."""
        step = self.step
        state = sha256(step.to_bytes(8, "little"))
        roots = dict(zip(GROUPS, (state, sha256(state.value), sha256(b"schedule"), sha256(b"")), strict=True))
        entry = CheckpointEntry(prev, step, roots, state)
        chain = extend_chain(self.chain, entry.state)
        self.chain, self.step = chain.value, step + 1
        batches = self.order.digest(max(step - 1, 0), step)
        update = Update(1 / (step + 1), 0.1 / (step + 1)) if step else None
        return CheckpointEntry(prev, step, roots, chain, batches, update, 2.5 / (step + 1))

    def fill(self, size: int) -> None:
        """Grow to `size` entries, in transactions of thousands."""
        with Ledger(self.folder, self.key) as ledger:
            grown, edge, connection = ledger.tree.frontier, ledger.tree.edge, ledger.db.conn
            while grown.size < size:
                connection.execute("BEGIN IMMEDIATE")
                for number in range(grown.size, min(size, grown.size + 5000)):
                    data = encode_entry(self.next(Digest("sha256", grown.root())))
                    leaf = leaf_hash(leaf_data(data))
                    grown.append(leaf)
                    ledger.tree.table.write(edge.append(leaf))
                    note = sign_head(TreeHead(ledger.origin, number + 1, grown.root()), self.key)
                    connection.execute("INSERT INTO entries VALUES (?, ?)", (number, data))
                    connection.execute("INSERT INTO heads VALUES (?, ?)", (number + 1, note))
                    connection.execute("INSERT INTO sidecar VALUES (?, ?)", (number, time.time()))
                connection.execute("COMMIT")

    def claim(self, folder: Path) -> None:
        """Its claim, without states."""
        (folder / "heads").mkdir(parents=True)
        (folder / "recipe").mkdir()
        (folder / "recipe" / "train.py").write_bytes(RECIPE)
        with Ledger(self.folder) as ledger, (folder / ENTRIES).open("wb") as file:
            for data in ledger.entries():
                file.write(data + b"\n")
            (folder / HEAD).write_bytes(ledger.head())
        write_listing(folder)


class Bare:
    """SQLite, and nothing else."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, data BLOB)")
        self.rows = 0

    def append(self, data: bytes) -> None:
        """One durable row."""
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("INSERT INTO entries VALUES (?, ?)", (self.rows, data))
        self.db.execute("COMMIT")
        self.rows += 1


def appending(log: Log, bare: Bare) -> Result:
    """Durable appends a second, beside bare SQLite's."""
    with Ledger(log.folder, log.key) as ledger:
        size, data = ledger.size, encode_entry(ledger.entry(ledger.size - 1))

        made = [log.next(ledger.root) for _ in range(APPENDS * ROUNDS)][::-1]

        def ours() -> None:
            for _ in range(APPENDS):
                ledger.append(replace(made.pop(), prev=ledger.root))

        def theirs() -> None:
            for _ in range(APPENDS):
                bare.append(data)

        seconds = rounds(ROUNDS, {"polchain": ours, "bare": theirs})
    rates = {name: APPENDS / statistics.median(found) for name, found in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["polchain"], seconds["bare"], strict=True))
    return {"entries": size, "entry_bytes": len(data), **rates, "ratio": ratio}


def timed(task: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun


def child(what: str, folder: Path) -> Result:
    """One measurement, in this process."""
    if what == "open":
        return {"seconds": statistics.median(timed(lambda: Ledger(folder).close()) for _ in range(9))}
    if what == "proofs":
        with Ledger(folder) as ledger:
            random.seed(1)
            some = [random.randrange(ledger.size) for _ in range(200)]
            proofs = [(timed(lambda n=n: ledger.prove_inclusion(n)), len(ledger.prove_inclusion(n))) for n in some]  # type: ignore[misc]
            olds = [timed(lambda n=n: ledger.prove_consistency(n + 1)) for n in some]  # type: ignore[misc]
        return {
            "inclusion": statistics.median(seconds for seconds, _ in proofs),
            "inclusion_worst": max(seconds for seconds, _ in proofs),
            "inclusion_bytes": max(32 * count for _, count in proofs),
            "consistency": statistics.median(olds),
        }
    if what == "check":
        with Ledger(folder) as ledger:
            return {"seconds": timed(ledger.check), "bytes": (folder / "ledger.db").stat().st_size}
    assert what == "integrity"
    with Ledger(folder.parent / "run") as ledger:
        key = key_line(ledger.genesis, (), 1).signer(1)
    begun = time.perf_counter()
    claim = Claim.read(folder)
    read = time.perf_counter() - begun
    intact = check_integrity(claim, Policy(keys=frozenset({key})))
    return {
        "seconds": time.perf_counter() - begun,
        "reading": read,
        "bytes": sum(ref.size for ref in claim.files.values()),
        "entries": len(intact.numbers),
    }


def measure(most: int, folder: Path) -> list[Result]:
    """A row for each size."""
    log, bare, found = Log(folder / "run", most), Bare(folder / "bare.db"), []
    size = 1000
    while size <= most:
        print(f"{time.strftime('%H:%M:%S')} {size:,} entries", file=sys.stderr, flush=True)
        log.fill(size)
        row = {"size": size, "append": appending(log, bare)}
        for what in ("open", "proofs", "check"):
            row[what] = in_child("benchmarks.scale", "--child", what, str(folder / "run"))
        begun = time.perf_counter()
        row["log"] = in_child("benchmarks.scale", "--child", "log", str(folder / "run"))
        row["log"]["seconds"] = time.perf_counter() - begun
        log.claim(folder / f"claim-{size}")
        row["integrity"] = in_child("benchmarks.scale", "--child", "integrity", str(folder / f"claim-{size}"))
        subprocess.run(["rm", "-r", str(folder / f"claim-{size}")], check=True)
        found.append(row)
        size *= 10
    return found


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to put them, on the disk that is meant")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child and options.child[0] == "log":
        from polchain.cli.app import main as polchain

        sys.argv = ["polchain", "log", options.child[1]]
        out, sys.stdout = sys.stdout, open("/dev/null", "w")  # noqa: SIM115
        code = 0
        try:
            polchain()
        except SystemExit as ended:
            code = int(ended.code or 0)
        sys.stdout = out
        print(json.dumps({"code": code}))
    elif options.child:
        print(json.dumps(child(options.child[0], Path(options.child[1]))))
    else:
        about = machine()
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            rows = measure(options.most, Path(name))
        write("scale", rows, about)
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
