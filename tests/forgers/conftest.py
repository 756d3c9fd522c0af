"""What every forger finds: victims that were really trained, and the verifier to be beaten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polchain.core.note import PublicKey
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Verdict
from polchain.verifier.verify import verify
from tests.claims import DATA, DIGITS, Recorded, record_once

Verify = Callable[..., Verdict]


@pytest.fixture(scope="session")
def sgd_victim(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """60 steps of SGD with momentum, a checkpoint every 5."""
    return record_once(tmp_path_factory, "digits-sgd", DIGITS, ("--optimizer", "sgd"))


@pytest.fixture(scope="session")
def adam_victim(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """60 steps of Adam, a checkpoint every 5."""
    return record_once(tmp_path_factory, "digits-adam", DIGITS, ("--optimizer", "adam"))


@pytest.fixture
def polchain_says() -> Verify:
    """`polchain_says(claim, key, arguments)`: the verdict of a verifier who pins that key and has the honest recipe."""

    def says(
        claim: Path, key: PublicKey, arguments: tuple[str, ...], recipe: Path | None = DIGITS, **policy: Any
    ) -> Verdict:
        demands = Policy(keys=frozenset({key}), **policy)
        return verify(claim, demands, data=DATA, recipe=recipe, recipe_arguments=arguments, timeout=120)

    return says
