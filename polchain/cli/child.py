"""The process that runs a training script for `polchain init` and `polchain train` (see `cli.launching`).

    python -P -m polchain.cli.child  ORDERS  RUN  SCRIPT  ARGS...

What the script prints goes to stderr: stdout is the answer. It loads as little as it can, since what is loaded is
noted in the genesis. What anchors meanwhile (`train --anchor-every`) is a process of its own: whatever becomes of it,
the training neither waits for it nor shares its random numbers.
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
from polchain.cli.follower import wait_for
from polchain.cli.launching import Orders
from polchain.core.keys import PublicKey
from polchain.errors import PolchainError
from polchain.prover.launch import Launch, run_script
from polchain.prover.settings import RunSettings
from polchain.storage.database import DATABASE
from polchain.storage.secretfile import SECRET

if TYPE_CHECKING:
    from polchain.core.task import Task
    from polchain.prover.preregister import AddressHalf
    from polchain.storage.ledger import Ledger

__all__ = ["main"]

SCRIPT_FAILED = 1
READING = "reading the data"


def main() -> int:
    """Run the script of the command line; returns the exit code."""
    word, folder, script, *arguments = sys.argv[1:]
    orders, run = Orders.parse(word), Path(folder).absolute()
    output.prepare()
    output.show_log(logging.INFO)
    with _answer_apart() as back_to_answer:
        try:
            status = _run(orders, run, script, arguments, back_to_answer)
            if status == 0 and orders.mode == "train":
                back_to_answer()
                _answer_train(run, orders.as_json)
            return status
        except Exception as error:
            back_to_answer()
            if isinstance(error, PolchainError):
                return report(error, as_json=orders.as_json)
            return _script_failed(error, orders.as_json)
        except KeyboardInterrupt:
            back_to_answer()
            hint = f"`polchain train {folder}` goes on where it stopped" if (run / DATABASE).exists() else ""
            output.failure("Interrupted", "interrupted", hint, INTERRUPTED, as_json=orders.as_json)
            return INTERRUPTED


def _run(orders: Orders, run: Path, script: str, arguments: list[str], back_to_answer: _Switch) -> int:
    progress = output.Progress("training", 0, beneath=True)

    def on_genesis(ledger: Ledger) -> None:
        back_to_answer()
        _answer_init(run, ledger)

    def on_checkpoint(step: int, steps: int) -> None:
        progress.update(step, steps)
        if step >= steps:
            progress.close()

    def on_sample(done: int, samples: int) -> None:
        if progress.what != READING:
            progress.begin(READING, "samples")
        progress.update(done, samples)
        if done >= samples:
            progress.clear()
            progress.begin("training", "steps")

    source = script if orders.module else str(Path(script).resolve())
    launch = Launch(
        run=run,
        stop_at_genesis=orders.mode == "init",
        settings=_settings(orders, run, source, arguments),
        address=_address(orders),
        task=_task(orders),
        recovery=PublicKey.parse(orders.recovery) if orders.recovery else None,
        private=orders.private,
        data_secret=Path(orders.data_secret) if orders.data_secret else None,
        own_seed=orders.own_seed,
        on_genesis=on_genesis,
        on_checkpoint=on_checkpoint,
        on_sample=on_sample,
    )
    with progress:
        status = run_script(script, module=orders.module, arguments=arguments, launch=launch)
    if status == 0 and orders.follower:
        wait_for(orders.follower, run)
    return status


def _settings(orders: Orders, run: Path, script: str, arguments: list[str]) -> RunSettings:
    settings = replace(RunSettings.read(run), script=script, module=orders.module, arguments=tuple(arguments))
    settings = replace(settings, store_every=orders.store_every or settings.store_every)
    return settings.with_network(orders.settings or {})


def _address(orders: Orders) -> AddressHalf | None:
    if not orders.address:
        return None
    # Here, because it loads what only a run with an address needs.
    from polchain.prover.preregister import AddressHalf

    run_id, address, signature = (bytes.fromhex(text) for text in (orders.run_id, orders.address, orders.signature))
    return AddressHalf(run_id, address, signature, orders.beacon)


def _task(orders: Orders) -> Task | None:
    if not orders.task:
        return None
    from polchain.core.task import Task

    return Task.parse(orders.task.encode())


def _answer_init(run: Path, ledger: Ledger) -> None:
    """For the process that waits, which says it to the user."""
    genesis = ledger.genesis
    assert genesis.recipe is not None
    assert genesis.dataset is not None
    output.answer(
        {
            "run": str(run),
            "run_id": genesis.run_id.hex(),
            "public_key": str(genesis.key),
            "recipe": str(genesis.recipe.program()),
            "dataset": str(genesis.dataset.root),
            "samples": genesis.dataset.samples,
            **({"data_secret": str(run / SECRET)} if genesis.dataset.salts is not None else {}),
            "head": {"size": ledger.size, "root": str(ledger.root)},
        },
        "",
        as_json=True,
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
