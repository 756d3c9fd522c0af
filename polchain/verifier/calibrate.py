"""Calibrating: a recipe is trained here honestly, and its segments are computed again under other settings.

    reference     the recipe's own training in one setting, from a seed of the verifier's own
    openings      steps early and late; from each, every machine computes two segments of each length straight through
    points        how far the others are from the reference at both ends (`parts`)
    against       the same, but the reference is an honest claim that somebody trusted recorded on another machine
    distances     of two trainings under two seeds (d_ref), and of their initial states, over what training moves at all

It is the verifier's own recipe that runs here, as the user; no claim is judged. What becomes of the points is
`calibration`; which checkpoints they recommend is `advice`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polchain.core.genesis import Configuration, DatasetRef
from polchain.core.manifest import Snapshot
from polchain.core.salts import DataSecret, commit_leaves
from polchain.errors import NotReproducedError
from polchain.training.distance import distance, is_parameter, update_size
from polchain.training.fingerprint import Setting
from polchain.training.parts import errors_between, false_row, initial_gap
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder
from polchain.training.rho import Errors, worst
from polchain.training.worker import Worker
from polchain.verifier.calibration import LARGEST, Fingerprint, InitialPoint, Point
from polchain.verifier.plans import Machine, Opening

__all__ = ["Children", "Measured", "Progress", "Subject", "distances", "errors_of", "measure", "train_once"]

# Each begins with reading the data; but for the sake of progress a training could be one.
PIECES = 4

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it; `pair` in the points is a place in `names` and `fingerprints`, of which the first is the
    reference.

    Attributes:
        final: the reference's state after the last step that was trained.
        opened: the reference's initial state.
    """

    names: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...]
    initials: tuple[InitialPoint, ...]
    points: tuple[Point, ...]
    opened: Snapshot
    final: Snapshot


