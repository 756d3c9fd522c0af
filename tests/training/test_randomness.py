"""Randomness: everything follows from the seed, is drawn once, and is what it was in every version."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.digest import blake3
from polchain.errors import UsageError
from polchain.training.randomness import BatchOrder, batch_digest, derive_key, generator, run_seed, seed_everything

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "randomness.json").read_text()
)
seeds = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("vector", VECTORS["run_seed"], ids=lambda vector: vector["source"])
def test_the_runs_seed_is_what_it_was(vector: dict[str, Any]) -> None:
    value, leaf = bytes.fromhex(vector["value"]), bytes.fromhex(vector["genesis_leaf"])
    assert run_seed(value, leaf, vector["source"]).hex() == vector["expect"]


@pytest.mark.parametrize("vector", VECTORS["key"], ids=lambda vector: f"{vector['purpose']} {vector['numbers']}")
def test_keys_are_what_they_were(vector: dict[str, Any]) -> None:
    seed = bytes.fromhex(vector["seed"])
    assert derive_key(seed, vector["purpose"], *vector["numbers"]).hex() == vector["expect"]


@pytest.mark.parametrize("vector", VECTORS["order"], ids=lambda vector: f"{vector['samples']} samples")
def test_the_order_is_what_it_was(vector: dict[str, Any]) -> None:
    order = BatchOrder(bytes.fromhex(vector["seed"]), vector["samples"], vector["batch_size"])
    batches = list(order.batches(vector["first"], vector["last"]))
    assert batches == vector["expect"]
    assert str(batch_digest(batches)) == vector["digest"]


@given(seeds, st.integers(1, 60), st.data())
def test_every_epoch_is_a_permutation_without_its_tail(seed: bytes, samples: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, samples))
    order = BatchOrder(seed, samples, size)
    assert order.steps_per_epoch == samples // size
    epoch = data.draw(st.integers(0, 2**40))
    first = epoch * order.steps_per_epoch
    batches = list(order.batches(first, first + order.steps_per_epoch))
    assert all(len(batch) == size for batch in batches)
    used = [index for batch in batches for index in batch]
    assert len(used) == len(set(used)), "a sample is used twice in an epoch"
    assert set(used) <= set(range(samples))
    if samples % size == 0:
        assert sorted(used) == list(range(samples))


@given(seeds, st.lists(st.integers(0, 200), max_size=20))
def test_a_step_has_its_batch_whatever_was_asked_before(seed: bytes, steps: list[int]) -> None:
    order = BatchOrder(seed, 23, 4)
    for step in steps:
        assert order.indices(step) == BatchOrder(seed, 23, 4).indices(step)


def test_epochs_seeds_and_steps_have_different_orders() -> None:
    order, other = BatchOrder(bytes(32), 100, 100), BatchOrder(bytes([1] * 32), 100, 100)
    seen = {tuple(order.indices(step)) for step in range(20)} | {tuple(other.indices(0))}
    assert len(seen) == 21
    assert tuple(range(100)) not in seen


def test_a_dataset_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="less than one batch of 4"):
        BatchOrder(bytes(32), 3, 4)


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=4), max_size=4))
def test_the_batch_digest_is_over_u64_indices(batches: list[list[int]]) -> None:
    flat = [index for batch in batches for index in batch]
    assert batch_digest(batches) == blake3(b"".join(struct.pack("<Q", index) for index in flat))


DRAWS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.rand(4).tolist(),
    "numpy": lambda: np.random.rand(4).tolist(),
    "random": lambda: [random.random() for _ in range(4)],
}


@pytest.mark.parametrize("source", DRAWS)
def test_every_global_generator_is_seeded(source: str) -> None:
    key, other = derive_key(bytes(32), "step", 1), derive_key(bytes(32), "step", 2)
    drawn = []
    for each in (key, other, key):
        seed_everything(each)
        drawn.append(DRAWS[source]())
    assert drawn[0] == drawn[2] != drawn[1]


def test_numpy_is_seeded_before_anybody_used_its_generators() -> None:
    # numpy loads its generators when they are first used: in this process long ago.
    program = (
        "import numpy as np; from polchain.training.randomness import seed_everything\n"
        "seed_everything(bytes(32)); print(np.random.rand())"
    )
    first = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    seed_everything(bytes(32))
    assert float(first) == np.random.rand(), "the first number that numpy draws in a process is not seeded"


def test_seeding_is_what_torch_itself_does() -> None:
    key = derive_key(bytes(32), "init")
    seed_everything(key)
    ours = torch.rand(4)
    torch.manual_seed(int.from_bytes(key[:8], "little"))
    assert torch.equal(ours, torch.rand(4))


def test_a_generator_of_its_own_touches_no_other() -> None:
    key = derive_key(bytes(32), "augment", 3, 1)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    drawn = torch.rand(3, generator=generator(key))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(drawn, torch.rand(3, generator=generator(key)))
    assert not torch.equal(drawn, torch.rand(3, generator=generator(derive_key(bytes(32), "augment", 3, 2))))


def test_purposes_do_not_meet() -> None:
    seed = bytes(32)
    keys = {derive_key(seed, purpose, *n) for purpose in ("init", "step", "augment") for n in ((), (0,), (0, 0), (1,))}
    assert len(keys) == 12
