"""`polchain`: the command line.

Each module of COMMANDS holds a group of verbs and has `register(app)`, which adds them. Importing this module loads
neither torch nor web3: what a command needs, it imports when it is called.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core

import polchain
from polchain.cli import output
from polchain.cli.failures import report, report_usage

__all__ = ["COMMANDS", "application", "main"]

# In the order of `polchain --help`: the prover, the verifier, the house.
COMMANDS = (
    "keys", "init", "train", "commit", "anchor", "inspect", "export", "thin",
    "verify", "report", "challenge", "calibrate", "contract", "demo",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Looked for here, because a command line that cannot be parsed is answered in JSON too.
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    output.prepare()
    output.show_log(logging.WARNING)
    try:
        code = application()(words, prog_name="polchain", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    except typer.Abort:
        return report(KeyboardInterrupt(), as_json=as_json)
    except _Interrupted as error:
        return report(KeyboardInterrupt(*error.args), as_json=as_json)
    except BaseException as error:
        # Typer brought its own copy of click, or uses the installed one: their errors share this method alone.
        if hasattr(error, "format_message"):
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "polchain"
            return report_usage(str(error.format_message()), str(command), as_json=as_json)
        return report(error, as_json=as_json)
    return code if isinstance(code, int) else 0


class _Interrupted(Exception):
    """An interrupt on its way past typer, which would end the process without a word."""


class _Commands(typer.core.TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(*error.args) from error


def application() -> typer.Typer:
    """The typer application, with every command."""
    app = typer.Typer(
        name="polchain",
        cls=_Commands,
        help="prove that you trained a model; let a stranger check the proof.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_polchain)
    for name in COMMANDS:
        import_module(f"polchain.cli.{name}").register(app)
    return app


def _polchain(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        output.answer({}, f"polchain {polchain.__version__}", as_json=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(2)


if __name__ == "__main__":
    sys.exit(main())
