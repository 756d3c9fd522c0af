"""Disputes: several claims -> Ruling.

    parties     each claim, as far as its integrity holds
    models      the weight file in dispute, else each claim's final state
    coverage    and lineage say which states matter; each claim is verified up to those, the segments around replayed
    pairs       every two claims, by the verified facts alone (`priority`); of one task, by their chains (`sametask`)

docs/disputes.md has the table of outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from polchain.anchors.interval import Bound
from polchain.core.manifest import Snapshot
from polchain.core.salts import DataSecret
from polchain.core.task import Task
from polchain.errors import DataSecretError, UsageError
from polchain.verifier.ancestry import Ancestry
from polchain.verifier.benches import Workshop
from polchain.verifier.coverage import Coverage, Disputed, cover, final_state, is_base, read_model, row_ids, traits_of
from polchain.verifier.lineage import RowId
from polchain.verifier.pairs import ModelRuling, Pair, rank
from polchain.verifier.parties import Party, exact, read_parties, regenerated
from polchain.verifier.policy import Policy
from polchain.verifier.priority import Between, Side, Sides, decide, lineage
from polchain.verifier.ruling import Ruling, TaskPair
from polchain.verifier.sametask import compare
from polchain.verifier.verdict import Verdict
from polchain.verifier.verify import Progress, Request
from polchain.verifier.vouching import OwnRecipe

__all__ = ["Case", "rule_between"]

COPIES = "permuted, rescaled or distilled copies may be missed"


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be ruled, and how.

    Attributes:
        claims: the claims' folders; they are called A, B, C in this order, which decides nothing.
        policy: what the verifier trusts and demands.
        data: the folder with the datasets.
        model: the weight file or folder in dispute; None for each claim's final state.
        task: the task, where the claims are of one and whoever ordered it gave it; None otherwise.
        recipe: the verifier's own copy of a recipe: it vouches for the claims whose program it is.
        seed: 32 bytes to draw from; fresh randomness where None.
        full: replay every segment.
        timeout: the most seconds for one replay.
        jobs: how many segments to replay at a time; None for what this machine bears.
        threads: replay with so many, whatever each prover's setting; None to keep his.
        heads: signed heads from elsewhere, by a name for messages.
        secrets: of private data, what its owners handed over, by the files.
    """

    claims: tuple[Path, ...]
    policy: Policy
    data: Path
    model: Path | None = None
    task: Task | None = None
    recipe: OwnRecipe | None = None
    seed: bytes | None = None
    full: bool = False
    timeout: float = 3600.0
    jobs: int | None = None
    threads: int | None = None
    heads: Mapping[str, bytes] = field(default_factory=dict)
    secrets: Mapping[Path, DataSecret] = field(default_factory=dict)


def rule_between(case: Case, progress: Progress | None = None) -> Ruling:
    """Rule between claims.

    Raises:
        KeyMismatchError: a party's key is not pinned, where keys are.
        UsageError: claims that nothing can be ruled between, or no model in the file.
        UnavailableError: a claim or the model is not there, or nodes contradict each other; a secret of none of them.
    """
    requests = [
        Request(
            claim, case.policy, case.data, case.recipe, case.seed, case.full, case.timeout, case.jobs,
            secrets=case.secrets,
        )
        for claim in case.claims
    ]  # fmt: skip
    parties = read_parties(requests, case.policy, case.heads)
    if case.threads is not None:
        for party in parties:
            party.replay_with(case.threads)
    intact = [party.intact for party in parties if party.intact is not None]
    _check_secrets(case, parties)
    tasks = {one.genesis.task for one in intact}
    if case.task is not None and tasks != {case.task.digest}:
        raise UsageError("--task names another task than the claims, or they name none")
    if len(intact) > 1 and len(tasks) == 1 and None not in tasks and case.model is None:
        if case.threads is not None:
            raise UsageError(
                "claims of one task are compared on the setting that both were recorded with: no --threads"
            )
        return _rule_tasks(case, parties, progress)
    return _rule_models(case, parties, progress)


def _check_secrets(case: Case, parties: Sequence[Party]) -> None:
    """Refuse a secret that belongs to none of the claims; of one that fails integrity nobody knows which is its."""
    datasets = [party.intact.genesis.dataset for party in parties if party.intact is not None]
    salts = {dataset.salts for dataset in datasets if dataset is not None}
    strange = [path for path, secret in case.secrets.items() if secret.commitment not in salts]
    if strange and len(datasets) == len(parties):
        raise DataSecretError(f"{strange[0]} is the secret of none of these claims", hint="leave it out")


def _rule_tasks(case: Case, parties: Sequence[Party], progress: Progress | None) -> Ruling:
    found = []
    with Workshop(case) as workshop:
        for one, other in combinations([party for party in parties if party.intact is not None], 2):
            assert one.intact is not None
            assert other.intact is not None
            if progress is not None:
                progress(f"{one.name} and {other.name}: where they part", 0, 1)
            names = (one.name, other.name)
            found.append(TaskPair(*names, compare((one.intact, other.intact), names, case.task, workshop.open)))
    unchecked = ["everything but the segment where they part: not convicted is not verified", *_said(parties)]
    return Ruling(tuple(party.facts() for party in parties), (), tuple(found), tuple(unchecked))


