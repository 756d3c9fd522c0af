"""Whether a target is met: judged by the row that it is about, by name, and by figures that can be measurements.

Met                 each figure is there, finite and above zero, and keeps the target
MISSED              one does not keep it, or cannot be a measurement (zero, negative, infinite, not a number)
Not measured        the row or a figure is not there
Too close to tell   memory alone: above the target by less than two of its small standard errors
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import Result, number

NOT_MEASURED = "Not measured"
LARGE = 1_000_000  # entries: what the targets of a log are about, and
BEFORE = 100_000  # what its growth is judged from
SLOPE = 1.1  # linear, and a tenth for the noise: 1.26 times as long for an entry at ten times the size
CLOSE = 0.05  # states: an error above it shows nothing
MOST_STATES = 2


def named(rows: Sequence[Result], name: str, value: object) -> Result | None:
    """The row whose `name` is this; None where there is none, or more than one."""
    found = [row for row in rows if row.get(name) == value]
    return found[0] if len(found) == 1 else None


def figure(row: Result | None, *names: str) -> Any:
    """What a row has there, however deep; None where it has nothing."""
    found: Any = row
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def sound(value: object) -> bool:
    """Whether this can be a measured time, number of bytes or ratio."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def said(what: str, met: bool | None, value: str) -> str:
    """The line of a target; `met` is None where it was not measured."""
    if met is None:
        return f"- Target: {what}. **{NOT_MEASURED}**."
    return f"- Target: {what}. **{'Met' if met else 'MISSED'}**: {value}."


def target(what: str, values: Sequence[Any], met: Callable[..., bool], shown: Callable[..., str]) -> str:
    """The line of a target that these figures keep or not."""
    if any(value is None for value in values):
        return said(what, None, "")
    if not all(map(sound, values)):
        return said(what, False, f"{', '.join(map(str, values))} is no measurement")
    return said(what, met(*values), shown(*values))


def at_least(what: str, value: Any, least: float, digits: int = 3) -> str:
    """A ratio that may not be lower."""
    return target(what, [value], lambda found: found >= least, lambda found: number(found, digits))


def at_most(what: str, value: Any, most: float) -> str:
    """A ratio that may not be higher."""
    return target(what, [value], lambda found: found <= most, number)


def states(what: str, value: Any, error: Any) -> str:
    """At most two states of memory.

    A heap that scatters cannot show a hundredth, so what is above two by its error alone is neither met nor missed. A
    large error excuses nothing: it has to be small, or the figure far enough below.
    """
    if value is None or error is None:
        return said(what, None, "")
    if not sound(value) or not (error == 0 or sound(error)):
        return said(what, False, f"{value} ± {error} is no measurement")
    told, near = f"{value:.2f} ± {error:.2f} states", error <= CLOSE
    if round(value, 2) <= MOST_STATES:
        return said(what, near or value + 2 * error <= MOST_STATES, told)
    if near and value - 2 * error <= MOST_STATES:
        return f"- Target: {what}. **Too close to tell**: {told}."
    return said(what, False, told)


def linear(rows: Sequence[Result]) -> str:
    """Whether all that a log does grows as its entries at most: log-log slopes between the two largest sizes."""
    before, last = (named(rows, "size", count) for count in (BEFORE, LARGE))
    paths = {
        "all appends": ("append", "polchain"),
        "open": ("open", "seconds"),
        "an inclusion proof": ("proofs", "inclusion"),
        "a consistency proof": ("proofs", "consistency"),
        "`log`": ("log", "seconds"),
        "full check": ("check", "seconds"),
        "integrity": ("integrity", "seconds"),
    }
    found = [figure(row, *path) for path in paths.values() for row in (before, last)]

    def slopes(values: Sequence[float]) -> dict[str, float]:
        by_name = dict(zip(paths, zip(values[::2], values[1::2], strict=True), strict=True))
        rate, later = by_name["all appends"]  # a second; what all of them take is their number by it
        by_name["all appends"] = BEFORE / rate, LARGE / later
        return {name: math.log(b / a) / math.log(LARGE / BEFORE) for name, (a, b) in by_name.items()}

    what = f"linear or better: from {BEFORE:,} to {LARGE:,} entries, seconds grow as their power {SLOPE} at most"
    return target(
        what,
        found,
        lambda *values: max(slopes(values).values()) <= SLOPE,
        lambda *values: ", ".join(f"{name} {slope:.2f}" for name, slope in slopes(values).items()),
    )
