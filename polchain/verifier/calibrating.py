"""All of a calibration in one call: `polchain calibrate`.

the recipe, described by running it up to `record`      its digest is what the calibration is of
machines here, the first of them the reference          measured against each other (`calibrate`)
claims of elsewhere                                      measured against this machine (`against`)
a second training under another seed                     d_ref, and what the inits alone account for
the same recipe in fp64, beside                          is not part of the calibration
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polchain.core.genesis import RecipeRef
from polchain.core.salts import DataSecret
from polchain.errors import PolchainError, RecipeError, UsageError
from polchain.training.fingerprint import native_setting
from polchain.training.moments import slowest_decay
from polchain.training.program import Program
from polchain.training.worker import Worker
from polchain.verifier.advice import Advice, advise, choose_late
from polchain.verifier.against import check_claim, measure_claim
from polchain.verifier.calibrate import Children, Measured, Progress, Subject, distances, measure, train_once
from polchain.verifier.calibration import Calibration, Fingerprint, InitialPoint, Point, same_fingerprint
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.plans import Machine, Opening, machines_here, plan
from polchain.verifier.vouching import OwnRecipe

__all__ = ["Answer", "Wish", "calibrate"]

FP64_LENGTHS = 3


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be calibrated, and how thoroughly.

    Attributes:
        recipe: the verifier's own recipe.
        data: the folder with its data.
        claims: honest claims recorded elsewhere, by what to call them.
        threads: of the reference; as torch chooses where None.
        steps: how far to train; as far as the recipe asks for where None.
        lengths: of the segments to measure; as the run bears where empty.
        quick: fewer machines, openings and lengths.
        timeout: the most seconds that one replay may take.
        secret: what private data is salted with, so that the calibration is of the claims' data; None for plain data.
    """

    recipe: OwnRecipe
    data: Path
    claims: Mapping[str, IntactClaim]
    threads: int | None = None
    steps: int | None = None
    lengths: tuple[int, ...] = ()
    quick: bool = False
    timeout: float = 7 * 86_400.0
    secret: DataSecret | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Attributes:
        calibration: what a verification can use.
        names: what each of its fingerprints is called here.
        advice: for each pair that was measured, the checkpoints that would serve.
        double: the same recipe in fp64, measured from the start; empty where it could not be, or is what the recipe
            asks for anyway.
        double_reason: why it could not be.
    """

    calibration: Calibration
    names: tuple[str, ...]
    advice: Mapping[tuple[int, int], Advice]
    double: tuple[Point, ...]
    double_reason: str


def calibrate(wish: Wish, progress: Progress | None = None) -> Answer:
    """Train, measure and advise.

    Raises:
        UsageError: there is no such recipe, steps that it does not have, or a claim of another one.
        NotReproducedError: the recipe does not reproduce itself.
        RecipeError, DatasetError, WorkerError: the recipe does not run here.
    """
    own = wish.recipe
    empty = Program(RecipeRef(own.entry, own.module, own.arguments, (), ()), {})
    with Children(empty, wish.data, wish.timeout) as children:
        return _calibrate(wish, children, progress)


def _calibrate(wish: Wish, children: Children, progress: Progress | None) -> Answer:
    native = native_setting()
    threads = wish.threads or native.threads
    reference = machines_here(threads, capability=native.capability, cuda=native.cuda, quick=True)[0]
    children.program = program = _describe(wish, children.worker(reference.setting))
    subject = Subject.of(children, reference, wish.secret)
    cuda = native.cuda and _device(subject, reference) == "cuda"
    machines = machines_here(threads, capability=native.capability, cuda=cuda, quick=wish.quick)
    for intact in wish.claims.values():
        check_claim(subject, intact)
    steps = _steps(wish, subject)
    openings = plan(steps, wish.lengths, quick=wish.quick)
    found = measure(subject, machines, openings, steps, progress=progress)
    other = train_once(subject, machines[0], steps, progress)
    trained, initial = distances((found.opened, found.final), other)
    names, prints = list(found.names), list(found.fingerprints)
    initials, points = list(found.initials), list(found.points)
    for name, intact in wish.claims.items():
        theirs, here, apart, more = measure_claim(subject, intact, wish.threads, progress)
        pair = _place(prints, names, theirs, name), _place(prints, names, here, "here")
        if pair[0] == pair[1]:
            continue  # recorded with this very setting: there is nothing to tolerate
        both = (min(pair), max(pair))
        initials.append(InitialPoint(both, apart.rho))
        points += [replace(point, pair=both) for point in more if point.first + point.steps <= steps]
    calibration = Calibration(
        program=program.ref.program(),
        dataset=subject.dataset,
        steps=steps,
        late=choose_late(points, steps),
        memory=slowest_decay(found.final.manifest),
        trained=trained,
        initial=initial,
        fingerprints=tuple(prints),
        initials=tuple(initials),
        points=tuple(points),
    )
    pairs = sorted({point.pair for point in points})
    double, reason = _in_double(subject, machines, openings, progress)
    return Answer(calibration, tuple(names), {pair: advise(calibration, pair) for pair in pairs}, double, reason)


def _describe(wish: Wish, worker: Worker) -> Program:
    """The verifier's own program: what it loads when it is run up to `record`, and that text."""
    own = wish.recipe
    try:
        ref = worker.describe(own.folder, own.entry, own.module, own.arguments)
    except RecipeError as error:
        raise UsageError(f"the recipe does not come to record: {error}", hint=error.hint) from error
    try:
        return Program(ref, {file.path: (own.folder / file.path).read_bytes() for file in ref.files})
    except OSError as error:
        raise UsageError(f"cannot read the recipe: {error}") from error


def _device(subject: Subject, machine: Machine) -> str:
    return str(subject.worker(machine).initial(bytes(32))[1].get("device", ""))


def _steps(wish: Wish, subject: Subject) -> int:
    most = subject.configuration.steps
    if wish.steps is not None and not 1 < wish.steps <= most:
        raise UsageError(f"--steps {wish.steps}: the recipe has {most} steps")
    return wish.steps or most


def _place(prints: list[Fingerprint], names: list[str], found: Fingerprint, name: str) -> int:
    for index, known in enumerate(prints):
        if same_fingerprint(known, found):
            return index
    prints.append(found)
    names.append(name)
    return len(prints) - 1


def _in_double(
    subject: Subject, machines: Sequence[Machine], openings: Sequence[Opening], progress: Progress | None
) -> tuple[tuple[Point, ...], str]:
    """The first segments of the same recipe in fp64. A recipe whose batches or model say otherwise cannot be."""
    if subject.configuration.precision == "fp64":
        return (), "the recipe asks for fp64 itself"
    lengths = openings[0].lengths
    chosen = tuple(dict.fromkeys((lengths[0], lengths[len(lengths) // 2], lengths[-1])))[:FP64_LENGTHS]
    try:
        found: Measured = measure(
            replace(subject, precision="fp64"),
            machines[:3],
            [Opening(0, chosen)],
            2 * chosen[-1],
            progress=progress,
        )
    except PolchainError as error:
        return (), f"not measured: {error}"
    return found.points, ""
