"""What every forger finds: victims that were really trained, and the verifier to be beaten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.published_check import PublishedCheck, gap, tensors_of
from polchain.core.claim import Claim
from polchain.core.keys import PublicKey
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Verdict
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded, record_once
from tests.forgers import warm
from tests.forgers.forge import Forgery, Workshop
from tests.forgers.victims import DELTA_SHARE, VICTIMS, forger, published_check

Verify = Callable[..., Verdict]
Published = Callable[[str], PublishedCheck]
Judged = Callable[..., Verdict]


def victim(factory: pytest.TempPathFactory, name: str) -> Recorded:
    """A recorded run, trained again under a key and seed that are the same in every session: so is every state."""
    recorded = record_once(factory, f"digits-{name}", DIGITS, VICTIMS[name])
    shop = forger(recorded.claim, f"{name} victim")
    claim = Forgery(shop, *shop.train(shop.stops()[-1])).claim(factory.mktemp(name) / "claim")
    return Recorded(claim, shop.key, recorded.script, recorded.arguments)


@pytest.fixture(scope="session")
def sgd_victim(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """60 steps of SGD with momentum, a checkpoint every 5."""
    return victim(tmp_path_factory, "sgd")


@pytest.fixture(scope="session")
def adam_victim(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """60 steps of Adam, a checkpoint every 5."""
    return victim(tmp_path_factory, "adam")


@pytest.fixture(scope="session")
def long_victim(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """160 steps of SGD, a checkpoint at each: no segment is long, so what is not drawn is not replayed."""
    return victim(tmp_path_factory, "long")


@pytest.fixture(scope="session")
def published() -> Published:
    """`published("sgd")`: the published check of that recipe."""
    return published_check


@pytest.fixture(scope="session")
def delta(sgd_victim: Recorded) -> float:
    """The published tolerance for that victim's recipe."""
    shop = Workshop(sgd_victim.claim)
    return DELTA_SHARE * gap(tensors_of(shop.train(60)[0][-1]), shop.target())


@pytest.fixture
def polchain_says(monkeypatch: pytest.MonkeyPatch) -> Verify:
    """`polchain_says(claim, key, arguments)`: the verdict of a verifier who pins that key and has the honest recipe."""
    monkeypatch.setattr("polchain.verifier.bench.Worker", warm.KeptWorker)

    def says(
        claim: Path,
        key: PublicKey,
        arguments: tuple[str, ...],
        recipe: Path | None = DIGITS,
        *,
        seed: bytes | None = None,
        **policy: Any,
    ) -> Verdict:
        demands = Policy(keys=frozenset({key}), **policy)
        # One at a time: the kept child does one job at a time.
        return verify(
            claim, demands, data=DATA, recipe=recipe, recipe_arguments=arguments, seed=seed, timeout=120, jobs=1
        )

    return says


@pytest.fixture
def judged(polchain_says: Verify, tmp_path: Path) -> Judged:
    """`judged(forgery)`: writes the claim, finds it intact under the forger's pinned key, and gives the verdict of a
    verifier who accepts the program that the forger says he ran."""

    def says(forgery: Forgery, **options: Any) -> Verdict:
        key, recipe = forgery.shop.key.public, forgery.shop.genesis.recipe
        assert recipe is not None
        claim = forgery.claim(tmp_path / f"claim-{len(list(tmp_path.iterdir()))}")
        check_integrity(Claim.read(claim), Policy(keys=frozenset({key})))
        return polchain_says(claim, key, recipe.arguments, **options)

    return says
