"""Who is refused, by whom, and what it cost him: every forger against three verifiers.

    python -m benchmarks.detection [--seeds 20] [--minutes 50] [--only NAME] [--table]

    published    initial weights by their distribution, the largest updates of each epoch within delta, parameters only
    exact        every segment, parameters only, bit for bit; the rest as the checkpoint says
    polchain     `verify`, with the defaults, a fresh draw, and the honest recipe vouched for

Each forger is tried with each seed once; what came of it is a line of benchmarks/results/detection.jsonl. A sitting
ends cleanly after `--minutes`, and the next one goes on. The table is made from the file. `cost` is the forger's time
over that of honest training of the same recipe on the same machine, the start of processes included; `way left` is how
far from the stolen weights he ended, over how far from them he began.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.published_check import PublishedCheck, gap, tensors_of
from polchain.errors import EvidenceError, PolchainError
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome, Reproduction
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded, record
from tests.forgers.attacks import (
    blindfold,
    cheap_training,
    chosen_data,
    giant_segment,
    glue,
    interpolation,
    last_jump,
    rank_matched_init,
    relayed_momentum,
    resigned_copy,
    seed_grinding,
    state_injection,
    visit,
    withheld_state,
)
from tests.forgers.forge import Forgery, Workshop
from tests.forgers.victims import DELTA_SHARE, VICTIMS, forger, published_check

RESULTS = Path(__file__).parent / "results" / "detection.jsonl"
MIDDLE = 80
FEW = tuple(range(20, 160, 20))

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One forger, or an honest prover.

    Attributes:
        name: what the table calls him.
        victim: whose weights he wants: a name in VICTIMS.
        forge: his work.
        workshop: his workshop, where his recipe is not the victim's.
    """

    name: str
    victim: str
    forge: Callable[[Workshop, PublishedCheck], Forgery]
    workshop: Callable[[Workshop], Workshop] = lambda shop: shop


HONEST = (
    Case("honest, 12 segments", "sgd", lambda shop, _: seed_grinding.forge(shop)),
    Case("honest, 160 segments", "long", lambda shop, _: seed_grinding.forge(shop)),
)
FORGERS = (
    Case("state injection, SGD", "sgd", state_injection.forge_sgd),
    Case("state injection, Adam", "adam", state_injection.forge_adam),
    Case("rank-matched init", "sgd", lambda shop, _: rank_matched_init.forge(shop)),
    Case("infinitesimal updates", "long", lambda shop, _: interpolation.forge(shop, infinitesimal=True)),
    Case("interpolation", "long", lambda shop, _: interpolation.forge(shop, infinitesimal=False)),
    Case("blindfold top-Q", "long", lambda shop, _: blindfold.forge(shop)),
    Case("giant segment", "long", lambda shop, _: giant_segment.forge(shop), giant_segment.workshop),
    Case("last jump", "sgd", lambda shop, _: last_jump.forge(shop)),
    Case("glue", "sgd", lambda shop, _: glue.forge(shop, 6)),
    Case("adversarial batches", "sgd", chosen_data.adversarial_batches),
    Case("data forging", "sgd", chosen_data.data_forging, chosen_data.short),
    Case("data subtraction", "sgd", lambda shop, _: chosen_data.data_subtraction(shop)),
    Case("re-signed copy", "sgd", lambda shop, _: resigned_copy.forge(shop)),
    Case("visit", "long", lambda shop, _: visit.forge(shop, MIDDLE, plain=False)),
    Case("lazy training", "sgd", lambda shop, _: cheap_training.lazy(shop)),
    Case("training in bfloat16", "sgd", lambda shop, _: cheap_training.imprecise(shop)),
    Case("a few steps forged", "long", lambda shop, _: blindfold.forge_a_few(shop, FEW)),
    Case("relayed momentum", "long", lambda shop, _: relayed_momentum.forge(shop, 100)),
    Case("withheld state", "long", lambda shop, _: withheld_state.forge(shop, 150)),
)


