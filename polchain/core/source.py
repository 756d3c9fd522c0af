"""A recipe's text is what Python runs: files that read one way and run another are refused.

not UTF-8                      a reader sees other characters than Python
a coding cookie but utf-8      PEP 263: `# coding: utf-7` makes code of what reads as a comment
a control character            a program hidden behind the text (a zip, byte code), or a line that no editor ends:
                               tab, line feed, form feed and CR LF are allowed, a CR alone is a new line to Python
a bidirectional control        text that is shown in another order than it runs in ("Trojan Source", 2021); a
                               line or paragraph separator, which ends a line for readers alone
"""

from __future__ import annotations

import re
from typing import Final

from polchain.errors import FormatError

__all__ = ["check_source"]

# PEP 263 looks at the first two lines. Looser than Python's own rule: what might be one is taken for one.
_COOKIE: Final = re.compile(r"coding[:=][ \t]*([-_.a-zA-Z0-9]+)")
_UTF_8: Final = frozenset({"utf-8", "utf8"})
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0d-\x1f\x7f-\x9f]")
_SHOWN_OTHERWISE: Final = re.compile("[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def check_source(data: bytes, name: str) -> None:
    """Check that one of a recipe's files runs as it reads.

    Raises:
        FormatError: it does not; how is said.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{name} is not text", hint="a recipe is program text: data belongs in the dataset") from None
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        found = _CONTROL.search(line) or _SHOWN_OTHERWISE.search(line)
        if found is not None:
            raise FormatError(
                f"{name}, line {number}: U+{ord(found[0]):04X} makes text read one way and run another",
                hint="remove it, or write it as an escape",
            )
        cookie = _COOKIE.search(line) if number <= 2 else None
        if cookie is not None and cookie[1].lower().replace("_", "-") not in _UTF_8:
            raise FormatError(
                f"{name}, line {number}: the encoding {cookie[1][:40]} makes text read one way and run another",
                hint="a recipe is UTF-8",
            )
