"""Lineage: whether one log's states are made of what another log's training produced. Pure: rows in, a descent out.

    descends     in one of the younger's states, at least half of the parameter elements lie in rows that the elder
                 produced: floating, 1,024 elements or more, not constant, and free for nobody; or in the state that
                 covers the model in dispute, half of the elements of that model, whatever else the state is made of
    free         rows that neither side made: regenerated initial states, public bases; and what may be constant

A row is its type and digest, so that equal rows are equal bit by bit. Bit-equal trained rows do not arise twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from polchain.core.rows import TensorRow

__all__ = ["Descent", "RowId", "StateRows", "common_share", "descent", "row_id"]

LEAST_ELEMENTS: Final = 1_024
LEAST_SHARE: Final = 0.5

RowId: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class StateRows:
    """One state, as lineage sees it.

    Attributes:
        step: its step.
        rows: the rows that may count, and the elements of each.
        elements: the parameter elements of the whole state.
        beside: rows that are no parameters, such as an average of them: produced like any other.
    """

    step: int
    rows: dict[RowId, int]
    elements: int
    beside: frozenset[RowId] = frozenset()

    def __contains__(self, row: RowId) -> bool:
        return row in self.rows or row in self.beside

    @classmethod
    def of(
        cls,
        step: int,
        parameters: Iterable[TensorRow],
        constant: Collection[str] = (),
        beside: Iterable[TensorRow] = (),
    ) -> StateRows:
        """From a state's floating parameters, what is beside them, and the names of rows whose elements are equal."""
        rows: dict[RowId, int] = {}
        total = 0
        for row in parameters:
            size = math.prod(row.shape)
            total += size
            if size >= LEAST_ELEMENTS and row.name not in constant:
                # Two rows with the same bytes are both there.
                rows[row_id(row)] = rows.get(row_id(row), 0) + size
        return cls(step, rows, total, frozenset(row_id(row) for row in beside if row.name not in constant))


@dataclass(frozen=True, slots=True)
class Descent:
    """That a state of the younger log is made of the elder's.

    Attributes:
        step: the younger's state.
        elder: the elder's state: the last of those in which the rows first appear.
        share: of the younger's parameter elements, how many lie in such rows.
    """

    step: int
    elder: int
    share: float


def row_id(row: TensorRow) -> RowId:
    """What makes two rows the same."""
    return row.dtype, str(row.digest)


def descent(
    younger: Sequence[StateRows],
    elder: Sequence[StateRows],
    free: Collection[RowId] = frozenset(),
    model: StateRows | None = None,
) -> Descent | None:
    """The first of the younger's states that descends from the elder's; None where none does.

    Args:
        younger: states by rising step, up to the one that matters.
        elder: states by rising step, up to the one that was worked for.
        free: rows that count for nobody.
        model: the model in dispute, where the last of the younger's states covers it.
    """
    produced: dict[RowId, int] = {}
    for state in elder:
        for row in (*state.rows, *state.beside):
            if state.step > 0 and row not in free:
                produced.setdefault(row, state.step)
    for state in younger:
        found = _made(state.step, state.rows, state.elements, produced)
        if found is None and model is not None and state is younger[-1]:
            kept = {row: size for row, size in model.rows.items() if row in state}
            found = _made(state.step, kept, model.elements, produced)
        if found is not None:
            return found
    return None


def common_share(
    left: StateRows, right: StateRows, free: Collection[RowId] = frozenset(), model: StateRows | None = None
) -> float:
    """Of two states' parameter elements, those in bit-equal rows that count, over the larger of the two; or of the
    elements of a model that both cover, where that is more: what else a state holds does not thin it."""
    both = sum(min(size, right.rows[row]) for row, size in left.rows.items() if row in right.rows and row not in free)
    most = max(left.elements, right.elements)
    share = both / most if most else 0.0
    if model is None or not model.elements:
        return share
    within = sum(size for row, size in model.rows.items() if row in left and row in right and row not in free)
    return max(share, within / model.elements)


def _made(step: int, rows: Mapping[RowId, int], elements: int, produced: Mapping[RowId, int]) -> Descent | None:
    found = {row: size for row, size in rows.items() if row in produced}
    share = sum(found.values()) / elements if elements else 0.0
    return Descent(step, max(produced[row] for row in found), share) if share >= LEAST_SHARE else None
