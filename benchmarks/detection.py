"""Who is refused, by whom, and what it cost him: every forger against three verifiers.

    python -m benchmarks.detection [--seeds 20] [--honest 210] [--jobs 1] [--minutes 50] [--only NAME] [--table]
    python -m benchmarks.detection --victims resnet20,gpt [--seeds 1] ...

    published    initial weights by their distribution, the largest updates of each epoch within delta, parameters only
    exact        every segment, parameters only, bit for bit; the rest as the checkpoint says
    polchain     `verify` with the defaults; the honest recipe is vouched for, a planted one is run and not vouched for

Each forger is tried once with each seed, against a victim that this seed trained; what came of it is a line of
benchmarks/results/detection.jsonl, written by the parent alone. A sitting ends cleanly after `--minutes`, and the next
one goes on; lines of another source of polchain are left out. `--table` tries nothing: it prints the table of what is
in the file, and writes it into docs/detection.md. `--victims` tries them on large ones (`detection_large`).

`cpu` is the forger's CPU time in seconds, `honest_cpu` that of honest training of the same recipe; to start processes
is in neither (see `tests.forgers.warm`). `left` is how far from the stolen weights he ended, over the way that the
victim went.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from benchmarks.detection_table import (
    FORGERS,
    HONEST,
    LARGE_MARKS,
    LARGE_RESULTS,
    MARKS,
    RESULTS,
    Record,
    read,
    report,
    report_large,
    source_digest,
    write_page,
)
from benchmarks.published_check import Batches, PublishedCheck, gap, weights_of
from polchain.core.manifest import Snapshot
from polchain.errors import EvidenceError, PolchainError, PolicyError
from polchain.training.fingerprint import Setting
from polchain.verifier.calibrating import Wish, calibrate
from polchain.verifier.calibration import Calibration
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome, Reproduction
from polchain.verifier.verdict import REPRODUCED, Ruled, Verdict
from polchain.verifier.verify import verify
from polchain.verifier.vouching import OwnRecipe
from tests.claims import DATA, DIGITS, Recorded, record
from tests.forgers import warm
from tests.forgers.attacks import (
    blindfold,
    cheap_training,
    chosen_data,
    giant_segment,
    glue,
    interpolation,
    last_jump,
    moments_within_tolerance,
    planted_recipe,
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

# The share of a segment's movement by which momentum is altered: what a tolerance of a hundredth would let pass.
ALTERED = 0.01
TENTH = tuple(range(5, 160, 10))

Unit = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Case:
    """One forger, or an honest prover.

    Attributes:
        victim: whose weights he wants: a name in VICTIMS.
        forge: his work.
        schedule: his workshop, where his steps or checkpoints are not the victim's.
        program: his workshop, where his program is not the victim's; nobody vouches for that one.
        calibrated: he has two threads, and polchain replays with one, by a calibration of both.
    """

    victim: str
    forge: Callable[[Workshop, PublishedCheck], Forgery]
    schedule: Callable[[Workshop], Workshop] = lambda shop: shop
    program: Callable[[Workshop], Workshop] | None = None
    calibrated: bool = False


def honestly(shop: Workshop, _: PublishedCheck) -> Forgery:
    """No forgery at all."""
    return seed_grinding.forge(shop)


def elsewhere(shop: Workshop) -> Workshop:
    """The same workshop on a machine that computes with two threads."""
    shop.start = replace(shop.start, fingerprint={**shop.start.fingerprint, "threads": 2})
    return shop


def _planted(kind: str) -> Case:
    return Case("sgd", honestly, program=partial(planted_recipe.workshop, kind=kind))


CASES = {
    "honest SGD": Case("sgd", honestly),
    "honest Adam": Case("adam", honestly),
    "honest, a checkpoint each step": Case("long", honestly),
    "honest, a giant segment among tiny ones": Case("long", honestly, giant_segment.workshop),
    "honest SGD, calibrated": Case("sgd", honestly, elsewhere, calibrated=True),
    "honest Adam, calibrated": Case("adam", honestly, elsewhere, calibrated=True),
    "rank-matched init": Case("sgd", lambda shop, _: rank_matched_init.forge(shop)),
    "interpolation": Case("long", lambda shop, _: interpolation.forge(shop, infinitesimal=False)),
    "infinitesimal updates": Case("long", lambda shop, _: interpolation.forge(shop, infinitesimal=True)),
    "blindfold top-Q": Case("long", lambda shop, _: blindfold.forge(shop)),
    "a tenth of the steps forged": Case("long", lambda shop, _: blindfold.forge_a_few(shop, TENTH)),
    "giant segment": Case("long", lambda shop, _: giant_segment.forge(shop), giant_segment.workshop),
    "glue": Case("sgd", lambda shop, _: glue.forge(shop, 6)),
    "splice": Case("sgd", lambda shop, _: glue.forge(shop, 6, planted=False)),
    "last jump": Case("sgd", lambda shop, _: last_jump.forge(shop)),
    "adversarial batches": Case("sgd", chosen_data.adversarial_batches),
    "data forging": Case("sgd", chosen_data.data_forging, chosen_data.short),
    "data subtraction": Case("sgd", lambda shop, _: chosen_data.data_subtraction(shop)),
    "state injection, SGD": Case("sgd", state_injection.forge_sgd),
    "state injection, Adam": Case("adam", state_injection.forge_adam),
    "moments within tolerance": Case(
        "sgd", lambda shop, _: moments_within_tolerance.forge(shop, ALTERED), elsewhere, calibrated=True
    ),
    "planted in the loss": _planted("loss"),
    "planted in the init": _planted("init"),
    "planted in the data": _planted("data"),
    "planted in the optimizer": _planted("optimizer"),
    "planted in the session": _planted("session"),
    "re-signed copy": Case("sgd", lambda shop, _: resigned_copy.forge(shop)),
    "visit": Case("long", lambda shop, _: visit.forge(shop, 80, plain=False)),
    "relayed momentum": Case("long", lambda shop, _: relayed_momentum.forge(shop, 100)),
    "withheld state": Case("long", lambda shop, _: withheld_state.forge(shop, 150)),
    "half the steps at twice the rate": Case("sgd", lambda shop, _: cheap_training.lazy(shop)),
    "bfloat16 for fp32": Case("sgd", lambda shop, _: cheap_training.imprecise(shop)),
}


class Lab:
    """The victims of one process, and what honest training of their recipes costs; all of it in one folder."""

    cases: Mapping[str, Case] = CASES

    def __init__(self, folder: Path, source: str) -> None:
        self.folder = folder
        self.source = source
        self._recorded: dict[str, Recorded] = {}
        self._victim: tuple[tuple[str, int], Path] | None = None
        self._honest: dict[tuple[str, int, str], tuple[float, float]] = {}
        self._calibrations: dict[str, Calibration] = {}

    def calibration(self, name: str) -> Calibration:
        """What the verifier tolerates of that victim's recipe between one thread and two; made once, really."""
        if name not in self._calibrations:
            own = OwnRecipe.script(self.script(name), self.recorded(name).arguments)
            # The lengths of the recipe's own segments.
            wish = Wish(own, DATA, {}, threads=1, lengths=(1, 5), quick=True)
            self._calibrations[name] = calibrate(wish).calibration
        return self._calibrations[name]

    def victim(self, name: str, seed: int) -> Path:
        """Who was robbed: a recorded run, trained again under the key and seed that follow from a number."""
        self.recorded(name)
        if self._victim is None or self._victim[0] != (name, seed):
            if self._victim is not None:
                shutil.rmtree(self._victim[1])
            shop = self.forger(name, self._recorded[name].claim, f"{name} victim", seed)
            claim = Forgery(shop, *shop.train(shop.stops()[-1])).claim(self.folder / f"{name}-{seed}")
            self._victim = (name, seed), claim
        return self._victim[1]

    def recorded(self, name: str) -> Recorded:
        """A run of that victim's recipe, recorded once by a real process."""
        if name not in self._recorded:
            self._recorded[name] = self.record(name)
        return self._recorded[name]

    def record(self, name: str) -> Recorded:
        """Record it."""
        return record(self.folder / name, DIGITS, VICTIMS[name])

    def script(self, name: str) -> Path:
        """The verifier's own copy of that victim's recipe."""
        return DIGITS

    def forger(self, victim: str, claim: Path, name: str, seed: int) -> Workshop:
        """A forger of this name and number, who stole from that victim's claim."""
        return forger(claim, name, seed)

    def check(self, victim: str, shop: Workshop, forgery: Forgery | None = None) -> PublishedCheck:
        """The published check of that victim's recipe, and of what a forger shows to it."""
        shown = None if forgery is None or forgery.samples is None else tuple(forgery.samples)
        return published_check("adam" if victim == "adam" else "sgd", shown)

    def honest(self, case: Case, seed: int) -> tuple[float, float]:
        """CPU seconds of honest training of that victim's recipe, and the published delta for it."""
        claim = self.victim(case.victim, seed)
        shops = [case.schedule(self.forger(case.victim, claim, name, seed)) for name in ("one", "another")]
        key = case.victim, seed, str(shops[0].configuration)
        if key not in self._honest:
            begun = warm.seconds()
            ends = [weights_of(shop.train(shop.stops()[-1])[0][-1]) for shop in shops]
            self._honest[key] = (warm.seconds() - begun) / len(shops), DELTA_SHARE * gap(*ends)
        return self._honest[key]

    def run(self, name: str, seed: int) -> Record:
        """Try one forger with one seed on all three verifiers."""
        case = self.cases[name]
        claim = self.victim(case.victim, seed)
        honest, delta = self.honest(case, seed)
        calibration = self.calibration(case.victim) if case.calibrated else None
        shop = case.schedule(self.forger(case.victim, claim, name, seed))
        check = self.check(case.victim, shop)
        begun = warm.seconds()
        if case.program is not None:
            shop = case.program(shop)
        forgery = case.forge(shop, check)
        forged = warm.seconds()
        check = self.check(case.victim, shop, forgery)
        if case.program is not None:
            check = ByItsProgram(check.network, check.optimizer, check.samples, check.batch_size, shop, check)
        published, exact = (
            published_says(check, forgery, delta),
            check.exact_parameters(forgery.states, forgery.batches),
        )
        checked = warm.seconds()
        shown = forgery.claim(self.folder / "claim")
        try:
            draw = sha256(f"draw {name} {seed}".encode()).digest()
            own = self.script(case.victim) if case.program is None else None
            said = polchain_says(shop, shown, draw, own, calibration)
        finally:
            shutil.rmtree(shown)
        ended = warm.seconds()
        return {
            "forger": name,
            "seed": seed,
            "source": self.source,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "published": published,
            "exact": exact,
            **said,
            "cpu": round(forged - begun, 3),
            "honest_cpu": round(honest, 3),
            "verifying_cpu": round(ended - checked, 3),
            "seconds": round(ended - begun, 3),
            "left": round(forgery.arrived(), 6),
        }


