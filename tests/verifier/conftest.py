"""What the verifier's tests share: real claims, and a synthetic log that is long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from polchain.core.claim import Claim
from polchain.core.digest import Digest, sha256
from polchain.core.entries import CheckpointEntry, Entry, Update
from polchain.core.genesis import Configuration
from polchain.core.keys import PrivateKey
from polchain.training.randomness import batch_digest
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from tests.claims import DIGITS, Recorded, record_once, write_log
from tests.forgers import warm
from tests.forgers.forge import ZERO, Workshop

SGD = ("--optimizer", "sgd")
LONGER = ("--optimizer", "adam", "--steps", "600")


@pytest.fixture(scope="module", autouse=True)
def kept_children() -> Iterator[None]:
    """Children that replay stay warm from one verification to the next; each job has a fork of its own, as always."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("polchain.verifier.bench", "polchain.verifier.calibrate", "polchain.prover.opening"):
            patch.setattr(f"{module}.Worker", warm.KeptWorker)
        yield


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """60 steps of SGD with momentum, a checkpoint every 5; the same recording as the forgers' victim."""
    return record_once(tmp_path_factory, "digits-sgd", DIGITS, SGD)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Another run, with Adam, under another key."""
    return record_once(tmp_path_factory, "digits-adam", DIGITS, ("--optimizer", "adam"))


@pytest.fixture(scope="session")
def intact(recorded: Recorded) -> IntactClaim:
    """The claim of `recorded`, its key pinned."""
    return check_integrity(Claim.read(recorded.claim), Policy(keys=frozenset({recorded.key.public})))


def write_long(out: Path, recorded: Recorded, configuration: Configuration, sizes: dict[int, float]) -> PrivateKey:
    """A log over undisclosed states, at every step of an interval schedule; `sizes` are updates by closing step."""
    shop = Workshop(recorded.claim, configuration=configuration)
    entries: list[Entry] = [shop.genesis, shop.start]
    step = 0
    while True:
        last = entries[-1]
        before, step = step, configuration.next_checkpoint(step) if isinstance(last, CheckpointEntry) else 0
        roots = {group: sha256(f"{group} {step}".encode()) for group in ("model", "optimizer", "schedule", "extra")}
        batches: Digest = batch_digest(list(shop.order.batches(before, step)))
        update = Update(sizes.get(step, 1.0), 0.1) if step else None
        entries.append(CheckpointEntry(ZERO, step, roots, ZERO, batches, update))
        if step >= configuration.steps:
            break
    write_log(out, entries, shop.key)
    for name, text in shop.stolen.recipe.items():
        (out / "recipe").mkdir(exist_ok=True)
        (out / "recipe" / name).write_bytes(text)
    write_log(out, entries, shop.key)
    return shop.key


@pytest.fixture(scope="session")
def long_claim(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 entries: checkpoints every 10 steps; those that close at 500 and 7,000 claim the largest updates."""
    out = tmp_path_factory.mktemp("long") / "claim"
    theirs = Workshop(recorded.claim).configuration
    assert theirs is not None
    write_long(out, recorded, replace(theirs, steps=9970, interval=((0, 10),)), {500: 9.0, 7000: 8.0})
    return out


@pytest.fixture(scope="session")
def uneven(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> IntactClaim:
    """Segments of 10 steps, but for a giant one of 300 from step 2,000."""
    out = tmp_path_factory.mktemp("uneven") / "claim"
    theirs = Workshop(recorded.claim).configuration
    assert theirs is not None
    configuration = replace(theirs, steps=3000, interval=((0, 10), (2000, 300), (2300, 10)))
    write_long(out, recorded, configuration, {})
    return check_integrity(Claim.read(out), Policy())


@pytest.fixture(scope="session")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """600 steps of Adam, a checkpoint every 5: no segment holds more than 1 % of them."""
    return record_once(tmp_path_factory, "digits-longer", DIGITS, LONGER)
