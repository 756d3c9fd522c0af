"""Errors to exit codes.

    0 yes   1 no   2 usage   3 undecided   4 could not run: evidence or a service is missing   70 a bug in polchain
    130 interrupted   141 whoever read the answer left

A PolchainError brings its own code. No traceback is ever shown, but for POLCHAIN_DEBUG=1.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import traceback

from polchain.cli import output
from polchain.errors import (
    EquivocationError,
    FormatError,
    MissingFileError,
    NotEnoughMemoryError,
    PolchainError,
    StorageError,
)

__all__ = ["BUG", "INTERRUPTED", "PIPE_CLOSED", "report", "report_usage"]

USAGE = 2
BUG = 70
INTERRUPTED = 130
PIPE_CLOSED = 141


def report(error: BaseException, *, as_json: bool) -> int:
    """Say what went wrong; returns the exit code."""
    if isinstance(error, output.ReaderLeft | BrokenPipeError):
        # What is still buffered would raise again when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    if os.environ.get("POLCHAIN_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        hint = str(error.args[0]) if error.args else ""  # from `output.on_interrupt`
        return _say("Interrupted", "interrupted", hint, INTERRUPTED, as_json)
    named = error if isinstance(error, PolchainError) else _named(error)
    if named is not None:
        proof = named.proof if isinstance(named, EquivocationError) else ""
        return _say(type(named).__name__, str(named), named.hint, named.exit_code, as_json, proof)
    return _say(
        "Bug",
        f"this is a bug in polchain: {type(error).__name__}: {error}",
        "set POLCHAIN_DEBUG=1 for the traceback, and report it",
        BUG,
        as_json,
    )


def report_usage(message: str, command: str, *, as_json: bool) -> int:
    """Say that the command line was wrong; returns the exit code."""
    message = message[:1].lower() + message[1:].removesuffix(".")
    return _say("UsageError", message, f"`{command} --help` says how it goes", USAGE, as_json)


def _say(name: str, message: str, hint: str, exit_code: int, as_json: bool, proof: str = "") -> int:
    try:
        output.failure(name, message, hint, exit_code, as_json=as_json, proof=proof)
    except (OSError, output.ReaderLeft):
        # Nobody can be told; the code still says it.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return exit_code


def _named(error: BaseException) -> PolchainError | None:
    """What the operating system or the database raised, as one of polchain's own errors; None for a bug."""
    if isinstance(error, MemoryError):
        return NotEnoughMemoryError("not enough memory", hint="free some, or use a machine with more")
    if isinstance(error, sqlite3.OperationalError):
        return StorageError(f"the ledger cannot be read: {error}", hint="is its folder writable, and on a local disk?")
    if isinstance(error, sqlite3.Error):
        return FormatError(f"the ledger is damaged: {error}", hint="`polchain fsck` says where")
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename is not None else ""
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return MissingFileError(f"{reason}{where}")
        return StorageError(f"{reason}{where}")
    return None
