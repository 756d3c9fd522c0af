"""A recipe's text runs as it reads: no other encoding, nothing hidden, nothing shown in another order."""

from __future__ import annotations

import tokenize
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.source import check_source
from polchain.errors import FormatError


@pytest.mark.parametrize(
    ("said", "data"),
    [
        ("line 1: the encoding utf-7", b"# coding: utf-7\n# +AAoAaQBtAHAAbwByAHQAIABvAHM-\n"),
        ("line 2: the encoding utf-7", b"#!/usr/bin/python\n# vim: set fileencoding=utf-7 :\n"),
        ("line 1: the encoding latin-1", b"# -*- coding: latin-1 -*-\n"),
        ("line 2: the encoding raw_unicode_escape", b"\n#coding=raw_unicode_escape\n"),
        ("is not text", "# \u00e9\n".encode("latin-1")),
        ("line 2: U\\+000D", b"x = 1\n# harmless\rprint('run')\n"),
        ("line 1: U\\+0000", b"x = 1\x00"),
        ("line 2: U\\+0005", b"x = 1\n#PK\x05\x06"),
        ("line 1: U\\+202E", "x = 1  # \u202e".encode()),
        ("line 1: U\\+2028", "# shown as two lines\u2028model.bias += 1".encode()),
        ("line 1: U\\+0085", "# \u0085".encode()),
    ],
)
def test_text_that_reads_one_way_and_runs_another_is_refused(said: str, data: bytes) -> None:
    with pytest.raises(FormatError, match=f"train.py.*{said}" if "not text" in said else f"train.py, {said}"):
        check_source(data, "train.py")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x = 1\r\ny = 2\r\n",
        b"# -*- coding: utf-8 -*-\n",
        b"# coding=UTF8\n",
        "\ufeffx = '\u00e9\u6f22'\n".encode(),
        b"\x0cdef f():\n\tpass\n",
        b"x = 1\ny = 2\n# coding: latin-1, says a comment that Python does not heed\n",
    ],
)
def test_plain_text_is_accepted(data: bytes) -> None:
    check_source(data, "train.py")


words = st.sampled_from(["#", " ", "\t", "\f", "coding", ":", "=", "utf-8", "utf_8", "UTF-8", "utf-7", "latin-1", "\n"])


@given(st.lists(words, max_size=12).map("".join))
def test_python_reads_what_was_accepted_as_utf_8(text: str) -> None:
    data = text.encode()
    try:
        check_source(data, "train.py")
    except FormatError:
        return
    assert tokenize.detect_encoding(BytesIO(data).readline)[0] in ("utf-8", "utf-8-sig"), text
