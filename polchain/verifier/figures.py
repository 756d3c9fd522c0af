"""Plots of a certificate, as inline SVG by matplotlib: numbers, and words of polchain's own; no text of a claim.

The page's style sheet colours them, so that they follow light, dark and print: what is drawn in one of the INKS below
leaves here as a class. No element has a style of its own, and the same numbers give the same text.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any, Final
from xml.etree import ElementTree

__all__ = ["Bar", "Mark", "Point", "curve", "errors", "timeline"]

INKS: Final = {
    "#010101": "ink",
    "#020202": "soft",
    "#030303": "line",
    "#040404": "good",
    "#050505": "near",
    "#060606": "bad",
    "#070707": "open",
    "#080808": "bar",
}
INK, SOFT, LINE, GOOD, NEAR, BAD, OPEN, BAR = INKS
OUTCOMES: Final = {"EXACT": GOOD, "WITHIN": NEAR, "REFUTED": BAD, "INCONCLUSIVE": OPEN}
MARKS: Final = {"EXACT": "o", "WITHIN": "s", "REFUTED": "X", "INCONCLUSIVE": "D"}
WIDTH: Final = 4.6  # inches, of 72 units
LEAST: Final = 1e-10
MOST: Final = 400  # of one kind in a plot
_STYLE: Final = re.compile(r"([a-z-]+)\s*:\s*([^;]+)")
_SIZE: Final = re.compile(r"([0-9.]+)px")


@dataclass(frozen=True, slots=True)
class Point:
    """One replayed segment: its first step, the step after its last, what came of it, rho and tau (NaN for none)."""

    first: int
    last: int
    outcome: str
    rho: float
    tau: float


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval of states on the time axis: a label, not before, not after; None where there is no such bound."""

    label: str
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class Mark:
    """Evidence on the time axis: which bar's lane, when, whether it is final, and whether it is a beacon."""

    lane: int
    time: int
    final: bool
    beacon: bool = False


def timeline(bars: Sequence[Bar], marks: Sequence[Mark], name: str) -> str:
    """Intervals and evidence on one scale of time (UTC), a lane for each bar."""
    times = [t for bar in bars for t in (bar.low, bar.high) if t is not None] + [mark.time for mark in marks]
    low, high = min(times), max(times)
    room = max((high - low) * 0.08, 60.0)
    with _figure(0.55 + 0.3 * len(bars), left=0.31) as (figure, axes):
        for lane, bar in enumerate(bars):
            first = bar.low if bar.low is not None else low - room
            last = bar.high if bar.high is not None else high + room
            style = "-" if bar.low is not None and bar.high is not None else (0, (1.2, 1.2))
            axes.plot([first, last], [lane, lane], color=BAR, linewidth=5, linestyle=style, solid_capstyle="butt")
        for mark in marks:
            fill = (GOOD if mark.final else "none") if not mark.beacon else SOFT
            axes.plot(
                [mark.time], [mark.lane], marker="^" if mark.beacon else "o", markersize=6.5,
                markerfacecolor=fill, markeredgecolor=SOFT if mark.beacon else GOOD, markeredgewidth=1.4,
            )  # fmt: skip
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.set_xlim(low - room, high + room)
        ticks, labels = _clock_ticks(low, high)
        axes.set_xticks(ticks, labels)
        return _svg(figure, name)


