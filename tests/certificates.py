"""Certificates for the tests: of one claim, and of a ruling, made by the command line from real runs.

The runs are recorded or trained once; children that replay stay warm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from polchain.cli.app import main
from tests.anchors.worlds import Anvil, AnvilWorld
from tests.claims import DATA, DIGITS, record_once
from tests.disputes import NETWORKS, Lab, Prover

LAST = 16  # entries of 60 steps


@dataclass(frozen=True)
class Filed:
    """A certificate, and the words of the command line that made it but for `verify` and `--report`."""

    page: Path
    words: tuple[str, ...]
    code: int

    @property
    def text(self) -> str:
        return self.page.read_text()

    def check(self, page: Path | None = None, *more: object) -> int:
        """`polchain report --check`; returns its exit code."""
        return main(["report", "--check", str(page or self.page), *self.words, *map(str, more)])


@contextmanager
def court(anvil: str, factory: pytest.TempPathFactory) -> Iterator[tuple[Filed, Filed]]:
    """The certificate of an owner's claim, and that of the ruling between him and who signed his states anew."""
    folder = factory.mktemp("court")
    config = folder / "config" / "polchain"
    config.mkdir(parents=True)
    (config / "networks.toml").write_text(NETWORKS)
    victim = record_once(factory, "digits-sgd", DIGITS, ("--optimizer", "sgd"))
    node = Anvil(anvil)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        with Lab(AnvilWorld(folder, node), victim.claim).open() as lab:
            owner = Prover(lab, folder / "owner")
            owner.anchor(2)
            owner.train()
            lab.wait()
            thief = Prover(lab, folder / "thief", beacon=False).sign(owner.states)
            thief.anchor(LAST)
            lab.wait()
            owner.anchor(LAST)
            recipe = owner.genesis.recipe
            assert recipe is not None
            words = [
                "--data", DATA, "--trust-recipe", recipe.program(), "--unsafe-no-sandbox", "--jobs", 1,
                "--network", "proving", "--rpc", node.address, "--key", owner.genesis.key,
            ]  # fmt: skip
            one = _filed(folder / "verdict.html", [owner.claim, *words])
            two = ["--claim", owner.claim, "--claim", thief.claim, "--key", thief.genesis.key, *words]
            yield one, _filed(folder / "ruling.html", two)
    node.stop()


def _filed(page: Path, words: list[object]) -> Filed:
    given = tuple(map(str, words))
    return Filed(page, given, main(["verify", "--report", str(page), *given]))
