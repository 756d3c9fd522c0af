"""A recipe's text on a terminal: for somebody who is to decide whether it is learning, so that nothing in it hides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from polchain.cli import output

__all__ = ["program_text"]

WIDTH = 116
# What holds weights as text. No code can hide in it: it has no brackets, quotes, dots or spaces.
FLAT = re.compile(r"[A-Za-z0-9+/=_-]{201,}")
FLAT_SHOWN = 80
# Spaces push code out of sight; indentation may be deep.
SPACES = re.compile(r"(?<=\S) {17,}|^ {41,}")


def program_text(files: Mapping[str, bytes]) -> str:
    """The files of a recipe, line by line: `| ` before each line, `|+ ` before what goes on from the line above."""
    return "\n".join(
        "\n".join([f"--- {output.sanitise(name)}, {len(data):,} bytes", *_lines(data)])
        for name, data in sorted(files.items())
    )


def _lines(data: bytes) -> Iterator[str]:
    # Python ends a line at a lone carriage return too.
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for line in output.sanitise(text, lines=True).removesuffix("\n").split("\n"):
        line = SPACES.sub(lambda found: f"[{len(found[0]):,} spaces]", line)
        line = FLAT.sub(_shortened, line)
        for start in range(0, max(1, len(line)), WIDTH):
            yield f"|{'+' if start else ''} {line[start : start + WIDTH]}"


def _shortened(found: re.Match[str]) -> str:
    return f"{found[0][:FLAT_SHOWN]}[{len(found[0]) - FLAT_SHOWN:,} more characters]"
