"""Two claims of one task: where they part, and who departed there.

    chain       begins at the task's digest and follows from the states: equal up to where the logs part, never after
    bisection   finds the first entry whose `chain` differs, in log2(n) looks
    one replay  of the segment that ends there, from the opening state that both agree on

Whose state the replay comes to is not convicted, and the other is: both say that they did the same on the same
setting. Where the settings differ, or the replay comes to neither, a difference convicts only as `tolerance` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from polchain.core.digest import Digest
from polchain.core.manifest import Snapshot
from polchain.core.task import Task, departures
from polchain.errors import DatasetError, NotReproducedError, PolchainError
from polchain.training.dataset import check_leaves
from polchain.training.fingerprint import differences
from polchain.training.worker import Replayed
from polchain.verifier.bench import Bench, batches_of, run_segment, state_of
from polchain.verifier.challenge import Challenge, Pick
from polchain.verifier.integrity import IntactClaim, Segment
from polchain.verifier.replay import Outcome, Reproduction, replay, replay_initial
from polchain.verifier.tolerance import Fingerprint, other_versions

__all__ = ["Benches", "Compared", "Comparison", "compare", "departed", "parting"]

# Opens a bench for a claim, with the leaves of its data; opened once for each setting.
Benches = Callable[[IntactClaim], tuple[Bench, Sequence[bytes]]]


class Compared(Enum):
    """What comes of two claims of one task."""

    AGREE = "AGREE"
    CONVICTED = "CONVICTED"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing two claims of one task.

    Attributes:
        outcome: what it comes to.
        convicted: for the first claim and the second, whether it is convicted.
        reasons: why, for the first and the second; or for both.
        segment: the steps where they part, in words; empty where they do not.
        replayed: how many segments were replayed.
    """

    outcome: Compared
    convicted: tuple[bool, bool]
    reasons: tuple[str, ...]
    segment: str = ""
    replayed: int = 0

    @property
    def mirrored(self) -> Comparison:
        """The same with the claims in the other order."""
        return Comparison(
            self.outcome, (self.convicted[1], self.convicted[0]), self.reasons, self.segment, self.replayed
        )


