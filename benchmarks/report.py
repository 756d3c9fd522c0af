"""The tables of docs/performance.md, and its chart, from what the benchmarks wrote.

    python -m benchmarks.report

Each table stands between its own markers; a part that has not been measured says so, and so does a target that is
missed. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.chart import line_chart
from benchmarks.common import PAGE, Result, number, read, size, table, told
from benchmarks.drive import EXAMPLES
from benchmarks.steps import waited
from benchmarks.targets import LARGE, at_least, at_most, figure, linear, named, said, target
from benchmarks.targets import states as two_states

CHART = PAGE.with_name("scale.svg")
NOT_WAITED = (
    "In these results *waits for them* is what the self-checks took by the clock: the waiting itself was not measured "
    "yet. Before each check the training also waits until the commit is durable, which is left out here: at most "
    "0.03 s a check in short runs of both examples."
)
SECONDS = ("thin_seconds", "again", "export_seconds", "export_thinned_seconds")
NOT_TIMED = "How long thinning takes, and exporting what was thinned, is not measured in these results yet."
HEAPS = {"as it is": "the heap as it is", "apart": "tensors in pages of their own"}
MISSING = "Not measured in this tree yet: `make bench` does it."


def hashing(rows: Any) -> str:
    """Manifests."""
    there = [row for row in rows if "gb_per_s" in row]
    gone = [row["what"] for row in rows if "gb_per_s" not in row]
    lines = table(
        ["1 GiB", "GB/s", "of b3sum", "times SHA-256"],
        [
            (row["note"] or row["what"], number(row["gb_per_s"]), number(row["of_b3sum"], 2), number(row["of_sha256"]))
            for row in there
        ],
    )
    ours = named(there, "what", "polchain, 256 tensors")
    # Where b3sum is not there, the column is of another, which the target is not about.
    of_b3sum, of_sha256 = (
        figure(ours, column) if named(there, "what", peer) is not None else None
        for column, peer in (("of_b3sum", "b3sum"), ("of_sha256", "SHA-256, one thread"))
    )
    found = [
        at_least("256 tensors: at least 0.9 of b3sum", of_b3sum, 0.9, 2),
        at_least("256 tensors: 5 times one-thread SHA-256", of_sha256, 5),
    ]
    if gone:
        found.append(
            f"Not there: {', '.join(gone)}; where b3sum is not, the column is of the `blake3` package instead."
        )
    return lines + "\n\n" + "\n".join(found)


def commit(rows: Any) -> str:
    """Commits."""
    ours = named(rows, "what", "polchain")
    about = f"a state of {size(ours['state_bytes'])} in {ours['tensors']} tensors" if ours is not None else ""
    lines = table(
        [about, "held, ms", "of a plain copy", "durable after, ms"],
        [
            (row["what"], number(1e3 * row["held"]), number(row["of_copy"]), number(1e3 * row["durable"]))
            for row in rows
        ],
    )
    return f"{lines}\n\n{at_most('held at most 1.3 times a plain copy', figure(ours, 'of_copy'), 1.3)}"


def summary(rows: Any) -> str:
    """What all of it costs whom, in a few lines."""
    lines = []
    for row in rows:
        lost = {
            every: f"{number(100 * (1 - one['rate']), 2)} %" if one["rate"] < 1 else "none"
            for every, one in row["every"].items()
        }
        waits = {
            every: f"about {number(waited(one))} s for {one['checks']} self-checks of {every} steps each"
            for every, one in row["every"].items()
        }
        lines.append(
            f"- **Training** {row['example']} loses {lost['100']} of its steps a second with a commit every 100 steps, "
            f"{lost['10']} with one every 10. Besides, it waits for self-checks. A run of {row['steps']:,} steps takes "
            f"{number(row['steps'] * row['off']['step'])} s without recording; with a commit every 100 steps it waits "
            f"{waits['100']}, with one every 10 {waits['10']}. A run twice as long has one more."
        )
    held = _row("commit", "polchain")
    if held is not None:
        lines.append(
            f"- **A commit** of {size(held['state_bytes'])} holds the training thread for {number(1e3 * held['held'])} "
            f"ms; it is durable after {number(1e3 * held['durable'])} ms, beside the training."
        )
    space = read("memory")
    if space is not None:
        states = ", ".join(f"{row['states']:.2f} ± {row['error']:.2f}" for row in space["rows"])
        lines.append(f"- **Memory**: {states} states, as the heap is and where it is not scattered; and the program.")
    kept = read("stored")
    for row in kept["rows"] if kept is not None else ():
        lines.append(
            f"- **Disk**: a state of {row['example']} takes {size(row['checkpoints'] / row['states'])}; of "
            f"{row['states']} states, {row['thinned']['states']} stay when thinned by ten: {size(row['run'])} become "
            f"{size(row['thinned']['run'])}. Who asks for another state waits until it is trained again."
        )
    for row in rows:
        lines.append(
            f"- **Verifying** {row['example']}: {number(row['replay']['ratio'])} of training for each step that is "
            f"replayed, and {number(row['replay']['start'])} s a segment; how many are replayed, the policy or a "
            "budget says."
        )
    return "\n".join(lines)


def _row(module: str, what: str) -> Result | None:
    found = read(module)
    return named(found["rows"], "what", what) if found is not None else None


def steps(rows: Any) -> str:
    """Steps with and without recording."""
    lines, found = [], []
    for row in rows:
        off = number(1 / row["off"]["step"]), "", "1", "1", "", "", "1", "", size(row["off"]["peak_bytes"])
        lines.append((f"{row['example']}, not recorded", *off))
        for every, one in row["every"].items():
            cells = (
                number(1 / one["step"]),
                f"{number(1e3 * one['cost'])} ± {number(1e3 * one['error'], 2)}",
                number(one["rate"]),
                ", ".join(f"{ratio:.2f}" for ratio in one["beside"]),
                one["checks"],
                number(waited(one)),
                number(one["included"]),
                number(one["end"]),
                size(one["peak_bytes"]),
            )
            lines.append((f"{row['example']}, k = {every}", *cells))
    for name in EXAMPLES:
        for every, least in (("100", 0.98), ("10", 0.90)):
            rate = figure(named(rows, "example", name), "every", every, "rate")
            what = f"{name}, k = {every}: at least {least} of the steps a second, self-checks apart"
            found.append(at_least(what, rate, least))
    head = ["1,000 steps", "steps/s", "a commit costs, ms", "of not recorded", "run beside run", "self-checks"]
    head += ["waits for them, s", "of not recorded, waiting included", "end, s", "peak memory"]
    every = [one for row in rows for one in row["every"].values()]
    note = "" if all("waited" in one for one in every) else f"{NOT_WAITED}\n\n"
    return table(head, lines) + "\n\n" + note + "\n".join(found)


def memory(rows: Any) -> str:
    """Memory."""
    lines, found = [], []
    for row in rows:
        heap = HEAPS[row["heap"]]
        for one in (row, row["small"]):
            peaks = size(one["off"]), size(one["on"]), size(one["more"])
            lines.append((f"a state of {size(one['state_bytes'])}, {heap}", *peaks))
    for heap, name in HEAPS.items():
        one = named(rows, "heap", heap)
        program = f", the program's {size(one['program'])} apart" if one is not None else ""
        found.append(two_states(f"{name}: at most 2 states more{program}", figure(one, "states"), figure(one, "error")))
    return table(["peak memory", "not recorded", "recorded, every 2 steps", "more"], lines) + "\n\n" + "\n".join(found)


def stored(rows: Any) -> str:
    """Bytes."""
    lines, found, note = [], [], ""
    for row in rows:
        name, states, thinned = row["example"], row["states"], row["thinned"]
        factor = row["run"] / thinned["run"]
        lines += [
            (f"{name}: a state's tensors", size(row["checkpoints"] / states), "", size(row["published_state"])),
            (f"{name}: its rows", size(row["manifests"] / states), "", ""),
            (f"{name}: its entry, head and tiles", size(row["ledger"] / row["entries"]), "", ""),
            (
                f"{name}: the run of {row['commits']} commits, {states} states and {thinned['states']}",
                size(row["run"]),
                f"{size(thinned['run'])}, {number(factor)} times less",
                size(row["published_run"]),
            ),
            (f"{name}: its claim", size(thinned["claim"]), size(thinned["claim_thinned"]), ""),
        ]
        if all(what in thinned for what in SECONDS):
            thin, again, whole, of_thinned = (number(thinned[what]) for what in SECONDS)
            lines += [
                (f"{name}: exporting that claim, s", whole, of_thinned, ""),
                (f"{name}: thinning, s; each state of it", "", f"{thin}; {again}", ""),
            ]
        else:
            note = f"{NOT_TIMED}\n\n"
    for name in EXAMPLES:
        one = named(rows, "example", name)
        found += [
            target(
                f"{name}: thinning by 10 cuts a run's bytes by at least 8",
                [figure(one, "run"), figure(one, "thinned", "run")],
                lambda before, after: before / after >= 8,
                lambda before, after: number(before / after),
            ),
            _identical(f"{name}: the thinned run's claim verifies identically", figure(one, "thinned")),
        ]
    head = ["", "polchain, all states", "polchain, thinned by 10", "published scheme (`torch.save` of all states)"]
    return table(head, lines) + "\n\n" + note + "\n".join(found)


def _identical(what: str, thinned: Result | None) -> str:
    """The same claim, and the same verdict, VERIFIED."""
    if thinned is None:
        return said(what, None, "")
    same = thinned["same_claim"] is True and thinned["claim"] == thinned["claim_thinned"]
    agreed, verdict = thinned["same_verdict"] is True, thinned["verdict"]
    told = f"{'the same bytes' if same else 'other bytes'}, {verdict}{'' if agreed else ', and otherwise when thinned'}"
    return said(what, same and agreed and verdict == "VERIFIED", told)


def rates(rows: Any) -> str:
    """Replay."""
    lines, found = [], []
    for row in rows:
        seen = row["replay"]
        lines.append(
            (
                row["example"],
                number(1e3 * seen["trained"]),
                number(1e3 * seen["step"]),
                number(seen["ratio"]),
                number(seen["start"]),
            )
        )
    for name in EXAMPLES:
        replay = figure(named(rows, "example", name), "replay")
        started = f"{name}: the start of a segment under 0.1 s on a warm worker"
        found += [
            at_most(f"{name}: replay at most 1.05 of training", figure(replay, "ratio"), 1.05),
            target(started, [figure(replay, "start")], lambda start: start < 0.1, lambda start: f"{number(start)} s"),
        ]
    head = ["", "training, ms a step", "replay, ms a step", "ratio", "start of a segment, s"]
    return table(head, lines) + "\n\n" + "\n".join(found)


def gas(rows: Any) -> str:
    """Anchors."""
    return table(
        ["", "gas", "gas a log", "bytes of evidence"],
        [
            (
                row["what"],
                number(row["gas"]) if row["gas"] else "none",
                number(row["per_log"]) if row["gas"] else "none",
                number(row["evidence"]) if row["evidence"] else "not run here",
            )
            for row in rows
        ],
    )


def scale(rows: Any) -> str:
    """Logs."""
    names: Sequence[tuple[str, Callable[[Result], object]]] = (
        ("append, a second", lambda r: number(r["append"]["polchain"])),
        ("bare SQLite, a second", lambda r: number(r["append"]["bare"])),
        ("ratio", lambda r: number(r["append"]["ratio"], 2)),
        ("open, ms", lambda r: number(1e3 * r["open"]["seconds"])),
        ("inclusion proof, ms", lambda r: number(1e3 * r["proofs"]["inclusion"])),
        ("its bytes", lambda r: number(r["proofs"]["inclusion_bytes"])),
        ("consistency proof, ms", lambda r: number(1e3 * r["proofs"]["consistency"])),
        ("`log`, s", lambda r: number(r["log"]["seconds"])),
        ("its peak memory", lambda r: size(r["log"]["peak_bytes"])),
        ("full check (`fsck`), s", lambda r: number(r["check"]["seconds"])),
        ("its peak memory", lambda r: size(r["check"]["peak_bytes"])),
        ("integrity of the claim, s", lambda r: number(r["integrity"]["seconds"])),
        ("entries a second", lambda r: number(r["integrity"]["entries"] / r["integrity"]["seconds"])),
        ("MB a second", lambda r: number(r["integrity"]["bytes"] / r["integrity"]["seconds"] / 1e6)),
        ("its peak memory", lambda r: size(r["integrity"]["peak_bytes"])),
    )
    lines = table(["entries", *(f"{row['size']:,}" for row in rows)], [(name, *map(of, rows)) for name, of in names])
    last = named(rows, "size", LARGE)
    found = [
        at_least(f"{LARGE:,} entries: append at least 0.35 of bare SQLite", figure(last, "append", "ratio"), 0.35, 2),
        target(
            f"{LARGE:,} entries: an inclusion proof under 1 ms and 1 KB",
            [figure(last, "proofs", "inclusion"), figure(last, "proofs", "inclusion_bytes")],
            lambda seconds, count: seconds < 1e-3 and count < 1000,
            lambda seconds, count: f"{number(1e3 * seconds)} ms, {count} bytes",
        ),
        *(
            target(
                f"{LARGE:,} entries: {name} under 60 s and 500 MB",
                [figure(last, what, "seconds"), figure(last, what, "peak_bytes")],
                lambda seconds, peak: seconds < 60 and peak < 500e6,
                lambda seconds, peak: f"{number(seconds)} s, {size(peak)}",
            )
            for name, what in (("the full check of the ledger", "check"), ("integrity of the claim", "integrity"))
        ),
        linear(rows),
    ]
    return f"{lines}\n\n" + "\n".join(found) + "\n\n![Seconds against entries, both logarithmic](scale.svg)"


def states(rows: Any) -> str:
    """Large states."""
    return table(
        [f"a state of {size(rows[0]['bytes'])}", "rows, s", "put, s", "get, s", "rows file", "peak memory"],
        [
            (
                "one tensor" if row["tensors"] == 1 else f"{row['tensors']:,} tensors",
                *(number(row[name]) for name in ("rows", "put", "get")),
                size(row["rows_file"]),
                size(row["peak_bytes"]),
            )
            for row in rows
        ],
    )


def data(rows: Any) -> str:
    """Dataset commitments."""
    return table(
        ["samples", "processes", "s", "samples a second", "peak memory"],
        [
            (
                f"{row['samples']:,}",
                row["processes"],
                number(row["seconds"]),
                number(row["samples"] / row["seconds"]),
                size(row["peak_bytes"]),
            )
            for row in rows
        ],
    )


PARTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "summary": ("steps", summary),
    "hashing": ("hashing", hashing),
    "commit": ("commit", commit),
    "steps": ("steps", steps),
    "memory": ("memory", memory),
    "rates": ("steps", rates),
    "bytes": ("stored", stored),
    "gas": ("gas", gas),
    "scale": ("scale", scale),
    "states": ("states", states),
    "data": ("data", data),
}


def part(name: str) -> str:
    """What stands between the markers of a part."""
    module, made = PARTS[name]
    found = read(module)
    return MISSING if found is None or not found["rows"] else f"{made(found['rows'])}\n\n{told(found['machine'])}"


def marks(name: str) -> tuple[str, str]:
    """The markers of a part."""
    return f"<!-- bench {name}: made by `make bench` -->", f"<!-- /bench {name} -->"


def on_page(name: str) -> str:
    """What stands on the page now."""
    begin, end = marks(name)
    text = PAGE.read_text()
    assert text.count(begin) == text.count(end) == 1, f"{PAGE} has not one {begin} and one {end}"
    return text.partition(begin)[2].partition(end)[0].strip()


def chart() -> str:
    """Seconds of each thing against the number of entries."""
    found = read("scale")
    rows = found["rows"] if found is not None else []
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, seconds in (
            ("full check", row["check"]["seconds"]),
            ("integrity", row["integrity"]["seconds"]),
            ("log", row["log"]["seconds"]),
            ("open", row["open"]["seconds"]),
            ("one append", 1 / row["append"]["polchain"]),
            ("inclusion proof", row["proofs"]["inclusion"]),
            ("consistency proof", row["proofs"]["consistency"]),
        ):
            lines.setdefault(name, []).append((row["size"], seconds))
    return line_chart(lines, "entries", "seconds")


def main() -> None:
    """Write the page's tables and its chart."""
    text = PAGE.read_text()
    for name in PARTS:
        begin, end = marks(name)
        before, found, rest = text.partition(begin)
        assert found, f"{PAGE} has no {begin}"
        text = f"{before}{begin}\n\n{part(name)}\n\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(text)
    CHART.write_text(chart())
    print("\n\n".join(part(name) for name in PARTS))


if __name__ == "__main__":
    main()
