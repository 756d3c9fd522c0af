"""Which states a thinned run stores: a function of the steps in its log alone."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, Final
from polchain.core.rows import GROUPS
from polchain.prover.thinned import Thinning, is_stored

ZERO = Digest("sha256", bytes(32))


def entry(step: int) -> CheckpointEntry:
    roots = {group: Digest("sha256", bytes([step, n] * 16)) for n, group in enumerate(GROUPS)}
    return CheckpointEntry(ZERO, step, roots, ZERO)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 100))
def test_between_two_stored_states_lies_less_than_an_interval_and_a_segment(gaps: list[int], every: int) -> None:
    steps = [0]
    for gap in gaps:
        steps.append(steps[-1] + gap)
    stored = [step for before, step in zip([None, *steps], steps, strict=False) if is_stored(before, step, every)]
    assert stored[0] == 0
    for first, second in pairwise(stored):
        assert second - first < every + max(gaps)
        assert first // every < second // every


def test_the_last_state_of_a_run_that_has_ended_is_stored() -> None:
    log = [entry(step) for step in (0, 3, 6, 9)]
    by_ten = Thinning((10,))
    assert sorted(by_ten.left_out(log).values()) == [3, 6, 9]
    last = log[-1]
    assert sorted(by_ten.left_out([*log, Final(ZERO, 9, last.roots, ZERO)]).values()) == [3, 6]
    assert Thinning().left_out(log) == {}


def test_a_state_that_comes_twice_is_stored_if_either_is() -> None:
    again = CheckpointEntry(ZERO, 10, entry(3).roots, ZERO)
    assert sorted(Thinning((10,)).left_out([entry(0), entry(3), entry(6), again]).values()) == [6]


@pytest.mark.parametrize("text", [None, "", "nonsense", "{}", "[0]", '["x"]', "[1e999]", "3", "[[1]]"])
def test_a_note_that_is_damaged_excuses_nothing(text: str | None) -> None:
    assert Thinning.parse(text) == Thinning()


def test_a_note_keeps_every_interval() -> None:
    assert Thinning.parse(Thinning((10,)).by(4).by(10).encode()) == Thinning((4, 10))