def parting(left: Sequence[Digest], right: Sequence[Digest]) -> int | None:
    """The first place where two chains differ, by bisection; None where the shorter is the beginning of the longer."""
    low, high = 0, min(len(left), len(right))
    if high == 0 or left[high - 1] == right[high - 1]:
        return None
    while low < high:
        middle = (low + high) // 2
        if left[middle] == right[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def departed(claims: Sequence[IntactClaim], names: Sequence[str], task: Task | None) -> Comparison | None:
    """What the logs' own words convict of, without any replay; None where they say the same.

    Args:
        claims: two claims that name the same task.
        names: what they are called.
        task: the task, from whoever ordered it; None where the verifier has not got it.
    """
    words = [departures(task, one.genesis, one.start) if task is not None else () for one in claims]
    if any(words):
        pairs = zip(names, words, strict=True)
        reasons = tuple(f"{name} states {', '.join(what)} than the task" for name, what in pairs if what)
        return Comparison(Compared.CONVICTED, (bool(words[0]), bool(words[1])), reasons)
    one, other = claims
    terms = [
        (
            c.genesis.recipe.program() if c.genesis.recipe is not None else None,
            c.genesis.dataset,
            c.genesis.configuration,
        )
        for c in claims
    ]
    seeds = [(c.start.source, c.start.value) if c.start is not None else None for c in claims]
    if terms[0] != terms[1] or (None not in seeds and seeds[0] != seeds[1]):
        reason = "they state different recipes, data, configurations or seeds for one task: --task FILE says which"
        if len({c.genesis.dataset.salts if c.genesis.dataset is not None else None for c in claims}) > 1:
            reason += "; the same data under two secrets, or under one and none, cannot be told from other data"
        return Comparison(Compared.UNDECIDED, (False, False), (reason,))
    if not one.checkpoints or not other.checkpoints:
        return Comparison(Compared.UNDECIDED, (False, False), ("one of them has no recorded state yet",))
    return None


def compare(
    claims: tuple[IntactClaim, IntactClaim], names: tuple[str, str], task: Task | None, benches: Benches
) -> Comparison:
    """Find where two claims of one task part, and replay that one segment.

    Args:
        claims: two claims whose genesis names the same task.
        names: what they are called.
        task: the task's file; None where the verifier has not got it.
        benches: opens the children that replay a claim's program.

    Raises:
        DatasetError: the data at hand is not the data that was committed.
    """
    said = departed(claims, names, task)
    if said is not None:
        return said
    if any(None in (one.genesis.recipe, one.genesis.dataset, one.start) for one in claims):
        reason = "a claim names no recipe or no data, or has no start: nothing of it can be replayed"
        return Comparison(Compared.UNDECIDED, (False, False), (reason,))
    left, right = claims
    place = parting([entry.chain for entry in left.checkpoints], [entry.chain for entry in right.checkpoints])
    if place is None:
        steps = min(left.steps, right.steps)
        return Comparison(Compared.AGREE, (False, False), (f"the same states up to step {steps}",))
    if place == 0:
        return _initial(claims, names, benches)
    return _segment(claims, names, place - 1, benches)


def _initial(claims: tuple[IntactClaim, IntactClaim], names: tuple[str, str], benches: Benches) -> Comparison:
    def look(which: int) -> Reproduction:
        bench, _ = benches(claims[which])
        start = claims[which].start
        return replay_initial(claims[which], bench, start.fingerprint if start is not None else {})

    return _settle(claims, names, "the initial state", [look(0), None], look, 0, lambda: benches(claims[0])[0].here)


def _segment(
    claims: tuple[IntactClaim, IntactClaim], names: tuple[str, str], index: int, benches: Benches
) -> Comparison:
    segments = [one.segments[index] for one in claims]
    states = (state_of(one, segments[0].opening) for one in claims)
    opening = next((state for state in states if state is not None), None)
    if opening is None:
        reason = f"the state of step {segments[0].first}, which both agree on, is disclosed by neither"
        return Comparison(Compared.UNDECIDED, (False, False), (reason,), str(segments[0]))
    found: Replayed | None = None
    trouble = ""
    for one, segment in zip(claims, segments, strict=True):
        bench, leaves = benches(one)
        try:
            # How much may come back is what the claim states: where one states too little, the other's is used.
            found = _replayed(one, segment, bench, leaves, opening)
            break
        except DatasetError:
            raise
        except PolchainError as error:
            trouble = str(error)
    if found is None:
        reason = f"{segments[0]} could not be replayed: {trouble}"
        return Comparison(Compared.UNDECIDED, (False, False), (reason,), str(segments[0]))
    roots, here = found.closings[-1].snapshot.manifest.roots(), found.fingerprint
    known: list[Reproduction | None] = [None, None]
    for which, segment in enumerate(segments):
        if roots == segment.closing.roots:
            known[which] = Reproduction(Pick(segment, ("task",)), Outcome.EXACT, 0.0, found.seconds)

    def look(which: int) -> Reproduction:
        one, start = claims[which], claims[which].start
        bench, leaves = benches(one)
        pick = Pick(segments[which], ("task",))
        challenge = Challenge(bytes(32), (), (pick,))
        return next(replay(one, challenge, bench, leaves, start.fingerprint if start is not None else {}))

    return _settle(claims, names, str(segments[0]), known, look, 1, lambda: here)


def _replayed(one: IntactClaim, segment: Segment, bench: Bench, leaves: Sequence[bytes], opening: Snapshot) -> Replayed:
    result = run_segment(one, segment, bench.worker(), opening)
    check_leaves([i for batch in batches_of(one, segment) for i in batch], result.samples, leaves)
    if result.opening.roots() != segment.opening.roots:
        raise NotReproducedError("the opening state is another one after it was put back")
    return result


def _settle(
    claims: tuple[IntactClaim, IntactClaim],
    names: tuple[str, str],
    where: str,
    known: list[Reproduction | None],
    look: Callable[[int], Reproduction],
    replayed: int,
    here: Callable[[], Fingerprint],
) -> Comparison:
    """Convict whoever is not reproduced: by the other's exact reproduction, or as a verifier refutes."""
    exact = next((i for i, one in enumerate(known) if one is not None and one.outcome is Outcome.EXACT), None)
    if exact is None and known[0] is not None:
        second = known[1] = look(1)
        exact = 1 if second.outcome is Outcome.EXACT else None
    # What they say of their machines is their word: a rival may repeat the other's. This machine is no word.
    same = _same_setting(*claims) and all(
        one.start is not None and not differences(one.start.fingerprint, here()) for one in claims
    )
    same = same and not other_versions(claims[0].genesis.recipe.imports if claims[0].genesis.recipe is not None else ())
    convicted = [False, False]
    reasons: list[str] = []
    for which, name in enumerate(names):
        if which == exact:
            reasons.append(f"{name}: {where}: reproduced exactly, so not convicted; the rest was not replayed")
        elif exact is not None and same:
            convicted[which] = True
            reasons.append(
                f"{name}: {where}: the replay comes to another state, and exactly to {names[exact]}'s,"
                " which was recorded on the same setting, as it was replayed"
            )
        else:
            found = known[which] or look(which)
            known[which] = found
            convicted[which] = found.outcome is Outcome.REFUTED
            reasons.append(f"{name}: {where}: {found.reason or found.outcome.value}")
    outcome = Compared.CONVICTED if any(convicted) else Compared.UNDECIDED
    return Comparison(outcome, (convicted[0], convicted[1]), tuple(reasons), where, replayed)


def _same_setting(left: IntactClaim, right: IntactClaim) -> bool:
    """Whether both say that they were recorded on the same kind of machine, with the same libraries."""
    if left.start is None or right.start is None or left.genesis.recipe is None or right.genesis.recipe is None:
        return False
    fingerprints = differences(left.start.fingerprint, right.start.fingerprint)
    return not fingerprints and left.genesis.recipe.imports == right.genesis.recipe.imports
