"""The only printer.

    stdout    the answer: plain text, or one JSON object with --json
    stderr    the rest: `polchain: error: ...`, `polchain: hint: ...`, what happens meanwhile, progress

Names, entries and messages may come from a stranger's claim: `sanitise` turns whatever could steer a terminal into
visible escapes, and everything here that lays text out calls it. Streams and their terminals are looked at when
something is printed, so NO_COLOR and TERM=dumb are honoured, and a pipe gets neither colour nor progress.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO, cast

from polchain.cli.layout import columns_of, is_terminal, sanitise, width, wrapped

__all__ = [
    "Progress",
    "ReaderLeft",
    "answer",
    "count",
    "failure",
    "fields",
    "note",
    "on_interrupt",
    "prepare",
    "relay",
    "sanitise",
    "show_log",
    "size",
    "styled",
    "table",
    "width",
    "wrapped",
]

REDRAW_SECONDS = 0.1


class ReaderLeft(Exception):
    """Whoever read the answer has gone. No OSError: typer would answer for one itself."""


def prepare() -> None:
    """What a stream's encoding cannot write is written as an escape, not raised."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def answer(data: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the answer: the object with --json, else the text, which was laid out here."""
    if as_json:
        # Escaped to ASCII, so that nothing in it reaches a terminal as a control.
        text = json.dumps(data, indent=2 if is_terminal(sys.stdout) else None).replace("\x7f", "\\u007f")
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderLeft from error


def relay(text: str) -> None:
    """Print an answer that another polchain process laid out."""
    answer({}, text, as_json=False)


def note(text: str) -> None:
    """Say on stderr what happens meanwhile, one line."""
    _to_stderr(f"{wrapped(f'polchain: {text}', '    ', stream=sys.stderr)}\n")


@contextlib.contextmanager
def on_interrupt(hint: str) -> Iterator[None]:
    """Whoever interrupts what is done in here is given this hint."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(hint) from error


def failure(name: str, message: str, hint: str, exit_code: int, *, as_json: bool, proof: str = "") -> None:
    """Say what went wrong: an error and a hint on stderr, or an object on stdout with --json.

    A `proof` that the message ends in keeps its lines, set in, so that none passes for a line of polchain's own.
    """
    if as_json:
        answer({"error": {"name": name, "message": message, "hint": hint, "exit_code": exit_code}}, "", as_json=True)
        return
    message, hint = (" ".join(part.split("\n")) for part in (message.removesuffix(proof).rstrip("\n"), hint))
    text = wrapped(f"polchain: error: {message}", "    ", stream=sys.stderr)
    _to_stderr(text.replace("error:", styled("error:", "bold red", stream=sys.stderr), 1) + "\n")
    for line in proof.splitlines():
        _to_stderr(f"    {sanitise(line)}".rstrip() + "\n")
    if hint:
        _to_stderr(f"{wrapped(f'polchain: hint: {hint}', '    ', stream=sys.stderr)}\n")


def styled(text: str, style: str, *, stream: TextIO | None = None) -> str:
    """Text in a rich style where the stream (stdout, if none is named) is a terminal that shows it; else plain."""
    stream = stream or sys.stdout
    text = sanitise(text, lines=True)
    if not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, soft_wrap=True)
    with console.capture() as captured:
        console.print(Text(text, style=style), end="")
    return captured.get()


def fields(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, one a line, aligned; a value that is too long for the terminal goes on below itself."""
    pairs = [(sanitise(name), str(value)) for name, value in rows]
    label = max((len(name) for name, _ in pairs), default=0) + 2
    return "\n".join(wrapped(f"{name:<{label}}", " " * label, value) for name, value in pairs)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table without lines, as wide as it needs to be. A column of numbers is named with a leading `>`."""
    kept = [tuple(row) for row in rows]
    return "\n".join(_table_lines(columns, lambda: kept))


def stream(columns: Sequence[str], rows: Callable[[], Iterable[Sequence[object]]]) -> None:
    """Print a table as the answer, a row at a time; the rows are made twice, first to see how wide they are."""
    try:
        for line in _table_lines(columns, rows):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderLeft from error


def _table_lines(columns: Sequence[str], rows: Callable[[], Iterable[Sequence[object]]]) -> Iterator[str]:
    right = [name.startswith(">") for name in columns]
    names = [name.removeprefix(">") for name in columns]
    widths = [columns_of(name) for name in names]
    for row in rows():
        widths = [max(width, columns_of(_cell(cell))) for width, cell in zip(widths, row, strict=True)]

    def line(cells: Sequence[str]) -> str:
        parts = [
            " " * (width - columns_of(cell)) + cell if flush else cell + " " * (width - columns_of(cell))
            for cell, width, flush in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    yield styled(line(names), "bold")
    for row in rows():
        yield line([_cell(cell) for cell in row])


def _cell(value: object) -> str:
    return "" if value is None else sanitise(str(value))


def count(number: int, noun: str) -> str:
    """`1 entry`, `2 entries`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def size(number: int) -> str:
    """A number of bytes for people: `1.3 MB`."""
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