def curve(
    steps: Sequence[int], values: Sequence[float], points: Sequence[Point], name: str, *, log: bool = False
) -> str:
    """A value that the log states at each checkpoint, against the step; replayed segments as marks along the foot."""
    known = [(s, v) for s, v in zip(steps, values, strict=True) if _usable(v) and (not log or v > 0)]
    with _figure(2.1) as (figure, axes):
        axes.plot([s for s, _ in known], [v for _, v in known], color=INK, linewidth=1.3)
        axes.set_xlabel("step")
        if log and known and max(v for _, v in known) > 30 * min(v for _, v in known):
            axes.set_yscale("log")
        _plain(axes)
        for outcome, colour in OUTCOMES.items():
            mine = _stretches([point for point in points if point.outcome == outcome])
            axes.hlines(
                [-0.02] * len(mine), [first for first, _ in mine], [last for _, last in mine],
                color=colour, linewidth=4, transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
        axes.set_xlim(0, max([*steps, *(p.last for p in points), 1]))
        return _svg(figure, name)


def errors(points: Sequence[Point], name: str) -> str:
    """rho of each replayed segment against its step, and what was tolerated; exact ones lie on the lowest line."""
    with _figure(2.1) as (figure, axes):
        for outcome, colour in OUTCOMES.items():
            mine = _some([point for point in points if point.outcome == outcome and not math.isnan(point.rho)])
            axes.plot(
                [(p.first + p.last) / 2 for p in mine], [_height(p.rho) for p in mine], linestyle="none",
                marker=MARKS[outcome], markersize=5, color=colour, clip_on=False,
            )  # fmt: skip
        bounded = _some([point for point in points if _usable(point.tau) and point.tau > 0])
        axes.hlines(
            [_height(p.tau) for p in bounded], [p.first for p in bounded], [p.last for p in bounded],
            color=SOFT, linewidth=1.6,
        )  # fmt: skip
        powers = range(-10, 3, 2)
        axes.set_ylim(-10.4, 2.4)
        axes.set_yticks(powers, ["exact" if p == -10 else "1" if p == 0 else f"1e{p}" for p in powers])
        axes.set_xlabel("step")
        axes.set_xlim(0, max([1, *(p.last for p in points)]))
        return _svg(figure, name)


def _stretches(points: Sequence[Point]) -> list[tuple[int, int]]:
    """The steps that segments cover, those that follow each other as one; as many as a plot can show."""
    found: list[tuple[int, int]] = []
    for first, last in sorted((point.first, point.last) for point in points):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found[:MOST]


def _some(points: Sequence[Point]) -> list[Point]:
    """As many of them as a plot can show, the largest error among them."""
    if len(points) <= MOST:
        return list(points)
    return [*points[:: -(-len(points) // MOST)], max(points, key=lambda point: point.rho)]


def _height(rho: float) -> float:
    """Where a value lies: its power of ten; what is 0 lies lowest, what is larger than the plot highest."""
    if not rho > LEAST:
        return -10.0
    return min(math.log10(rho), 2.0) if math.isfinite(rho) else 2.0


def _usable(value: float) -> bool:
    return math.isfinite(value) and abs(value) < 1e30


@contextmanager
def _figure(height: float, left: float = 0.14) -> Iterator[tuple[Any, Any]]:
    import matplotlib
    from matplotlib.figure import Figure

    # A reader's own matplotlibrc must not decide what a certificate looks like.
    rc = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    with matplotlib.rc_context(rc):
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "font.size": 10,
                "text.color": INK,
                "axes.labelcolor": SOFT,
                "axes.edgecolor": LINE,
                "xtick.color": LINE,
                "ytick.color": LINE,
                "xtick.labelcolor": SOFT,
                "ytick.labelcolor": SOFT,
                "grid.color": LINE,
                "grid.linewidth": 0.5,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.grid.axis": "both",
                "axes.axisbelow": True,
            }
        )
        figure = Figure(figsize=(WIDTH, height))
        figure.patch.set_visible(False)
        bottom = 0.36 / height + (0.1 / height if height > 2 else 0)
        axes = figure.add_axes((left, bottom, 0.97 - left, 0.94 - bottom))
        axes.patch.set_visible(False)
        yield figure, axes


def _plain(axes: Any) -> None:
    """Tick labels as plain numbers: matplotlib's own are mathematics, which readers of text do not read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    number = FuncFormatter(lambda value, _: f"{value:.6g}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(number)
    axes.xaxis.set_major_formatter(number)


def _clock_ticks(low: int, high: int) -> tuple[list[float], list[str]]:
    """Two or three times on the axis, as precise as their distance."""
    count = 3 if high - low >= 2 else 1
    ticks = [low + (high - low) * n / (count - 1) for n in range(count)] if count > 1 else [float(low)]
    span = high - low
    form = (
        "%Y-%m-%d" if span > 30 * 86_400 else "%m-%d %H:%M" if span > 86_400 else "%H:%M:%S" if span < 600 else "%H:%M"
    )
    first = form if form.startswith("%Y") or span > 86_400 else "%Y-%m-%d " + form
    texts = []
    for number, tick in enumerate(ticks):
        moment = datetime.datetime.fromtimestamp(int(tick), datetime.UTC)
        texts.append(moment.strftime(first if number == 0 else form))
    return ticks, texts


def _svg(figure: Any, name: str) -> str:
    """A figure as an element of the page: no style, no metadata, no fixed size; `name` keeps its ids apart."""
    import matplotlib

    written = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # What is parsed here was written by matplotlib a moment ago.
    root = ElementTree.fromstring(written.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(_styled(attributes, name))
        element.text = element.text if element.tag in ("text", "tspan") else None
        element.tail = None
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style", "title"):
                parent.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "plot", "aria-hidden": "true", "focusable": "false", "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _styled(attributes: dict[str, str], name: str) -> dict[str, str]:
    """Attributes with the style turned into attributes and classes, and ids that are this figure's."""
    classes: list[str] = []
    kept: dict[str, str] = {}
    style = dict(_STYLE.findall(attributes.pop("style", "")))
    for key, value in {**attributes, **{k: v.strip() for k, v in style.items()}}.items():
        if value in INKS:
            classes.append(f"{'f' if key == 'fill' else 's'}-{INKS[value]}")
        elif key == "font-family" or (key == "transform" and value.startswith("rotate(-0 ")):
            continue
        elif key == "font":
            size = _SIZE.search(value)
            kept["font-size"] = size[1] if size else "10"
        elif key == "id":
            kept["id"] = f"{name}-{value}"
        elif key == "href":
            kept["href"] = f"#{name}-{value.removeprefix('#')}"
        else:
            kept[key] = value.replace("url(#", f"url(#{name}-")
    if classes:
        kept["class"] = " ".join(dict.fromkeys(classes))
    return kept
