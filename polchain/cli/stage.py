"""How the demo speaks: headings, paragraphs, and commands that are shown as one could paste them, then run.

Everything is as wide as the terminal; where there is none, as one has at least.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

from polchain.cli import output
from polchain.errors import PolchainError

__all__ = ["command", "heading", "say", "tell"]

COLUMNS, READ_WITH_EASE = 80, 100


def command(*words: object, expect: int = 0) -> None:
    """Show a command of polchain's, run it, and stop the demo where it exits otherwise than it should."""
    say(f"\n{_shown(['$', 'polchain', *(shlex.quote(_short(word)) for word in words)])}")
    done = subprocess.run(
        [sys.executable, "-m", "polchain.cli.app", *map(str, words)],
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": str(_width())},
    )
    if expect:
        say(f"(exit {done.returncode})")
    if done.returncode != expect:
        raise PolchainError(f"the demo expected exit {expect} here, and got {done.returncode}")


def heading(text: str) -> None:
    """A line above what belongs together."""
    say(f"\n{output.styled(text, 'bold')}\n{'-' * len(text)}")


def tell(text: str, *, gap: bool = True) -> None:
    """A paragraph, after an empty line."""
    lines = textwrap.wrap(text, min(_width(), READ_WITH_EASE), break_long_words=False, break_on_hyphens=False)
    say("\n" * gap + "\n".join(lines))


def say(text: str) -> None:
    """Text as it stands."""
    output.answer({}, text, as_json=False)


def _shown(words: list[str]) -> str:
    """A command in lines that fit: an option stays with what it names."""
    lines = [""]
    for number, word in enumerate(words):
        beside = words[number + 1] if number + 1 < len(words) else "--"
        pair = word.startswith("--") and not beside.startswith("--")
        needed = len(f" {word}{f' {beside}' if pair else ''} \\")
        if lines[-1] and len(lines[-1]) + needed > _width():
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def _width() -> int:
    return output.width() or COLUMNS


def _short(word: object) -> str:
    """A path below the working directory is shown from there."""
    if isinstance(word, Path) and word.is_absolute() and word.is_relative_to(Path.cwd()):
        return os.path.relpath(word)
    return str(word)
