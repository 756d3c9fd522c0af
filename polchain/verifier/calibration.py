"""Calibration: how far honest trainings of one recipe part on two machines, and what is tolerated for it.

A file of canonical JSON, which the verifier or somebody it trusts has made (`calibrate`), and which it names itself:

    {"format": "polchain-calibration/v1",
     "program": "sha256:...",                          of the recipe that was measured
     "dataset": {"samples": 1437, "root": "sha256:..."},
     "steps": 400,                                     how far it was trained
     "late": 40,                                       the first step of the late phase; before it is the early one
     "memory": "0x1.ccccccccccccdp-1",                 the slowest decay of the optimizer's moments, per step
     "distances": {"trained": "0x...", "initial": "0x..."},           d_ref, and what the inits alone account for
     "fingerprints": [{...}, {...}],                   the machines and settings that were compared
     "initial": [{"pair": [0, 1], "rho": "0x0.0p+0"}],                their initial states, by |difference| / |state|
     "points": [{"pair": [0, 1], "first": 0, "steps": 10, "update": "0x...", "parameters": "0x...",
                 "tensors": "0x...", "buffers": "0x...", "optimizer": "0x...", "extra": "0x..."}]}      rho, by part

A point is one honest segment, which opened at `first`: its error, the larger of those at its own end and one segment
on, replayed straight through.
What is tolerated for it: `tau`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polchain.core.digest import Digest, blake3
from polchain.core.encoding import JSON, Fields, decode, encode, hex_float
from polchain.core.genesis import DatasetRef
from polchain.errors import FormatError, PolchainError, PolicyError
from polchain.training.rho import PARTS, Errors

__all__ = ["Calibration", "Fingerprint", "InitialPoint", "Point", "same_fingerprint"]

FORMAT = "polchain-calibration/v1"
FILE_LIMIT = 16 * 1024 * 1024
MAX_FINGERPRINTS = 64
MAX_FIELDS = 64
MAX_POINTS = 65_536

# No error is written as larger: an infinite one has no place in canonical JSON, and far less is over every cap.
LARGEST = 1e9

Fingerprint = Mapping[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class Point:
    """One honest segment, computed on two machines.

    Attributes:
        pair: which fingerprints, by their places in the calibration; the smaller first.
        first: the step that it opened at.
        steps: its length, in steps.
        update: how far its parameters went, as a distance.
        errors: rho of each part.
    """

    pair: tuple[int, int]
    first: int
    steps: int
    update: float
    errors: Errors

    def to_json(self) -> JSON:
        value: dict[str, JSON] = {"pair": list(self.pair), "first": self.first, "steps": self.steps}
        value["update"] = hex_float(min(self.update, LARGEST))
        for part in PARTS:
            value[part] = hex_float(min(self.errors.of(part), LARGEST))
        return value

    @classmethod
    def parse(cls, value: JSON) -> Point:
        fields = Fields(value, "calibration point")
        pair, first, steps = _pair(fields), fields.int("first"), fields.int("steps", minimum=1)
        update = _size(fields, "update")
        point = cls(pair, first, steps, update, Errors.by_part(lambda part: _size(fields, part)))
        fields.done()
        return point


@dataclass(frozen=True, slots=True)
class InitialPoint:
    """How far two initial states of one seed are apart, over the size of the state."""

    pair: tuple[int, int]
    rho: float

    def to_json(self) -> JSON:
        return {"pair": list(self.pair), "rho": hex_float(min(self.rho, LARGEST))}

    @classmethod
    def parse(cls, value: JSON) -> InitialPoint:
        fields = Fields(value, "calibration of an initial state")
        point = cls(_pair(fields), _size(fields, "rho"))
        fields.done()
        return point


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of one recipe; see the module."""

    program: Digest
    dataset: DatasetRef
    steps: int
    late: int
    memory: float
    trained: float
    initial: float
    fingerprints: tuple[Fingerprint, ...]
    initials: tuple[InitialPoint, ...]
    points: tuple[Point, ...]

    def encode(self) -> bytes:
        """Canonical bytes.

        Raises:
            FormatError: a number that is not finite.
        """
        return encode(
            {
                "format": FORMAT,
                "program": str(self.program),
                "dataset": self.dataset.to_json(),
                "steps": self.steps,
                "late": self.late,
                "memory": hex_float(self.memory),
                "distances": {"trained": hex_float(self.trained), "initial": hex_float(self.initial)},
                "fingerprints": [dict(found) for found in self.fingerprints],
                "initial": [point.to_json() for point in self.initials],
                "points": [point.to_json() for point in self.points],
            }
        )

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the file; what a verdict names it by."""
        return blake3(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Calibration:
        """Parse a calibration.

        Raises:
            FormatError: not canonical, over a limit, not a calibration, or it contradicts itself.
        """
        fields = Fields(decode(data, limit=FILE_LIMIT, what="calibration"), "calibration")
        if fields.str("format") != FORMAT:
            raise FormatError(f"calibration: the format is not {FORMAT}")
        steps = fields.int("steps", minimum=1, maximum=2**40)
        distances = fields.fields("distances")
        value = cls(
            program=Digest.parse(fields.str("program")),
            dataset=DatasetRef.parse(fields.fields("dataset")),
            steps=steps,
            late=fields.int("late", maximum=steps),
            memory=fields.float("memory"),
            trained=_size(distances, "trained"),
            initial=_size(distances, "initial"),
            fingerprints=tuple(_fingerprint(item) for item in fields.list("fingerprints", max_items=MAX_FINGERPRINTS)),
            initials=tuple(InitialPoint.parse(i) for i in fields.list("initial", max_items=MAX_FINGERPRINTS**2)),
            points=tuple(Point.parse(item) for item in fields.list("points", max_items=MAX_POINTS)),
        )
        distances.done()
        fields.done()
        if not 0.0 <= value.memory <= 1.0:
            raise FormatError("calibration: memory is no decay between 0 and 1")
        pairs = [*(point.pair for point in value.points), *(point.pair for point in value.initials)]
        if any(max(pair) >= len(value.fingerprints) for pair in pairs):
            raise FormatError("calibration: a pair of fingerprints that are not there")
        if any(point.first + point.steps > steps for point in value.points):
            raise FormatError("calibration: a point beyond the steps that were trained")
        return value

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read a calibration that the verifier has named.

        Raises:
            PolicyError: it cannot be read, or is none.
        """
        try:
            with path.open("rb") as file:
                return cls.decode(file.read(FILE_LIMIT + 1))
        except OSError as error:
            raise PolicyError(
                f"cannot read the calibration {path}: {error.strerror}", hint="`polchain calibrate` makes one"
            ) from error
        except PolchainError as error:
            raise PolicyError(f"{path} is no calibration: {error}", hint="`polchain calibrate` makes one") from error


