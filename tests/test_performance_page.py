"""The tables and the chart of docs/performance.md are those of the results files, and no others."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chart, common, report, targets
from benchmarks.steps import costs, whole


@pytest.mark.parametrize("name", report.PARTS)
def test_the_page_says_what_the_results_say(name: str) -> None:
    assert report.on_page(name) == report.part(name), "make the tables again: python -m benchmarks.report"


def test_the_chart_is_of_the_results() -> None:
    assert report.CHART.read_text() == report.chart(), "make the chart again: python -m benchmarks.report"


def test_a_missed_target_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"tensors": 3, "state_bytes": 10**6, "held": 0.2, "durable": 0.5}
    rows = [{**row, "what": "a plain copy", "of_copy": 1.0}, {**row, "what": "polchain", "of_copy": 2.5}]
    machine = {"cpu": "x", "cores": 2, "python": "3", "copy_gb_per_s": 9, "load_before": 0.1}
    (tmp_path / "commit.json").write_text(json.dumps({"module": "commit", "machine": machine, "rows": rows}))
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    text = report.part("commit")
    assert "| polchain | 200 | 2.5 | 500 |" in text
    assert "**MISSED**: 2.5" in text
    assert report.part("hashing") == report.MISSING


def test_what_thinning_saves_is_held_to_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"cpu": "x", "cores": 2, "python": "3", "copy_gb_per_s": 9, "load_before": 0.1}
    thinned = {"states": 21, "run": 50e6, "claim": 4e8, "claim_thinned": 4e8, "same_claim": True, "same_verdict": True}
    kept = {"commits": 200, "checkpoints": 4e8, "manifests": 8e6, "ledger": 3e5, "run": 4.1e8, "states": 201}
    kept |= {"entries": 204, "published_state": 2e6, "published_run": 4e8}
    bad = {**thinned, "run": 60e6, "same_verdict": False, "verdict": "VERIFIED"}
    rows = [
        {"example": "ResNet-20", **kept, "thinned": {**thinned, "verdict": "VERIFIED"}},
        {"example": "GPT", **kept, "thinned": bad},
    ]
    (tmp_path / "stored.json").write_text(json.dumps({"module": "stored", "machine": machine, "rows": rows}))
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    text = report.part("bytes")
    assert "| ResNet-20: the run of 200 commits, 201 states and 21 | 410 MB | 50 MB, 8.2 times less | 400 MB |" in text
    assert "- Target: ResNet-20: thinning by 10 cuts a run's bytes by at least 8. **Met**: 8.2." in text
    assert (
        "- Target: ResNet-20: the thinned run's claim verifies identically. **Met**: the same bytes, VERIFIED." in text
    )
    assert "- Target: GPT: thinning by 10 cuts a run's bytes by at least 8. **MISSED**: 6.83." in text
    assert "verifies identically. **MISSED**: the same bytes, VERIFIED, and otherwise when thinned." in text


def test_a_chart_has_a_line_for_each_name() -> None:
    drawn = chart.line_chart({"one": [(1e3, 0.1), (1e6, 100.0)], "other": [(1e3, 1e-4), (1e6, 2e-4)]}, "x", "y")
    assert len(re.findall(r"<circle", drawn)) == 4
    assert ">one<" in drawn
    assert ">other<" in drawn


def test_tasks_take_turns() -> None:
    order: list[str] = []
    seconds = common.rounds(3, {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_what_a_commit_costs_is_told_from_a_machine_that_slows_down() -> None:
    every, copy = 20, 0.015
    spans = [0.03 * (1 + step / 1000) + (copy if (step + 1) % every == 0 else 0.0) for step in range(199)]
    seen = {"spans": spans, "beside": [59], "behind": [0.02] * 11}
    taken, far = costs(seen, every)
    assert taken == pytest.approx([copy] * 7), "commits 40 to 180, of which 60 follows a self-check"
    assert far == pytest.approx(0.03 * 1.117, rel=0.01)
    with pytest.raises(ValueError, match="took 9"):
        costs({**seen, "behind": [9.0] * 11}, every)


def test_a_run_loses_what_its_commits_cost_and_all_that_it_waits() -> None:
    one = {"rate": 0.8, "far": 0.02, "check_seconds": 5.0}
    assert whole(one, 1000) == pytest.approx(20 / (20 / 0.8 + 5))
    assert whole({**one, "waited": 15.0}, 1000) == pytest.approx(20 / (20 / 0.8 + 15)), "the waiting is measured"
    for row in rows_of("steps"):
        assert {every: whole(one, row["steps"]) for every, one in row["every"].items()} == pytest.approx(
            {every: one["included"] for every, one in row["every"].items()}
        )


def test_the_page_says_where_the_waiting_itself_was_not_measured() -> None:
    rows = rows_of("steps")
    for row in rows:
        for one in row["every"].values():
            one["waited"] = 77.0
    text = report.steps(rows)
    assert "| 8 | 77 |" in text
    assert report.NOT_WAITED not in text
    del rows[0]["every"]["10"]["waited"]
    assert report.NOT_WAITED in report.steps(rows)


@pytest.mark.parametrize(
    ("states", "error", "said"),
    [
        (2.004, 0.0, "**Met**: 2.00"),
        (2.02, 0.02, "**Too close to tell**: 2.02"),
        (2.02, 0.001, "**MISSED**: 2.02"),
        (1.5, 0.2, "**Met**: 1.50"),
        (1.9, 5.0, "**MISSED**: 1.90"),
        (3.0, 5.0, "**MISSED**: 3.00"),
        (3.0, math.inf, "**MISSED**: 3.0 ± inf"),
        (2.02, math.nan, "**MISSED**"),
        (1.9, -1.0, "**MISSED**"),
        (-4.0, 0.1, "**MISSED**"),
    ],
)
def test_memory_is_judged_as_far_as_its_heap_lets_one_see(states: float, error: float, said: str) -> None:
    peaks = {"state_bytes": 3e8, "off": 6e8, "on": 12e8, "more": 6e8}
    row = {"heap": "as it is", **peaks, "small": peaks, "program": 4e6, "states": states, "error": error}
    assert said in report.memory([row])


def rows_of(name: str) -> Any:
    """The rows that are there, to be spoilt."""
    found = common.read(name)
    assert found is not None
    return copy.deepcopy(found["rows"])


def judged(text: str) -> dict[str, str]:
    """What is said of each target, by its words."""
    return dict(re.findall(r"^- Target: (.+?)\. \*\*([^*]+)\*\*", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "table", "count"),
    [
        ("hashing", report.hashing, 2),
        ("commit", report.commit, 1),
        ("steps", report.steps, 4),
        ("steps", report.rates, 4),
        ("memory", report.memory, 2),
        ("stored", report.stored, 4),
        ("scale", report.scale, 5),
    ],
)
def test_each_target_is_judged_whatever_rows_are_there(name: str, table: Callable[[Any], str], count: int) -> None:
    assert len(judged(table(rows_of(name)))) == count
    assert list(judged(table([])).values()) == ["Not measured"] * count
    assert judged(table(rows_of(name)[::-1])) == judged(table(rows_of(name))), "rows are found by name"


def test_a_target_of_one_example_is_not_met_by_the_other() -> None:
    for table in (report.steps, report.rates):
        found = judged(table(rows_of("steps")[:1]))
        assert {said for what, said in found.items() if what.startswith("GPT")} == {"Not measured"}
        assert "Not measured" not in {said for what, said in found.items() if what.startswith("ResNet")}


def test_hashing_is_judged_by_its_own_row_and_a_peer_that_is_there() -> None:
    rows = rows_of("hashing")
    assert set(judged(report.hashing(rows[1:])).values()) == {"Not measured"}, "the row of 256 tensors is gone"
    gone = [row for row in rows if row["what"] != "b3sum"]
    assert next(iter(judged(report.hashing(gone)).values())) == "Not measured", "the column is of the package, then"


@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0, 0.0, True, "12"])
def test_what_no_clock_can_show_meets_no_target(value: object) -> None:
    assert "**MISSED**" in targets.at_least("a ratio", value, 0.9)
    assert "**MISSED**" in targets.at_most("a ratio", value, 1e9)


@pytest.mark.parametrize(
    "spoilt", [{"verdict": "REFUTED"}, {"same_claim": "no"}, {"same_verdict": 1}, {"claim_thinned": 1}]
)
def test_a_thinned_claim_verifies_identically_or_not(spoilt: dict[str, Any]) -> None:
    rows = rows_of("stored")
    rows[0]["thinned"] |= spoilt
    found = judged(report.stored(rows))
    assert found["ResNet-20: the thinned run's claim verifies identically"] == "MISSED"
    assert found["GPT: the thinned run's claim verifies identically"] == "Met"


def test_a_log_that_grows_faster_than_its_entries_is_seen() -> None:
    line = next(what for what in judged(report.scale(rows_of("scale"))) if what.startswith("linear"))
    for part, name, power in (("append", "polchain", -0.2), ("check", "seconds", 0.2), ("proofs", "consistency", 1.3)):
        rows = rows_of("scale")
        for row in rows:
            row[part][name] *= (row["size"] / 1000) ** power
        assert judged(report.scale(rows))[line] == "MISSED", part
    found = judged(report.scale(rows_of("scale")[:1]))
    assert set(found.values()) == {"Not measured"}, "a thousand entries say nothing about a million"


def test_the_page_says_how_long_thinning_takes_or_that_nobody_looked() -> None:
    rows = rows_of("stored")
    for row in rows:
        row["thinned"] |= dict.fromkeys(report.SECONDS, 1.5) | {"export_thinned_seconds": 44.0}
    text = report.stored(rows)
    assert "| GPT: exporting that claim, s | 1.5 | 44 |  |" in text
    assert "| GPT: thinning, s; each state of it |  | 1.5; 1.5 |  |" in text
    assert report.NOT_TIMED not in text
    del rows[1]["thinned"]["again"]
    assert report.NOT_TIMED in report.stored(rows)
