"""What was found of one model in dispute, pair by pair, and in words.

The facts are put together by `dispute` and decided by `priority`; the words are the same whoever comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polchain.core.encoding import JSON
from polchain.verifier.coverage import Coverage
from polchain.verifier.lineage import Descent
from polchain.verifier.priority import Basis, Decision, Moment, Outcome, Side, Sides

__all__ = ["ModelRuling", "Pair", "rank"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two claims about one model: the facts, the decision, and what both rest on."""

    left: str
    right: str
    sides: tuple[Side, Side]
    descents: tuple[Descent | None, Descent | None]
    decision: Decision

    @property
    def named(self) -> tuple[str, ...]:
        """Whom it names."""
        both = {Sides.LEFT: (self.left,), Sides.RIGHT: (self.right,), Sides.BOTH: (self.left, self.right)}
        return both.get(self.decision.named, ())

    def sentence(self) -> str:
        """The decision in words; the same words whoever comes first."""
        decision = self.decision
        one = self.named[0] if len(self.named) == 1 else ""
        other = (self.right if one == self.left else self.left) if one else ""
        both = " and ".join(sorted((self.left, self.right)))
        if decision.outcome is Outcome.EQUIVOCATION:
            return f"{both} are one log, and contradict each other: neither counts from where they part"
        if decision.outcome is Outcome.NOT_COVERED:
            return f"neither {both.replace(' and ', ' nor ')} covers it"
        if decision.outcome is Outcome.CONTINUES:
            left, _ = self.descents
            younger, elder = (self.left, self.right) if left is not None else (self.right, self.left)
            worked = self.sides[0 if left is not None else 1].worked
            own = f"{younger}'s own steps are {'verified' if worked else 'not verified'}"
            return f"{younger} continues {elder}'s run, as it declares: {elder} worked for that; {own}"
        if decision.outcome is Outcome.DESCENDS:
            return f"{one}'s: what {other} shows is made of states that {one} worked for"
        if decision.outcome is Outcome.EARLIER:
            return f"{one} {'was first' if decision.first else 'has the earlier evidence'}; both worked"
        if decision.outcome is Outcome.PROVEN:
            return f"{one}'s: {self._why(one, other)}"
        if decision.outcome is Outcome.CONTESTED:
            return f"contested: of {both}, the one that worked has the later evidence"
        if decision.outcome is Outcome.UNDECIDED:
            lacking = all(side.evidence is None for side in self.sides)
            why = "neither has final evidence of when" if lacking else "their evidence lies within the sources' error"
            return f"undecided between {both}: {why}"
        return self._unproven(both)

    def _why(self, one: str, other: str) -> str:
        basis = self.decision.basis
        if basis is Basis.ALONE:
            return f"{one} covers it and worked for it, {other} does not cover it"
        if basis is Basis.SEED:
            return f"{one} computed it from a seed that was published before {other} has any evidence of it"
        if basis is Basis.COPIED:
            return f"{one}'s state existed before the seed of {other} was known, so {other} copied"
        return f"{one} worked for it and has the earlier evidence, {other} did not"

    def _unproven(self, both: str) -> str:
        if self.decision.basis is Basis.ALONE:
            one = self.left if self.sides[0].covers else self.right
            return f"not proven: of {both}, {one} alone covers it, and its work is not verified"
        if self.decision.basis is Basis.COPIED:
            copier, other = (self.left, self.right) if self.decision.copied is Sides.LEFT else (self.right, self.left)
            return f"not proven: {copier} copied, and {other}'s work is not verified"
        return f"not proven: {both} cover it, and neither's work is verified"

    def lineage(self) -> tuple[str, ...]:
        """What the decision made of one side's states being made of the other's, in words."""
        if self.decision.basis not in (Basis.DESCENT, Basis.PARENT):
            return ()
        left_is_younger = self.decision.named is Sides.RIGHT or (
            self.decision.named is Sides.BOTH and self.descents[0] is not None
        )
        found = self.descents[0 if left_is_younger else 1]
        if found is None:
            return ()
        younger, elder = (self.left, self.right) if left_is_younger else (self.right, self.left)
        share = f"{100 * found.share:.3g} % of {younger}'s parameters at step {found.step}"
        return (f"{share} are, bit for bit, what {elder} had trained by step {found.elder}",)

    def to_json(self) -> JSON:
        """As docs/ruling.schema.json has it."""
        return {
            "between": [self.left, self.right],
            "outcome": self.decision.outcome.value,
            "basis": self.decision.basis.value,
            "named": list(self.named),
            "sentence": self.sentence(),
            "descents": [
                {
                    "claim": younger,
                    "from": elder,
                    "step": found.step,
                    "produced_by_step": found.elder,
                    "share": f"{found.share:.4f}",
                }
                for younger, elder, found in (
                    (self.left, self.right, self.descents[0]),
                    (self.right, self.left, self.descents[1]),
                )
                if found is not None
            ],
        }


@dataclass(frozen=True, slots=True)
class ModelRuling:
    """What was found of one model in dispute.

    Attributes:
        model: what it is, in words.
        coverage: each claim's earliest covering state.
        facts: each claim's side of it.
        pairs: every two claims.
        named: who is named against all others.
        ranking: each claim and how many others it is named against, the best first.
        own: the claim whose final state it is; empty for a file.
        remarks: what was not compared, and what looks like a copy.
    """

    model: str
    coverage: Mapping[str, Coverage | None]
    facts: Mapping[str, Side]
    pairs: tuple[Pair, ...]
    named: tuple[str, ...]
    ranking: tuple[tuple[str, int], ...]
    own: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The outcome of the first pair that names the winner; where nobody is named, of one that names nobody."""
        told = self._told()
        return told[0].decision.outcome.value if self.named or not told[0].named else Outcome.UNDECIDED.value

    def sentence(self) -> str:
        """What the pairs say that name the winner; or, where nobody is named, those that name nobody."""
        return "; ".join(dict.fromkeys(pair.sentence() for pair in self._told()))

    def _told(self) -> list[Pair]:
        if self.named:
            return [pair for pair in self.pairs if self.named[0] in pair.named]
        return [pair for pair in self.pairs if not pair.named] or list(self.pairs)

    def to_json(self) -> JSON:
        """As docs/ruling.schema.json has it."""
        claims: list[JSON] = []
        for name, side in self.facts.items():
            found = self.coverage[name]
            item: dict[str, JSON] = {
                "claim": name,
                "covers": side.covers,
                "worked": side.worked,
                "exact": side.exact,
                "evidence": _moment(side.evidence),
                "start": _moment(side.start),
                "beacon": _moment(side.beacon),
            }
            if side.not_before is not None:
                item["not_before"] = side.not_before
            if found is not None:
                item |= {"step": found.step, "entry": found.entry, "distance": repr(found.distance)}
            claims.append(item)
        return {
            "model": self.model,
            "outcome": self.word,
            "named": list(self.named),
            "sentence": self.sentence(),
            "claims": claims,
            "pairs": [pair.to_json() for pair in self.pairs],
            "ranking": [{"claim": name, "named_against": count} for name, count in self.ranking],
            "remarks": list(self.remarks),
        }


def rank(names: Sequence[str], pairs: Sequence[Pair]) -> tuple[tuple[str, int], ...]:
    """Each claim and how many others it is named against, the best first, then by name."""
    counts = {name: sum(name in pair.named for pair in pairs) for name in names}
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _moment(moment: Moment | None) -> JSON:
    return {} if moment is None else {"low": moment.low, "high": moment.high}
