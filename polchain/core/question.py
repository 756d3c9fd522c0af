"""The challenge as a file: what a verifier asks a prover to disclose. Canonical JSON.

    format                             polchain-challenge/v1
    origin, size, root                 the head that it is about: whose log, which run, how much of it
    seed                               64 hex digits, which the draw follows from
    draws, top_updates, fraction,      the policy's figures: r, Q, f, c
    confidence, budget, full, around   what else decided the draw; `around`: steps of states in dispute
    segments                           what is to be replayed: [first step, step after the last], rising
    states                             the steps whose states are to be disclosed, rising
    samples                            whether the samples of those segments are to be disclosed too
    other_samples                      indices of further ones, rising: for the tests of behaviour

Whoever has the claim can draw the segments again. The file is named by its BLAKE3 digest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from polchain.core.archive import open_plain
from polchain.core.digest import Digest, blake3
from polchain.core.encoding import JSON, Fields, decode, encode, hex_float
from polchain.errors import FormatError, MissingFileError

__all__ = ["Question", "read_question"]

FORMAT: Final = "polchain-challenge/v1"
QUESTION_LIMIT = 64 * 1024 * 1024
MAX_SEGMENTS = 1_000_000
MAX_SAMPLES = 1_000_000
MAX_DRAWS = 10_000_000


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; the attributes are the file's fields."""

    origin: str
    size: int
    root: Digest
    seed: bytes
    draws: int
    top_updates: int
    fraction: float
    confidence: float
    segments: tuple[tuple[int, int], ...]
    states: tuple[int, ...]
    samples: bool
    other_samples: tuple[int, ...] = ()
    budget: float | None = None
    full: bool = False
    around: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """The file's bytes."""
        pairs: list[JSON] = [[first, last] for first, last in self.segments]
        value: dict[str, JSON] = {
            "format": FORMAT,
            "origin": self.origin,
            "size": self.size,
            "root": str(self.root),
            "seed": self.seed.hex(),
            "draws": self.draws,
            "top_updates": self.top_updates,
            "fraction": hex_float(self.fraction),
            "confidence": hex_float(self.confidence),
            "full": self.full,
            "around": list(self.around),
            "segments": pairs,
            "states": list(self.states),
            "samples": self.samples,
            "other_samples": list(self.other_samples),
        }
        if self.budget is not None:
            value["budget"] = hex_float(self.budget)
        return encode(value)

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the file, as `b3sum` prints it."""
        return blake3(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Question:
        """Read a challenge that a stranger wrote.

        Raises:
            FormatError: not canonical, over a limit, out of order, or not a challenge.
        """
        fields = Fields(decode(data, limit=QUESTION_LIMIT, what="challenge"), "challenge")
        if fields.str("format") != FORMAT:
            raise FormatError(f"challenge: the format is not {FORMAT}")
        seed = fields.str("seed", max_length=64)
        if len(seed) != 64 or any(digit not in "0123456789abcdef" for digit in seed):
            raise FormatError("challenge: the seed is not 64 hexadecimal digits")
        question = cls(
            origin=fields.str("origin"),
            size=fields.int("size", minimum=1),
            root=Digest.parse(fields.str("root")),
            seed=bytes.fromhex(seed),
            draws=fields.int("draws", maximum=MAX_DRAWS),
            top_updates=fields.int("top_updates", maximum=10_000),
            fraction=_share(fields, "fraction"),
            confidence=_share(fields, "confidence"),
            budget=_share(fields, "budget") if fields.has("budget") else None,
            full=fields.bool("full"),
            around=_rising(fields, "around", MAX_SEGMENTS),
            segments=_segments(fields),
            states=_rising(fields, "states", 2 * MAX_SEGMENTS),
            samples=fields.bool("samples"),
            other_samples=_rising(fields, "other_samples", MAX_SAMPLES),
        )
        fields.done()
        if question.root.algorithm != "sha256":
            raise FormatError("challenge: a log's root is a SHA-256 digest")
        return question


def read_question(path: Path) -> bytes:
    """The bytes of a challenge file, within its limit.

    Raises:
        MissingFileError: it cannot be read.
        FormatError: not a plain file, or over the limit.
    """
    try:
        file = open_plain(path)
        if file is None:
            raise FormatError(f"{path} is not a plain file")
        with file:
            if os.fstat(file.fileno()).st_size > QUESTION_LIMIT:
                raise FormatError(f"{path} is over the limit of {QUESTION_LIMIT} bytes: no challenge is so long")
            return file.read(QUESTION_LIMIT)
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror}") from error


def _share(fields: Fields, name: str) -> float:
    value = fields.float(name)
    if not 0.0 < value <= 1.0:
        raise FormatError(f"challenge: {name} is no share")
    return value


def _rising(fields: Fields, name: str, most: int) -> tuple[int, ...]:
    found = fields.list(name, max_items=most)
    numbers = tuple(item for item in found if type(item) is int and item >= 0)
    if len(numbers) != len(found) or any(a >= b for a, b in pairwise(numbers)):
        raise FormatError(f"challenge: {name} are not rising numbers")
    return numbers


def _segments(fields: Fields) -> tuple[tuple[int, int], ...]:
    pairs: list[tuple[int, int]] = []
    for item in fields.list("segments", max_items=MAX_SEGMENTS):
        if type(item) is not list or len(item) != 2:
            raise FormatError("challenge: a segment has a first and a last step")
        first, last = item
        if type(first) is not int or type(last) is not int or not (pairs[-1][1] if pairs else 0) <= first < last:
            raise FormatError("challenge: the segments do not rise")
        pairs.append((first, last))
    if not pairs:
        raise FormatError("challenge: no segment is asked for")
    return tuple(pairs)
