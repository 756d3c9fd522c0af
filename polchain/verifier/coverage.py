"""Coverage: which committed state of a claim is the model in dispute, and which rows lineage may count.

disputed     a weight file, else each claim's final state
covers       the earliest state in which every parameter tensor of it is found (`training.matching`)
base         a public model of the policy: a state that is one covers nothing, and its rows are nobody's
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polchain.core.entries import CheckpointEntry
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import TensorRow, group_of
from polchain.errors import UsageError
from polchain.training.distance import FLOATING
from polchain.training.foreign import read_foreign
from polchain.training.matching import Spread, beside, constant_rows, match, parameters, same_values
from polchain.verifier.bench import state_of
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.lineage import LEAST_ELEMENTS, RowId, StateRows, row_id

__all__ = [
    "Coverage",
    "Disputed",
    "Found",
    "Traits",
    "cover",
    "final_state",
    "is_base",
    "read_model",
    "row_ids",
    "rows_of",
    "traits_of",
]


@dataclass(frozen=True, slots=True)
class Disputed:
    """A model in dispute.

    Attributes:
        name: as rulings call it.
        state: its tensors, or its manifest alone; None where neither is known.
        owner: the number of the claim whose final state it is; None for a file.
        base: the public base that it is, by name; empty where it is none.
    """

    name: str
    state: Snapshot | Manifest | None
    owner: int | None = None
    base: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The earliest state that covers a model.

    Attributes:
        step, entry: its step, and the number of its entry.
        distance: the largest relative distance of a tensor; 0 where all are exact.
    """

    step: int
    entry: int
    distance: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a claim's states say of a model.

    Attributes:
        coverage: the earliest state that covers it; None where none does.
        remarks: what could not be compared, and what looks like a copy without being one.
    """

    coverage: Coverage | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a model in dispute by itself.

    Attributes:
        rows: as lineage sees it.
        varying: the rows that are known not to be constant.
        constant: whether every tensor is: then it is anybody's.
        remarks: what was not compared, and what may be chance.
    """

    rows: StateRows
    varying: frozenset[RowId]
    constant: bool
    remarks: tuple[str, ...] = ()


def read_model(path: Path) -> Snapshot:
    """A weight file or folder, as rows. Nothing in it is executed.

    Raises:
        UsageError: there is no model in it.
        MissingFileError, FormatError: it is not there, or damaged.
    """
    snapshot = read_foreign(path).snapshot
    if not parameters(snapshot.manifest):
        raise UsageError(
            f"{path} has no parameter tensors that can be read",
            hint="a .safetensors file, or a state_dict that loads with weights_only",
        )
    return snapshot


def final_state(intact: IntactClaim) -> Snapshot | Manifest | None:
    """The last committed state: its tensors, or its manifest, or None where neither is disclosed."""
    return _known(intact, intact.checkpoints[-1]) if intact.checkpoints else None


def cover(
    intact: IntactClaim, model: Snapshot | Manifest, distance: float, bases: Sequence[Snapshot] = (), until: int = -1
) -> Found:
    """The earliest of a claim's states that covers a model.

    Args:
        intact: the claim.
        model: what is in dispute.
        distance: the most that a tensor may differ, relative.
        bases: public models: a state that is one of them covers nothing.
        until: only entries before this number count; -1 for all.
    """
    undisclosed = unread = 0
    looks_like: list[int] = []
    spread = Spread(model) if isinstance(model, Snapshot) else None
    for entry, number in zip(intact.checkpoints, intact.numbers, strict=True):
        if 0 <= until <= number:
            break
        state = _known(intact, entry)
        if state is None:
            undisclosed += 1
            continue
        found = match(model, state, distance)
        unread += found.unread
        if found.found and not is_base(state, bases, distance):
            remarks = _unseen(undisclosed, unread, before=entry.step)
            return Found(Coverage(entry.step, number, found.worst), remarks)
        # One is enough to be said.
        if not found.found and not looks_like and _same(spread, state, distance):
            looks_like.append(entry.step)
    said = list(_unseen(undisclosed, unread))
    if looks_like:
        said.append(
            f"the state of step {looks_like[0]} has the sorted values of the model, but not in their places: "
            "perhaps a permuted or rescaled copy"
        )
    return Found(None, tuple(said))


def is_base(state: Snapshot | Manifest, bases: Sequence[Snapshot], distance: float) -> bool:
    """Whether a state is one of the public models."""
    return any(match(state, base, distance).found for base in bases)


def rows_of(intact: IntactClaim, until: int) -> tuple[tuple[StateRows, ...], frozenset[RowId]]:
    """The states up to a step, as lineage sees them; and which of their rows are known not to be constant: a row that
    is disclosed nowhere may be."""
    constant: dict[RowId, bool] = {}
    states: list[StateRows] = []
    for entry in intact.checkpoints:
        if entry.step > until:
            break
        manifest = intact.claim.manifest(entry.state)
        if manifest is None:
            continue
        rows, others = parameters(manifest), beside(manifest)
        new = [row for row in (*rows, *others) if row_id(row) not in constant]
        state = state_of(intact, entry) if new else None
        if state is not None:
            same = constant_rows(state, new)
            constant |= {row_id(row): row.name in same for row in new}
        known = {row.name for row in (*rows, *others) if constant.get(row_id(row), False)}
        states.append(StateRows.of(entry.step, rows, known, others))
    return tuple(states), frozenset(row for row, is_so in constant.items() if not is_so)


def traits_of(model: Snapshot | Manifest) -> Traits:
    """A model in dispute, as lineage sees it, and what has to be said of it."""
    manifest = model if isinstance(model, Manifest) else model.manifest
    rows = parameters(manifest)
    same = constant_rows(model, rows) if isinstance(model, Snapshot) else frozenset[str]()
    said = []
    varying = [row for row in rows if row.name not in same] if isinstance(model, Snapshot) else []
    elements = sum(math.prod(row.shape) for row in varying)
    if isinstance(model, Snapshot) and 0 < elements < LEAST_ELEMENTS:
        said.append(f"only {elements} of its elements are in tensors that are not constant: others may have the same")
    # A counter is no weight; a table of whole numbers may be.
    whole = sum(
        row.dtype not in FLOATING and math.prod(row.shape) > 1
        for row in manifest.tensors()
        if group_of(row.name) == "model"
    )
    if whole:
        said.append(f"{whole} of its tensors are of no floating type, and were not compared")
    constant = isinstance(model, Snapshot) and not varying
    return Traits(StateRows.of(0, rows, same), frozenset(row_id(row) for row in varying), constant, tuple(said))


def row_ids(rows: Manifest | Sequence[TensorRow]) -> frozenset[RowId]:
    """The identities of all tensors of a state."""
    return frozenset(row_id(row) for row in (rows.tensors() if isinstance(rows, Manifest) else rows))


def _known(intact: IntactClaim, entry: CheckpointEntry) -> Snapshot | Manifest | None:
    return state_of(intact, entry) or intact.claim.manifest(entry.state)


def _same(model: Spread | None, state: Snapshot | Manifest, distance: float) -> bool:
    return model is not None and isinstance(state, Snapshot) and same_values(model, state, distance)


def _unseen(undisclosed: int, unread: int, before: int | None = None) -> tuple[str, ...]:
    where = f" before step {before}" if before is not None else ""
    said = []
    if undisclosed:
        said.append(f"{undisclosed} states{where} are not disclosed: whether they cover the model is not known")
    if unread:
        said.append(f"{unread} states{where} are known by their digests alone: only exact equality was looked for")
    return tuple(said)
