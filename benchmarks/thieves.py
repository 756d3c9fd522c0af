"""Every forger before an arbiter: his claim is dated before the victim's, and the model is the victim's last weights.

    python -m benchmarks.thieves [--seeds 2] [--minutes 30] [--only NAME] [--table]

The forgers are those of `benchmarks.detection`, the victims too: really trained, really verified. When each claim
existed is simulated (`tests.court`): the forger's before the victim's, and the victim's seed is of his own choice, the
weakest there is; or from a beacon's block that is older than the forger's evidence. Each ruling is asked for in both
orders, about the weights in a file and about each claim's final state.

What came of it is a line of benchmarks/results/thieves.jsonl. A sitting ends cleanly after `--minutes`, and the next
one goes on; lines of another source of polchain are left out. `--table` tries nothing: it prints the table of what is
in the file, and writes it into docs/disputes.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.detection_table import FORGERS, ROOT, Record, newest, on_page, read, source_digest, write_page

__all__ = ["MARKS", "PAGE", "RESULTS", "report"]

RESULTS = ROOT / "benchmarks" / "results" / "thieves.jsonl"
PAGE = ROOT / "docs" / "disputes.md"
MARKS = "<!-- thieves: made by `make bench-thieves` -->", "<!-- /thieves -->"
# The seeds that the victim may have had: of his own choice, or a beacon's.
SEEDS = ("own seed", "beacon")
DISPUTED = ("weights", "final states")
VICTIM_ORDER = ("sgd", "adam", "long")


def try_one(lab: Any, court: Any, name: str, seed: int) -> Record:
    """What an arbiter says of one forger and his victim."""
    from safetensors.torch import save_file

    from benchmarks.detection import CASES
    from benchmarks.published_check import tensors_of
    from polchain.storage.checkpoints import CheckpointStore
    from tests.claims import checkpoints_of
    from tests.court import Dates, is_mirror
    from tests.forgers.victims import forger, published_check

    case = CASES[name]
    victim = lab.victim(case.victim, seed)
    shop = case.schedule(forger(victim, name, seed))
    if case.program is not None:
        shop = case.program(shop)
    begun = time.monotonic()
    forgery = case.forge(shop, published_check("adam" if case.victim == "adam" else "sgd"))
    thief, weights = lab.folder / "thief", lab.folder / "weights.safetensors"
    forgery.claim(thief)
    last = CheckpointStore(victim).get(checkpoints_of(victim)[-1].state)
    save_file({row.removeprefix("model/"): tensor for row, tensor in tensors_of(last).items()}, weights)
    options: dict[str, Any] = {"seed": sha256(f"draw {name} {seed}".encode()).digest()}
    options["untrusted"] = [thief] if case.program is not None else []
    if case.calibrated:
        options |= {"calibrations": [lab.calibration(case.victim)], "accept_consistent": True, "threads": 1}
    said: dict[str, list[str]] = {}
    mirrored, wrong = True, []
    verdicts: dict[str, set[str]] = {"A": set(), "B": set()}
    try:
        for which in SEEDS:
            known = {"start": 60, "beacon": 50} if which == "beacon" else {}
            court.dates = {victim: Dates(evidence=200, **known), thief: Dates(evidence=100)}
            for what, model in zip(DISPUTED, (weights, None), strict=True):
                ruling = court.rule(victim, thief, model=model, **options)
                mirrored = mirrored and is_mirror(ruling, court.rule(thief, victim, model=model, **options))
                said[f"{what}, {which}"] = [ruling.word, *ruling.named]
                for one in ruling.claims:
                    verdicts[one.name] |= {verdict.outcome.value for _, verdict in one.verdicts}
                wrong += faults(ruling)
    finally:
        shutil.rmtree(thief)
    return {
        "forger": name,
        "seed": seed,
        "source": lab.source,
        "rulings": said,
        "mirrored": mirrored,
        "faults": sorted(set(wrong)),
        "owner": sorted(verdicts["A"]),
        "thief": sorted(verdicts["B"]),
        "left": round(forgery.arrived(), 6),
        "seconds": round(time.monotonic() - begun, 2),
    }


def faults(ruling: Any) -> list[str]:
    """What must never be said between an owner (A) and a thief (B)."""
    found = ["the thief is named"] if "B" in ruling.named else []
    for model in ruling.models:
        (pair,) = model.pairs
        if "B" in pair.named:
            found.append("the thief is named")
        if pair.descents[0] is not None:
            found.append("the owner descends from the thief")
        if pair.decision.outcome.value == "EQUIVOCATION":
            found.append("the owner equivocates")
    if any(verdict.outcome.value == "REFUTED" for _, verdict in ruling.claims[0].verdicts) or ruling.claims[0].failure:
        found.append("the owner is refuted")
    return found


def sit(seeds: int, minutes: float, only: str = "", path: Path = RESULTS) -> None:
    """Try what was not tried yet, until the time is over."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    import torch

    from benchmarks.detection import CASES, Lab
    from polchain.errors import PolchainError
    from tests.court import Court
    from tests.forgers import warm

    torch.set_num_threads(1)
    warm.keep()
    source = str(source_digest())
    done = {(item["forger"], item["seed"]) for item in read(path) if item["source"] == source}
    left = [(name, seed) for seed in range(seeds) for name in FORGERS if name.startswith(only)]
    # Those that share a victim together, the quick ones first.
    left = sorted(
        (one for one in left if one not in done), key=lambda one: (one[1], VICTIM_ORDER.index(CASES[one[0]].victim))
    )
    end = time.monotonic() + 60 * minutes
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="thieves-") as folder, path.open("a") as file, Court().open() as court:
        lab = Lab(Path(folder), source)
        for number, (name, seed) in enumerate(left):
            if time.monotonic() > end:
                print(f"{number} of {len(left)} were tried: the time is over", file=sys.stderr)
                return
            try:
                file.write(json.dumps(try_one(lab, court, name, seed)) + "\n")
                file.flush()
            except PolchainError as error:
                # Whatever failed here says nothing about the forger: the next sitting tries again.
                print(f"{name}, seed {seed}: {error}", file=sys.stderr, flush=True)


