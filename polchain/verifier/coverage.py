"""Coverage: which committed state of a claim is the model in dispute, and which rows lineage may count.

disputed     a weight file, else each claim's final state
covers       the earliest state in which every parameter tensor of it is found (`training.matching`)
base         a public model of the policy: a state that is one covers nothing, and its rows are nobody's
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from polchain.core.entries import CheckpointEntry
from polchain.core.manifest import Manifest, Snapshot, TensorRow
from polchain.errors import UsageError
from polchain.training.foreign import read_foreign
from polchain.training.matching import constant_rows, match, parameters, same_values
from polchain.verifier.bench import state_of
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.lineage import RowId, StateRows, row_id

__all__ = ["Coverage", "Disputed", "Found", "cover", "final_state", "is_base", "read_model", "row_ids", "rows_of"]


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
        if not found.found and _same(model, state, distance):
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


def rows_of(intact: IntactClaim, until: int) -> Iterator[StateRows]:
    """The states up to a step, as lineage sees them. Rows that are disclosed nowhere may be constant: they are left
    out."""
    constant: dict[RowId, bool] = {}
    for entry in intact.checkpoints:
        if entry.step > until:
            return
        manifest = intact.claim.manifest(entry.state)
        if manifest is None:
            continue
        rows = parameters(manifest)
        new = [row for row in rows if row_id(row) not in constant]
        state = state_of(intact, entry) if new else None
        if state is not None:
            same = constant_rows(state, new)
            constant |= {row_id(row): row.name in same for row in new}
        yield StateRows.of(entry.step, rows, {row.name for row in rows if constant.get(row_id(row), True)})


def row_ids(rows: Manifest | Sequence[TensorRow]) -> frozenset[RowId]:
    """The identities of all tensors of a state."""
    return frozenset(row_id(row) for row in (rows.tensors() if isinstance(rows, Manifest) else rows))


def _known(intact: IntactClaim, entry: CheckpointEntry) -> Snapshot | Manifest | None:
    return state_of(intact, entry) or intact.claim.manifest(entry.state)


def _same(model: Snapshot | Manifest, state: Snapshot | Manifest, distance: float) -> bool:
    return isinstance(model, Snapshot) and isinstance(state, Snapshot) and same_values(model, state, distance)


def _unseen(undisclosed: int, unread: int, before: int | None = None) -> tuple[str, ...]:
    where = f" before step {before}" if before is not None else ""
    said = []
    if undisclosed:
        said.append(f"{undisclosed} states{where} are not disclosed: whether they cover the model is not known")
    if unread:
        said.append(f"{unread} states{where} are known by their digests alone: only exact equality was looked for")
    return tuple(said)
