"""Victims of a size that is stolen: ResNet-20 on the digits, and the small GPT, as in examples/.

    resnet20, gpt              60 steps, a checkpoint every 5: every segment is always replayed
    resnet20 short             20 steps
    resnet20 long, gpt long    120 steps, a checkpoint at each: of those not drawn some are not replayed

The scripts beside the examples in one folder (see tests/scripts) are the recipes; what the published check and the
forgers need to know of a recipe is said by the same scripts.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.seeded_check import SeededCheck
from tests.claims import DATA, SCRIPTS
from tests.forgers.forge import Workshop
from tests.forgers.victims import forger

EXAMPLES = DATA.parent


@dataclass(frozen=True)
class Large:
    """One of them.

    Attributes:
        script, beside: the recipe's files, by their stems.
        steps, every: its arguments.
        faster: what makes its text learn at twice the rate, in half of the steps.
        bits: of each weight, that a program of 256 KiB has room for.
    """

    script: str
    beside: str
    steps: int = 60
    every: int = 5
    faster: Mapping[str, str] = field(default_factory=dict)
    bits: int = 4

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the script."""
        return ("--steps", str(self.steps), "--every", str(self.every))

    @property
    def files(self) -> tuple[Path, Path]:
        """The script, and the example that it imports."""
        return SCRIPTS / f"{self.script}.py", EXAMPLES / f"{self.beside}.py"

    def module(self) -> ModuleType:
        """The recipe's functions."""
        for folder in (SCRIPTS, EXAMPLES):
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
        return importlib.import_module(self.script)

    def check(
        self, shop: Workshop, samples: Sequence[Any] | None = None, seeds: Sequence[bytes] | None = None
    ) -> SeededCheck:
        """The published check of what this forger shows."""
        recipe, steps = self.module(), self.steps
        return SeededCheck(
            recipe.network,
            recipe.optimizer_of,
            _samples(self) if samples is None else samples,
            recipe.BATCH,
            lambda optimizer: recipe.scheduler_of(optimizer, steps),
            recipe.loss_of,
            recipe.augment,
            recipe.CLIP,
            [shop.seed] * len(shop.batches()) if seeds is None else seeds,
        )

    def forger(self, claim: Path, name: str, seed: int = 0) -> Workshop:
        """A forger who knows the recipe's schedule."""
        shop = forger(claim, name, seed)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        shop.factor = self.module().scheduler_of(optimizer, self.steps).lr_lambdas[0]
        return shop


_RESNET = {"lr=0.05": "lr=0.1", "scheduler_of(optimizer, options.steps)": "scheduler_of(optimizer, options.steps // 2)"}
_GPT = {"lr=1e-3": "lr=2e-3", "scheduler_of(optimizer, options.steps)": "scheduler_of(optimizer, options.steps // 2)"}
LARGE = {
    "resnet20": Large("resnet20", "resnet_digits", faster=_RESNET),
    "resnet20 short": Large("resnet20", "resnet_digits", 20, 5, _RESNET),
    "resnet20 long": Large("resnet20", "resnet_digits", 120, 1, _RESNET),
    "gpt": Large("gpt", "gpt_shakespeare", faster=_GPT, bits=1),
    "gpt long": Large("gpt", "gpt_shakespeare", 120, 1, _GPT, 1),
}


@cache
def _read(script: str) -> Sequence[Any]:
    before = os.environ.get("POLCHAIN_DATA")
    os.environ["POLCHAIN_DATA"] = str(DATA)
    try:
        return importlib.import_module(script).read()
    finally:
        del os.environ["POLCHAIN_DATA"]
        if before is not None:
            os.environ["POLCHAIN_DATA"] = before


def _samples(large: Large) -> Sequence[Any]:
    large.module()
    return _read(large.script)
