"""The forgers of `benchmarks.detection` against victims of a size that is stolen: ResNet-20, and the small GPT.

    python -m benchmarks.detection --victims resnet20,gpt [--seeds 1] [--minutes 50] [--only "gpt: glue"]

A case is called by victim and forger, `gpt: glue`; what came of it is a line of
benchmarks/results/detection_large.jsonl. What does not apply to a victim is in `DOES_NOT_APPLY`, with the reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.detection import ALTERED, Case, Lab, Unit, honestly
from benchmarks.detection_table import DOES_NOT_APPLY, LARGE
from benchmarks.published_check import PublishedCheck
from benchmarks.seeded_check import SeededCheck
from tests import claims
from tests.claims import Recorded
from tests.forgers import large
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
    state_injection,
    visit,
    withheld_state,
)
from tests.forgers.forge import Forgery, Workshop

__all__ = ["CASES", "LargeLab", "units"]

GIANT = 40, 100  # of 120 steps
TENTH = tuple(range(5, 120, 10))
LOOK = "loss = loss_of(model, batch)"


def _planted(shop: Workshop, kind: str, victim: large.Large) -> Workshop:
    script, example = victim.files
    text = planted_recipe.large_text(kind, shop, victim.script, victim.bits)
    files = {path.name: path.read_bytes() for path in (script, example)} | {"planted.py": text.encode()}
    return planted_recipe.planted(shop, files)


def _searched(shop: Workshop, check: PublishedCheck) -> Forgery:
    assert isinstance(check, SeededCheck)
    return chosen_data.searched_batches(shop, check)


def _pixels(shop: Workshop, check: PublishedCheck) -> Forgery:
    assert isinstance(check, SeededCheck)
    return chosen_data.forged_pixels(shop, check)


def _giant(shop: Workshop) -> Workshop:
    return giant_segment.workshop(shop, 120, GIANT)


def _cases(name: str) -> dict[str, Case]:
    long, victim = f"{name} long", large.LARGE[name]
    inject = state_injection.forge_adam if name == "gpt" else state_injection.forge_sgd
    found = {
        "honest": Case(name, honestly),
        "honest, a checkpoint each step": Case(long, honestly),
        "rank-matched init": Case(name, lambda shop, _: rank_matched_init.forge(shop)),
        "interpolation": Case(long, lambda shop, _: interpolation.forge(shop, infinitesimal=False)),
        "infinitesimal updates": Case(long, lambda shop, _: interpolation.forge(shop, infinitesimal=True)),
        "blindfold top-Q": Case(long, lambda shop, _: blindfold.forge(shop)),
        "a tenth of the steps forged": Case(long, lambda shop, _: blindfold.forge_a_few(shop, TENTH)),
        "giant segment": Case(long, lambda shop, _: giant_segment.forge(shop), _giant),
        "glue": Case(name, lambda shop, _: glue.forge(shop, 6)),
        "splice": Case(name, lambda shop, _: glue.forge(shop, 6, planted=False)),
        "last jump": Case(name, lambda shop, _: last_jump.forge(shop)),
        "adversarial batches": Case(name, _searched),
        "data forging": Case(f"{name} short", _pixels),
        "data subtraction": Case(name, lambda shop, _: chosen_data.data_subtraction(shop)),
        "state injection, SGD": Case(name, inject),
        "state injection, Adam": Case(name, inject),
        # On one thread: of a run as short as this no calibration holds (the drift condition).
        "moments within tolerance": Case(name, lambda shop, _: moments_within_tolerance.forge(shop, ALTERED)),
        **{
            f"planted in the {kind}": Case(name, honestly, program=partial(_planted, kind=kind, victim=victim))
            for kind in planted_recipe.KINDS
        },
        "re-signed copy": Case(name, lambda shop, _: resigned_copy.forge(shop)),
        "visit": Case(long, lambda shop, _: visit.forge(shop, 60, plain=False)),
        "relayed momentum": Case(long, lambda shop, _: relayed_momentum.forge(shop, 80)),
        "withheld state": Case(long, lambda shop, _: withheld_state.forge(shop, 110)),
        "half the steps at twice the rate": Case(name, lambda shop, _: cheap_training.lazy(shop, victim.faster)),
        "bfloat16 for fp32": Case(name, lambda shop, _: cheap_training.imprecise(shop, LOOK)),
    }
    return {f"{name}: {each}": case for each, case in found.items() if each not in DOES_NOT_APPLY[name]}


CASES: Mapping[str, Case] = {each: case for name in LARGE for each, case in _cases(name).items()}


class LargeLab(Lab):
    """The victims of one process that are of a size."""

    cases = CASES

    def record(self, name: str) -> Recorded:
        """Record it, in a folder with what its script imports."""
        return record(self.folder / name.replace(" ", "-"), large.LARGE[name])

    def script(self, name: str) -> Path:
        """The recorded script: the example that it imports lies beside it."""
        return self.recorded(name).script

    def forger(self, victim: str, claim: Path, name: str, seed: int) -> Workshop:
        """A forger of this name and number, who knows that victim's recipe."""
        return large.LARGE[victim].forger(claim, name, seed)

    def check(self, victim: str, shop: Workshop, forgery: Forgery | None = None) -> PublishedCheck:
        """The published check of that victim's recipe, and of what a forger shows to it."""
        samples, seeds = (None, None) if forgery is None else (forgery.samples, forgery.seeds)
        return large.LARGE[victim].check(shop, samples, seeds)


def record(folder: Path, victim: large.Large) -> Recorded:
    """Record a large victim's recipe in a new folder, and export its claim."""
    script, example = victim.files
    folder.mkdir()
    shutil.copy(example, folder)
    return claims.record(folder, script, victim.arguments)


def units(victims: Iterable[str], seeds: int, only: str, done: set[tuple[str, int]]) -> list[Unit]:
    """What is left to try, in pieces that share a victim; seed by seed."""
    pieces: dict[tuple[int, str], list[tuple[str, int]]] = {}
    for seed in range(seeds):
        for name, case in CASES.items():
            if name.partition(":")[0] in victims and name.startswith(only) and (name, seed) not in done:
                pieces.setdefault((seed, case.victim), []).append((name, seed))
    return [pieces[key] for key in sorted(pieces, key=lambda key: (key[0], "long" in key[1]))]
