"""What a certificate's page shows: its facts -> plain values for the template. Nothing here is HTML but the plots.

Everything follows from the facts alone, so that the page can be made again from the facts that it holds.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

from polchain.anchors.interval import clock
from polchain.errors import FormatError
from polchain.verifier import figures
from polchain.verifier.checks import checks_of
from polchain.verifier.figures import Bar, Mark
from polchain.verifier.repeat import commands, demands, digests, percent
from polchain.verifier.replayed import number, points_of, rows_of

__all__ = ["Room", "view_of"]

GOOD: Final = ("VERIFIED", "CONSISTENT", "PROVEN", "EARLIER", "DESCENDS", "CONTINUES", "INDEPENDENT")
BAD: Final = ("REFUTED", "CONVICTED", "EQUIVOCATION")
LANES: Final = 6
MARKS: Final = 400  # in the plot of times; of more every n-th
ROWS: Final = 200
Facts = Mapping[str, Any]


class Room:
    """How many bytes a page may still have: a stranger's facts could ask for more than anybody can wait for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit

    def take(self, text: str) -> str:
        """The same text.

        Raises:
            FormatError: there is no room for it.
        """
        self.left -= len(text.encode())
        if self.left < 0:
            raise FormatError(f"the certificate would be over {self.limit} bytes")
        return text


def view_of(facts: Facts, room: Room) -> dict[str, Any]:
    """The values that the template lays out.

    Raises:
        FormatError: the plots alone are more than there is room for.
    """
    result, ruling = facts["result"], facts["kind"] == "ruling"
    word = result["ruling"] if ruling else result["verdict"]
    sentence, reasons = (result["sentence"], result["reasons"]) if ruling else _sentence(result["reasons"])
    verdicts = [one["verdicts"] for one in result["claims"]] if ruling else [[result]]
    failures = [one["failure"] for one in result["claims"]] if ruling else [""]
    forked = [bool(one["proof"]) for one in result["claims"]] if ruling else [False]
    parties = zip(facts["claims"], verdicts, failures, forked, strict=True)
    claims = [_claim(claim, mine, failure, ruling, fork, room) for claim, mine, failure, fork in parties]
    intact = [claim for claim in facts["claims"] if claim["intact"]]
    return {
        "ruling": ruling,
        "word": word,
        "tone": _tone(word, ruling),
        "sentence": sentence,
        "reasons": reasons,
        "claims": claims,
        "timeline": _timeline(intact, ruling),
        "models": result["models"] if ruling else [],
        "facts": [_sides(model) for model in result["models"]] if ruling else [],
        "tasks": result["task"] if ruling else [],
        "proofs": sorted({one["proof"] for one in result["claims"] if one["proof"]}) if ruling else [],
        "programs": _programs(intact, ruling),
        "unproved": list(result["not_checked"] if ruling else result["remarks"]),
        "made": list(_made(facts)),
        "sandboxes": sorted({one["sandbox"] for many in verdicts for one in many if one["sandbox"]}),
        "seconds": f"{sum(number(r['seconds']) for many in verdicts for one in many for r in one['replays']):.1f}",
        "commands": commands(facts),
        "demands": demands(facts),
        "digests": list(digests(facts)),
    }


def _made(facts: Facts) -> Iterator[tuple[str, str]]:
    made = facts["made"]
    yield "made", clock(made["at"], 60, False)
    for claim, file in zip(facts["claims"], made["claims"], strict=True):
        yield f"file of claim {claim['name']}" if facts["kind"] == "ruling" else "file of the claim", file
    if made["model"]:
        yield "file of the weights", made["model"]
    yield from made["versions"].items()


def _tone(word: str, ruling: bool) -> str:
    if word in GOOD:
        return "good"
    return "bad" if word in BAD else "open"


def _sentence(reasons: Sequence[str]) -> tuple[str, list[str]]:
    return (reasons[0] if reasons else "no reason is given", list(reasons[1:]))


def _claim(
    claim: Facts, verdicts: Sequence[Facts], failure: str, ruling: bool, forked: bool, room: Room
) -> dict[str, Any]:
    name = claim["name"] if ruling else ""
    if not claim["intact"]:
        return {"name": name, "intact": False, "checks": checks_of(claim, None, failure), "works": []}
    checks = checks_of(claim, verdicts[-1] if verdicts else None, forked=forked)
    return {
        "name": name,
        "intact": True,
        "who": list(_who(claim)),
        "what": list(_what(claim)),
        "spans": [
            (_steps(span), _bound(span["not_before"], False), _bound(span["not_after"], True))
            for span in claim["times"]["intervals"]
        ],
        "checks": checks,
        "works": [_work(claim, verdict, f"{claim['name'].lower()}{n}", room) for n, verdict in enumerate(verdicts)],
    }


def _who(claim: Facts) -> Iterator[tuple[str, str]]:
    yield "key", claim["key"]
    told = "known to the verifier from elsewhere" if claim["pinned"] else "only the claim itself names it: not pinned"
    yield "whose key", told
    if "address" in claim:
        yield "Ethereum address", claim["address"]
    if claim["key_changes"]:
        yield "key changes", str(claim["key_changes"])
    yield "log", claim["origin"]


