"""The process that replays: warm, recipe-free, forked afresh for each job.

It imports torch once, builds one throw-away optimizer (the first costs a second), and waits. Each job arrives as a
socket of its own, and a fork reads it: nothing of any job is ever in the memory that the next one is forked from. Where
a room comes with the job, the fork first goes in there (`fence`). It runs the recipe by `runpy` as `__main__`, and
`polchain.record` finds this module's host instead of a recorder; it answers on the job's socket, and ends.

    mode      answers                                                ends
    program   draft (configuration), program (entry point, files)    in record()
    dataset   draft (configuration), leaves; samples if asked for    in record()
    initial   draft, initial (rows and bytes of step 0)              in attach()
    replay    draft, opening (rows only), samples, closing, ...      at the last step

After the state to show (`shown`), a replay goes on when the parent sends a byte, and ends when it hangs up.

Where samples come with the job, the recipe's data is not read: it has those, and no others.

Everything that it answers is a stranger's word to the parent.
"""

from __future__ import annotations

import contextlib
import gc
import os
import runpy
import socket
import struct
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from polchain.core.encoding import JSON
from polchain.core.genesis import Configuration
from polchain.core.manifest import Snapshot
from polchain.errors import DatasetError, PolchainError
from polchain.training.dataset import Commitment, MapDataset, encode_sample
from polchain.training.fence import PRIVATE, Limits, enter
from polchain.training.fingerprint import fingerprint
from polchain.training.held import HeldDataset
from polchain.training.host import Options, Stretch
from polchain.training.program import find_program
from polchain.training.session import Session
from polchain.training.snapshot import borrow
from polchain.training.state import TrainingState
from polchain.training.wire import Message, receive, send, snapshot_of, state_message

__all__ = ["current_host", "main"]

MAX_STOPS = 1_000

_host: ChildHost | None = None


def current_host() -> ChildHost | None:
    """The host of this process where it replays for a verifier, else None."""
    return _host


class ChildHost:
    """A session's host inside a replaying process (see `session.Host`)."""

    def __init__(self, stream: socket.socket, job: Message) -> None:
        self.stream = stream
        fields = job.fields()
        self.mode = fields.str("mode")
        self.seed = bytes.fromhex(fields.str("seed"))
        self.first = fields.int("first")
        self.last = fields.int("last")
        self.shown = fields.int("shown")
        self.at = [step for step in fields.list("at", max_items=MAX_STOPS) if isinstance(step, int)]
        self.precision = fields.str("precision")
        self.width = fields.int("width")
        self.held = fields.int("held")
        self.job = job
        self.encodings: list[bytes] = []
        flat = bytes(job.blobs[0]) if job.blobs else b""
        self.order = struct.unpack(f"<{len(flat) // 8}Q", flat)

    @property
    def witnesses(self) -> bool:
        return self.mode == "replay"

    def adapted(self, configuration: Configuration) -> Configuration:
        """What the program asks for, or what it is to do instead: other checkpoints, another precision."""
        if self.at:
            # An interval that is never over ends where the next one begins.
            starts = sorted({0, *self.at})
            configuration = replace(configuration, interval=tuple((start, configuration.steps) for start in starts))
        return replace(configuration, precision=self.precision) if self.precision else configuration

    def begin(self, options: Options) -> tuple[bytes, MapDataset]:
        send(self.stream, Message("draft", {"configuration": options.configuration.to_json()}))
        if self.mode == "program":
            send(self.stream, Message("program", {"recipe": find_program(options.files).ref.to_json()}))
            self.end()
        if self.held:
            return self.seed, HeldDataset(self.held, self.job.blobs[1])
        try:
            dataset = options.dataset()
            if self.mode == "dataset":
                leaves = Commitment.of(dataset).leaves
                send(self.stream, Message("leaves", {}, [b"".join(leaves)]))
                if self.order:
                    send(self.stream, Message("samples", {}, [encode_sample(dataset[index]) for index in self.order]))
                self.end()
        except PolchainError:
            raise
        except Exception as error:
            raise DatasetError(
                f"the data cannot be read: {type(error).__name__}: {error}", hint="say where it is with --data FOLDER"
            ) from error
        return self.seed, dataset

    def attached(self, session: Session) -> Stretch:
        here: dict[str, JSON] = dict(fingerprint(session.state.device().type, session.configuration.precision))
        if self.mode == "initial":
            send(self.stream, state_message("initial", borrow(session.state).unhashed(), {"fingerprint": here}))
            self.end()
        rows, buffers = snapshot_of(self.job, skip=2 if self.held else 1)
        session.rewind(Snapshot(rows, buffers), self.first)
        opening = borrow(session.state).snapshot().manifest
        send(self.stream, Message("opening", {"fingerprint": here}, [opening.encode()]))
        if self.first == self.last:
            self.end()
        return Stretch(self.first, self.last, self.shown)

    def indices(self, step: int) -> Sequence[int]:
        start = (step - self.first) * self.width
        return self.order[start : start + self.width]

    def sample(self, index: int, encoding: bytes) -> None:
        self.encodings.append(encoding)

    def checkpoint(self, step: int, state: TrainingState, loss: float | None) -> None:
        send(self.stream, Message("samples", {}, self.encodings))
        self.encodings = []
        body: dict[str, JSON] = {"step": step}
        if loss is not None:
            body["loss"] = loss.hex()
        send(self.stream, state_message("closing", borrow(state).unhashed(), body))
        if step >= self.last or (step == self.shown and not self._goes_on()):
            self.end()

    def finished(self) -> None:
        self.end()

    def close(self, failed: bool) -> None:
        """Nothing is kept open but the socket, which ends with the process."""

    def _goes_on(self) -> bool:
        """Whether the parent wants more than the state that was shown."""
        self.stream.settimeout(None)
        try:
            return bool(self.stream.recv(1))
        except OSError:
            return False

    def end(self) -> NoReturn:
        """End the process: the recipe's code after this point never runs."""
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_WR)
        os._exit(0)


