"""Lineage: whether one log's states are made of what another log's training produced. Pure: rows in, a descent out.

    descends     in one of the younger's states, at least half of the parameter elements lie in rows that the elder
                 produced: floating, 1,024 elements or more, not constant, and free for nobody
    free         rows that neither side made: regenerated initial states, the declared parent's, public bases

A row is its type, shape and digest, so that equal rows are equal bit by bit. Bit-equal trained rows do not arise twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from polchain.core.manifest import TensorRow

__all__ = ["Descent", "RowId", "StateRows", "common_share", "descent", "row_id"]

LEAST_ELEMENTS: Final = 1_024
LEAST_SHARE: Final = 0.5

RowId: TypeAlias = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class StateRows:
    """One state, as lineage sees it.

    Attributes:
        step: its step.
        rows: the rows that may count, and the elements of each.
        elements: the parameter elements of the whole state.
    """

    step: int
    rows: dict[RowId, int]
    elements: int

    @classmethod
    def of(cls, step: int, parameters: Iterable[TensorRow], constant: Collection[str] = ()) -> StateRows:
        """From a state's floating parameters, and the names of those whose elements are all equal."""
        rows: dict[RowId, int] = {}
        total = 0
        for row in parameters:
            size = math.prod(row.shape)
            total += size
            if size >= LEAST_ELEMENTS and row.name not in constant:
                # Two rows with the same bytes are both there.
                rows[row_id(row)] = rows.get(row_id(row), 0) + size
        return cls(step, rows, total)


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
    return row.dtype, row.shape, str(row.digest)


def descent(
    younger: Sequence[StateRows], elder: Sequence[StateRows], free: Collection[RowId] = frozenset()
) -> Descent | None:
    """The first of the younger's states that descends from the elder's; None where none does.

    Args:
        younger: states by rising step, up to the one that matters.
        elder: states by rising step, up to the one that was worked for.
        free: rows that count for nobody.
    """
    produced: dict[RowId, int] = {}
    for state in elder:
        for row in state.rows:
            if state.step > 0 and row not in free:
                produced.setdefault(row, state.step)
    for state in younger:
        found = {row: size for row, size in state.rows.items() if row in produced}
        share = sum(found.values()) / state.elements if state.elements else 0.0
        if share >= LEAST_SHARE:
            return Descent(state.step, max(produced[row] for row in found), share)
    return None


def common_share(left: StateRows, right: StateRows, free: Collection[RowId] = frozenset()) -> float:
    """Of two states' parameter elements, those in bit-equal rows that count, over the larger of the two."""
    both = sum(min(size, right.rows[row]) for row, size in left.rows.items() if row in right.rows and row not in free)
    most = max(left.elements, right.elements)
    return both / most if most else 0.0
