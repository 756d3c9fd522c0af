"""The ruling: what was found of every model in dispute, pair by pair, in one sentence, with reasons.

Values and words only: the facts are put together by `dispute`, and decided by `priority` and `sametask`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from polchain.core.encoding import JSON
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.pairs import ModelRuling
from polchain.verifier.priority import Outcome
from polchain.verifier.sametask import Compared, Comparison
from polchain.verifier.times import Times, plain
from polchain.verifier.verdict import Verdict

__all__ = ["ClaimFacts", "Ruling", "TaskPair", "joined"]


@dataclass(frozen=True, slots=True)
class ClaimFacts:
    """What is known of one claim.

    Attributes:
        name: A, B, ...
        claim: where it is.
        origin: whose log, which run; empty where integrity failed.
        key: the signing key; empty where integrity failed.
        failure: what integrity refused; empty where it holds.
        proof: two heads that contradict each other, with what convinces anybody; empty where there are none.
        verdicts: a verdict for each state up to which it was verified, by the last of the steps that it is about.
        remarks: what was not checked of it.
        intact, times: the claim, and when its log was written; None where integrity failed.
    """

    name: str
    claim: str
    origin: str = ""
    key: str = ""
    failure: str = ""
    proof: str = ""
    verdicts: tuple[tuple[int, Verdict], ...] = ()
    remarks: tuple[str, ...] = ()
    intact: IntactClaim | None = field(default=None, repr=False, compare=False)
    times: Times | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TaskPair:
    """Two claims of one task, compared."""

    left: str
    right: str
    comparison: Comparison

    @property
    def convicted(self) -> tuple[str, ...]:
        """Who is convicted."""
        return tuple(n for n, bad in zip((self.left, self.right), self.comparison.convicted, strict=True) if bad)

    def sentence(self) -> str:
        """What came of it, in words."""
        both = " and ".join(sorted((self.left, self.right)))
        if self.comparison.outcome is Compared.AGREE:
            return f"{both} agree: {self.comparison.reasons[0]}"
        if self.comparison.outcome is Compared.CONVICTED:
            free = [name for name in (self.left, self.right) if name not in self.convicted]
            guilty = " and ".join(sorted(self.convicted))
            where = f" in {self.comparison.segment}" if self.comparison.segment else ""
            return f"{guilty} departed from the task{where}" + (f"; {free[0]} is not convicted" if free else "")
        return f"undecided between {both}: {'; '.join(self.comparison.reasons)}"

    def to_json(self) -> JSON:
        """As docs/ruling.schema.json has it."""
        return {
            "between": [self.left, self.right],
            "outcome": self.comparison.outcome.value,
            "convicted": list(self.convicted),
            "sentence": self.sentence(),
            "segment": self.comparison.segment,
            "replayed": self.comparison.replayed,
            "reasons": list(self.comparison.reasons),
        }


@dataclass(frozen=True, slots=True)
class Ruling:
    """The outcome between claims.

    Attributes:
        claims: what is known of each.
        models: what was found of each model in dispute; empty where the claims are of one task.
        tasks: every two claims of one task; empty otherwise.
        unchecked: what was not checked.
    """

    claims: tuple[ClaimFacts, ...]
    models: tuple[ModelRuling, ...]
    tasks: tuple[TaskPair, ...]
    unchecked: tuple[str, ...]

    @property
    def named(self) -> tuple[str, ...]:
        """Who is named: for a model, or in the same task who is convicted."""
        found = {name for model in self.models for name in model.named}
        found |= {name for pair in self.tasks for name in pair.convicted}
        return tuple(claim.name for claim in self.claims if claim.name in found)

    @property
    def decided(self) -> bool:
        """Whether a side is named for every model, or somebody is convicted."""
        if self.tasks:
            return any(pair.convicted for pair in self.tasks)
        return bool(self.models) and all(model.named for model in self.models)

    @property
    def word(self) -> str:
        """The ruling in one word."""
        if self.tasks:
            words = [pair.comparison.outcome.value for pair in self.tasks]
            return next((w for w in ("CONVICTED", "UNDECIDED") if w in words), words[0])
        words = [model.word for model in self.models]
        if not words:
            return "UNDECIDED"
        if self.decided and len(words) > 1 and all(model.named == (model.own,) for model in self.models):
            return "INDEPENDENT"
        if len({frozenset(model.named) for model in self.models}) == 1 and (self.decided or len(set(words)) == 1):
            # The same side on several grounds: said in the order of the table, not of the claims.
            return min(words, key=[one.value for one in Outcome].index)
        return "SPLIT"

    @property
    def exit_code(self) -> int:
        """0 where it names a side, 3 otherwise."""
        return 0 if self.decided else 3

    def sentence(self) -> str:
        """The ruling in one sentence."""
        if self.tasks:
            return plain("; ".join(pair.sentence() for pair in self.tasks))
        said: dict[str, list[str]] = {}
        for model in self.models:
            said.setdefault(model.sentence(), []).append(model.model)
        told = "; ".join(_about(models, text) for text, models in said.items())
        return plain(
            told or "there is nothing to rule on: no final state is disclosed by a claim whose integrity holds"
        )

    def reasons(self) -> tuple[str, ...]:
        """What the sentence rests on."""
        found: list[str] = []
        for claim in self.claims:
            if claim.failure:
                found.append(f"{claim.name} fails integrity: {claim.failure}")
            for last, verdict in claim.verdicts:
                why = f": {verdict.reasons[0]}" if verdict.reasons else ""
                found.append(f"{claim.name}, up to step {last}: {verdict.outcome.value}{why}")
        for pair in self.tasks:
            found += pair.comparison.reasons
        places: dict[tuple[str, int, float], list[str]] = {}
        for model in self.models:
            for name, covered in model.coverage.items():
                if covered is not None:
                    places.setdefault((name, covered.step, covered.distance), []).append(model.model)
        for (name, step, gap), models in places.items():
            how = "exactly" if gap == 0.0 else f"within {gap:.2g}"
            found.append(f"{name}'s checkpoint of step {step} is {joined(models)}, {how}")
        found += [text for model in self.models for pair in model.pairs for text in pair.lineage()]
        return tuple(plain(text) for text in dict.fromkeys(found))

    def to_json(self) -> dict[str, JSON]:
        """The machine-readable ruling, as docs/ruling.schema.json has it; floats as decimal strings."""
        claims: list[JSON] = []
        for claim in self.claims:
            item: dict[str, JSON] = {
                "name": claim.name,
                "claim": plain(claim.claim),
                "intact": not claim.failure,
                "failure": plain(claim.failure),
                "proof": claim.proof,
                "verdicts": [{"last_step": last, **verdict.to_json()} for last, verdict in claim.verdicts],
            }
            if claim.origin:
                item |= {"origin": claim.origin, "key": claim.key}
            claims.append(item)
        return {
            "ruling": self.word,
            "decided": self.decided,
            "named": list(self.named),
            "sentence": self.sentence(),
            "reasons": list(self.reasons()),
            "claims": claims,
            "models": [model.to_json() for model in self.models],
            "task": [pair.to_json() for pair in self.tasks],
            "not_checked": [plain(text) for text in self.unchecked],
        }


def joined(models: Sequence[str]) -> str:
    """Models in one breath: "the final state of A and of B"."""
    common = "the final state "
    if len(models) > 1 and all(model.startswith(common) for model in models):
        models = [models[0], *(model.removeprefix(common) for model in models[1:])]
    return " and ".join(models)


def _about(models: Sequence[str], text: str) -> str:
    """ "weights.safetensors is A's: why", or "weights.safetensors: contested"."""
    verb = "is" if len(models) == 1 else "are"
    return f"{joined(models)} {verb} {text}" if re.match(r"[A-Z]'s: ", text) else f"{joined(models)}: {text}"
