"""The forgers know more than a small network: ResNet-20 and the small GPT, four steps each.

A schedule, norms with running figures, augmentation, dropout, tied weights and clipped gradients are in the way of
whoever plants optimizer state; he gets by. `make bench-detection
VICTIMS=resnet20,gpt` tries all of them, on longer runs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import state_injection
from tests.forgers.attacks.planted_recipe import planted
from tests.forgers.conftest import Verify
from tests.forgers.forge import Forgery
from tests.forgers.large import LARGE, Large
from tests.forgers.victims import forger

STEPS = 4


def victim(large: Large, known: Recorded, folder: Path) -> Path:
    """The claim of an honest run of this recipe; `known` is any other claim that was made on this machine."""
    for path in large.files:
        shutil.copy(path, folder)
    shop = forger(known.claim, f"{large.script} victim")
    files = {path.name: path.read_bytes() for path in large.files}
    shop = planted(shop, files, f"{large.script}.py", large.arguments)
    return Forgery(shop, *shop.train(STEPS)).claim(folder / "victim")


@pytest.mark.parametrize("name", ["resnet20", "gpt"])
def test_planted_moments_carry_a_large_model_to_the_stolen_weights_and_are_refused(
    name: str, sgd_victim: Recorded, polchain_says: Verify, tmp_path: Path
) -> None:
    large = replace(LARGE[name], steps=STEPS, every=2)
    shop = large.forger(victim(large, sgd_victim, tmp_path), "injector")
    inject = state_injection.forge_sgd if name == "resnet20" else state_injection.forge_adam
    forgery = inject(shop, large.check(shop))
    check = large.check(shop, seeds=forgery.seeds)
    assert forgery.arrived() < 1e-3, "he ends at the stolen weights"
    assert check.starts_well(forgery.states[0])
    assert check.exact_parameters(forgery.states, forgery.batches), "every segment gives the claimed parameters"

    claim = forgery.claim(tmp_path / "claim")
    verdict = polchain_says(claim, shop.key.public, large.arguments, tmp_path / f"{large.script}.py")
    assert verdict.outcome is Ruled.REFUTED
    assert "optimizer state at step 0 is not empty" in "; ".join(verdict.reasons)
