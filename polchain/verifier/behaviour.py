"""Tests of behaviour: what a recipe does under another seed and on other samples.

    another seed     gives other initial weights, and the first steps another update: else nothing binds the run to
                     its prover, for the seed is all of the prover's key that the training sees
    nearness         the initial weights that other seeds give are no nearer to the final weights than the claim's own
    other samples    the update of the first steps changes with the samples that they are given

The first steps are the first segment, but at most ten of them. A test begins a replay of the whole segment and ends it
there: a replay of that segment that is none of the tests shows its state after those steps too, so the program is told
the same in both.

No such test is sound against a program that was written to pass it: only its text says that it learns. But a recipe
that fails one is not what it seems, and its verdict is COMPUTED at most. The first two say nothing of a run that
continues another one. The other seeds follow from the challenge's, so that anybody can repeat the tests:

    BLAKE3(key = challenge seed, tag behaviour + n as u64 little-endian)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from polchain.core.digest import blake3_keyed, tag
from polchain.core.manifest import Snapshot
from polchain.errors import PolchainError, RecipeError
from polchain.training.dataset import check_leaves
from polchain.training.distance import distance, norm, update_gap
from polchain.training.randomness import BatchOrder
from polchain.verifier.bench import Bench, batches_of, bounds_of, state_of
from polchain.verifier.integrity import IntactClaim, Segment

__all__ = [
    "Behaviour",
    "Finding",
    "behaviour_steps",
    "not_tested",
    "observe",
    "other_batches",
    "other_seed",
    "shown_step",
]

FIRST_STEPS = 10
TESTS = ("another seed", "nearness", "other samples")
SEEDS = 3
# Less than this share of its size is the same update, or the same weights: a planted pull with a little noise.
SAME = 1e-3
NEARER = 0.05
SPREADS = 5.0
CONTINUED = "the run continues another one"


class Finding(Enum):
    """What came of a test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "not made"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One test of behaviour, and what came of it."""

    test: str
    finding: Finding
    reason: str = ""


def behaviour_steps(intact: IntactClaim) -> int:
    """Steps that the tests replay: the first few, under another seed and on other samples."""
    first = min(intact.segments[0].steps, FIRST_STEPS) if intact.segments else 0
    return first if intact.genesis.parent is not None else 2 * first


def shown_step(segment: Segment) -> int:
    """The step on the way through a segment whose state the tests need; 0 where that is none, or its closing state."""
    return segment.first + FIRST_STEPS if segment.index == 0 and segment.steps > FIRST_STEPS else 0


def other_batches(intact: IntactClaim, seed: bytes) -> list[list[int]]:
    """The batches of the first segment under another seed: the samples that the tests take besides its own."""
    dataset, configuration = intact.genesis.dataset, intact.genesis.configuration
    assert dataset is not None
    assert configuration is not None
    order = BatchOrder(other_seed(seed, 0), dataset.samples, configuration.batch_size)
    return list(order.batches(intact.segments[0].first, intact.segments[0].last))


def other_seed(seed: bytes, number: int) -> bytes:
    """Another seed for a run, from the challenge's."""
    return blake3_keyed(seed, tag("behaviour") + struct.pack("<Q", number))


def not_tested(reason: str) -> list[Behaviour]:
    """No test was made, and why."""
    return [Behaviour(test, Finding.SKIPPED, reason) for test in TESTS]


def observe(
    intact: IntactClaim,
    bench: Bench,
    seed: bytes,
    leaves: Sequence[bytes],
    shown: Snapshot | None = None,
    ended: Snapshot | None = None,
) -> list[Behaviour]:
    """Make the tests, on a claim whose initial state and first segment were reproduced exactly.

    Args:
        intact: the claim.
        bench: the children that replay its program.
        seed: the challenge's seed.
        leaves: the leaf hashes of the committed dataset.
        shown: the state of `shown_step` on the way through the first segment; made again where it is not at hand.
        ended: the last state, reproduced, where the claim does not disclose it.
    """
    try:
        subject = _Subject(intact, bench, seed, leaves, shown, ended)
    except PolchainError as error:
        return [Behaviour(test, Finding.FAILED, f"it could not be made: {error}") for test in TESTS]
    continued = intact.genesis.parent is not None
    tests: tuple[tuple[str, bool, Callable[[], Behaviour]], ...] = (
        (TESTS[0], continued, subject.another_seed),
        (TESTS[1], continued, subject.nearness),
        (TESTS[2], False, subject.other_samples),
    )
    found = []
    for name, skipped, make in tests:
        if skipped:
            found.append(Behaviour(name, Finding.SKIPPED, CONTINUED))
            continue
        try:
            found.append(make())
        except PolchainError as error:
            # Failed, not skipped: a recipe that fears the test would raise.
            found.append(Behaviour(name, Finding.FAILED, f"it could not be made: {error}"))
    return found


