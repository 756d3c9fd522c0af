"""Writing a certificate's file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.cli import output
from polchain.errors import UsageError

if TYPE_CHECKING:
    from polchain.core.encoding import JSON

__all__ = ["check_new", "write_report"]


def check_new(path: Path) -> None:
    """Refuse, before any work, a file that is there: a certificate that was filed is not written over.

    Raises:
        UsageError: there is something.
    """
    if os.path.lexists(path):
        raise UsageError(f"there is something at {path} already", hint="name a new file for the certificate")


def write_report(facts: Mapping[str, JSON], path: Path) -> None:
    """Write the page of these facts.

    Raises:
        StorageError: the disk refused.
    """
    from polchain.storage.checkpoints import write_durably
    from polchain.verifier.report import page_of

    write_durably(path, page_of(facts).encode())
    output.note(f"the certificate is {path}")
