"""The table of detection: it is made from the results file, counts only what belongs together, and promises no more."""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks import detection_table as table
from benchmarks import thieves
from benchmarks.detection import CASES, units
from benchmarks.detection_large import CASES as LARGE_CASES


def line(name: str, seed: int, outcome: str, **changes: object) -> table.Record:
    """A line of the results file."""
    return {
        "forger": name, "seed": seed, "source": "blake3:now", "torch": "2", "python": "3", "sandbox": "none",
        "published": "accepted", "exact": True, "polchain": outcome, "by": "" if outcome == "VERIFIED" else "a check",
        "early": [2, 2], "later": [3, 3], "cpu": 1.0, "honest_cpu": 2.0, "seconds": 3.0, "left": 0.5,
        **changes,
    }  # fmt: skip


def test_the_page_says_what_the_results_file_says() -> None:
    assert table.on_page() == table.report(table.read()), "make the table again: python -m benchmarks.detection --table"


def test_the_page_says_what_the_results_of_the_larger_victims_say() -> None:
    found = table.read(table.LARGE_RESULTS)
    assert table.on_page(table.LARGE_MARKS) == table.report_large(found), "python -m benchmarks.detection --table"
    assert {item["forger"] for item in found} <= set(LARGE_CASES)
    for item in found:
        passes = item["polchain"] in table.PASSING
        assert passes == (item["forger"].partition(": ")[2] in table.LARGE_HONEST), item


def test_every_row_of_the_table_has_its_case() -> None:
    assert list(CASES) == [*table.HONEST, *table.FORGERS]
    for victim, exempt in table.DOES_NOT_APPLY.items():
        tried = {name for name in (*table.LARGE_HONEST, *table.FORGERS) if name not in exempt}
        assert {f"{victim}: {name}" for name in tried} == {n for n in LARGE_CASES if n.startswith(f"{victim}: ")}


def test_a_sitting_goes_on_with_what_was_not_tried() -> None:
    everything = [pair for unit in units(2, 12, "", set()) for pair in unit]
    assert len(everything) == len(set(everything)) == 2 * len(table.FORGERS) + 12
    done = set(random.Random(3).sample(everything, 20))
    left = [pair for unit in units(2, 12, "", done) for pair in unit]
    assert set(left) == set(everything) - done
    assert {name for unit in units(2, 12, "glue", set()) for name, _ in unit} == {"glue"}


def test_a_row_counts_who_was_accepted_of_how_many() -> None:
    found = [line("glue", seed, "VERIFIED" if seed == 3 else "REFUTED") for seed in range(20)]
    text = table.report([*found, line("honest SGD", 0, "REFUTED", early=[1, 2])])
    assert (
        "| glue | accepted, 20 of 20 | accepted, 20 of 20 | REFUTED, 19 of 20; VERIFIED, 1 of 20 | a check, 19 of 20 "
        "| 0.5 | 0.5 |" in text
    )
    assert "VERIFIED or CONSISTENT: 1 of 20 forgeries" in text
    assert "Not tried yet: rank-matched init" in text
    assert "| claims REFUTED | 1 of 1 | 100 % |" in text
    assert "| replayed segments that are not equal, in the first third of training | 1 of 2 | 97.5 % |" in text


def test_lines_of_another_source_are_not_counted() -> None:
    old = [line("glue", seed, "VERIFIED", source="blake3:then") for seed in range(20)]
    assert "VERIFIED, " not in table.report([*old, line("glue", 0, "REFUTED")])
    assert table.report([]) == table.NOTHING


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    whole = json.dumps(line("glue", 0, "REFUTED"))
    path.write_text(f"{whole}\n{whole[:40]}")
    assert len(table.read(path)) == 1


def test_the_source_digest_changes_with_a_byte_and_not_with_what_python_leaves(tmp_path: Path) -> None:
    (tmp_path / "polchain" / "__pycache__").mkdir(parents=True)
    module = tmp_path / "polchain" / "errors.py"
    module.write_text("x = 1\n")
    before = table.source_digest(tmp_path)
    (tmp_path / "polchain" / "__pycache__" / "errors.pyc").write_bytes(b"\0")
    assert table.source_digest(tmp_path) == before
    module.write_text("x = 2\n")
    assert table.source_digest(tmp_path) != before


def test_no_forger_with_an_earlier_date_was_named_against_his_victim() -> None:
    found = table.newest(table.read(thieves.RESULTS))
    again = "make the table again: python -m benchmarks.thieves --table"
    assert table.on_page(thieves.MARKS, thieves.PAGE) == thieves.report(found), again
    assert {item["forger"] for item in found} == set(table.FORGERS)
    for item in found:
        assert (item["faults"], item["mirrored"]) == ([], True), item["forger"]
        assert set(item["owner"]) <= {"VERIFIED"}, item["forger"]
        assert not {"VERIFIED", "CONSISTENT"} & set(item["thief"]), item["forger"]
