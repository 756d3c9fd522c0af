"""Disputes: several claims -> Ruling.

    parties     each claim, as far as its integrity holds
    models      the weight file in dispute, else each claim's final state
    coverage    and lineage say which states matter; each claim is verified up to those, the segments around replayed
    pairs       every two claims, by the verified facts alone (`priority`); of one task, by their chains (`sametask`)

docs/disputes.md has the table of outcomes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from pathlib import Path

from polchain.anchors.interval import Bound
from polchain.core.manifest import Snapshot
from polchain.core.salts import DataSecret
from polchain.core.task import Task
from polchain.errors import DataSecretError, UsageError
from polchain.verifier.benches import Workshop
from polchain.verifier.coverage import Coverage, Disputed, cover, final_state, is_base, read_model, row_ids
from polchain.verifier.lineage import LEAST_SHARE, Descent, RowId, common_share, descent
from polchain.verifier.pairs import ModelRuling, Pair, rank
from polchain.verifier.parties import Party, exact, read_parties, regenerated
from polchain.verifier.policy import Policy
from polchain.verifier.priority import Between, Side, decide
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
    intact = [party.intact for party in parties if party.intact is not None]
    _check_secrets(case, parties)
    tasks = {one.genesis.task for one in intact}
    if case.task is not None and tasks != {case.task.digest}:
        raise UsageError("--task names another task than the claims, or they name none")
    if len(intact) > 1 and len(tasks) == 1 and None not in tasks and case.model is None:
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
    remarks: list[str] = []
    covers: dict[str, Coverage | None] = {party.name: None for party in parties}
    if is_base(model.state, bases, distance):
        remarks.append(f"{model.name} is a public base of the policy: nobody's")
    else:
        for party in parties:
            if party.intact is not None:
                result = cover(party.intact, model.state, distance, bases, party.until)
                covers[party.name] = result.coverage
                remarks += [f"{party.name}: {text}" for text in result.remarks]
    public = frozenset[RowId]().union(*(row_ids(base.manifest) for base in bases))
    steps = _steps_that_matter(parties, covers, public)
    verdicts = {party.name: party.verify(sorted(steps[party.name]), progress) for party in parties}
    sides = {party.name: _side(party, covers[party.name], verdicts[party.name]) for party in parties}
    pairs = tuple(_pair(one, other, covers, verdicts, sides, public) for one, other in combinations(parties, 2))
    names = [party.name for party in parties]
    ranking = rank(names, pairs)
    named = tuple(name for name, count in ranking if count == len(parties) - 1)
    own = parties[model.owner].name if model.owner is not None else ""
    return ModelRuling(model.name, covers, sides, pairs, named, ranking, own, tuple(remarks))


def _steps_that_matter(
    parties: Sequence[Party], covers: Mapping[str, Coverage | None], public: frozenset[RowId]
) -> dict[str, set[int]]:
    """The states up to which each claim is verified: those that cover, and those that another may descend from."""
    steps: dict[str, set[int]] = defaultdict(set)
    for party in parties:
        covered = covers[party.name]
        if covered is not None:
            steps[party.name].add(covered.step)
    for younger, elder in permutations(parties, 2):
        for free in (frozenset[RowId](), younger.initial_rows()):
            found = _descent(younger, elder, covers[younger.name], public | free)
            if found is not None:
                steps[elder.name].add(found.elder)
    return steps


def _descent(
    younger: Party, elder: Party, covered: Coverage | None, free: frozenset[RowId], until: int | None = None
) -> Descent | None:
    if covered is None:
        return None
    declared = _declared(younger, elder)
    if declared is not None:
        return declared
    rows = [state for state in younger.rows if state.step <= covered.step]
    made = [state for state in elder.rows if until is None or state.step <= until]
    # Whoever is descended from must have worked, and then its initial state comes from its seed.
    return descent(rows, made, free | elder.initial_rows())


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
    return Descent(first.step, step, 1.0) if first.roots["model"] == entry.roots["model"] else None


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
    covers: Mapping[str, Coverage | None],
    verdicts: Mapping[str, Verdict | None],
    sides: Mapping[str, Side],
    public: frozenset[RowId],
) -> Pair:
    found: list[Descent | None] = []
    free = public
    for younger, elder in ((left, right), (right, left)):
        own = younger.initial_rows() if regenerated(verdicts[younger.name]) else frozenset()
        verified = max((key[-1] for key, one in elder.verdicts.items() if one is verdicts[elder.name]), default=None)
        found.append(_descent(younger, elder, covers[younger.name], public | own, verified))
        free |= own
    # What the younger has only from its parent is the elder's alone.
    honest = [_declared(left, right), _declared(right, left)]
    places = [covers[left.name], covers[right.name]]
    declared = [h is not None and c is not None and c.step > h.step for h, c in zip(honest, places, strict=True)]
    between = Between(
        same_rows=not any(honest) and _same_rows(left, right, covers, free),
        left_descends=found[0] is not None,
        right_descends=found[1] is not None,
        left_declared=declared[0],
        right_declared=declared[1],
        equivocation=left.void and right.void and _one_log(left, right),
    )
    both = sides[left.name], sides[right.name]
    return Pair(left.name, right.name, both, (found[0], found[1]), decide(*both, between))


def _same_rows(left: Party, right: Party, covers: Mapping[str, Coverage | None], free: frozenset[RowId]) -> bool:
    states = []
    for party in (left, right):
        covered = covers[party.name]
        states.append(next((s for s in party.rows if covered is not None and s.step == covered.step), None))
    if states[0] is None or states[1] is None:
        return False
    return common_share(states[0], states[1], free) >= LEAST_SHARE


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
