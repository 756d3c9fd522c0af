"""Copies of a state: the bytes of each tensor, in memory that is used again; and what of it is hashed."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from torch import nn

from polchain.core.digest import blake3
from polchain.core.manifest import Snapshot
from polchain.training import snapshot
from polchain.training.aside import one_thread, settle
from polchain.training.distance import BLOCK, distance, update_size
from polchain.training.snapshot import Room, borrow, copy_state, take
from polchain.training.state import TrainingState
from polchain.training.tensors import DTYPE_NAMES, tensor_bytes
from tests.training.test_distance import state as state_of


def training(**extra: Any) -> TrainingState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50), nn.Linear(50, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    state = TrainingState(model, {"": optimizer}, {}, extra)
    step(state)
    return state


def step(state: TrainingState) -> None:
    state.model(torch.randn(8, 40)).sum().backward()
    state.optimizers[""].step()


def contents(state: Snapshot) -> dict[str, bytes]:
    return {name: bytes(buffer) for name, buffer in state.buffers.items()}


def test_a_copy_holds_the_bytes_of_every_dtype_and_layout() -> None:
    plain = {name.lower(): (torch.arange(35).reshape(5, 7) % 2).to(dtype) for dtype, name in DTYPE_NAMES.items()}
    odd = {
        "turned": torch.randn(4, 6).t(),
        "stepped": torch.randn(30)[::3],
        "channels": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "negative": torch.randn(3, dtype=torch.complex64).conj().imag,
        "empty": torch.empty(0, 3),
        "single": torch.tensor(3.5),
        "truths of any byte": torch.arange(256).to(torch.uint8).view(torch.bool),
        "some of them": torch.arange(256).to(torch.uint8).view(torch.bool)[1::3],
    }
    tensors = plain | odd
    buffers, events = Room().fill(tensors)
    assert events == [], "nothing is on its way from a GPU"
    for name, tensor in tensors.items():
        assert bytes(buffers[name]) == bytes(tensor_bytes(tensor)), name


def test_a_truth_of_any_byte_is_put_back_as_it_was() -> None:
    state = training()
    state.model.register_buffer("mask", torch.tensor([0, 1, 255, 7], dtype=torch.uint8).view(torch.bool))
    kept = copy_state(state, Room()).snapshot()
    state.model.mask.fill_(True)
    state.restore(kept)
    assert take(state).manifest == kept.manifest == borrow(state).snapshot().manifest


def test_a_copy_stays_when_training_goes_on_and_a_borrowed_state_does_not() -> None:
    state = training()
    copied, borrowed = copy_state(state), borrow(state)
    before = {name: bytes(buffer) for name, buffer in copied.buffers.items()}
    assert contents(take(state)) == before
    step(state)
    assert contents(copied.snapshot()) == before
    assert contents(borrowed.unhashed()) == contents(take(state)) != before


def test_a_room_is_used_again_and_grows_when_the_state_does() -> None:
    state, room = training(), Room()
    first = copy_state(state, room)
    where = {name: snapshot._address(buffer) for name, buffer in first.buffers.items()}
    step(state)
    again = copy_state(state, room)
    assert {name: snapshot._address(buffer) for name, buffer in again.buffers.items()} == where
    assert contents(again.snapshot()) == contents(take(state))
    larger = TrainingState(state.model, state.optimizers, {}, {"more": torch.randn(100_000)})
    assert contents(copy_state(larger, room).snapshot()) == contents(take(larger))
    assert contents(copy_state(state, room).snapshot()) == contents(take(state))


def test_digests_are_those_of_the_bytes() -> None:
    taken = take(training())
    for row in taken.manifest.tensors():
        assert row.digest == blake3(taken.buffers[row.name]), row.name


def test_what_is_as_it_was_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    big = torch.zeros(10_000)
    state = training(big=big, other=torch.zeros(10_000))
    before = take(state)
    state.model[2].bias.data[1] += 1
    big[-1] = 1  # the last of its bytes alone
    hashed: list[int] = []
    monkeypatch.setattr(
        snapshot, "blake3_each", lambda buffers: [(hashed.append(b.nbytes), blake3(b))[1] for b in buffers]
    )
    after = copy_state(state).snapshot(before)
    assert sorted(hashed) == [12, 40_000], "one bias and one tensor have changed"
    monkeypatch.undo()
    assert after.manifest == take(state).manifest


def test_a_tensor_that_changes_its_shape_or_its_name_is_what_it_says() -> None:
    before = take(training(a=torch.zeros(6), b=torch.ones(6)))
    now = training(a=torch.ones(6), b=torch.zeros(2, 3), c=torch.zeros(6))
    assert copy_state(now).snapshot(before).manifest == take(now).manifest


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_an_update_has_the_same_last_bit_in_whatever_thread_it_is_measured(threads: int) -> None:
    sizes = [1, 40_000, BLOCK, 2 * BLOCK + 7]
    torch.manual_seed(threads)
    a = state_of(**{f"w{size}": torch.randn(size) for size in sizes})
    b = state_of(**{f"w{size}": torch.randn(size) * 3 for size in sizes})
    own = torch.get_num_threads()
    found = []

    def measure() -> None:
        settle()
        found.append((torch.get_num_threads(), update_size(a, b)))

    torch.set_num_threads(threads)
    try:
        whole = distance(a, b)
        here = update_size(a, b)
        aside = threading.Thread(target=measure)
        with one_thread():
            aside.start()
            aside.join()
        assert torch.get_num_threads() == threads, "what is done aside is not seen here"
    finally:
        torch.set_num_threads(own)
    assert found == [(1, here)], "a thread that settled has one thread"
    assert here.linf == whole.linf
    assert math.isclose(here.l2, whole.l2, rel_tol=1e-12)


@pytest.mark.gpu
def test_a_gpus_state_is_copied_as_it_was_though_it_trains_on() -> None:
    model = nn.Linear(2000, 2000, device="cuda")
    state = TrainingState(model, {"": torch.optim.SGD(model.parameters(), 0.1)}, {}, {"count": torch.tensor(1)})
    room = Room()
    for number in range(5):
        expected = contents(take(state))
        copied = copy_state(state, room)
        with torch.no_grad():
            model.weight.add_(number + 1)  # queued behind the copy
        state.extra["count"].add_(1)
        assert contents(copied.snapshot()) == expected