@dataclass(frozen=True)
class ByItsProgram(PublishedCheck):
    """The same check, of a prover whose program is his own: whoever trains a segment again runs that."""

    shop: Workshop
    check: PublishedCheck

    def starts_well(self, initial: Snapshot) -> bool:
        """The test of the initial weights."""
        return self.check.starts_well(initial)

    def errors(self, states: Sequence[Snapshot], batches: Sequence[Batches], picked: Sequence[int]) -> list[float]:
        """l2 distance between trained and claimed parameters, for each picked segment."""
        stops = self.shop.stops()
        found = []
        with self.shop.worker() as worker:
            for i in picked:
                [state], _ = self.shop.go_on(worker, states[i], stops[i], stops[i + 1])
                found.append(gap(weights_of(state), weights_of(states[i + 1])))
        return found


def published_says(check: PublishedCheck, forgery: Forgery, delta: float) -> str:
    """`accepted`, or which of its two tests refused."""
    if not check.starts_well(forgery.states[0]):
        return "initial weights"
    return "accepted" if check.accepts(forgery.states, forgery.batches, delta=delta) else "largest updates"


def polchain_says(
    shop: Workshop, claim: Path, draw: bytes, vouched: Path | None, calibration: Calibration | None = None
) -> Record:
    """The verdict, or the error's name; which check it was; and how many replays were reproduced, early and later."""
    recipe = shop.genesis.recipe
    assert recipe is not None
    calibrations = () if calibration is None else (calibration,)
    policy = Policy(keys=frozenset({shop.key.public}), unsafe_no_sandbox=vouched is None, calibrations=calibrations)
    setting = None if calibration is None else Setting(1)
    own = {} if vouched is None else {"recipe": vouched, "recipe_arguments": recipe.arguments}
    try:
        verdict = verify(
            claim,
            policy,
            data=DATA,
            seed=draw,
            timeout=300,
            setting=setting,
            **own,  # type: ignore[arg-type]
        )
    except (EvidenceError, PolicyError) as error:
        nothing = [0, 0]
        return {"polchain": type(error).__name__, "by": str(error), "early": nothing, "later": nothing, "sandbox": ""}
    replays = [item for item in verdict.reproductions if item.pick is not None]
    halves: dict[bool, list[bool]] = {True: [], False: []}
    for item in replays:
        assert item.pick is not None
        halves[3 * item.pick.segment.first < verdict.steps].append(item.outcome in REPRODUCED)
    return {
        "polchain": verdict.outcome.value,
        "by": refused_by(verdict),
        "early": [sum(halves[True]), len(halves[True])],
        "later": [sum(halves[False]), len(halves[False])],
        "sandbox": "" if vouched is None else verdict.sandbox if verdict.sandbox.startswith("bubblewrap") else "none",
    }


