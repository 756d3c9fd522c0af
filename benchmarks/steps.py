"""What a commit costs in steps; what self-checks add; replay against training.

    python -m benchmarks.steps [--rounds 3] [--only GPT]

Both examples as they are, in processes that take turns: not recorded (`enabled=False`), and recorded every 100 and
every 10 steps. Two processes that do the same differ by 5 to 10 % on a small machine, each for as long as it lives, so
that run beside run cannot show one percent. Within a run it can be seen: a step far from a commit is the step of a run
that is not recorded, the same code with an idle thread beside it. So the five steps after each commit, into which the
copy and all that follows behind it fall, are set against the five before it and the five after those. Steps
beside a self-check, or after one that was waited for, are counted apart.

At last a claim is replayed, one segment at a time, and as many steps are trained without recording, in new processes
each time.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import Result, machine, read, write
from benchmarks.drive import DATA, EXAMPLES, RUNS, run
from polchain.core.keys import PrivateKey
from polchain.storage.keyfile import write_key

EVERY = (100, 10)
WARM = 20
NEAR = 5  # steps after a commit
COUNTED = ("checks", "check_seconds", "waited", "end", "peak_bytes")
STEPS = 1000
REPLAYED = 200
REPLAYS = 9


def costs(seen: Result, every: int) -> tuple[list[float], float]:
    """Seconds that each commit of a run cost its training, and seconds of a step far from commits.

    Raises:
        ValueError: what follows behind a commit took longer than the steps that it is looked for in.
    """
    spans, beside = seen["spans"], set(seen["beside"])
    far_ones, found, late = [], [], 0.0
    for step in range(2 * every, len(spans) - 2 * NEAR, every):  # spans[s] lies after the commit of step s + 1
        near = range(step - 1, step - 1 + NEAR)
        far = (*range(step - 1 - NEAR, step - 1), *range(step - 1 + NEAR, step - 1 + 2 * NEAR))
        if beside.isdisjoint((*near, *far)):
            far_ones.append(statistics.fmean(spans[n] for n in far))
            found.append(sum(spans[n] for n in near) - NEAR * far_ones[-1])
            late = max(late, seen["behind"][step // every])
    far_step = statistics.fmean(far_ones)
    if late > NEAR * far_step:
        raise ValueError(f"recording a commit took {late:.3f} s, past {NEAR} steps of {far_step:.3f} s")
    return found, far_step


def recorded(folder: Path, name: str, rounds: int) -> Result:
    """The example as it is, and recorded, by turns.

    `cost` is in seconds of training for each commit, `error` its standard error; `rate` what share of its steps a
    second a run keeps, self-checks apart; `included` is that of the whole run, all that it waits for included (see
    `whole`); `beside` is `rate` once more, from the run without recording in the same round.
    """
    seen: dict[int, list[Result]] = {every: [] for every in (0, *EVERY)}
    for number in range(rounds):
        for every in (0, *EVERY) if number % 2 == 0 else (*EVERY[::-1], 0):
            one = run(folder / f"{every}-{number}", EXAMPLES[name], every, STEPS)
            beside, counted = set(one["beside"]), range(WARM, STEPS - 1)
            one["step"] = statistics.fmean(one["spans"][step] for step in counted if step not in beside)
            seen[every].append(one)
            shown = {what: one[what] for what in ("step", *COUNTED)}
            print(name, every, shown, file=sys.stderr, flush=True)
    off: Result = {what: _middle(seen[0], what) for what in ("step", "peak_bytes")}
    row: Result = {"example": name, "steps": STEPS, "rounds": rounds, "off": off, "every": {}}
    for every in EVERY:
        taken, far = zip(*(costs(one, every) for one in seen[every]), strict=True)
        all_taken = [cost for one in taken for cost in one]
        cost = statistics.fmean(all_taken)
        kept: Result = {
            "commits": len(all_taken),
            "cost": cost,
            "error": statistics.stdev(all_taken) / math.sqrt(len(all_taken)),
            "far": statistics.fmean(far),
            "rate": 1 / (1 + cost / (every * statistics.fmean(far))),
            "beside": [off["step"] / on["step"] for on, off in zip(seen[every], seen[0], strict=True)],
            **{what: _middle(seen[every], what) for what in ("step", *COUNTED)},
        }
        row["every"][str(every)] = {**kept, "included": whole(kept, STEPS)}
    return row


def waited(one: Result) -> float:
    """Seconds that a recorded run waited for its self-checks, the last included.

    Older results have what the checks took, which is nearly all of it where they share cores with the training.
    """
    return float(one.get("waited", one["check_seconds"]))


def whole(one: Result, steps: int) -> float:
    """What share of its steps a second a run keeps from its first step to its last self-check, with all its waiting."""
    return 1 / (1 / one["rate"] + waited(one) / (steps * one["far"]))


def replays(folder: Path, name: str, key: PrivateKey) -> Result:
    """Seconds of a replayed step and of the same step in training, each in new processes; and of a segment's start."""
    from polchain.prover.export import export

    run(folder / "replayed", EXAMPLES[name], REPLAYED // 2, REPLAYED)
    claim = folder / "claim"
    recipe = export(folder / "replayed" / "runs" / RUNS[name], claim).recipe
    assert recipe is not None
    verdicts, trained, replayed, starts = set(), [], [], []
    for number in range(REPLAYS):
        spans = run(folder / f"trained-{number}", EXAMPLES[name], 0, REPLAYED)["spans"]
        trained.append(_mean(spans, range(WARM, REPLAYED - 1)))
        verdict, each, start = _replay(claim, key, recipe)
        verdicts.add(verdict)
        replayed.append(statistics.fmean(each))
        starts += start
        print(name, trained[-1], each, verdict, file=sys.stderr, flush=True)
    return {
        "verdict": ", ".join(sorted(verdicts)),
        "trained": statistics.median(trained),
        "step": statistics.median(replayed),
        "ratio": statistics.median(ours / theirs for ours, theirs in zip(replayed, trained, strict=True)),
        "segments": len(starts),
        "start": statistics.median(starts),
    }


def _replay(claim: Path, key: PrivateKey, recipe: bytes) -> tuple[str, list[float], list[float]]:
    """Verify a claim, from a process that has loaded no torch: the verdict; seconds a step and the start by segment."""
    from polchain.verifier.policy import Policy
    from polchain.verifier.verify import verify

    policy = Policy(keys=frozenset({key.public}), recipes=frozenset({recipe}))
    verdict = verify(claim, policy, jobs=1, data=DATA)
    done = [(item, item.pick.segment.steps) for item in verdict.reproductions if item.pick is not None]
    steps = [(item.seconds - item.start) / count for item, count in done]
    return verdict.outcome.value, steps, [item.start for item, _ in done]


def _mean(spans: list[float], steps: range) -> float:
    return statistics.fmean(spans[step] for step in steps)


def _middle(items: list[Result], name: str) -> Any:
    return statistics.median(item[name] for item in items)


def measure(rounds: int, folder: Path, only: str = "") -> list[Result]:
    """A row for each example, or for those whose name begins so."""
    key = PrivateKey.generate()
    found = []
    for name in EXAMPLES:
        if not name.startswith(only):
            continue
        here = folder / name
        here.mkdir()
        write_key(here / "key", key, None)
        row = recorded(here, name, rounds)
        row["replay"] = replays(here, name, key)
        found.append(row)
    return found


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="examples whose name begins so; the rows of others stay as they are")
    options = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(options.rounds, Path(name), options.only)
    old = read("steps") if options.only else None
    kept = {row["example"]: row for row in (*(old["rows"] if old is not None else ()), *rows)}
    rows = [kept[name] for name in EXAMPLES if name in kept]
    write("steps", rows, about)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