def same_fingerprint(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints are of one machine and setting, as far as bits depend on it."""
    return _relevant(one) == _relevant(other)


def _relevant(found: Fingerprint) -> dict[str, tuple[type, str | int | bool]]:
    values: dict[str, str | int | bool] = {name: value for name, value in found.items() if name != "polchain"}
    if isinstance(values.get("python"), str):
        values["python"] = ".".join(str(values["python"]).split(".")[:2])
    # By type too: to Python, 1 and True are equal.
    return {name: (type(value), value) for name, value in values.items()}


def _pair(fields: Fields) -> tuple[int, int]:
    items = fields.list("pair", max_items=2)
    if len(items) != 2 or any(type(item) is not int for item in items):
        raise FormatError("calibration: a pair is two numbers")
    one, other = (item for item in items if isinstance(item, int))
    if not 0 <= one < other:
        raise FormatError("calibration: a pair names two fingerprints, the smaller number first")
    return one, other


def _size(fields: Fields, name: str) -> float:
    value = fields.float(name)
    if value < 0.0:
        raise FormatError(f"calibration: {name} is negative")
    return value


def _fingerprint(value: JSON) -> Fingerprint:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_FIELDS:
        raise FormatError("calibration: a fingerprint is an object of a few fields")
    found: dict[str, str | int | bool] = {}
    for name, item in value.items():
        if (
            not isinstance(item, str | int | bool)
            or len(name) > MAX_FIELDS
            or (isinstance(item, str) and len(item) > 1024)
        ):
            raise FormatError(f"calibration: {name[:64]!a} of a fingerprint is no short string or number")
        found[name] = item
    return found