def report(found: Sequence[Record]) -> str:
    """The table, as Markdown, of the newest lines."""
    items = newest(found)
    if not items:
        return "Nothing has been measured in this tree yet: `make bench-thieves` does it."
    by_name = {name: [item for item in items if item["forger"] == name] for name in FORGERS}
    columns = [f"{what}, {which}" for which in SEEDS for what in DISPUTED]
    rows = [
        f"| forger | his verdict | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 2)}",
    ]
    for name, some in by_name.items():
        if some:
            cells = [_shares(["; ".join(item["thief"]) for item in some])]
            cells += [_shares([_words(item["rulings"][column]) for item in some]) for column in columns]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    wrong = sum(bool(item["faults"]) for item in items)
    askew = sum(not item["mirrored"] for item in items)
    missing = [name for name, some in by_name.items() if not some]
    said = [
        f"{len(items)} disputes, {len(items) * 8} rulings. A thief named, or an owner refuted, descended from a thief "
        f"or equivocating: {wrong} of {len(items)}. Not the mirror image in the other order: {askew} of {len(items)}.",
        *([f"Not tried yet: {', '.join(missing)}."] if missing else []),
        f"Source of polchain `{items[-1]['source'][:23]}`.",
    ]
    return "\n".join([*rows, "", *said])


def _words(said: Sequence[str]) -> str:
    word, *named = said
    return word if not named else f"{word}: {' and '.join('owner' if name == 'A' else 'thief' for name in named)}"


def _shares(texts: Sequence[str]) -> str:
    counts = Counter(texts).most_common()
    return counts[0][0] if len(counts) == 1 else "; ".join(f"{text}, {k} of {len(texts)}" for text, k in counts)


def main() -> None:
    """Sit, or make the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", default="", help="forgers whose name begins so")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is in the file, and write docs/disputes.md")
    options = parser.parse_args()
    if not options.table:
        sit(options.seeds, options.minutes, options.only, options.results)
    text = report(read(options.results))
    print(text)
    if options.table and options.results == RESULTS and on_page(MARKS, PAGE) != text:
        write_page(text, MARKS, PAGE)


if __name__ == "__main__":
    main()