class _Subject:
    """A claim's program under test, with its first steps as claimed and reproduced."""

    def __init__(
        self,
        intact: IntactClaim,
        bench: Bench,
        seed: bytes,
        leaves: Sequence[bytes],
        shown: Snapshot | None = None,
        ended: Snapshot | None = None,
    ) -> None:
        assert intact.seed is not None
        self.intact = intact
        self.bench = bench
        self.leaves = leaves
        self.ended = ended
        self.segment = intact.segments[0]
        self.shown = shown_step(self.segment)
        self.seeds = [other_seed(seed, number) for number in range(SEEDS)]
        self._initial: dict[bytes, Snapshot] = {}
        self.opening = state_of(intact, self.segment.opening) or self.initial(intact.seed)
        self.closing = shown if self.shown and shown is not None else self._closing()

    def _closing(self) -> Snapshot:
        """The state after the first steps, as the claim has it or as its own seed and samples give it."""
        claimed = None if self.shown else state_of(self.intact, self.segment.closing)
        if claimed is not None:
            return claimed
        assert self.intact.seed is not None
        return self.closes(self.intact.seed, batches_of(self.intact, self.segment), self.opening)

    def initial(self, seed: bytes) -> Snapshot:
        """The initial state under a seed."""
        if seed not in self._initial:
            bounds = bounds_of(self.intact, self.segment.opening)
            self._initial[seed] = self.bench.worker().initial(seed, bounds)[0]
        return self._initial[seed]

    def closes(self, seed: bytes, batches: list[list[int]], opening: Snapshot) -> Snapshot:
        """The state after the first steps, under this seed and on these samples."""
        first, last = self.segment.first, self.segment.last
        bounds = bounds_of(self.intact, self.segment.opening, self.segment.closing)
        result = self.bench.worker().replay(
            seed, first, last, batches, opening, bounds=bounds, shown=self.shown, further=not self.shown
        )
        if not self.shown and [closing.step for closing in result.closings] != [last]:
            raise RecipeError("the segment ended at another step")
        used = batches[: self.shown - first] if self.shown else batches
        check_leaves([index for batch in used for index in batch], result.samples, self.leaves)
        return result.shown if result.shown is not None else result.closings[-1].snapshot

    def another_seed(self) -> Behaviour:
        seed = self.seeds[0]
        opening = self.initial(seed)
        if distance(self.opening, opening).l2 <= SAME * norm(self.opening):
            return _failed(TESTS[0], "not bound to its prover: another seed gives the same initial weights")
        if self.still:
            return self._still(TESTS[0])
        closing = self.closes(seed, self.other_batches(), opening)
        if update_gap((self.opening, self.closing), (opening, closing)) <= SAME:
            return _failed(TESTS[0], "not bound to its prover: another seed gives the same first update")
        return Behaviour(TESTS[0], Finding.PASSED)

    def nearness(self) -> Behaviour:
        final = state_of(self.intact, self.intact.checkpoints[-1]) or self.ended
        if final is None:
            return Behaviour(TESTS[1], Finding.SKIPPED, "the last state is not disclosed")
        own = distance(self.opening, final).l2
        others = [distance(self.initial(seed), final).l2 for seed in self.seeds]
        # How far apart a few small networks begin is chance: nearer means clearly nearer, every one of them.
        margin = max(NEARER * own, SPREADS * (max(others) - min(others)))
        if max(others) + margin < own:
            return _failed(
                TESTS[1],
                f"initial weights under other seeds are nearer to the final ones: {max(others):.3g} away at most, "
                f"where the claim's own are {own:.3g}",
            )
        return Behaviour(TESTS[1], Finding.PASSED)

    def other_samples(self) -> Behaviour:
        if self.still:
            return self._still(TESTS[2])
        assert self.intact.seed is not None
        batches = self.changed_batches()
        if batches == batches_of(self.intact, self.segment):
            return Behaviour(TESTS[2], Finding.SKIPPED, "there are no other samples")
        closing = self.closes(self.intact.seed, batches, self.opening)
        if update_gap((self.opening, self.closing), (self.opening, closing)) <= SAME:
            return _failed(TESTS[2], "the update does not change with its samples")
        return Behaviour(TESTS[2], Finding.PASSED)

    @property
    def still(self) -> bool:
        """Whether the first steps move nothing, as where a learning rate rises from zero."""
        return distance(self.opening, self.closing).l2 == 0.0

    def _still(self, test: str) -> Behaviour:
        return Behaviour(test, Finding.SKIPPED, "the first steps do not move the weights")

    def other_batches(self) -> list[list[int]]:
        """The batches that another seed gives."""
        dataset, configuration = self.intact.genesis.dataset, self.intact.genesis.configuration
        assert dataset is not None
        assert configuration is not None
        order = BatchOrder(self.seeds[0], dataset.samples, configuration.batch_size)
        return list(order.batches(self.segment.first, self.segment.last))

    def changed_batches(self) -> list[list[int]]:
        """Other samples for each step: another seed's, or, where a batch is most of the data, half of it twice."""
        own = batches_of(self.intact, self.segment)
        dataset = self.intact.genesis.dataset
        assert dataset is not None
        if 2 * len(own[0]) <= dataset.samples:
            return self.other_batches()
        return [[batch[place // 2] for place in range(len(batch))] for batch in own]


def _failed(test: str, reason: str) -> Behaviour:
    return Behaviour(test, Finding.FAILED, reason)
