"""Tables and charts of reproduction errors, as text.

rho        1e-8      1e-6      1e-4      1e-2      1
k = 1               E|L                 :                  E: early, L: late; B: both; `:` what the cap leaves room for
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from polchain.cli import output

if TYPE_CHECKING:
    from polchain.verifier.calibration import Point

__all__ = ["error_chart", "error_table"]

LEAST, MOST = -10, 1
PER_DECADE = 5
LABEL = 10


def error_table(points: Sequence[Point], names: Sequence[str], late: int) -> str:
    """rho of the parameters: a row for each machine and step that was measured, a column for each length."""
    lengths = sorted({point.steps for point in points})
    found: dict[tuple[tuple[int, int], int], dict[int, float]] = {}
    for point in points:
        row = found.setdefault((point.pair, point.first), {})
        row[point.steps] = max(row.get(point.steps, 0.0), point.errors.parameters)
    rows = [
        [_name(pair, names), first, _phase(first, late), *(_rho(by.get(k)) for k in lengths)]
        for (pair, first), by in sorted(found.items())
    ]
    return output.table(["machine", ">from step", "", *(f">k = {k}" for k in lengths)], rows)


def error_chart(points: Sequence[Point], names: Sequence[str], late: int) -> str:
    """The largest rho of the parameters against the length of a segment, early and late, on a logarithmic scale."""
    from polchain.verifier.tau import CAPS, ROOM

    lines = []
    room = _place(CAPS["parameters"] / ROOM)
    for pair in sorted({point.pair for point in points}):
        mine = [point for point in points if point.pair == pair]
        lines.append(f"{_name(pair, names)}, E early, L late, B both; left of the colons there is room for a tolerance")
        lines.append(_axis())
        for k in sorted({point.steps for point in mine}):
            cells = [" "] * ((MOST - LEAST) * PER_DECADE + 1)
            cells[room] = ":"
            for mark, phase in (("E", False), ("L", True)):
                rho = [p.errors.parameters for p in mine if p.steps == k and (p.first >= late) is phase]
                if rho:
                    at = _place(max(rho))
                    cells[at] = "B" if cells[at] == "E" else mark
            lines.append(f"{f'k = {k}':<{LABEL}}{''.join(cells)}".rstrip())
    return "\n".join(lines)


def _axis() -> str:
    cells = ""
    for power in range(LEAST, MOST + 1, 2):
        label = "1" if power == 0 else "exact" if power == LEAST else f"1e{power}"
        cells = cells.ljust((power - LEAST) * PER_DECADE) + label
    return f"{'rho':<{LABEL}}{cells}".rstrip()


def _place(rho: float) -> int:
    """The column of a value; what is 0 stands at the very left."""
    if not rho > 0.0:
        return 0
    power = min(max(math.log10(rho), LEAST), MOST) if math.isfinite(rho) else MOST
    return round((power - LEAST) * PER_DECADE)


def _name(pair: tuple[int, int], names: Sequence[str]) -> str:
    return " / ".join(names[i] for i in pair if i > 0) or names[0]


def _phase(first: int, late: int) -> str:
    return "late" if first >= late else "early"


def _rho(value: float | None) -> str:
    return "" if value is None else "exact" if value == 0.0 else f"{value:.1e}"
