"""The printer: nothing a stranger wrote reaches a terminal as an order, and progress is for terminals."""

import io
import json
import logging
import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.cli import output
from polchain.cli.layout import columns_of
from polchain.cli.listing import program_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text())
def test_sanitised_text_is_printable_and_printable_text_is_kept(text: str) -> None:
    assert output.sanitise(text).isprintable()
    assert output.sanitise(output.sanitise(text)) == output.sanitise(text)
    if text.isprintable():
        assert output.sanitise(text) == text
    lines = output.sanitise(text, lines=True)
    assert all(line.isprintable() for line in lines.split("\n"))
    assert lines.count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x9b2J", "a\rb", "\x07", "\u202egnp.exe", "\u2066", "\ud800", "\x7f", "a\nb", "\u2028"]
)
def test_what_steers_a_terminal_is_shown(text: str) -> None:
    shown = output.sanitise(text)
    assert "\\" in shown
    assert shown.isprintable()
    for laid_out in (output.fields([(text, text)]), output.table([text], [[text]])):
        assert all(line.isprintable() for line in laid_out.split("\n"))


def test_a_note_and_a_failure_are_sanitised(capsys: pytest.CaptureFixture[str]) -> None:
    output.note("a\x1b[31m")
    output.failure("X", "b\x1b]0;title\x07\nc", "d\x9b", 1, as_json=False)
    output.show_log(logging.WARNING)
    logging.getLogger("polchain").warning("e%s", "\x1b")
    err = capsys.readouterr().err
    assert err.splitlines() == [
        r"polchain: a\x1b[31m",
        r"polchain: error: b\x1b]0;title\x07 c",
        r"polchain: hint: d\x9b",
        r"polchain: e\x1b",
    ]


@given(st.text())
def test_json_is_one_line_of_ascii(text: str) -> None:
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        output.answer({text: [text]}, "", as_json=True)
    printed = stream.getvalue()
    assert printed.endswith("\n")
    assert printed[:-1].isascii()
    assert printed[:-1].isprintable()
    assert json.loads(printed) == {text: [text]}


def test_a_table_is_aligned() -> None:
    lines = output.table([">n", "name", ">value"], [(1, "a", 1.5), (20, "bcd", None), (3, "日本", 2)]).split("\n")
    assert lines == [" n  name  value", " 1  a       1.5", "20  bcd", " 3  日本      2"]


def test_numbers_for_people() -> None:
    assert [output.count(n, "entry") for n in (0, 1, 1234)] == ["0 entries", "1 entry", "1,234 entries"]
    assert [output.size(n) for n in (0, 999, 1500, 2_500_000, 7 * 10**12)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "2.5 MB",
        "7.0 TB",
    ]


