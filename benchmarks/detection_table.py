"""The table of detection, from what `benchmarks.detection` found; no torch, no training.

    benchmarks/results/detection.jsonl    a line for each forger and seed, and for each honest claim
    docs/detection.md                     the table, between its markers

Lines count together only where they were made by the same polchain: each says the digest of its source. The table is
made of the newest. No share stands without the number that it is a share of; bounds are one-sided, at 95 % (`chance`).
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chance import upper_bound
from polchain.core.digest import Digest, blake3

__all__ = [
    "DOES_NOT_APPLY", "FORGERS", "HONEST", "LARGE", "LARGE_MARKS", "LARGE_RESULTS", "MARKS", "RESULTS",
    "on_page", "read", "report", "report_large", "source_digest", "write_page",
]  # fmt: skip

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "detection.jsonl"
PAGE = ROOT / "docs" / "detection.md"
MARKS = "<!-- detection: made by `make bench-detection` -->", "<!-- /detection -->"
NOTHING = "Nothing has been measured in this tree yet: `make bench-detection` does it."
PASSING = ("VERIFIED", "CONSISTENT")

EXACT = ("honest SGD", "honest Adam", "honest, a checkpoint each step", "honest, a giant segment among tiny ones")
CALIBRATED = ("honest SGD, calibrated", "honest Adam, calibrated")
HONEST = EXACT + CALIBRATED
# The rows of the design's section 8 that luck has a part in, in its order; then those that no list has.
FORGERS = (
    "rank-matched init",
    "interpolation",
    "infinitesimal updates",
    "blindfold top-Q",
    "a tenth of the steps forged",
    "giant segment",
    "glue",
    "splice",
    "last jump",
    "adversarial batches",
    "data forging",
    "data subtraction",
    "state injection, SGD",
    "state injection, Adam",
    "moments within tolerance",
    "planted in the loss",
    "planted in the init",
    "planted in the data",
    "planted in the optimizer",
    "planted in the session",
    "re-signed copy",
    "visit",
    "relayed momentum",
    "withheld state",
    "half the steps at twice the rate",
    "bfloat16 for fp32",
)

# Victims of a size that is stolen, with what cannot be tried on them, and why.
LARGE = {
    "resnet20": "ResNet-20 on the digits: 269,434 weights",
    "gpt": "The small GPT: 834,304 weights",
}
DOES_NOT_APPLY = {
    "resnet20": {"state injection, Adam": "the recipe has SGD"},
    "gpt": {
        "state injection, SGD": "the recipe has AdamW",
        "data forging": "a byte has no gradient; batches are searched instead",
    },
}
LARGE_RESULTS = ROOT / "benchmarks" / "results" / "detection_large.jsonl"
LARGE_MARKS = "<!-- detection-large: made by `make bench-detection` -->", "<!-- /detection-large -->"
LARGE_HONEST = ("honest", "honest, a checkpoint each step")
HEAD = (
    "| forger | published check | parameters only, exact | polchain | by which check | cost | way left |",
    "|---|---|---|---|---|---|---|",
)

Record = dict[str, Any]


def source_digest(root: Path = ROOT) -> Digest:
    """The digest of polchain's own files: path, length, bytes of each, in the order of their paths."""
    parts: list[bytes] = []
    for path in sorted((root / "polchain").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            data = path.read_bytes()
            parts += [f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode(), data]
    return blake3(b"".join(parts))


def read(path: Path = RESULTS) -> list[Record]:
    """Every line; one that a crash cut short is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def newest(found: Sequence[Record]) -> list[Record]:
    """The lines of the source that the last one was made with."""
    return [item for item in found if item["source"] == found[-1]["source"]] if found else []


def report(found: Sequence[Record]) -> str:
    """The table and what follows from it, as Markdown, of the newest lines."""
    items = newest(found)
    if not items:
        return NOTHING
    by_name: dict[str, list[Record]] = {}
    for item in sorted(items, key=lambda item: int(item["seed"])):
        by_name.setdefault(item["forger"], []).append(item)
    rows = [
        *HEAD,
        *(_row(name, by_name[name]) for name in FORGERS if name in by_name),
    ]
    return "\n".join([*rows, "", *_forgers(by_name), *_honest(by_name), "", _made_with(items)])


def report_large(found: Sequence[Record]) -> str:
    """The same for the victims of a size: a table each, honest claims below the forgers."""
    items = newest(found)
    if not items:
        return NOTHING
    by_name: dict[str, list[Record]] = {}
    for item in sorted(items, key=lambda item: int(item["seed"])):
        by_name.setdefault(item["forger"], []).append(item)
    lines = []
    for victim, title in LARGE.items():
        lines += [f"### {title}", "", *HEAD]
        forged: list[Record] = []
        for name in FORGERS:
            some = by_name.get(f"{victim}: {name}", [])
            if name in DOES_NOT_APPLY[victim]:
                lines.append(f"| {name} | does not apply: {DOES_NOT_APPLY[victim][name]} | | | | | |")
            else:
                lines.append(_row(name, some) if some else f"| {name} | not tried yet | | | | | |")
            forged += some
        lines += [_row(name, by_name[f"{victim}: {name}"]) for name in LARGE_HONEST if f"{victim}: {name}" in by_name]
        through = sum(item["polchain"] in PASSING for item in forged)
        lines += ["", f"VERIFIED or CONSISTENT: {through} of {len(forged)} forgeries.", ""]
    return "\n".join([*lines, _made_with(items)])


def on_page(marks: tuple[str, str] = MARKS, page: Path = PAGE) -> str:
    """What stands between these marks of the page."""
    return page.read_text().partition(marks[0])[2].partition(marks[1])[0].strip()


def write_page(text: str, marks: tuple[str, str] = MARKS, page: Path = PAGE) -> None:
    """Put a text between these marks of the page."""
    before, begin, rest = page.read_text().partition(marks[0])
    _, end, after = rest.partition(marks[1])
    assert begin, f"{page} has no {marks[0]}"
    assert end, f"{page} has no {marks[1]}"
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _row(name: str, items: Sequence[Record]) -> str:
    n = len(items)
    published = Counter(_published(item) for item in items)
    said = Counter(item["polchain"] for item in items)
    cells = [
        name,
        _shares(published, n, "accepted"),
        _shares(Counter("accepted" if item["exact"] else "refused" for item in items), n, "accepted"),
        _shares(said, n),
        _shares(Counter(item["by"] for item in items if item["by"]), n),
        f"{statistics.median(item['cpu'] / item['honest_cpu'] for item in items):.2g}",
        f"{statistics.median(item['left'] for item in items):.2g}",
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _shares(counts: Counter[str], n: int, first: str = "") -> str:
    """How often each of these came about; `first` is named first."""
    ordered = sorted(counts.items(), key=lambda pair: (pair[0] != first, -pair[1], pair[0]))
    return "; ".join(f"{name}, {k} of {n}" for name, k in ordered)


def _forgers(by_name: dict[str, list[Record]]) -> list[str]:
    items = {name: by_name.get(name, []) for name in FORGERS}
    through = sum(item["polchain"] in PASSING for some in items.values() for item in some)
    fewest = min(len(some) for some in items.values())
    done = [len(some) for some in items.values() if some]
    lines = [
        f"VERIFIED or CONSISTENT: {through} of {sum(done)} forgeries"
        + (f", over {len(items)} forgers of {fewest} seeds each at least." if fewest else ".")
    ]
    if fewest and not through:
        lines.append(f"For each forger alone, 0 of {fewest} leaves at most {_percent(upper_bound(0, fewest))}.")
    missing = [name for name, some in items.items() if not some]
    if missing:
        lines.append(f"Not tried yet: {', '.join(missing)}.")
    return lines


def _honest(by_name: dict[str, list[Record]]) -> list[str]:
    if not any(name in by_name for name in HONEST):
        return ["No honest claim was tried yet."]
    exact = _compared(by_name, EXACT, "compared exactly", "not equal")
    return exact + _compared(by_name, CALIBRATED, "two threads verified with one, calibrated", "not within tau")


def _compared(by_name: dict[str, list[Record]], names: Sequence[str], how: str, missed: str) -> list[str]:
    groups = [(name, by_name[name]) for name in names if name in by_name]
    items = [item for _, some in groups for item in some]
    if not items:
        return []

    def line(what: str, events: int, n: int) -> str:
        return f"| {what} | {events} of {n} | {_percent(upper_bound(events, n))} |"

    lines = ["", f"| honest, {how} | refused | at most, 95 % |", "|---|---|---|"]
    lines.append(line("claims REFUTED", sum(item["polchain"] == "REFUTED" for item in items), len(items)))
    passing = "VERIFIED" if names is EXACT else "VERIFIED or CONSISTENT"
    lines.append(line(f"claims not {passing}", _unverified(items), len(items)))
    lines += [line(f"of these: {name}", _unverified(some), len(some)) for name, some in groups]
    for when in ("early", "later"):
        good, n = (sum(item[when][part] for item in items) for part in (0, 1))
        words = "in the first third of training" if when == "early" else "after it"
        lines.append(line(f"replayed segments that are {missed}, {words}", n - good, n))
    lines.append(
        line("claims that the published check refuses", sum(i["published"] != "accepted" for i in items), len(items))
    )
    return lines


def _published(item: Record) -> str:
    return "accepted" if item["published"] == "accepted" else f"refused ({item['published']})"


def _unverified(items: Iterable[Record]) -> int:
    return sum(item["polchain"] not in PASSING for item in items)


def _made_with(items: Sequence[Record]) -> str:
    torches = ", ".join(sorted({item["torch"] for item in items}))
    pythons = ", ".join(sorted({item["python"] for item in items}))
    hours = sum(item["seconds"] for item in items) / 3600
    rooms = ", ".join(sorted({item["sandbox"] for item in items} - {""}))
    return (
        f"{len(items)} lines; torch {torches}; Python {pythons}; sandbox: {rooms}; {hours:.2g} CPU hours in all; "
        f"source of polchain `{items[-1]['source'][:23]}`."
    )


def _percent(share: float) -> str:
    """Rounded up, so that it stays a bound."""
    return f"{math.ceil(share * 1000 - 1e-9) / 10:g} %"
