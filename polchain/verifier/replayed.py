"""What was replayed, as a certificate shows it: points for the plots, and rows of which many alike are one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from polchain.verifier.figures import Point

__all__ = ["number", "points_of", "rows_of"]

OUTCOMES: Final = {
    "EXACT": "reproduced exactly",
    "WITHIN": "reproduced within tau",
    "REFUTED": "refuted",
    "INCONCLUSIVE": "came to no end",
}

Facts = Mapping[str, Any]


def number(text: str) -> float:
    """A decimal string; empty, and what is no number of any use, is NaN."""
    return float(text) if text else math.nan


def points_of(replays: Sequence[Facts]) -> Iterator[Point]:
    """Each replayed segment; the initial state is none."""
    for one in replays:
        ends = _ends(one["what"])
        if ends is not None:
            yield Point(*ends, one["outcome"], number(one["rho"]), number(one["tau"]))


def _ends(what: str) -> tuple[int, int] | None:
    """The steps of "steps 10 to 20"; None of anything else."""
    words = what.split(" ")
    if len(words) != 4 or words[0] != "steps" or words[2] != "to":
        return None
    found = [int(word) for word in words[1::2] if word.isascii() and word.isdecimal() and len(word) < 16]
    return (found[0], found[1]) if len(found) == 2 and found[0] <= found[1] else None


def rows_of(replays: Sequence[Facts]) -> Iterator[dict[str, str]]:
    """Rows of the table: segments that follow each other, all exact and picked for one reason, are one row."""

    def key(item: tuple[int, tuple[Facts, tuple[int, int] | None]]) -> Any:
        place, (one, ends) = item
        if ends is None or one["outcome"] != "EXACT":
            return place
        return "exact", tuple(one["picked"])

    ordered = sorted(((one, _ends(one["what"])) for one in replays), key=lambda item: item[1] or (-1, -1))
    for _, items in groupby(enumerate(ordered), key=key):
        group = [item for _, item in items]
        for run in _runs(group):
            one, ends = run[0]
            last = run[-1][1]
            what = one["what"] if ends is None or last is None else f"steps {ends[0]:,} to {last[1]:,}"
            count = f" ({len(run):,} segments)" if len(run) > 1 else ""
            yield {
                "what": what + count,
                "picked": ", ".join(one["picked"]),
                "outcome": OUTCOMES[one["outcome"]],
                "rho": _error(one["rho"]),
                "tau": _error(one["tau"]),
                "reason": one["reason"],
                "tone": {"EXACT": "good", "WITHIN": "good", "REFUTED": "bad"}.get(one["outcome"], "open"),
            }


def _runs(group: list[Any]) -> Iterator[list[Any]]:
    """Stretches without a gap."""
    run: list[Any] = []
    for item in group:
        if run and (item[1] is None or run[-1][1] is None or item[1][0] != run[-1][1][1]):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _error(text: str) -> str:
    value = number(text)
    return "" if math.isnan(value) else "0" if value == 0 else f"{value:.2g}"
