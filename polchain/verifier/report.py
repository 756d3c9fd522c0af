"""The HTML certificate: facts -> page, and page -> facts.

One file that needs nothing else: style, plots and the machine-readable facts are inside, a Content-Security-Policy
forbids to fetch or run anything, and every text is escaped by the template engine. The page is a function of its facts,
so whoever has it can make it again: what is visible and what is embedded cannot part unseen.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
import unicodedata
from collections.abc import Mapping
from importlib import metadata
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined, TemplateError
from markupsafe import Markup, escape

import polchain
from polchain.core.encoding import JSON, encode
from polchain.errors import FormatError
from polchain.verifier.embedded import PAGE_LIMIT, embed
from polchain.verifier.shapes import check_facts
from polchain.verifier.verdict import MEANING
from polchain.verifier.views import Room, view_of

__all__ = ["PAGE", "page_again", "page_of", "versions", "visible"]

# What looks like nothing, though Unicode calls it a letter, a mark or a symbol: Default_Ignorable_Code_Point of its
# DerivedCoreProperties.txt where that is printable (variation selectors, fillers), and blanks, joiners and empty notes.
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u2d7f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufffc"
    "\U00013441\U00013442\U00016fe4\U0001107f\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
MARKS: Final = 2
# Whose versions decide a page's bytes.
PAGE: Final = ("polchain", "matplotlib", "jinja2")


def versions() -> dict[str, str]:
    """Of polchain, of what replays, and of what draws and lays out the page."""
    others = {name: metadata.version(name) for name in ("torch", "matplotlib", "jinja2")}
    return {"polchain": polchain.__version__, "python": platform.python_version(), **others}


def page_of(facts: Mapping[str, JSON]) -> str:
    """The page of these facts.

    Raises:
        FormatError: the facts contradict each other or are of another shape, or the page is over the limit.
    """
    # In the order in which they are embedded, so that what is read back gives the same page.
    facts = json.loads(encode(dict(facts)))
    check_facts(facts)
    folder = files("polchain.verifier") / "templates"
    style = (folder / "certificate.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, keep_trailing_newline=True
    )
    environment.filters["lines"] = _lines
    parts = environment.from_string((folder / "certificate.html").read_text("utf-8")).generate(
        view=view_of(facts, Room(PAGE_LIMIT)),
        meaning=MEANING,
        style=Markup(style),
        style_hash=Markup(f"sha256-{digest}"),
        facts=Markup(embed(dict(facts))),
    )
    page, room = [], Room(PAGE_LIMIT)
    for part in parts:
        room.take(part)
        page.append(part)
    return "".join(page)


def page_again(facts: Mapping[str, JSON]) -> str:
    """The page of facts that somebody else wrote, of the right shape and perhaps senseless.

    Raises:
        FormatError: no page can be made of them.
    """
    try:
        return page_of(facts)
    except (ArithmeticError, LookupError, TypeError, ValueError, OSError, TemplateError) as error:
        raise FormatError(f"no page can be made of the certificate's facts: {type(error).__name__}") from error


def visible(text: str, *, lines: bool = False) -> str:
    """Text in which nothing is invisible: controls, overrides, blank letters and stacked marks as escapes.

    Args:
        lines: keep line feeds, and tabs as four spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    stacked = 0
    shown = []
    for c in text:
        stacked = stacked + 1 if unicodedata.category(c) in ("Mn", "Me") else 0
        if lines and c == "\n":
            shown.append(c)
        elif lines and c == "\t":
            shown.append("    ")
        elif not c.isprintable() or _BLANK.match(c) or stacked > MARKS:
            shown.append(ascii(c)[1:-1])
        else:
            shown.append(c)
    return "".join(shown)


def _finalize(value: Any) -> Any:
    return value if hasattr(value, "__html__") else visible(str(value))


def _lines(text: str) -> Markup:
    return escape(visible(text, lines=True))
