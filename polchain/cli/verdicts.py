"""How verdicts are printed: the word, what it rests on, when the log was written, what was not checked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.cli import output
from polchain.cli.listing import program_text

if TYPE_CHECKING:
    from polchain.verifier.integrity import IntactClaim
    from polchain.verifier.replay import Reproduction
    from polchain.verifier.times import Times
    from polchain.verifier.verdict import Verdict

__all__ = ["show_intact", "show_verdict", "time_rows"]

STYLES = {"VERIFIED": "bold green", "CONSISTENT": "bold green", "REFUTED": "bold red"}
SHOWN = 6


def show_intact(intact: IntactClaim, times: Times, target: Path, *, as_json: bool) -> None:
    """Print what integrity and time say, without replay."""
    key = str(intact.genesis.key)
    pinned = "pinned" if intact.pinned else "not pinned: it is the key that the claim itself names"
    tensors, rows_of = (
        sum(name.startswith(kind) for name in intact.claim.files) for kind in ("checkpoints/", "manifests/")
    )
    points = output.count(len(intact.checkpoints), "checkpoint")
    rows: list[tuple[str, object]] = [
        ("claim", target),
        ("log", intact.head.origin),
        ("size", f"{output.count(intact.head.size, 'entry')}, {output.count(intact.steps, 'step')}"),
        ("key", f"{key} ({pinned})"),
        ("disclosed", f"tensors of {output.count(tensors, 'state')}, rows of {rows_of:,}, of {points} in the log"),
        *time_rows(times),
        *_labelled("missing", times.missing),
        *_labelled("not checked", ("that the training was done (nothing was replayed)", *times.remarks)),
    ]
    data = {
        "verdict": "INTACT",
        "origin": intact.head.origin,
        "entries": intact.head.size,
        "steps": intact.steps,
        "key": key,
        "key_pinned": intact.pinned,
        "disclosed": {"tensors": tensors, "rows": rows_of},
        "remarks": [*times.remarks, *times.forks],
        **times.to_json(),
    }
    output.answer(data, f"{output.styled('INTACT', 'bold')}\n\n{output.fields(rows)}", as_json=as_json)


def show_verdict(verdict: Verdict, intact: IntactClaim, target: Path, *, as_json: bool) -> None:
    """Print a verdict: the word, what it means, what it rests on, what was not checked."""
    from polchain.verifier.verdict import MEANING

    word = verdict.outcome.value
    recipe = intact.genesis.recipe
    replays = [item for item in verdict.reproductions if item.pick is not None]
    exact = sum(1 for item in replays if item.outcome.name == "EXACT")
    rows: list[tuple[str, object]] = _labelled("because", verdict.reasons)
    rows += [
        ("claim", target),
        ("log", verdict.origin),
        ("size", f"{output.count(verdict.entries, 'entry')}, {output.count(verdict.steps, 'step')}"),
        *([("last state", f"{verdict.last_state} at step {verdict.steps}")] if verdict.last_state is not None else []),
        ("key", f"{verdict.key} ({'pinned' if verdict.pinned else 'not pinned'})"),
    ]
    if recipe is not None:
        words = " ".join([recipe.entry, *recipe.arguments])
        rows.append(("recipe", f"{words} ({'vouched' if verdict.vouched else 'not vouched'})"))
        rows.append(("", verdict.program))
    if replays and intact.genesis.dataset is not None:
        rows.append(
            (
                "data",
                f"{output.count(intact.genesis.dataset.samples, 'sample')}, {intact.genesis.dataset.root}"
                + (", private: salted" if intact.genesis.dataset.salts is not None else ""),
            )
        )
    if replays:
        seconds = sum(item.seconds for item in verdict.reproductions)
        picked = len(verdict.challenge.picks) if verdict.challenge is not None else 0
        if word == "REFUTED" and len(replays) < picked:
            done = f"{len(replays)} of {picked} picked segments, in {seconds:.1f} s: stopped at the first contradiction"
        else:
            close = sum(1 for item in replays if item.outcome.name == "WITHIN")
            both = f"exactly, {close} within tau" if close else "exactly"
            done = f"{exact} of {picked} picked segments {both}, in {seconds:.1f} s"
        earlier = sum(item.earlier for item in replays)
        rows.append(("replayed", f"{done}; {earlier} of them in an earlier sitting" if earlier else done))
        if word != "REFUTED":
            rows += _bound_rows(verdict)
    if verdict.road is not None:
        rows.append(("calibration", verdict.road))
        worst = max((item for item in replays if item.outcome.name == "WITHIN"), key=_of_tau, default=None)
        if worst is not None:
            used = f"rho {worst.rho:.2g}, of tau {worst.tau:.2g}; honest up to {worst.noise:.2g}"
            rows.append(("tolerated", f"{worst.name}: {used}, and less in the others"))
    if verdict.sandbox:
        rows.append(("sandbox", verdict.sandbox))
    if verdict.challenge is not None:
        rows.append(("redraw", f"--seed {verdict.challenge.seed.hex()}"))
    if verdict.times is not None:
        rows += time_rows(verdict.times)
    said = verdict.times.forks if verdict.times is not None else ()
    rows += _labelled("not checked", [remark for remark in verdict.remarks if remark not in said])
    text = f"{output.styled(word, STYLES.get(word, 'bold yellow'))}\n{MEANING}\n\n{output.fields(rows)}"
    if recipe is not None and not verdict.vouched:
        text += "\n\n" + program_text(intact.recipe)
    output.answer({**verdict.to_json(), "claim": str(target)}, text, as_json=as_json)


def _of_tau(item: Reproduction) -> float:
    """How much of what is tolerated a segment uses."""
    return item.rho / item.tau if item.tau > 0 else 0.0


def _bound_rows(verdict: Verdict) -> list[tuple[str, object]]:
    """What the sample proves, and what was looked at besides."""
    bound = verdict.bound
    rows: list[tuple[str, object]] = [("bound", bound)]
    if verdict.challenge is not None and verdict.challenge.budget is not None and verdict.steps:
        spent, most = 100 * verdict.challenge.cost / verdict.steps, 100 * verdict.challenge.budget
        rows.append(("budget", f"{spent:.3g} % of the steps, of at most {most:g} %: {bound.support}"))
    rows.append(("swap", verdict.swap))
    flags = [f"{what}: {reason}" for what, reason in verdict.flags]
    more = [f"and {len(flags) - SHOWN} more: --json"] if len(flags) > SHOWN else []
    rows += _labelled("screens", [*flags[:SHOWN], *more])
    found: dict[str, list[str]] = {}
    for item in verdict.behaviour:
        said = item.finding.value + (f": {item.reason}" if item.reason else "")
        found.setdefault(said, []).append(item.test)
    return rows + _labelled("behaviour", [f"{', '.join(tests)}: {said}" for said, tests in found.items()])


def time_rows(times: Times) -> list[tuple[str, object]]:
    """When the log was written: a line for each span of steps, as many as one reads; then what else was published."""
    lines = [str(span) for span in times.spans[:SHOWN]]
    if len(times.spans) > SHOWN:
        lines.append(f"and {len(times.spans) - SHOWN} more: --json")
    return [*_labelled("time", lines), *_labelled("forks", times.forks)]


def _labelled(label: str, lines: Iterable[object]) -> list[tuple[str, object]]:
    """Rows of which the first alone is named."""
    return [(label if number == 0 else "", line) for number, line in enumerate(lines)]