def main() -> None:
    """Serve jobs until the control socket closes. Started by `worker.Worker`, with the socket's number as argument, and
    the limits of its rooms where it is to have rooms."""
    control = socket.socket(fileno=int(sys.argv[1]))
    limits = Limits.parse(sys.argv[2]) if len(sys.argv) > 2 else Limits()
    _warm_up()
    send(control, Message("ready"))
    gc.freeze()
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not descriptors:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _serve(descriptors, limits)
        for number in descriptors:
            os.close(number)
        os.waitpid(pid, 0)


def _serve(descriptors: Sequence[int], limits: Limits) -> NoReturn:
    try:
        stream, words, *fence = descriptors
        if fence:
            report, room = fence
            enter(room, report, limits, (stream, words))
        os.dup2(words, 1)
        os.dup2(words, 2)
        os.close(words)
        with socket.socket(fileno=stream) as answers:
            _run(answers, receive(answers))
    finally:
        os._exit(1)


def _warm_up() -> None:
    if os.environ.get("POLCHAIN_ONEDNN") == "0":
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    parameter = torch.nn.Parameter(torch.zeros(1))
    # Not Adam: its steps ask a GPU whether it captures a graph. That starts CUDA, and then no fork can use it.
    optimizer = torch.optim.SGD([parameter], 0.1)
    parameter.grad = torch.zeros(1)
    optimizer.step()


def _run(stream: socket.socket, job: Message) -> NoReturn:
    global _host
    try:
        fields = job.fields()
        entry, module = fields.str("entry", max_length=512), fields.bool("module")
        arguments = [str(item) for item in fields.list("arguments", max_items=4096)]
        folder = Path(fields.str("folder", max_length=4096))
        if fields.bool("fenced"):
            _move_in(folder)
        _lay_out(fields.list("files", max_items=65_536), folder)
        _host = ChildHost(stream, job)
        os.chdir(folder)
        sys.path.insert(0, str(folder / Path(entry).parent) if not module else str(folder))
        if module:
            sys.argv = [entry, *arguments]
            runpy.run_module(entry, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(folder / entry), *arguments]
            runpy.run_path(str(folder / entry), run_name="__main__")
        _fail(stream, "RecipeError", "the script ended without a call of polchain.record, or left its loop early")
    except PolchainError as error:
        _fail(stream, type(error).__name__, str(error), error.hint)
    except SystemExit as error:
        _fail(stream, "RecipeError", f"the script stopped itself with exit status {error.code}")
    except BaseException as error:
        traceback.print_exc()
        _fail(stream, "RecipeError", f"the script raised {type(error).__name__}: {error}")
    finally:
        with contextlib.suppress(Exception):  # the script may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(1)


def _move_in(folder: Path) -> None:
    """Make the room's own folders, and forget where the zygote had its own."""
    folder.mkdir()
    home = folder.with_name("polchain-home")
    home.mkdir()
    outside = os.environ["HOME"]
    for name in [name for name, value in os.environ.items() if value.startswith(outside)]:
        del os.environ[name]  # torch keeps the place of a cache there
    os.environ.update(HOME=str(home), TMPDIR=PRIVATE, USER="recipe", LOGNAME="recipe")
    tempfile.tempdir = None


def _lay_out(files: Sequence[JSON], folder: Path) -> None:
    """Write the recipe's files, a copy for this job alone."""
    for item in files:
        assert isinstance(item, list)
        path, text = item
        target = folder / str(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bytes.fromhex(str(text)))


def _fail(stream: socket.socket, kind: str, text: str, hint: str = "") -> None:
    with contextlib.suppress(PolchainError):
        send(stream, Message("error", {"kind": kind, "text": _sendable(text[:2000]), "hint": _sendable(hint[:500])}))


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


if __name__ == "__main__":
    main()
