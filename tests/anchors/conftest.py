"""Chains for the tests: each test has its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.anchors.worlds import Anvil, AnvilWorld, EthTesterWorld, MemoryWorld


@pytest.fixture
def start_anvil(require: Callable[[str], str]) -> Iterator[Callable[..., Anvil]]:
    """Start nodes; they end with the test."""
    nodes: list[Anvil] = []

    def start(*words: str) -> Anvil:
        nodes.append(Anvil(require("anvil"), *words))
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture
def anvil(start_anvil: Callable[..., Anvil], tmp_path: Path) -> AnvilWorld:
    return AnvilWorld(tmp_path, start_anvil())


@pytest.fixture
def tester(tmp_path: Path) -> EthTesterWorld:
    return EthTesterWorld(tmp_path)


@pytest.fixture(params=["memory", "eth-tester", "anvil", "anvil, external signer"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Every source of time behind the seam."""
    if request.param == "memory":
        return MemoryWorld()
    if request.param == "eth-tester":
        return EthTesterWorld(tmp_path)
    node = request.getfixturevalue("start_anvil")()
    return AnvilWorld(tmp_path, node, external=request.param.endswith("signer"))
