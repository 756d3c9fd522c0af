"""Who descends from whom among the parties, for one model in dispute.

    found        by bit-equal rows (`lineage`), or by the parent that a genesis declares
    declared     is honest descent, of what the elder itself has not: what both cover, the elder made

A row that nobody discloses may be constant, and counts for nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from polchain.verifier.coverage import Coverage
from polchain.verifier.lineage import LEAST_SHARE, Descent, RowId, StateRows, common_share, descent
from polchain.verifier.parties import Party

__all__ = ["Ancestry", "Kinship"]


@dataclass(frozen=True, slots=True)
class Kinship:
    """What two parties have to do with each other.

    Attributes:
        descents: how the first descends from the second, and the second from the first.
        declared: whether that is declared.
        same_rows: half of the elements of their covering states, or of the model, are bit-equal trained rows.
    """

    descents: tuple[Descent | None, Descent | None]
    declared: tuple[bool, bool]
    same_rows: bool


@dataclass(frozen=True, slots=True)
class Ancestry:
    """What lineage rests on, for one model.

    Attributes:
        covers: the earliest covering state of each party.
        public: rows of the policy's bases.
        model: the rows of the model.
        varying: the rows that are known not to be constant.
    """

    covers: Mapping[str, Coverage | None]
    public: frozenset[RowId]
    model: StateRows
    varying: frozenset[RowId]

    @classmethod
    def of(
        cls,
        parties: Sequence[Party],
        covers: Mapping[str, Coverage | None],
        public: frozenset[RowId],
        model: StateRows,
        varying: frozenset[RowId],
    ) -> Ancestry:
        """Whatever one of the parties discloses is known of the others' equal rows."""
        return cls(covers, public, model, varying.union(*(party.varying for party in parties)))

    def steps(self, parties: Sequence[Party]) -> dict[str, set[int]]:
        """The states up to which each claim is verified: those that cover, and those that another may descend from."""
        steps: dict[str, set[int]] = defaultdict(set)
        for party in parties:
            covered = self.covers[party.name]
            if covered is not None:
                steps[party.name].add(covered.step)
        for younger, elder in permutations(parties, 2):
            for own in (frozenset[RowId](), younger.initial_rows()):
                found = self._descent(younger, elder, own)
                if found is not None:
                    steps[elder.name].add(found.elder)
        return steps

    def between(
        self, left: Party, right: Party, regenerated: Sequence[bool], verified: Sequence[int | None]
    ) -> Kinship:
        """What the two have to do with each other.

        Args:
            left, right: the two.
            regenerated: of each, whether its initial state was built from the seed, and is equal.
            verified: of each, the step up to which it was verified; None where it was not.
        """
        own = [
            one.initial_rows() if made else frozenset[RowId]()
            for one, made in zip((left, right), regenerated, strict=True)
        ]
        descents = self._descent(left, right, own[0], verified[1]), self._descent(right, left, own[1], verified[0])
        # Whoever says that he began with it has not copied it.
        said = self._began(left, right) or self._began(right, left)
        same = not said and self._same_rows(left, right, own[0] | own[1])
        return Kinship(descents, (self._went_on(left, right), self._went_on(right, left)), same)

    def _descent(self, younger: Party, elder: Party, own: frozenset[RowId], until: int | None = None) -> Descent | None:
        covered = self.covers[younger.name]
        if covered is None:
            return None
        declared = _declared(younger, elder)
        if declared is not None:
            return declared if until is None or declared.elder <= until else None
        # Where it is not known what the elder began with, nothing is known to be made by it.
        begun = elder.initial_rows()
        if not begun:
            return None
        states = [state for state in younger.rows if state.step <= covered.step]
        made = [state for state in elder.rows if until is None or state.step <= until]
        covering = self.model if states and states[-1].step == covered.step else None
        # Whoever is descended from must have worked, and then its initial state comes from its seed.
        return descent(states, made, self._free(made) | begun | own, covering)

    def _began(self, younger: Party, elder: Party) -> bool:
        """Whether the younger covers the model by the very state that it declares to have begun with."""
        found, covered = _declared(younger, elder), self.covers[younger.name]
        return found is not None and covered is not None and covered.step <= found.step

    def _went_on(self, younger: Party, elder: Party) -> bool:
        """Whether the younger came to the model after its declared beginning, and the elder did not: a parent excuses
        nothing that the elder has as well, before it or after."""
        found, covered = _declared(younger, elder), self.covers[younger.name]
        return found is not None and covered is not None and covered.step > found.step and not self.covers[elder.name]

    def _same_rows(self, left: Party, right: Party, own: frozenset[RowId]) -> bool:
        states = []
        for party in (left, right):
            covered = self.covers[party.name]
            states.append(next((s for s in party.rows if covered is not None and s.step == covered.step), None))
        if states[0] is None or states[1] is None:
            return False
        free = self._free(states[:1]) | own
        return common_share(states[0], states[1], free, self.model) >= LEAST_SHARE

    def _free(self, states: Sequence[StateRows | None]) -> frozenset[RowId]:
        """Rows of these states that count for nobody: public ones, and those that may be constant."""
        rows = {row for state in states if state is not None for row in (*state.rows, *state.beside)}
        return self.public | (rows - self.varying)


def _declared(younger: Party, elder: Party) -> Descent | None:
    """That the younger's genesis names a checkpoint of the elder's as its parent, and that it begins with its model."""
    if younger.intact is None or elder.intact is None:
        return None
    parent = younger.intact.genesis.parent
    step = elder.entry_of(parent) if parent is not None else None
    if step is None or not younger.intact.checkpoints:
        return None
    first = younger.intact.checkpoints[0]
    entry = next(entry for entry in elder.intact.checkpoints if entry.step == step)
    same = "model" in first.roots and first.roots["model"] == entry.roots.get("model")
    return Descent(first.step, step, 1.0) if same else None