def _what(claim: Facts) -> Iterator[tuple[str, str]]:
    last = "" if claim["final"] else ", without a final entry"
    yield "log", f"{claim['head']['size']:,} entries, {claim['steps']:,} steps, {claim['states']:,} states{last}"
    recipe, config = claim["recipe"], claim.get("configuration")
    if recipe:
        form = "module" if recipe["module"] else "script"
        yield form, shlex.join([recipe["entry"], *recipe["arguments"]])
    else:
        yield "recipe", "none: the run's loop was not polchain's"
    if "dataset" in claim:
        yield "data", f"{claim['dataset']['samples']:,} samples"
    if config is not None:
        every = ", ".join("-".join(f"{n:,}" for n in pair[1:]) for pair in config["interval"][:8])
        yield (
            "configuration",
            f"batches of {config['batch_size']:,}, {config['precision']}, a state every {every} steps",
        )
    if claim["fingerprint"]:
        said = ", ".join(f"{key} {value}" for key, value in claim["fingerprint"].items() if value)
        yield "machine, as the claim says", said


def _steps(span: Facts) -> str:
    first, last = span["first_step"], span["last_step"]
    return f"{first:,} to {last:,}" if first != last else f"{first:,}"


def _bound(bound: Facts, up: bool) -> str:
    if "time" not in bound:
        return str(bound["status"])
    weak = f"; weak: {', '.join(bound['weak'])}" if bound.get("weak") else ""
    when = clock(bound["time"], bound.get("margin", 0), up)
    return f"{when}, {bound.get('source', '')}, {bound['status']}{weak}"


def _shown_time(evidence: Facts) -> int | None:
    """A time that a plot can show, from 1970 to 9999: an unchecked one may be anything."""
    time = evidence.get("time")
    return time if time is not None and 0 <= time < 253_402_300_800 else None


def _timeline(claims: Sequence[Facts], ruling: bool) -> Markup | None:
    bars: list[Bar] = []
    marks: list[Mark] = []
    for claim in claims:
        times, start = claim["times"], len(bars)
        ends = ("not_before", "not_after")
        spans = [span for span in times["intervals"] if any(_shown_time(span[end]) is not None for end in ends)]
        spans = [*spans[: LANES - 1], *spans[LANES - 1 :][-1:]]
        who = f"{claim['name']}: " if ruling else ""
        for span in spans:
            label = f"{who}{'step' if span['first_step'] == span['last_step'] else 'steps'} {_steps(span)}"
            bars.append(Bar(label, _shown_time(span["not_before"]), _shown_time(span["not_after"])))
        if not spans:
            continue
        for anchor in times["anchors"]:
            if _shown_time(anchor) is not None:
                covered = [n for n, span in enumerate(spans) if span["first_step"] <= anchor.get("step", 0)]
                marks.append(Mark(start + (covered[-1] if covered else 0), anchor["time"], anchor["status"] == "final"))
        beacon = times.get("beacon")
        if beacon is not None and _shown_time(beacon) is not None:
            lane = next((n for n, span in enumerate(spans) if "time" in span["not_before"]), 0)
            marks.append(Mark(start + lane, beacon["time"], beacon["status"] == "final", beacon=True))
    marks = marks[:: -(-len(marks) // MARKS) or 1]
    return Markup(figures.timeline(bars, marks, "time")) if bars else None


def _work(claim: Facts, verdict: Facts, name: str, room: Room) -> dict[str, Any]:
    points = list(points_of(verdict["replays"]))
    shown = claim["checkpoints"]
    losses, updates = ([number(text) for text in shown[key]] for key in ("losses", "updates"))
    sentence, reasons = _sentence(verdict["reasons"])
    plots = []
    kinds = (("mean loss", "loss", losses, False), ("size of the update", "update", updates, True))
    for title, key, values, log in kinds:
        if any(math.isfinite(value) for value in values):
            curve = figures.curve(shown["steps"], values, points, f"{name}-{key}", log=log)
            plots.append((title, Markup(room.take(curve))))
    replays = list(rows_of(verdict["replays"]))
    return {
        "word": verdict["verdict"],
        "tone": _tone(verdict["verdict"], False),
        "sentence": sentence,
        "reasons": reasons,
        "until": verdict.get("last_step", verdict["steps"]),
        "plots": plots,
        "every": shown["every"],
        "errors": Markup(room.take(figures.errors(points, f"{name}-errors"))) if points else None,
        "replays": replays[:ROWS],
        "more": len(replays) - ROWS,
        "bound": verdict["bound"],
        "percent": {key: percent(verdict["bound"][key]) for key in ("fraction", "confidence", "escape", "supported")},
        "steps": verdict["steps"],
        "swap": verdict["swap"]["sentence"],
        "calibration": verdict.get("calibration"),
    }


def _sides(model: Facts) -> list[dict[str, str]]:
    rows = []
    for side in model["claims"]:
        covered = "yes" if side["covers"] else "no"
        covered += f", at step {side['step']:,}" if side["covers"] and "step" in side else ""
        if side.get("distance", "0.0") not in ("0.0", ""):
            covered += f", within {number(side['distance']):.2g}"
        high, low = side["evidence"].get("high"), side.get("not_before")
        rows.append(
            {
                "claim": side["claim"],
                "covers": covered,
                "worked": "yes" if side["worked"] else "not verified",
                "from": clock(low, 60, False) if low is not None else "unknown",
                "until": clock(high, 60, True) if high is not None else "no final evidence",
            }
        )
    return rows


def _programs(claims: Sequence[Facts], ruling: bool) -> list[dict[str, Any]]:
    """Each recipe's text once, with the claims that ran it."""
    found: dict[str, dict[str, Any]] = {}
    for claim in claims:
        recipe = claim["recipe"]
        if recipe:
            new = {"program": recipe["program"], "files": recipe["files"], "of": []}
            one = found.setdefault(recipe["program"], new)
            one["of"].append(claim["name"] if ruling else "")
    return list(found.values())