class Bench:
    """The victims of one sitting, recorded when first needed, and how long honest training of each takes just now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._victims: dict[str, Recorded] = {}
        self._honest: dict[tuple[str, int], tuple[float, float]] = {}

    def victim(self, name: str) -> Recorded:
        """Who was robbed."""
        if name not in self._victims:
            self._victims[name] = record(self.folder / name, DIGITS, VICTIMS[name])
        return self._victims[name]

    def honest(self, name: str, seed: int) -> tuple[float, float]:
        """The seconds of honest training, and the published delta, for a victim's recipe; measured for every seed."""
        if (name, seed) not in self._honest:
            shop = Workshop(self.victim(name).claim)
            begun = time.monotonic()
            states, _ = shop.train(shop.stops()[-1])
            seconds = time.monotonic() - begun
            self._honest[name, seed] = seconds, DELTA_SHARE * gap(tensors_of(states[-1]), shop.target())
        return self._honest[name, seed]

    def run(self, case: Case, seed: int) -> Record:
        """Try one forger with one seed on all three verifiers."""
        victim = self.victim(case.victim)
        honest, delta = self.honest(case.victim, seed)
        draw = sha256(f"draw {case.name} {seed}".encode()).digest()
        shop = case.workshop(forger(victim.claim, case.name, seed))
        check = published_check("adam" if case.victim == "adam" else "sgd")
        begun = time.monotonic()
        forgery = case.forge(shop, check)
        seconds = time.monotonic() - begun
        if forgery.samples is not None:
            check = published_check("adam" if case.victim == "adam" else "sgd", tuple(forgery.samples))
        claim = forgery.claim(self.folder / "claim")
        try:
            begun = time.monotonic()
            outcome, by, replays = polchain_says(shop, claim, draw)
            verifying = time.monotonic() - begun
        finally:
            shutil.rmtree(claim)
        return {
            "forger": case.name,
            "seed": seed,
            "published": published_says(check, forgery, delta),
            "exact": check.exact_parameters(forgery.states, forgery.batches),
            "polchain": outcome,
            "by": by,
            "replays": replays,
            "cost": seconds / honest,
            "verifying": verifying / honest,
            "left": forgery.arrived(),
        }


def published_says(check: PublishedCheck, forgery: Forgery, delta: float) -> str:
    """`accepted`, or which of its two tests refused."""
    if not check.starts_well(forgery.states[0]):
        return "initial weights"
    return "accepted" if check.accepts(forgery.states, forgery.batches, delta=delta) else "largest updates"


def polchain_says(shop: Workshop, claim: Path, draw: bytes) -> tuple[str, str, list[list[Any]]]:
    """The verdict, or the error's name; which check it was; and every replay as (first step, its share, exact)."""
    policy = Policy(keys=frozenset({shop.key.public}))
    recipe = shop.genesis.recipe
    assert recipe is not None
    try:
        verdict = verify(
            claim, policy, data=DATA, recipe=DIGITS, recipe_arguments=recipe.arguments, seed=draw, timeout=300
        )
    except EvidenceError as error:
        return type(error).__name__, str(error), []
    replays: list[list[Any]] = [
        [r.pick.segment.first, r.pick.segment.first / verdict.steps, r.outcome is Outcome.EXACT]
        for r in verdict.reproductions
        if r.pick is not None
    ]
    return verdict.outcome.value, refused_by(verdict), replays


def refused_by(verdict: Verdict) -> str:
    """Which check refused; empty for VERIFIED."""
    if verdict.outcome is Ruled.VERIFIED:
        return ""
    bad = next((item for item in verdict.reproductions if item.outcome is not Outcome.EXACT), None)
    worst = next((item for item in verdict.reproductions if item.outcome is Outcome.REFUTED), bad)
    return verdict.reasons[0] if worst is None else _by(worst)


def _by(item: Reproduction) -> str:
    if item.pick is None:
        return "optimizer at step 0" if "is not empty" in item.reason else "initial state from the seed"
    if "the optimizer's" in item.reason:
        found = "settings of the recipe"
    elif "not disclosed" in item.reason:
        found = "state not disclosed"
    else:
        found = f"rho of the {'optimizer' if 'claimed optimizer' in item.reason else 'model'} state"
    return f"{found} ({item.pick.reasons[0]})"