class Children:
    """The processes that run the verifier's own program, as the user: one per setting, started when first needed.

    Args:
        program: the recipe.
        data: the folder with its data.
        timeout: the most seconds that one job may take.
    """

    def __init__(self, program: Program, data: Path, timeout: float) -> None:
        self.program, self.data, self.timeout = program, data, timeout
        self._workers: dict[Setting, Worker] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def worker(self, setting: Setting) -> Worker:
        """The process with this setting."""
        if setting not in self._workers:
            self._workers[setting] = Worker(self.program, setting, self.data, timeout=self.timeout)
        found = self._workers[setting]
        found.program = self.program
        return found


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: the verifier's own program, its data, and how it is run.

    Attributes:
        children: the processes that run it.
        configuration: what it asks for.
        dataset: the commitment to the data that it reads.
        precision: another precision than its own; empty for its own.
    """

    children: Children
    configuration: Configuration
    dataset: DatasetRef
    precision: str = ""

    @classmethod
    def of(cls, children: Children, machine: Machine, secret: DataSecret | None = None) -> Subject:
        """Ask the program for its configuration and its data, which a secret makes private.

        Raises:
            RecipeError, DatasetError, WorkerError: it does not run.
        """
        configuration, leaves = children.worker(machine.setting).commit_dataset()
        return cls(children, configuration, commit_leaves(leaves, secret))

    def worker(self, machine: Machine) -> Worker:
        """A process with that setting that runs the program."""
        return self.children.worker(machine.setting)

    def order(self, seed: bytes) -> BatchOrder:
        """Which samples each step uses."""
        return BatchOrder(seed, self.dataset.samples, self.configuration.batch_size)


def measure(
    subject: Subject,
    machines: Sequence[Machine],
    openings: Sequence[Opening],
    steps: int,
    *,
    seed: bytes | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Train the reference to `steps`, and compute its segments again on the other machines.

    Raises:
        NotReproducedError: the recipe does not even reproduce itself here.
        RecipeError, DatasetError, WorkerError: the program failed, or the child did.
    """
    seed = seed or secrets.token_bytes(32)
    order = subject.order(seed)
    workers = [subject.worker(machine) for machine in machines]
    total = steps + sum(2 * opening.lengths[-1] * len(machines) for opening in openings)
    done = 0

    def tell(what: str, more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(what, done, total)

    def run(worker: Worker, first: int, at: Sequence[int], opening: Snapshot) -> dict[int, Snapshot]:
        batches = list(order.batches(first, at[-1]))
        found = worker.replay(seed, first, at[-1], batches, opening, at=at, precision=subject.precision)
        return {closing.step: closing.snapshot for closing in found.closings}

    tell("initial states", 0)
    built = [worker.initial(seed, precision=subject.precision) for worker in workers]
    states, fingerprints = [state for state, _ in built], tuple(found for _, found in built)
    initials = tuple(InitialPoint((0, i), initial_gap(states[0], states[i])) for i in range(1, len(workers)))
    state, points, at = states[0], [], 0
    for opening in openings:
        if opening.first > at:
            state = run(workers[0], at, [opening.first], state)[opening.first]
            tell("training", opening.first - at)
            at = opening.first
        ours = run(workers[0], at, opening.ends, state)
        tell("training", 2 * opening.lengths[-1])
        if opening is openings[0]:
            _check_reproduced(opening, state, ours, lambda a, b, s: run(workers[0], a, [b], s)[b])
        for i, worker in enumerate(workers[1:], start=1):
            theirs = run(worker, at, opening.ends, state)
            tell(machines[i].name, 2 * opening.lengths[-1])
            points += [_point((0, i), at, k, state, ours, theirs) for k in opening.lengths]
    final = run(workers[0], at, [steps], state)[steps] if steps > at else state
    tell("training", steps - at)
    names = tuple(machine.name for machine in machines)
    return Measured(names, fingerprints, initials, tuple(points), states[0], final)


def train_once(
    subject: Subject, machine: Machine, steps: int, progress: Progress | None = None
) -> tuple[Snapshot, Snapshot]:
    """The initial and the last state of a training under a seed of its own."""
    seed = secrets.token_bytes(32)
    order = subject.order(seed)
    worker = subject.worker(machine)
    initial, _ = worker.initial(seed)
    state, at = initial, 0
    while at < steps:
        last = min(steps, at + max(1, steps // PIECES))
        state = worker.replay(seed, at, last, list(order.batches(at, last)), state, at=[last]).closings[-1].snapshot
        at = last
        if progress is not None:
            progress("another seed", at, steps)
    return initial, state


def distances(first: tuple[Snapshot, Snapshot], second: tuple[Snapshot, Snapshot]) -> tuple[float, float]:
    """d_ref and what the inits alone account for: how far two trainings' last, and first, states are apart.

    Over the parameters that either training has changed at all: only those have a gradient.
    """
    moved = {
        row.name
        for opened, closed in (first, second)
        for row in closed.manifest.tensors()
        if is_parameter(row) and opened.manifest[row.name] != row
    }
    return (
        distance(first[1], second[1], lambda row: row.name in moved).l2,
        distance(first[0], second[0], lambda row: row.name in moved).l2,
    )


def _point(
    pair: tuple[int, int], first: int, k: int, opening: Snapshot, ours: dict[int, Snapshot], theirs: dict[int, Snapshot]
) -> Point:
    middle, end = first + k, first + 2 * k
    joint = errors_of(opening, ours[middle], theirs[middle])
    after = errors_of(theirs[middle], ours[end], theirs[end], ours[middle])
    return Point(pair, first, k, update_size(opening, ours[middle]).l2, worst(joint, after))


def errors_of(
    before: Snapshot, claimed: Snapshot, replayed: Snapshot, claimed_before: Snapshot | None = None
) -> Errors:
    """rho, as a verification takes it; where rows differ that no tolerance covers, nothing will do."""
    row = false_row(claimed, replayed)
    if row:
        return Errors.by_part(lambda part: LARGEST, lambda part: row)
    return errors_between(before, claimed, replayed, claimed_before)


def _check_reproduced(
    opening: Opening,
    state: Snapshot,
    ours: dict[int, Snapshot],
    segment: Callable[[int, int, Snapshot], Snapshot],
) -> None:
    """The same again, cut at a checkpoint: else it is the recipe that is noisy, and not the machine."""
    k = opening.lengths[0]
    middle, end = opening.first + k, opening.first + 2 * k
    again = segment(opening.first, middle, state)
    if again.manifest.roots() != ours[middle].manifest.roots():
        raise NotReproducedError(
            "the recipe does not reproduce itself here, in one and the same setting",
            hint="record it first: the self-check of `polchain train` names what is not deterministic",
        )
    if segment(middle, end, again).manifest.roots() != ours[end].manifest.roots():
        raise NotReproducedError(
            "cut at a checkpoint, the recipe's training ends elsewhere: something that crosses steps is not attached",
            hint="record it first: the self-check of `polchain train` names it",
        )
