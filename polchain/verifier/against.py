"""Calibrating against a claim: how two machines are compared of which one is elsewhere.

Somebody whom the verifier trusts records the recipe there, as any prover does; here its segments are computed again
from the states that the claim discloses, two stretches straight through, and compared at both ends.
"""

from __future__ import annotations

from dataclasses import replace

from polchain.core.manifest import Snapshot
from polchain.errors import CheckpointMissingError, UsageError
from polchain.training.distance import update_size
from polchain.training.fingerprint import setting_of
from polchain.training.parts import initial_gap
from polchain.training.rho import worst
from polchain.verifier.bench import state_of
from polchain.verifier.calibrate import Progress, Subject, errors_of
from polchain.verifier.calibration import LARGEST, Fingerprint, InitialPoint, Point
from polchain.verifier.integrity import IntactClaim

__all__ = ["check_claim", "measure_claim"]

CLAIM_UNITS = 24
EARLY_UNITS = 6
GROUPS_OF_SEGMENTS = (1, 2, 5, 10)


def check_claim(subject: Subject, intact: IntactClaim) -> None:
    """Check that a claim can be calibrated against, before anything is trained.

    Raises:
        UsageError: the claim is of another recipe or other data, or cannot be replayed.
    """
    recipe, start = intact.genesis.recipe, intact.start
    if recipe is None or start is None or intact.seed is None or intact.order is None:
        raise UsageError("a foreign run, or one without steps, cannot be replayed: nothing to calibrate against")
    if recipe.program() != subject.children.program.ref.program():
        raise UsageError(
            "the claim to calibrate against is of another recipe", hint="entry point, arguments and files are compared"
        )
    if intact.genesis.dataset != subject.dataset:
        theirs = intact.genesis.dataset
        private = theirs is not None and theirs.salts != subject.dataset.salts
        raise UsageError(
            "the claim to calibrate against was trained on other data",
            hint="it salts its data with a secret: --data-secret FILE" if private else "point --data at the same",
        )


def measure_claim(
    subject: Subject, intact: IntactClaim, threads: int | None = None, progress: Progress | None = None
) -> tuple[Fingerprint, Fingerprint, InitialPoint, tuple[Point, ...]]:
    """The same against an honest claim: its fingerprint, the one here, and how far they are apart, as pair (0, 1).

    Args:
        subject: the verifier's own copy of the claim's recipe.
        intact: the claim, which somebody trusted recorded.
        threads: replay with so many; with as many as the claim where None.
        progress: called with what is done.

    Raises:
        UsageError: the claim is of another recipe or other data.
        CheckpointMissingError: it discloses no states.
    """
    check_claim(subject, intact)
    start = intact.start
    assert start is not None
    assert intact.seed is not None
    assert intact.order is not None
    setting = setting_of(start.fingerprint)
    units = _units_of(intact)
    points: list[Point] = []
    worker = subject.children.worker(replace(setting, threads=threads or setting.threads))
    built, here = worker.initial(intact.seed)
    first = state_of(intact, intact.checkpoints[0])
    initial = InitialPoint((0, 1), LARGEST if first is None else initial_gap(first, built))
    for number, (i, ends) in enumerate(units):
        if progress is not None:
            progress("against the claim", number, len(units))
        entries = [intact.checkpoints[i], *(intact.checkpoints[end] for pair in ends for end in pair)]
        states = {entry.step: state_of(intact, entry) for entry in entries}
        shown = {step: state for step, state in states.items() if state is not None}
        opened, last = intact.checkpoints[i].step, max(states)
        if len(shown) < len(states):
            continue
        at = sorted(step for step in states if step > opened)
        batches = list(intact.order.batches(opened, last))
        found = worker.replay(intact.seed, opened, last, batches, shown[opened], at=at)
        theirs = {closing.step: closing.snapshot for closing in found.closings}
        for middle, end in ends:
            points.append(_claim_point(intact, i, middle, end, shown, theirs))
    if not points:
        raise CheckpointMissingError("the claim discloses no two segments in a row: nothing to calibrate against")
    return start.fingerprint, here, initial, tuple(points)


def _claim_point(
    intact: IntactClaim, i: int, middle: int, end: int, shown: dict[int, Snapshot], theirs: dict[int, Snapshot]
) -> Point:
    a, b, c = (intact.checkpoints[number].step for number in (i, middle, end))
    joint = errors_of(shown[a], shown[b], theirs[b])
    after = errors_of(theirs[b], shown[c], theirs[c], shown[b])
    update = update_size(shown[a], shown[b]).l2
    return Point((0, 1), a, max(b - a, c - b), update, worst(joint, after))


def _units_of(intact: IntactClaim) -> list[tuple[int, list[tuple[int, int]]]]:
    """Openings in the claim, by checkpoint, and for each the pairs of checkpoints that end a first and a second
    stretch: early ones densely, the others spread over the run."""
    last = len(intact.checkpoints) - 1
    early = list(range(min(EARLY_UNITS, max(0, last - 1))))
    spread = [round(n * (last - 2) / max(1, CLAIM_UNITS - 1)) for n in range(CLAIM_UNITS)] if last >= 2 else []
    found = []
    for i in sorted({*early, *spread}):
        ends = [(i + g, i + 2 * g) for g in GROUPS_OF_SEGMENTS if i + 2 * g <= last]
        # Long ones are dear: one opening in four has them.
        found.append((i, ends if i % 4 == 0 else ends[:1]))
    return [(i, ends) for i, ends in found if ends]
