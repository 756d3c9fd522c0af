"""Odd values: states that are equal to the honest ones by some reading, and not by their bytes.

    negative zero, a last bit                equal within any tolerance; -0.0 == 0.0 even exactly
    NaN, infinity                            a distance that is not a number is below no bound, and over none
    one tensor as another's alias            the same values where both are equal
    a row nobody asks for                    an optimizer carries unknown state along, untouched

Comparison is of roots over bytes, so each is another state: found where its segment is replayed, never VERIFIED.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.published_check import tensors_of
from polchain.core.entries import CheckpointEntry, Update
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import AliasRow
from polchain.verifier.replay import Outcome
from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.conftest import Judged
from tests.forgers.forge import Forgery, edited, with_rows
from tests.forgers.victims import forger

BIAS = "model/4.bias"
MOMENT = "optimizer/4.bias/momentum_buffer"


@pytest.fixture(scope="module")
def honest(sgd_victim: Recorded) -> Forgery:
    shop = forger(sgd_victim.claim, "odd values")
    return Forgery(shop, *shop.train(60))


def put(state: Snapshot, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Snapshot:
    rows = {**tensors_of(state), **tensors_of(state, "optimizer")}
    return with_rows(state, {name: change(rows[name].clone())})


def first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return change


def last_bit(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(tensor, torch.full_like(tensor, torch.inf))


def aliased(state: Snapshot) -> Snapshot:
    rows = [AliasRow(row.name, "optimizer/0.bias/momentum_buffer") if row.name == MOMENT else row
            for row in state.manifest.rows]  # fmt: skip
    return Snapshot(Manifest.of(rows), {name: data for name, data in state.buffers.items() if name != MOMENT})


ODD: dict[str, Callable[[Snapshot], Snapshot]] = {
    "a last bit": lambda state: put(state, BIAS, last_bit),
    "NaN": lambda state: put(state, MOMENT, first(torch.nan)),
    "infinite weights": lambda state: put(state, BIAS, first(torch.inf)),
    "an alias": aliased,
    "a row nobody asks for": lambda state: with_rows(state, {"optimizer/4.bias/luggage": torch.zeros(3)}),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_value_in_the_last_state_is_another_state(honest: Forgery, judged: Judged, odd: str) -> None:
    states = [*honest.states[:-1], ODD[odd](honest.states[-1])]
    # An infinite update cannot be signed; what cannot be measured is not compared either.
    edit = edited(CheckpointEntry, 60, update=Update(1.0, 1.0)) if odd == "infinite weights" else honest.edit
    verdict = judged(Forgery(honest.shop, states, honest.losses, edit=edit))
    assert verdict.outcome in (Ruled.INCONCLUSIVE, Ruled.REFUTED)
    found = {item.pick.segment.last: item.outcome for item in verdict.reproductions if item.pick is not None}
    assert found[60] is not Outcome.EXACT, odd


def test_a_negative_zero_is_not_a_zero(honest: Forgery) -> None:
    # A filter that never fired has moments of zero; with the other sign they are equal to every comparison of numbers.
    state = put(honest.states[-1], MOMENT, first(0.0))
    other = put(honest.states[-1], MOMENT, first(-0.0))
    assert torch.equal(tensors_of(state, "optimizer")[MOMENT], tensors_of(other, "optimizer")[MOMENT])
    assert state.manifest.roots() != other.manifest.roots()


def test_luggage_in_the_middle_is_found_where_it_was_put_in(honest: Forgery, judged: Judged) -> None:
    # Once in, it is carried along by honest replays: the segment that it came in by is the only one that differs.
    states = list(honest.states)
    for number in range(5, len(states)):
        states[number] = with_rows(states[number], {"optimizer/4.bias/luggage": torch.zeros(3)})
    verdict = judged(Forgery(honest.shop, states, honest.losses))
    assert verdict.outcome in (Ruled.INCONCLUSIVE, Ruled.REFUTED)
    found = {item.pick.segment.last: item.outcome for item in verdict.reproductions if item.pick is not None}
    assert found[25] is not Outcome.EXACT
    assert all(outcome is Outcome.EXACT for last, outcome in found.items() if last != 25)