class Progress:
    """How far long work is, its rate and the time left: one line on stderr, only where that is a terminal.

    With `beneath`, what else this process writes to stdout and stderr (a training script's own lines) comes above
    the line instead of into it.
    """

    def __init__(self, what: str, total: int, unit: str = "steps", *, beneath: bool = False) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.beneath = beneath
        self._stream = sys.stderr
        self._on = is_terminal(self._stream) and os.environ.get("TERM") != "dumb"
        self._shown = self._inside_line = False
        self._drawn = 0.0
        self._start: tuple[float, int] | None = None
        self._saved: tuple[TextIO, TextIO] | None = None

    def __enter__(self) -> Progress:
        if self._on and self.beneath:
            self._saved = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = cast(TextIO, _Above(sys.stdout, self)), cast(TextIO, _Above(sys.stderr, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, what: str, unit: str | None = None) -> None:
        """Something else begins, whose rate counts from here."""
        self.what, self.unit = what, unit or self.unit
        self._start = None

    def update(self, done: int, total: int | None = None, left: float | None = None) -> None:
        """So much is done; `left` are the seconds that the rest takes, where that is known better than by the rate."""
        now = time.monotonic()
        self.total = self.total if total is None else total
        if self._start is None:
            self._start = now, done
        if not self._on or self._inside_line or (now - self._drawn < REDRAW_SECONDS and done < self.total):
            return
        self._drawn = now
        began, first = self._start
        rate = (done - first) / (now - began) if done > first and now > began else 0.0
        line = f"{self.what}  {done}/{self.total} {self.unit}  {100 * done // max(self.total, 1)} %"
        if left is not None:
            line += f"  about {_duration(left)} left"
        elif rate:
            line += f"  {rate:.3g} {self.unit}/s  {_duration((self.total - done) / rate)} left"
        most = shutil.get_terminal_size().columns - 1
        self._write(f"\r\x1b[K{sanitise(line)[:most]}")
        self._shown = True

    def clear(self) -> None:
        """Take the line away until the next update."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def close(self) -> None:
        """Take the line away for good."""
        self.clear()
        self._on = False
        if self._saved is not None:
            sys.stdout, sys.stderr = self._saved
            self._saved = None

    def wrote(self, text: str) -> None:
        """Something else was written: no line is drawn into an unfinished one."""
        if text:
            self._inside_line = not text.endswith("\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


class _Above:
    """A stream whose text comes above the progress line."""

    def __init__(self, stream: TextIO, progress: Progress) -> None:
        self._stream = stream
        self._progress = progress

    def write(self, text: str) -> int:
        self._progress.clear()
        self._progress.wrote(text)
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def show_log(level: int) -> None:
    """Show what polchain logs, from a level on, as lines on stderr."""
    logger = logging.getLogger("polchain")
    logger.setLevel(level)
    if not any(isinstance(handler, _LogLines) for handler in logger.handlers):
        logger.addHandler(_LogLines())


class _LogLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            note(record.getMessage())
        except Exception:
            self.handleError(record)


def _to_stderr(text: str) -> None:
    # A closed stderr must not turn an answer into a failure.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
