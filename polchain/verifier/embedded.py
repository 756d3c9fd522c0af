r"""The facts inside a certificate's page, and how they are read back from a page that anybody may have written.

    <script type="application/json" id="facts">{"asked":...}</script>

Canonical JSON, in which `<`, `>`, `&` and everything that is not ASCII are written as \uXXXX: no text can end the
element. A browser runs nothing of that type. At most 16 MiB a page; what is not of the shape below is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from polchain.core.encoding import JSON, check_nesting, encode
from polchain.errors import FormatError, MissingFileError
from polchain.verifier.shapes import check_facts

__all__ = ["PAGE_LIMIT", "embed", "extract", "read_page"]

PAGE_LIMIT: Final = 16 * 1024 * 1024
OPEN: Final = '<script type="application/json" id="facts">'
CLOSE: Final = "</script>"
_UNSAFE: Final = re.compile(r"[<>&\x7f-\U0010ffff]")


def embed(facts: dict[str, JSON]) -> str:
    """The facts as text that may stand inside the page's element.

    Raises:
        FormatError: they are no canonical JSON.
    """
    text = encode(facts).decode("utf-8")
    return _UNSAFE.sub(
        lambda found: json.dumps(found[0])[1:-1] if found[0] > "\x7f" else f"\\u{ord(found[0]):04x}", text
    )


def extract(page: str) -> dict[str, Any]:
    """The facts that a page holds, checked for shape alone: what they say may be false.

    Raises:
        FormatError: the page holds none, or not as `embed` writes them.
    """
    parts = page.split(OPEN)
    text, closed, _ = parts[-1].partition(CLOSE)
    if len(parts) != 2 or not closed:
        raise FormatError("no certificate of polchain's: it holds no facts, or more than once")
    try:
        check_nesting(text)
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the certificate's facts are not JSON: {error}") from None
    encode(value)
    check_facts(value)
    return dict(value)


def read_page(path: Path) -> str:
    """A certificate's page, as text.

    Raises:
        MissingFileError: it is not there, or cannot be read.
        FormatError: over the limit, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(PAGE_LIMIT + 1)
    except OSError as error:
        raise MissingFileError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > PAGE_LIMIT:
        raise FormatError(f"{path} is over {PAGE_LIMIT} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 at byte {error.start}") from None
