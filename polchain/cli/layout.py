"""Text for terminals: what could steer one made visible, and lines that fit.

A line fits if it has no more columns than the terminal; where there is none and COLUMNS is not set, every line does.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable
from typing import TextIO

__all__ = ["columns_of", "is_terminal", "sanitise", "width", "wrapped"]

# Nothing that is narrower can be read.
NARROWEST = 40


def sanitise(text: str, *, lines: bool = False) -> str:
    """Text without anything that a terminal obeys: controls, escapes, bidirectional overrides, lone surrogates.

    Args:
        lines: keep line feeds, and tabs as four spaces.
    """
    if text.isprintable():
        return text
    return "".join(_visible(c, lines) for c in text)


def width(stream: TextIO | None = None) -> int | None:
    """The columns of a stream (stdout, if none is named): its terminal's, or what COLUMNS says; None for no limit."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns[:6]) > 0:
        return max(int(columns[:6]), NARROWEST)
    if not is_terminal(stream or sys.stdout):
        return None
    return max(shutil.get_terminal_size().columns, NARROWEST)


def wrapped(text: str, indent: str = "", rest: str = "", *, stream: TextIO | None = None) -> str:
    """Sanitised text in lines that fit, all but the first behind `indent`; in one line where there is no limit.

    A word that does not fit into a line is broken after a slash or a colon, or not at all: digests stay whole.

    Args:
        rest: more of it, which does not begin a line of its own.
    """
    most = width(stream)
    text, rest = sanitise(text), sanitise(rest)
    if most is None or columns_of(text) + columns_of(rest) <= most:
        return (text + rest).rstrip()
    lines, room = [text] if rest else [""], most - len(indent)
    fresh = True
    for word in (rest or text).split(" "):
        for number, piece in enumerate(_pieces(word, room)):
            gap = "" if fresh or number else " "
            if not fresh and columns_of(lines[-1]) + len(gap) + columns_of(piece) > most:
                lines.append(indent)
                gap = ""
            lines[-1] += gap + piece
            fresh = False
    return "\n".join(line.rstrip() for line in lines)


def _pieces(word: str, room: int) -> Iterable[str]:
    """A word, broken after slashes and colons where it is longer than a line."""
    while columns_of(word) > room:
        fits = room
        while columns_of(word[:fits]) > room:  # wide characters
            fits -= 1
        end = max(word.rfind(mark, 0, fits) for mark in "/:") + 1
        if not end:
            break
        yield word[:end]
        word = word[end:]
    yield word


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody sees what is written there."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def _visible(character: str, lines: bool) -> str:
    if character.isprintable() or (lines and character == "\n"):
        return character
    if lines and character == "\t":
        return "    "
    return ascii(character)[1:-1]


def columns_of(text: str) -> int:
    """The columns that a line takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