def refused_by(verdict: Verdict) -> str:
    """Which check refused; empty for VERIFIED and CONSISTENT."""
    if verdict.outcome in (Ruled.VERIFIED, Ruled.CONSISTENT):
        return ""
    bad = next((item for item in verdict.reproductions if item.outcome not in REPRODUCED), None)
    worst = next((item for item in verdict.reproductions if item.outcome is Outcome.REFUTED), bad)
    if worst is not None and not verdict.reasons[0].startswith("the entr"):
        return _by(worst)
    for words, found in (
        ("the entry of step", "stated size of an update"),
        ("the entries up to step", "stated sizes around a state that is not shown"),
        ("nobody vouched for the recipe", "nobody vouched"),
    ):
        if words in verdict.reasons[0]:
            return found
    return verdict.reasons[0]


def _by(item: Reproduction) -> str:
    if item.pick is None:
        return "optimizer at step 0" if "is not empty" in item.reason else "initial state from the seed"
    if "the optimizer's" in item.reason:
        found = "settings of the recipe"
    elif "not disclosed" in item.reason:
        found = "state not disclosed"
    elif "over tau" in item.reason:
        part = "optimizer" if item.reason.startswith("the claimed optimizer") else "model"
        found = f"tau of the {part} state, two segments straight through"
    else:
        found = f"rho of the {'optimizer' if 'claimed optimizer' in item.reason else 'model'} state"
    # What a screen measured is another number each time.
    return f"{found} ({item.pick.reasons[0].partition(':')[0]})"