@pytest.fixture
def as_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Called in the test itself: pytest sets its own streams after the fixtures."""
    return lambda: _as_terminal(monkeypatch)


def _as_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(output, "REDRAW_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return stream


def test_progress_shows_rate_and_time_left_and_goes_away(as_terminal: Callable[[], Terminal]) -> None:
    terminal = as_terminal()
    with output.Progress("replaying", 4, "segments") as progress:
        progress.update(0)
        progress.update(2)
    text = terminal.getvalue()
    assert "replaying  2/4 segments  50 %" in text
    assert "segments/s  0:00:00 left" in text
    assert text.endswith("\r\x1b[K"), "the line is taken away"


def test_each_part_of_the_work_has_its_own_rate(
    as_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    terminal = as_terminal()
    with output.Progress("reading the data", 100) as progress:
        progress.update(0)
        now[0] = 1000.0
        progress.begin("replaying")
        progress.update(40)
        now[0] = 1010.0
        progress.update(60)
    assert "replaying  60/100 steps  60 %  2 steps/s  0:00:20 left" in terminal.getvalue()


def test_progress_is_cut_to_the_terminal(as_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_terminal()
    monkeypatch.setenv("COLUMNS", "20")
    with output.Progress("a very long description", 4) as progress:
        progress.update(1)
        assert terminal.getvalue() == "\r\x1b[Ka very long descrip"


def test_what_a_script_prints_comes_above_the_line(as_terminal: Callable[[], Terminal]) -> None:
    terminal = as_terminal()
    with output.Progress("training", 4, beneath=True) as progress:
        progress.update(1)
        print("epoch 1")
        progress.update(2)
        print("no end", end="")
        progress.update(3)
        assert sys.stdout.isatty()
    assert sys.stdout is terminal
    text = terminal.getvalue()
    assert "\r\x1b[Kepoch 1\n" in text
    assert text.endswith("\r\x1b[Kno end"), "nothing is drawn into a line that has not ended"


@pytest.mark.parametrize("dumb", [True, False])
def test_progress_is_silent_elsewhere(
    as_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch, dumb: bool
) -> None:
    terminal = as_terminal()
    stream = terminal if dumb else io.StringIO()
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    with output.Progress("training", 4, beneath=True) as progress:
        progress.update(2)
    assert stream.getvalue() == ""


def shown(text: str) -> list[str]:
    head, *lines = program_text({"train.py": text.encode()}).split("\n")
    assert head == f"--- train.py, {len(text.encode()):,} bytes"
    return lines


def test_a_long_line_of_a_recipe_is_wrapped_and_not_cut() -> None:
    line = "x = [" + ", ".join(str(i) for i in range(2000)) + "]; import evil"
    lines = shown(line + "\n")
    assert lines[0].startswith("| x = [0, 1")
    assert all(text.startswith("|+ ") for text in lines[1:])
    assert "| " + "".join(text.removeprefix("| ").removeprefix("|+ ") for text in lines) == "| " + line
    assert max(map(len, lines)) <= 120


def test_no_code_is_pushed_out_of_sight() -> None:
    assert shown("x = 1" + " " * 182 + "; import evil\n") == ["| x = 1[182 spaces]; import evil"]
    assert shown(" " * 300 + "import evil") == ["| [300 spaces]import evil"]
    assert shown("def f():\n" + " " * 20 + "return 1") == ["| def f():", "| " + " " * 20 + "return 1"]
    assert shown("x = 1 # a comment\rimport evil") == ["| x = 1 # a comment", "| import evil"]
    assert shown("x = 1\x0bimport evil\u2028more") == [r"| x = 1\x0bimport evil\u2028more"]


def test_only_what_can_hold_no_code_is_shortened() -> None:
    weights = "Ab+/_-9" * 100 + "=="
    assert shown(f'W = "{weights}"; import evil') == [
        f'| W = "{weights[:80]}[622 more characters]"; import ',
        "|+ evil",
    ]
    assert shown(weights[:200]) == [f"| {weights[:116]}", f"|+ {weights[116:200]}"]
    calls = "f(1).g(2);" * 100
    assert "".join(text.removeprefix("| ").removeprefix("|+ ") for text in shown(calls)) == calls


WORDS = st.lists(st.text("ab:/\u4e00", min_size=1, max_size=30), max_size=20)


@given(WORDS, st.integers(40, 90))
def test_wrapped_lines_fit_and_lose_nothing(words: list[str], columns: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        text = output.fields([("because", " ".join(words))])
    lines = text.split("\n")
    assert "".join(text.removeprefix("because").split()) == "".join(words)
    assert all(line.startswith(" " * 9) for line in lines[1:] if line), "what goes on stands below the value"
    for line in lines:
        whole = columns_of(line) <= columns or not re.search("[ :/](?=.)", line[9:].strip())
        assert whole, f"{line!r} could have been broken"


def test_a_digest_stays_whole_and_a_pipe_has_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = "0123456789abcdef" * 4
    row = [("last state", f"sha256:{digest} at step 400")]
    assert output.fields(row) == f"last state  sha256:{digest} at step 400"
    monkeypatch.setenv("COLUMNS", "80")
    assert output.fields(row).split("\n") == ["last state  sha256:", f"            {digest} at", "            step 400"]
    monkeypatch.setenv("COLUMNS", "3")
    assert output.width() == 40, "what is narrower cannot be read"
    monkeypatch.setenv("COLUMNS", "wide")
    assert output.width() is None


def test_an_error_goes_on_below_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output.failure("X", f"{'a word and ' * 6}polchain: hint: of a stranger's", "", 1, as_json=False)
    first, *more = capsys.readouterr().err.splitlines()
    assert first.startswith("polchain: error: a word")
    assert all(line.startswith("    ") and len(line) <= 40 for line in more), "no line passes for one of polchain's"
