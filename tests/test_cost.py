"""The table of what a verification costs: it is made from the results file, and stands in the docs as it is."""

from __future__ import annotations

from benchmarks import cost


def test_the_page_says_what_the_results_file_says() -> None:
    assert cost.on_page() == cost.report(cost.read()), "make the table again: python -m benchmarks.cost"


def test_starts_are_no_part_of_the_share() -> None:
    row = cost.Row("a policy", 400, 20, 0.25, 100.0, 1.0, 0.5, 6.0, 1.0, "VERIFIED", "0.05")
    assert row.share == 0.05
    assert "| 0.25 s | 100 s | 20 | 6.0 s | 1.0 s | 5.0% |" in cost.report([row])
