"""Lineage, over plain rows: what counts, and what is nobody's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polchain.core.digest import blake3
from polchain.core.rows import TensorRow
from polchain.verifier.lineage import StateRows, common_share, descent, row_id


def row(name: str, content: str, size: int = 2048) -> TensorRow:
    return TensorRow(f"model/{name}", "parameter", "F32", (size,), blake3(content.encode()))


def state(step: int, *rows: TensorRow, constant: tuple[str, ...] = ()) -> StateRows:
    return StateRows.of(step, rows, [f"model/{name}" for name in constant])


INITIAL = state(0, row("a", "drawn"), row("b", "drawn too"))
TRAINED = state(10, row("a", "learnt"), row("b", "learnt too"))


def test_a_state_that_holds_half_of_what_the_elder_made_descends_from_it() -> None:
    found = descent([state(0, row("x", "learnt"), row("y", "new"))], [INITIAL, TRAINED])
    assert found is not None
    assert (found.step, found.elder, found.share) == (0, 10, 0.5)
    assert descent([state(0, row("x", "learnt"), row("y", "new"), row("z", "new too"))], [INITIAL, TRAINED]) is None


def test_initial_rows_of_the_elder_are_not_what_it_produced() -> None:
    frozen = state(10, row("a", "drawn"), row("b", "learnt too"))
    younger = [state(0, row("a", "drawn"), row("b", "drawn too"))]
    assert descent(younger, [INITIAL, TRAINED]) is None
    assert descent(younger, [INITIAL, frozen], [row_id(row("", "drawn"))]) is None


def test_public_rows_are_nobodys() -> None:
    younger = [state(0, row("a", "learnt"), row("b", "learnt too"))]
    assert descent(younger, [INITIAL, TRAINED]) is not None
    assert descent(younger, [INITIAL, TRAINED], [row_id(row("", "learnt")), row_id(row("", "learnt too"))]) is None


def test_small_and_constant_rows_do_not_count() -> None:
    small = [state(0, row("a", "learnt", 1023), row("b", "new", 1023))]
    assert descent(small, [INITIAL, state(10, row("a", "learnt", 1023))]) is None
    constant = state(0, row("a", "learnt"), constant=("a",))
    assert descent([constant], [INITIAL, TRAINED]) is None
    assert descent([state(0, row("a", "learnt", 1024))], [state(10, row("a", "learnt", 1024))]) is not None


def test_rows_of_several_states_of_the_elder_count_together() -> None:
    later = state(20, row("a", "later"), row("b", "later too"))
    found = descent([state(0, row("x", "learnt"), row("y", "later too"))], [INITIAL, TRAINED, later])
    assert found is not None
    assert (found.elder, found.share) == (20, 1.0)


def test_what_else_a_state_holds_does_not_thin_the_model_in_dispute() -> None:
    model = state(0, row("a", "learnt"), row("b", "learnt too"))
    padded = state(0, *(row(f"p{i}", f"padding {i}") for i in range(9)), row("x", "learnt"), row("y", "learnt too"))
    assert descent([padded], [INITIAL, TRAINED]) is None
    found = descent([padded], [INITIAL, TRAINED], model=model)
    assert found is not None
    assert (found.elder, found.share) == (10, 1.0)
    assert common_share(padded, TRAINED) < 0.5 < common_share(padded, TRAINED, model=model)
    own = state(20, row("a", "his own"), row("b", "his own too"))
    assert descent([padded, own], [INITIAL, TRAINED], model=model) is None, "only the covering state is asked for it"
    assert (
        descent([padded], [INITIAL, TRAINED], [row_id(row("", "learnt")), row_id(row("", "learnt too"))], model) is None
    )


def test_an_average_beside_the_model_is_produced_too() -> None:
    average = StateRows.of(10, (row("a", "learnt"),), (), (row("ema", "averaged"),))
    found = descent([state(0, row("x", "averaged"))], [INITIAL, average])
    assert found is not None
    assert found.elder == 10


contents = st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=4)


@given(contents, contents)
def test_what_two_states_share_does_not_depend_on_who_comes_first(left: list[str], right: list[str]) -> None:
    one = state(1, *(row(f"{i}", text) for i, text in enumerate(left)))
    other = state(1, *(row(f"{i}", text) for i, text in enumerate(right)))
    assert common_share(one, other) == common_share(other, one)
    assert 0.0 <= common_share(one, other) <= 1.0
    assert common_share(one, one) == 1.0
