"""How a ruling between claims is made from the command line, and how it is printed: the word, the sentence, the time
bars side by side, the reasons, what was not checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.cli import output
from polchain.cli.options import read_task
from polchain.errors import UsageError

if TYPE_CHECKING:
    from polchain.verifier.pairs import ModelRuling
    from polchain.verifier.policy import Policy
    from polchain.verifier.priority import Side
    from polchain.verifier.ruling import Ruling
    from polchain.verifier.vouching import OwnRecipe

__all__ = ["Settling", "rule", "show_ruling", "time_bars"]

WIDTH = 40
SHOWN = 12
STYLES = {"PROVEN": "bold green", "EARLIER": "bold green", "DESCENDS": "bold green", "CONVICTED": "bold red"}


@dataclass(frozen=True, slots=True)
class Settling:
    """What the command line says of a ruling besides the policy."""

    claims: Sequence[Path]
    model: Path | None
    task: Path | None
    data: Path
    recipe: OwnRecipe | None
    seed: bytes | None
    full: bool
    timeout: float
    jobs: int | None
    threads: int | None
    heads: Mapping[str, bytes]


def rule(asked: Settling, policy: Policy, *, as_json: bool) -> int:
    """Rule between claims and print it; returns the exit code."""
    from polchain.verifier.dispute import Case, rule_between

    if asked.model is not None and asked.task is not None:
        raise UsageError("--model and --task: a task's claims are compared with each other, one of them")
    case = Case(
        claims=tuple(asked.claims),
        policy=policy,
        data=asked.data,
        model=asked.model,
        task=read_task(asked.task) if asked.task is not None else None,
        recipe=asked.recipe,
        seed=asked.seed,
        full=asked.full,
        timeout=asked.timeout,
        jobs=asked.jobs,
        threads=asked.threads,
        heads=asked.heads,
    )
    with output.Progress("ruling", 1, "replays") as progress:
        ruling = rule_between(case, lambda what, done, total: progress.update(done, total))
    show_ruling(ruling, as_json=as_json)
    return ruling.exit_code


def show_ruling(ruling: Ruling, *, as_json: bool) -> None:
    """Print a ruling."""
    rows: list[tuple[str, object]] = []
    for claim in ruling.claims:
        rows.append((claim.name, f"{claim.claim}{': fails integrity' if claim.failure else ''}"))
        if claim.key:
            rows.append(("", f"signed by {claim.key}"))
    rows += _labelled("because", ruling.reasons())
    for model in ruling.models:
        if len(ruling.claims) > 2:
            ranking = ", ".join(f"{name} ({count})" for name, count in model.ranking)
            rows.append(("ranking", f"{model.model}: {ranking}"))
    more = len(ruling.unchecked) - SHOWN
    rest = [f"and {more} more: --json"] if more > 0 else []
    rows += _labelled("not checked", [*ruling.unchecked[:SHOWN], *rest])
    parts = [f"{output.styled(ruling.word, STYLES.get(ruling.word, 'bold yellow'))}\n{ruling.sentence()}"]
    parts += [f"{model.model}\n{time_bars(model)}" for model in ruling.models]
    parts.append(output.fields(rows))
    proofs = dict.fromkeys(claim.proof for claim in ruling.claims if claim.proof)
    parts += [f"two heads of one log that contradict each other:\n\n{proof}" for proof in proofs]
    output.answer(ruling.to_json(), output.sanitise("\n\n".join(parts), lines=True), as_json=as_json)


def time_bars(model: ModelRuling) -> str:
    """When each claim's covering state was made, one line a claim, all on one scale."""
    times = [time for side in model.facts.values() for time in _ends(side)]
    low, high = min(times, default=0), max(times, default=0)
    lines = []
    for name, side in model.facts.items():
        bar = _bar(side, low, high) if _ends(side) else " " * WIDTH
        lines.append(f"{name}  |{bar}|  {_said(side)}")
    return "\n".join(lines)


def _ends(side: Side) -> list[int]:
    if not side.covers:
        return []
    found = [side.not_before] if side.not_before is not None else []
    return [*found, *([side.evidence.high] if side.evidence is not None else [])]


def _bar(side: Side, low: int, high: int) -> str:
    """`[` not before, `#` not after; `<` or `>` where one end is not known."""

    def place(time: int) -> int:
        return round((time - low) / (high - low) * (WIDTH - 1)) if high > low else 0

    first = place(side.not_before) if side.not_before is not None else 0
    last = place(side.evidence.high) if side.evidence is not None else WIDTH - 1
    cells = ["-"] * WIDTH
    cells[first : last + 1] = "=" * (last + 1 - first)
    cells[first] = "[" if side.not_before is not None else "<"
    cells[last] = "#" if side.evidence is not None else ">"
    return "".join(cells)


def _said(side: Side) -> str:
    if not side.covers:
        return "does not cover it"
    first = f"not before {_clock(side.not_before, up=False)}" if side.not_before is not None else "not before unknown"
    last = f"not after {_clock(side.evidence.high, up=True)}" if side.evidence is not None else "no final evidence"
    return f"{first}; {last}; {'worked' if side.worked else 'work not verified'}"


def _clock(time: int, *, up: bool) -> str:
    from polchain.anchors.interval import clock

    return clock(time, 60, up)


def _labelled(label: str, lines: Sequence[object]) -> list[tuple[str, object]]:
    return [(label if number == 0 else "", line) for number, line in enumerate(lines)]
