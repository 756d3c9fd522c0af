"""The process that runs a training script: `polchain init` and `polchain train` turn into it.

    python -P -m polchain.cli.child  init|train  text|json  file|module  RUN  SCRIPT  ARGS...

The same process, so that a signal meant for `polchain train` reaches the training. What the script prints goes to
stderr: stdout is the answer. It loads as little as it can, since what is loaded is noted in the genesis.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from polchain.cli import output
from polchain.cli.failures import INTERRUPTED, report
from polchain.errors import PolchainError
from polchain.prover.launch import Launch, run_script
from polchain.prover.settings import RunSettings
from polchain.storage.ledger import DATABASE

if TYPE_CHECKING:
    from polchain.storage.ledger import Ledger

__all__ = ["main"]

SCRIPT_FAILED = 1


def main() -> int:
    """Run the script of the command line; returns the exit code."""
    mode, form, kind, folder, script, *arguments = sys.argv[1:]
    run, as_json = Path(folder).absolute(), form == "json"
    output.prepare()
    output.show_log(logging.INFO)
    with _answer_apart() as back_to_answer:
        try:
            status = _run(mode, run, script, kind == "module", arguments, as_json, back_to_answer)
            if status == 0 and mode == "train":
                back_to_answer()
                _answer_train(run, as_json)
            return status
        except Exception as error:
            back_to_answer()
            if isinstance(error, PolchainError):
                return report(error, as_json=as_json)
            return _script_failed(error, as_json)
        except KeyboardInterrupt:
            back_to_answer()
            hint = f"`polchain train {folder}` goes on where it stopped" if (run / DATABASE).exists() else ""
            output.failure("Interrupted", "interrupted", hint, INTERRUPTED, as_json=as_json)
            return INTERRUPTED


def _run(
    mode: str, run: Path, script: str, module: bool, arguments: list[str], as_json: bool, back_to_answer: _Switch
) -> int:
    progress = output.Progress("training", 0, beneath=True)

    def on_genesis(ledger: Ledger) -> None:
        back_to_answer()
        _answer_init(run, ledger, as_json)

    def on_checkpoint(step: int, steps: int) -> None:
        progress.update(step, steps)
        if step >= steps:
            progress.close()

    source = script if module else str(Path(script).resolve())
    launch = Launch(
        run=run,
        stop_at_genesis=mode == "init",
        settings=replace(RunSettings.read(run), script=source, module=module, arguments=tuple(arguments)),
        on_genesis=on_genesis,
        on_checkpoint=on_checkpoint,
    )
    with progress:
        return run_script(script, module=module, arguments=arguments, launch=launch)


def _answer_init(run: Path, ledger: Ledger, as_json: bool) -> None:
    genesis = ledger.genesis
    assert genesis.recipe is not None
    assert genesis.dataset is not None
    recipe = genesis.recipe.program()
    output.answer(
        {
            "run": str(run),
            "run_id": genesis.run_id.hex(),
            "public_key": str(genesis.key),
            "recipe": str(recipe),
            "dataset": str(genesis.dataset.root),
            "head": {"size": ledger.size, "root": str(ledger.root)},
        },
        output.fields(
            [
                ("run", run),
                ("key", genesis.key),
                ("recipe", recipe),
                ("dataset", f"{output.count(genesis.dataset.samples, 'sample')}, {genesis.dataset.root}"),
                ("head", ledger.root),
            ]
        ),
        as_json=as_json,
    )


def _answer_train(run: Path, as_json: bool) -> None:
    from polchain.core.entries import CheckpointEntry, Final
    from polchain.storage.ledger import Ledger

    with Ledger(run) as ledger:
        last = ledger.entry(ledger.size - 1)
        step = last.step if isinstance(last, CheckpointEntry | Final) else 0
        configuration = ledger.genesis.configuration
        steps = configuration.steps if configuration is not None else step
        finished = isinstance(last, Final)
        output.answer(
            {
                "run": str(run),
                "step": step,
                "steps": steps,
                "finished": finished,
                "entries": ledger.size,
                "head": {"size": ledger.size, "root": str(ledger.root)},
            },
            output.fields(
                [
                    ("run", run),
                    ("step", f"{step} of {steps}" + ("" if finished else ", not finished")),
                    ("entries", ledger.size),
                    ("head", ledger.root),
                ]
            ),
            as_json=as_json,
        )


def _script_failed(error: Exception, as_json: bool) -> int:
    """The user's own program raised: its traceback, from its first line on."""
    sys.stdout.flush()
    if as_json:
        name, text = type(error).__name__, f"the script raised {type(error).__name__}: {error}"
        output.failure(name, text, "", SCRIPT_FAILED, as_json=True)
    traceback.print_exception(type(error), error, _own_frames(error.__traceback__))
    return SCRIPT_FAILED


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that led to the script."""
    ours = {__file__, run_script.__code__.co_filename, "<frozen runpy>"}
    start = trace
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    return trace if trace is not None else start


class _Switch:
    """Turns stdout back into the answer's; until then, what is printed goes to stderr."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._kept = os.dup(1)
        os.dup2(2, 1)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(line_buffering=True)

    def __call__(self) -> None:
        if self._kept >= 0:
            sys.stdout.flush()
            os.dup2(self._kept, 1)
            os.close(self._kept)
            self._kept = -1


@contextmanager
def _answer_apart() -> Iterator[_Switch]:
    switch = _Switch()
    yield switch
    switch()


if __name__ == "__main__":
    sys.exit(main())