def units(seeds: int, honest: int, only: str, done: set[tuple[str, int]]) -> list[Unit]:
    """What is left to try, in pieces that share a victim; seed by seed, honest claims in between."""
    each = -(-honest // len(HONEST))
    wanted = [(name, seed) for seed in range(seeds) for name in FORGERS]
    wanted += [(name, seed) for seed in range(each) for name in HONEST]
    pieces: dict[tuple[int, str, bool], list[tuple[str, int]]] = {}
    for name, seed in wanted:
        if name.startswith(only) and (name, seed) not in done:
            pieces.setdefault((seed, CASES[name].victim, name in HONEST), []).append((name, seed))
    # Honest claims are more than seeds: spread over the sitting.
    pace = max(1.0, each / max(1, seeds))
    return [pieces[key] for key in sorted(pieces, key=lambda key: (key[0] / pace if key[2] else key[0], key[1]))]


def work(tasks: Any, results: Any, source: str, end: float, lab_of: Callable[[Path, str], Lab]) -> None:
    """One process of a sitting: takes units, gives a record or a sentence for each forgery, and None at its end."""
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # the first one of a process costs a second
    warm.keep()
    with tempfile.TemporaryDirectory(prefix="detection-") as folder:
        lab = lab_of(Path(folder), source)
        while (unit := tasks.get()) is not None:
            for name, seed in unit:
                if time.monotonic() > end:
                    break
                try:
                    results.put(lab.run(name, seed))
                except PolchainError as error:
                    # Whatever failed here says nothing about the forger: the next sitting tries again.
                    results.put(f"{name}, seed {seed}: {error}")
                except Exception:
                    # Nor does it end the sitting; it is told whole.
                    results.put(f"{name}, seed {seed}: {traceback.format_exc()}")
    results.put(None)


def sit(
    remaining: Callable[[set[tuple[str, int]]], list[Unit]],
    jobs: int,
    minutes: float,
    path: Path = RESULTS,
    lab_of: Callable[[Path, str], Lab] = Lab,
) -> None:
    """Try what remains, given what was tried, until the time is over; this process alone writes."""
    source = str(source_digest())
    found = read(path)
    mine = {(item["forger"], item["seed"]) for item in found if item["source"] == source}
    if len(found) > len(mine):
        tell(f"{len(found) - len(mine)} lines of another source of polchain are left out")
    # One thread in each process, settled before it imports torch.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    left = remaining(mine)
    total, begun = sum(len(unit) for unit in left), time.monotonic()
    for unit in [*left, *[None] * jobs]:
        tasks.put(unit)
    end = begun + 60 * minutes
    processes = [context.Process(target=work, args=(tasks, results, source, end, lab_of)) for _ in range(jobs)]
    for process in processes:
        process.start()
    path.parent.mkdir(exist_ok=True)
    running, written = jobs, 0
    with path.open("a") as file:
        while running:
            try:
                item = results.get(timeout=5)
            except queue.Empty:
                if not any(process.is_alive() for process in processes):
                    break
                continue
            if item is None:
                running -= 1
            elif isinstance(item, str):
                tell(item)
            else:
                file.write(json.dumps(item) + "\n")
                file.flush()
                written += 1
                if written % 25 == 0:
                    tell(f"{written} of {total}, {time.monotonic() - begun:.0f} s")
    for process in processes:
        process.join()
    tell(f"{written} of {total} were tried, in {time.monotonic() - begun:.0f} s with {jobs} processes")


def tell(text: str) -> None:
    """A line for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Sit, or make the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, help="20; 1 for large victims")
    parser.add_argument("--victims", default="", help="large ones, of resnet20,gpt, in place of the small")
    parser.add_argument("--honest", type=int, default=210, help="honest claims to verify")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one core and thread each")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--only", default="", help="forgers whose name begins so")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--table", action="store_true", help="print what is in the file, and write docs/detection.md")
    options = parser.parse_args()
    path = options.results or (LARGE_RESULTS if options.victims else RESULTS)
    if not options.table and options.victims:
        from benchmarks import detection_large  # which is made of what is here

        large = partial(detection_large.units, options.victims.split(","), options.seeds or 1, options.only)
        sit(large, options.jobs, options.minutes, path, detection_large.LargeLab)
    elif not options.table:
        small = partial(units, options.seeds or 20, options.honest, options.only)
        sit(small, options.jobs, options.minutes, path)
    if not options.table:
        print((report_large if options.victims else report)(read(path)))
        return
    for made, marks in ((report(read(RESULTS)), MARKS), (report_large(read(LARGE_RESULTS)), LARGE_MARKS)):
        print(made)
        write_page(made, marks)


if __name__ == "__main__":
    main()
