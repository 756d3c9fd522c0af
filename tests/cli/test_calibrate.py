"""`polchain calibrate`: what is refused, before anything is trained. What it measures is in tests/verifier."""

from __future__ import annotations

from pathlib import Path

import pytest

from polchain.cli.app import main
from polchain.cli.charts import error_chart, error_table
from polchain.core.keys import PrivateKey
from polchain.training.rho import Errors
from polchain.verifier.calibration import Point
from tests.claims import DATA, DIGITS, record_once

SCRIPT = str(DIGITS)


def says(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """The exit code, and what was said about it."""
    code = main(["calibrate", *map(str, words)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere.py"], 2, "no script at nowhere.py"),
        ([SCRIPT, "--lengths", "1,x"], 2, "--lengths 1,x: numbers of steps were expected"),
        ([SCRIPT, "--lengths", "0"], 2, "numbers of steps were expected"),
        ([SCRIPT, "--lengths", "1,,2"], 2, "numbers of steps were expected"),
        ([SCRIPT, "--data", "nowhere"], 4, "no folder at nowhere"),
        ([SCRIPT, "--key", "ed25519:00"], 2, "--key goes with --against"),
        ([SCRIPT, "--against", "claim"], 2, "whose claim is it?"),
        ([SCRIPT, "--against", "nowhere", "--key", str(PrivateKey.generate().public)], 4, "nowhere"),
        ([SCRIPT, "--timeout", "inf"], 2, "--timeout"),
        ([SCRIPT, "--steps", "1"], 2, "--steps"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, text = says(capsys, *words)
    assert (found, said in text) == (code, True), text


def test_a_file_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.json").write_text("mine")
    assert says(capsys, SCRIPT, "-o", tmp_path / "c.json")[0] == 2
    assert (tmp_path / "c.json").read_text() == "mine"


def test_a_claim_of_another_recipe_is_refused_before_anything_is_trained(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record_once(tmp_path_factory, "digits-sgd", DIGITS, ("--optimizer", "sgd"))
    words = ["--against", found.claim, "--key", found.key.public, "--steps", "999", "--data", DATA]
    code, text = says(capsys, SCRIPT, *words)
    assert code == 2
    assert "the claim to calibrate against is of another recipe" in text, "and not that there are no 999 steps"


# Tables and charts

POINTS = (
    Point((0, 1), 0, 1, 1.0, Errors(1e-6)),
    Point((0, 1), 0, 10, 1.0, Errors(0.5)),
    Point((0, 1), 50, 1, 1.0, Errors(0.0)),
    Point((0, 1), 50, 10, 1.0, Errors(1e9)),
)


def test_a_table_has_a_row_for_each_step_that_was_measured() -> None:
    assert error_table(POINTS, ("2 threads", "1 thread"), 50).splitlines() == [
        "machine   from step           k = 1   k = 10",
        "1 thread          0  early  1.0e-06  5.0e-01",
        "1 thread         50  late     exact  1.0e+09",
    ]


def test_a_chart_says_where_there_is_room() -> None:
    lines = error_chart(POINTS, ("2 threads", "1 thread"), 50).splitlines()
    assert lines[1].split() == ["rho", "exact", "1e-8", "1e-6", "1e-4", "1e-2", "1"]
    one, ten = lines[2], lines[3]
    assert one.index("L") < one.index("E") < one.index(":"), (
        "equal, a millionth, and both left of what there is room for"
    )
    assert ten.index(":") < ten.index("E") < ten.index("L")
    assert one.index(":") == ten.index(":")
    assert one.index("E") == lines[1].index("1e-6"), "a mark stands under the beginning of its label"