def read(path: Path = RESULTS) -> list[Record]:
    """What was found so far; a line that a crash cut short is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def sit(cases: Iterable[Case], seeds: int, minutes: float, path: Path = RESULTS) -> None:
    """Try what was not tried yet, seed by seed, until the time is over."""
    begun = time.monotonic()
    done = {(item["forger"], item["seed"]) for item in read(path)}
    path.parent.mkdir(exist_ok=True)
    cases = tuple(cases)
    with tempfile.TemporaryDirectory() as folder, path.open("a") as file:
        bench = Bench(Path(folder))
        for seed in range(seeds):
            for case in cases:
                if (case.name, seed) in done:
                    continue
                if time.monotonic() - begun > 60 * minutes:
                    return
                try:
                    found = bench.run(case, seed)
                except PolchainError as error:
                    # Whatever failed here says nothing about the forger: the next sitting tries again.
                    print(f"{case.name}, seed {seed}: {error}", file=sys.stderr)
                    continue
                file.write(json.dumps(found) + "\n")
                file.flush()


def table(found: list[Record], seeds: int) -> str:
    """The table, and how much of it there is, as Markdown."""
    by_name: dict[str, list[Record]] = {}
    for item in found:
        by_name.setdefault(item["forger"], []).append(item)
    rows = [
        "| forger | published check | parameters only, exact | polchain | refused by | cost | way left |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in (*HONEST, *FORGERS):
        items = by_name.get(case.name, [])
        if items:
            rows.append(_row(case.name, items))
    total = seeds * len((*HONEST, *FORGERS))
    counted = sum(1 for item in found if item["seed"] < seeds)
    return "\n".join([*rows, "", *_honest(by_name), f"{counted} of {total} done."])


def _row(name: str, items: list[Record]) -> str:
    n = len(items)
    verified = sum(item["polchain"] == Ruled.VERIFIED.value for item in items)
    ways: dict[str, int] = {}
    for item in items:
        if item["polchain"] != Ruled.VERIFIED.value:
            how = f"{item['polchain']}: {item['by']}"
            ways[how] = ways.get(how, 0) + 1
    said = "; ".join(f"{how} {count}" for how, count in sorted(ways.items(), key=lambda pair: -pair[1]))
    cells = [
        name,
        _share(sum(item["published"] == "accepted" for item in items), n),
        _share(sum(item["exact"] for item in items), n),
        _share(verified, n),
        said,
        f"{statistics.median(item['cost'] for item in items):.2g}",
        f"{statistics.median(item['left'] for item in items):.2g}",
    ]
    return f"| {' | '.join(cells)} |"


def _share(accepted: int, n: int) -> str:
    return f"accepted {accepted} of {n}"


def _honest(by_name: dict[str, list[Record]]) -> list[str]:
    items = [item for case in HONEST for item in by_name.get(case.name, [])]
    if not items:
        return []
    refused = sum(item["polchain"] != Ruled.VERIFIED.value for item in items)
    replays = [replay for item in items for replay in item["replays"]]
    lines = [f"Honest claims that polchain did not verify: {refused} of {len(items)}."]
    for name, wanted in (("early", lambda share: share < 1 / 3), ("later", lambda share: share >= 1 / 3)):
        some = [exact for _, share, exact in replays if wanted(share)]
        lines.append(f"Honest segments that did not replay exactly, {name}: {some.count(False)} of {len(some)}.")
    return lines


def main() -> None:
    """Sit, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--only", default="", help="forgers whose name begins so")
    parser.add_argument("--table", action="store_true", help="print what is in the file, try nothing")
    options = parser.parse_args()
    if not options.table:
        cases = [case for case in (*HONEST, *FORGERS) if case.name.startswith(options.only)]
        sit(cases, options.seeds, options.minutes)
    print(table(read(), options.seeds))


if __name__ == "__main__":
    main()
