"""The victims of the forgers: which recipes they ran, and the published check of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.published_check import PublishedCheck, Sample
from polchain.core.keys import PrivateKey
from tests.claims import DATA
from tests.forgers.forge import Workshop
from tests.scripts import digits

SGD = ("--optimizer", "sgd")
ADAM = ("--optimizer", "adam")
# The published tolerance, as a share of the distance between two independently seeded trainings. Honest replays on
# other hardware need more: a ResNet's first 100 steps a third of it.
DELTA_SHARE = 0.1
LONG = ("--steps", "160", "--every", "1")
VICTIMS = {"sgd": SGD, "adam": ADAM, "long": LONG}


@cache
def samples() -> Sequence[Sample]:
    """The dataset of all of them."""
    before = os.environ.get("POLCHAIN_DATA")
    os.environ["POLCHAIN_DATA"] = str(DATA)
    try:
        return digits.read()
    finally:
        del os.environ["POLCHAIN_DATA"]
        if before is not None:
            os.environ["POLCHAIN_DATA"] = before


@cache
def published_check(optimizer: str, shown: tuple[Sample, ...] | None = None) -> PublishedCheck:
    """The published check of a recipe with this optimizer; of the samples that a prover shows."""
    build = partial(digits.optimizer_of, optimizer)
    return PublishedCheck(digits.network, build, samples() if shown is None else shown, digits.BATCH)


def forger(victim: Path, name: str, seed: int = 0) -> Workshop:
    """A forger whose key, run id and seed value follow from his name and a number; he stole from this claim."""
    key, run_id, value = (sha256(f"{part} {name} {seed}".encode()).digest() for part in ("key", "run", "value"))
    return Workshop(victim, PrivateKey(Ed25519PrivateKey.from_private_bytes(key)), run_id[:16], value)
