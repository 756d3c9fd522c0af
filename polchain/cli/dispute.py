"""How a ruling between claims is made from the command line, and how it is printed: the word, the sentence, who A and B
are, the time bars side by side, the reasons, what was not checked.

    A  |-------############################|  by 2026-11-23 10:37 UTC, worked
    B  |             -----------------#####|  by 2026-11-23 10:39 UTC, not verified
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.cli import output
from polchain.cli.options import read_task
from polchain.errors import UsageError

if TYPE_CHECKING:
    from polchain.core.salts import DataSecret
    from polchain.verifier.pairs import ModelRuling
    from polchain.verifier.policy import Policy
    from polchain.verifier.priority import Side
    from polchain.verifier.ruling import ClaimFacts, Ruling
    from polchain.verifier.vouching import OwnRecipe

__all__ = ["Settling", "rule", "show_ruling", "time_bars"]

WIDTH = 35
LEGEND = "- may exist already   # is known to exist"
MINUTE = 60
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
    secrets: Mapping[Path, DataSecret]


def rule(asked: Settling, policy: Policy) -> Ruling:
    """Rule between claims."""
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
        secrets=asked.secrets,
    )
    with output.Progress("reading the claims", 1) as progress:

        def show(what: str, done: int, total: int) -> None:
            if what != progress.what:
                progress.begin(what)
            progress.update(done, total)

        return rule_between(case, show)


def show_ruling(ruling: Ruling, *, as_json: bool) -> None:
    """Print a ruling."""
    from polchain.verifier.ruling import joined

    word = output.styled(ruling.word, STYLES.get(ruling.word, "bold yellow"))
    parts = [output.wrapped(ruling.sentence())]
    parts.append(output.fields(row for claim in ruling.claims for row in _who(claim)))
    bars: dict[str, list[str]] = {}
    for model in ruling.models:
        bars.setdefault(time_bars(model), []).append(model.model)
    parts += [f"{output.wrapped(f'when {joined(models)} existed')}\n{text}" for text, models in bars.items()]
    rows = _labelled("because", ruling.reasons())
    for model in ruling.models:
        if len(ruling.claims) > 2:
            ranking = ", ".join(f"{name} ({count})" for name, count in model.ranking)
            rows.append(("ranking", f"{model.model}: {ranking}"))
    more = len(ruling.unchecked) - SHOWN
    rest = [f"and {more} more: --json"] if more > 0 else []
    rows += _labelled("not checked", [*ruling.unchecked[:SHOWN], *rest])
    parts.append(output.fields(rows))
    proofs = dict.fromkeys(claim.proof for claim in ruling.claims if claim.proof)
    parts += [f"two heads of one log that contradict each other:\n\n{proof}" for proof in proofs]
    text = output.sanitise("\n\n".join(parts), lines=True)
    output.answer(ruling.to_json(), f"{word}\n{text}", as_json=as_json)


def time_bars(model: ModelRuling) -> str:
    """When each claim's covering state was made, one line a claim, all on one scale; then what the marks mean."""
    times = [time for side in model.facts.values() for time in _ends(side)]
    # Room on both sides: what is known before anything else is, is known for a while.
    low, high = min(times, default=0), max(times, default=0)
    margin = max((high - low) // 6, 1)
    lines = []
    for name, side in model.facts.items():
        bar = _bar(side, low - margin, high + margin)
        said = _said(side)
        line = f"{name}  |{bar}|  {'; '.join(said)}"
        most = output.width()
        if most is not None and len(line) > most:
            line = "\n".join([f"{name}  |{bar}|", *(output.wrapped("", "   ", f"   {text}") for text in said)])
        lines.append(line)
    return "\n".join([*lines, *([f"    {LEGEND}"] if times else [])])


def _who(claim: ClaimFacts) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [(claim.name, f"{claim.claim}{': fails integrity' if claim.failure else ''}")]
    return [*rows, ("", f"signed by {claim.key}")] if claim.key else rows


def _ends(side: Side) -> list[int]:
    if not side.covers:
        return []
    found = [side.not_before] if side.not_before is not None else []
    return [*found, *([side.evidence.high] if side.evidence is not None else [])]


def _bar(side: Side, low: int, high: int) -> str:
    """Blank where it cannot have existed, `-` where it may have, `#` from where it is known to have."""
    if not side.covers:
        return " " * WIDTH

    def place(time: int) -> int:
        return round((time - low) / (high - low) * (WIDTH - 1))

    first = place(side.not_before) if side.not_before is not None else 0
    known = place(side.evidence.high) if side.evidence is not None else WIDTH
    return " " * first + "-" * (known - first) + "#" * (WIDTH - max(known, first))


def _said(side: Side) -> list[str]:
    """The dates of a bar in words, then whether the work holds."""
    from polchain.anchors.interval import clock

    if not side.covers:
        return ["does not have it"]
    work = "worked" if side.worked else "not verified"
    known = side.evidence
    # No more precisely than the source knows it, and true all the same.
    last = f"by {clock(known.high, (known.high - known.low) // 2, True)}" if known is not None else "no final date"
    first = [f"not before {clock(side.not_before, MINUTE, False)}"] if side.not_before is not None else []
    return [*first, f"{last}, {work}"]


def _labelled(label: str, lines: Sequence[object]) -> list[tuple[str, object]]:
    return [(label if number == 0 else "", line) for number, line in enumerate(lines)]