def _rule_models(case: Case, parties: Sequence[Party], progress: Progress | None) -> Ruling:
    bases = [read_model(path) for path in case.policy.dispute.bases]
    models: list[Disputed] = []
    unchecked: list[str] = []
    if case.model is not None:
        models.append(Disputed(case.model.name, read_model(case.model)))
    else:
        for number, party in enumerate(parties):
            state = final_state(party.intact) if party.intact is not None else None
            if state is None and party.intact is not None:
                unchecked.append(f"{party.name}: its final state is not disclosed, so that nothing is compared with it")
            elif state is not None:
                models.append(Disputed(f"the final state of {party.name}", state, number))
    found = [_rule_model(case, parties, model, bases, progress) for model in models]
    unchecked += [remark for ruling in found for remark in ruling.remarks]
    unchecked += [*_said(parties), COPIES]
    distance = case.policy.dispute.distance
    unchecked.append(f"differences within {distance:g} of a tensor: what is that close counts as the same model")
    facts = tuple(party.facts() for party in parties)
    return Ruling(facts, tuple(found), (), tuple(dict.fromkeys(unchecked)))


def _rule_model(
    case: Case, parties: Sequence[Party], model: Disputed, bases: Sequence[Snapshot], progress: Progress | None
) -> ModelRuling:
    assert model.state is not None
    distance = case.policy.dispute.distance
    traits = traits_of(model.state)
    remarks = [f"{model.name}: {text}" for text in traits.remarks]
    covers: dict[str, Coverage | None] = {party.name: None for party in parties}
    if traits.constant:
        remarks.append(f"{model.name} is nobody's: none of its tensors has two values")
    elif is_base(model.state, bases, distance):
        remarks.append(f"{model.name} is a public base of the policy: nobody's")
    else:
        for party in parties:
            if party.intact is not None:
                result = cover(party.intact, model.state, distance, bases, party.until)
                covers[party.name] = result.coverage
                remarks += [f"{party.name}: {text}" for text in result.remarks]
    public = frozenset[RowId]().union(*(row_ids(base.manifest) for base in bases))
    ancestry = Ancestry.of(parties, covers, public, traits.rows, traits.varying)
    steps = ancestry.steps(parties)
    verdicts = {party.name: _verdict(party, steps[party.name], covers[party.name], progress) for party in parties}
    sides = {party.name: _side(party, covers[party.name], verdicts[party.name]) for party in parties}
    pairs = tuple(_pair(one, other, verdicts, sides, ancestry) for one, other in combinations(parties, 2))
    names = [party.name for party in parties]
    ranking = rank(names, pairs)
    named = tuple(name for name, count in ranking if count == len(parties) - 1)
    own = parties[model.owner].name if model.owner is not None else ""
    return ModelRuling(model.name, covers, sides, pairs, named, ranking, own, tuple(remarks))


def _verdict(party: Party, steps: set[int], covered: Coverage | None, progress: Progress | None) -> Verdict | None:
    """The verdict up to the last of these states; where that is no work, up to the covering one alone, since what a
    prover did after it does not harm."""
    verdict = party.verify(sorted(steps), progress)
    if covered is None or steps == {covered.step} or party.worked(verdict):
        return verdict
    alone = party.verify([covered.step], progress)
    return alone if party.worked(alone) else verdict


def _side(party: Party, covered: Coverage | None, verdict: Verdict | None) -> Side:
    if party.intact is None:
        return Side()
    not_before = None
    if covered is not None and party.times is not None:
        span = next((s for s in party.times.spans if s.first <= covered.step <= s.last), None)
        bound = span.interval.not_before if span is not None else None
        not_before = _final_time(bound)
    return Side(
        covers=covered is not None,
        worked=party.worked(verdict),
        exact=exact(verdict),
        evidence=party.evidence(covered.entry) if covered is not None else None,
        not_before=not_before,
        start=party.started(),
        beacon=party.beacon(),
    )


def _pair(
    left: Party,
    right: Party,
    verdicts: Mapping[str, Verdict | None],
    sides: Mapping[str, Side],
    ancestry: Ancestry,
) -> Pair:
    both = [(party, verdicts[party.name]) for party in (left, right)]
    found = ancestry.between(
        left,
        right,
        [regenerated(verdict) for _, verdict in both],
        [
            max((key[-1] for key, one in party.verdicts.items() if one is verdict), default=None)
            for party, verdict in both
        ],
    )
    between = Between(
        same_rows=found.same_rows,
        left_descends=found.descents[0] is not None,
        right_descends=found.descents[1] is not None,
        left_declared=found.declared[0],
        right_declared=found.declared[1],
        equivocation=left.void and right.void and _one_log(left, right),
    )
    facts = sides[left.name], sides[right.name]
    younger = lineage(*facts, between)
    # Rows that the other's training did not make are no descent, whoever has them too.
    descents = (
        found.descents[0] if younger is Sides.LEFT else None,
        found.descents[1] if younger is Sides.RIGHT else None,
    )
    return Pair(left.name, right.name, facts, descents, decide(*facts, between))


def _one_log(left: Party, right: Party) -> bool:
    return left.intact is not None and right.intact is not None and left.intact.head.origin == right.intact.head.origin


def _final_time(bound: object) -> int | None:
    return bound.time if isinstance(bound, Bound) and bound.final else None


def _said(parties: Sequence[Party]) -> list[str]:
    """What was not checked of each claim."""
    said: list[str] = []
    for party in parties:
        said += [f"{party.name}: {text}" for text in party.remarks]
        for verdict in party.verdicts.values():
            if verdict is not None:
                said += [f"{party.name}: {text}" for text in verdict.remarks]
        if party.times is not None and not party.verdicts:
            said += [f"{party.name}: {text}" for text in party.times.remarks]
    return list(dict.fromkeys(said))
