"""How often forgeries of a share of the steps escape the draw, over runs that were really recorded.

    python -m benchmarks.escape [--trials 4000] [--table]

Runs of the digits are recorded under several schedules, and challenges to them drawn as `verify` draws them, with
thousands of seeds; nothing is replayed. In each trial a forger, who does not know the seed, picks steps to forge:

    in one piece     so many steps, one after the other, from anywhere
    scattered        so many steps, anywhere
    the longest      all steps of the longest segment, where it holds more than 5 % of them

He is caught where the challenge holds a segment with one of them. Each is counted twice: by the drawn segments alone,
and with what is always replayed besides. The bound is `soundness.escape_probability` of the share of the steps.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.chance import at_least
from benchmarks.detection_table import on_page, write_page
from polchain.core.claim import Claim
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.soundness import escape_probability
from polchain.verifier.survey import Survey, survey
from tests.claims import DIGITS, record

__all__ = ["MARKS", "RESULTS", "Escape", "measure", "read", "report", "within"]

RESULTS = Path(__file__).parent / "results" / "escape.json"
MARKS = "<!-- escape: made by `python -m benchmarks.escape` -->", "<!-- /escape -->"
NOTHING = "Nothing has been measured in this tree yet: `python -m benchmarks.escape` does it."
SCHEDULES = {
    "a checkpoint each step, 400": ("--steps", "400", "--every", "1"),
    "every 5 of 600": ("--steps", "600", "--every", "5"),
    "dense first: 1, then 5, then 8, of 900": ("--steps", "900", "--every", "0:1,60:5,300:8"),
    "a giant of 120 among single steps, 400": ("--steps", "400", "--every", "0:1,100:120,220:1"),
    "12 segments of 5": ("--steps", "60", "--every", "5"),
}
LONGEST = "the longest segment"
SHARES = (0.01, 0.02, 0.05, 0.1, 0.3)
DRAWS = (10, 30, 90)
SHOWN, SHOWN_DRAWS = 0.05, (30, 90)
# So improbable must more escapes than counted be under the bound, in any row, before the bound is called broken.
ALARM = 1e-6


@dataclass(frozen=True)
class Escape:
    """How often forgeries of one kind escaped.

    Attributes:
        run: the schedule.
        how: where the forged steps lay.
        forged, steps: forged steps, and steps of the run.
        draws: r.
        trials: forgeries, each against a challenge of its own.
        drawn: how many of them escaped the drawn segments.
        picked: how many escaped the always replayed segments too.
    """

    run: str
    how: str
    forged: int
    steps: int
    draws: int
    trials: int
    drawn: int
    picked: int

    @property
    def share(self) -> float:
        """The forged share of the steps."""
        return self.forged / self.steps

    @property
    def bound(self) -> float:
        """What the theorem allows."""
        return escape_probability(self.share, self.draws)


def within(item: Escape) -> bool:
    """Whether what was counted is not improbable under the bound: neither with nor without the fixed picks."""
    return all(at_least(k, item.trials, item.bound) >= ALARM for k in (item.drawn, item.picked))


def measure(run: str, intact: IntactClaim, seen: Survey | None, trials: int, source: random.Random) -> list[Escape]:
    """Draw `trials` challenges to a run, and count the random forgeries that escape them.

    Args:
        run: what the run is called.
        intact: the run's claim.
        seen: what the disclosed states say, for the fixed picks; None where only the entries speak.
        trials: challenges, each with a fresh seed.
        source: where seeds and forgeries come from.
    """
    owner = [segment.index for segment in intact.segments for _ in range(segment.steps)]
    kinds = list(dict.fromkeys(_kinds(intact)))  # two shares of a short run may be the same steps
    drawn = {(kind, r): 0 for kind in kinds for r in DRAWS}
    picked = dict(drawn)
    known = {"updates": seen.updates, "flagged": seen.flagged} if seen is not None else {}
    for _ in range(trials):
        challenge = draw_challenge(intact, source.randbytes(32), max(DRAWS), **known)  # type: ignore[arg-type]
        fixed = {pick.segment.index for pick in challenge.picks if pick.fixed}
        # Fewer draws are the first of more.
        hit = {r: {owner[step] for step in challenge.draws[:r]} for r in DRAWS}
        for kind in kinds:
            forged = {owner[step] for step in _forge(intact, *kind, source)}
            for r in DRAWS:
                if not forged & hit[r]:
                    drawn[kind, r] += 1
                    picked[kind, r] += not forged & fixed
    return [
        Escape(run, how, forged, intact.steps, r, trials, drawn[(how, forged), r], picked[(how, forged), r])
        for how, forged in kinds
        for r in DRAWS
    ]


def _kinds(intact: IntactClaim) -> Iterator[tuple[str, int]]:
    """The forgeries of a run: where, and how many steps."""
    for how in ("in one piece", "scattered"):
        for share in SHARES:
            yield how, max(1, round(share * intact.steps))
    longest = max(segment.steps for segment in intact.segments)
    if longest > 0.05 * intact.steps:
        yield LONGEST, longest


def _forge(intact: IntactClaim, how: str, forged: int, source: random.Random) -> Sequence[int]:
    """The steps of one forgery."""
    if how == "scattered":
        return source.sample(range(intact.steps), forged)
    if how == "in one piece":
        first = source.randrange(intact.steps - forged + 1)
        return range(first, first + forged)
    giant = max(intact.segments, key=lambda segment: segment.steps)
    return range(giant.first, giant.last)


def read(path: Path = RESULTS) -> list[Escape]:
    """What was measured; nothing where it never was."""
    return [Escape(**item) for item in json.loads(path.read_text())] if path.exists() else []


def report(found: Sequence[Escape]) -> str:
    """The table, as Markdown: one share, and the longest segment; and how many of all rows are within the bound."""
    if not found:
        return NOTHING
    lines = [
        "| run | forged | share of the steps | draws | escaped the draw | and what is always replayed | bound |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in found:
        shown = item.how == LONGEST or item.forged == max(1, round(SHOWN * item.steps))
        if shown and item.draws in SHOWN_DRAWS:
            lines.append(
                f"| {item.run} | {item.how} | {item.share:.3g} | {item.draws} | {item.drawn} of {item.trials} "
                f"| {item.picked} of {item.trials} | {item.bound:.2g} |"
            )
    held = sum(within(item) for item in found)
    shares = ", ".join(f"{100 * share:g} %" for share in SHARES)
    lines += [
        "",
        f"The same was counted for {shares} of the steps, and {', '.join(map(str, DRAWS))} draws. Within the bound: "
        f"{held} of {len(found)} rows (broken is what the bound makes less likely than {ALARM:g}).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, or only make the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--table", action="store_true", help="measure nothing: make the table of what is there")
    options = parser.parse_args()
    if not options.table:
        found = []
        with tempfile.TemporaryDirectory(prefix="escape-") as folder:
            for number, (name, arguments) in enumerate(SCHEDULES.items()):
                claim = record(Path(folder) / str(number), DIGITS, arguments).claim
                intact = check_integrity(Claim.read(claim), Policy())
                found += measure(name, intact, survey(intact), options.trials, random.Random(name))
        RESULTS.write_text("[\n" + ",\n".join(json.dumps(asdict(item)) for item in found) + "\n]\n")
    text = report(read())
    print(text)
    if text != on_page(MARKS):
        write_page(text, MARKS)


if __name__ == "__main__":
    main()
