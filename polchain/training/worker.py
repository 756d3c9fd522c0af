"""Replaying, seen from the parent: a warm child, one job at a time.

    Program     a recipe's text: entry point, arguments, files
    Worker      a child with one setting (threads, instruction sets), which replays that program

Batch indices and every comparison belong to this side; what the child answers is hashed here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import polchain.errors as errors
from polchain.core.encoding import JSON, Fields
from polchain.core.genesis import Configuration, RecipeRef
from polchain.core.manifest import Manifest, Snapshot
from polchain.errors import DatasetError, FormatError, PolchainError, RecipeError, WorkerError
from polchain.training.fingerprint import Setting
from polchain.training.program import Program
from polchain.training.snapshot import rehash
from polchain.training.wire import Message, receive, send, snapshot_of, state_message

__all__ = ["Closing", "Replayed", "Worker"]

START_SECONDS = 120.0
LAST_WORDS = 4096


@dataclass(frozen=True, slots=True)
class Closing:
    """A state that the replay arrived at, and the mean loss on the way."""

    step: int
    snapshot: Snapshot
    loss: float | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay answered.

    Attributes:
        opening: rows of the state that the segment was opened with, after it was put into the recipe's objects.
        fingerprint: what the child says that it computed with.
        samples: encodings of the samples it says it used, in order.
        closings: the states it arrived at.
        seconds: wall time of the whole job.
    """

    opening: Manifest
    fingerprint: Mapping[str, str | int | bool]
    samples: tuple[bytes, ...]
    closings: tuple[Closing, ...]
    seconds: float


class Worker:
    """A warm child that replays one program. A context manager.

    Args:
        program: the recipe's text.
        setting: what the child's environment fixes before torch loads.
        data: the folder that `polchain.data_dir()` names in the child.
        timeout: the most seconds that one job may take.
        voice: what goes before every error that comes out of the child, which may be a stranger's words.
    """

    def __init__(
        self, program: Program, setting: Setting, data: Path, *, timeout: float = 3600.0, voice: str = ""
    ) -> None:
        self.program = program
        self.setting = setting
        self.data = data
        self.timeout = timeout
        self.voice = voice
        self._folder = Path(tempfile.mkdtemp(prefix="polchain-replay-"))
        self._words = (self._folder / "output").open("w+b")
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child and remove what it wrote."""
        self._stop()
        self._words.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def commit_dataset(self) -> tuple[Configuration, tuple[bytes, ...]]:
        """The configuration that the program asks for, and the leaf hashes of the data that it reads.

        Raises:
            DatasetError: the data cannot be read.
            RecipeError, WorkerError: the program failed, or the child did.
        """
        with self._job("dataset", bytes(32), 0, 0, []) as answers:
            configuration = answers.draft()
            flat = b"".join(answers.expect("leaves").blobs)
        if len(flat) % 32:
            raise WorkerError("the replaying process sent leaf hashes that are none")
        return configuration, tuple(bytes(flat[i : i + 32]) for i in range(0, len(flat), 32))

    def initial(self, seed: bytes) -> tuple[Snapshot, Mapping[str, str | int | bool]]:
        """The state of step 0, built by a child that is shown no state, and what the child computed with.

        Raises:
            RecipeError, DatasetError, WorkerError: the program failed, or the child did.
        """
        with self._job("initial", seed, 0, 0, []) as answers:
            answers.draft()
            answer = answers.expect("initial")
            found = _fingerprint(answer.fields())
            rows, buffers = snapshot_of(answer)
        return Snapshot(rehash(rows, buffers), buffers), found

    def replay(
        self, seed: bytes, first: int, last: int, batches: Sequence[Sequence[int]], opening: Snapshot, stops: int = 1
    ) -> Replayed:
        """Train steps `first` to `last` (excluded) from an opening state.

        Args:
            seed: the run's seed.
            first, last: the steps; equal to only put the opening state back and read it again.
            batches: the dataset indices of each step.
            opening: the state to begin from; its `schedule` rows are not sent.
            stops: how many checkpoints lie on the way, the last one included.

        Raises:
            RecipeError, DatasetError, WorkerError: the program failed, or the child did.
        """
        begun = time.monotonic()
        rows = tuple(row for row in opening.manifest.rows if not row.name.startswith("schedule/"))
        message = state_message("state", Snapshot(Manifest(rows), opening.buffers))
        samples: list[bytes] = []
        closings = []
        with self._job("replay", seed, first, last, batches, message.blobs) as answers:
            answers.draft()
            answer = answers.expect("opening")
            opened = _rows(answer)
            found = _fingerprint(answer.fields())
            for _ in range(stops if last > first else 0):
                samples += [bytes(blob) for blob in answers.expect("samples").blobs]
                closing = answers.expect("closing")
                body = closing.fields()
                step = body.int("step")
                loss = body.float("loss") if body.has("loss") else None
                closed, buffers = snapshot_of(closing)
                closings.append(Closing(step, Snapshot(rehash(closed, buffers), buffers), loss))
        return Replayed(opened, found, tuple(samples), tuple(closings), time.monotonic() - begun)

    def describe(self, folder: Path, entry: str, module: bool, arguments: Sequence[str]) -> RecipeRef:
        """The program that a script of one's own is: run in its own folder up to `record`, as Python would run it.

        Args:
            folder: the folder that the entry point is named from; nothing in it is written or removed.
            entry: the script's name in that folder, or the module's name.
            module: whether it is run as a module.
            arguments: the script's arguments.

        Raises:
            RecipeError, WorkerError: it never came to `record`, or the child failed.
        """
        own = Program(RecipeRef(entry, module, tuple(arguments), (), ()), {})
        with self._job("program", bytes(32), 0, 0, [], program=own, place=folder) as answers:
            answers.draft()
            fields = answers.expect("program").fields()
            try:
                return RecipeRef.parse(fields.fields("recipe"))
            except FormatError as error:
                raise WorkerError(f"the replaying process named a recipe that is none: {error}") from error

    def _job(
        self,
        mode: str,
        seed: bytes,
        first: int,
        last: int,
        batches: Sequence[Sequence[int]],
        blobs: Sequence[bytes | bytearray | memoryview] = (),
        *,
        program: Program | None = None,
        place: Path | None = None,
    ) -> _Answers:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._control is not None
        self._words.seek(0)
        self._words.truncate()
        program = program or self.program
        folder = Path(tempfile.mkdtemp(prefix="job-", dir=self._folder))
        for path, data in program.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        ref = program.ref
        arguments: list[JSON] = list(ref.arguments)
        flat = [index for batch in batches for index in batch]
        body: dict[str, JSON] = {
            "mode": mode,
            "seed": seed.hex(),
            "first": first,
            "last": last,
            "width": len(batches[0]) if batches else 0,
            "entry": ref.entry,
            "module": ref.module,
            "arguments": arguments,
            "folder": str(place or folder),
        }
        ours, theirs = socket.socketpair()
        # A child that is still busy with an earlier job reads nothing.
        ours.settimeout(self.timeout)
        try:
            with theirs:
                socket.send_fds(self._control, [b"j"], [theirs.fileno()])
            send(ours, Message("job", body, [struct.pack(f"<{len(flat)}Q", *flat), *blobs]))
        except (OSError, WorkerError) as error:
            ours.close()
            self._stop()
            raise WorkerError(f"the replaying process does not take a job{self.last_words()}") from error
        return _Answers(self, ours, folder)

    def _start(self) -> None:
        self._stop()
        self._control, theirs = socket.socketpair()
        keep = {
            k: v
            for k, v in os.environ.items()
            if k in ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
        }
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        environment = {
            **keep,
            **self.setting.environment(),
            "HOME": str(home),
            "TMPDIR": str(home),
            "POLCHAIN_DATA": str(self.data),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from polchain.training.child import main; main()", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                start_new_session=True,
            )
        try:
            receive(self._control, deadline=time.monotonic() + START_SECONDS)
        except WorkerError as error:
            raise WorkerError(f"the replaying process did not start{self.last_words()}") from error

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            # The child's own session: whatever the recipe started ends with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def last_words(self) -> str:
        """The end of what the child printed, for an error message; empty where it printed nothing."""
        self._words.flush()
        size = os.fstat(self._words.fileno()).st_size
        text = os.pread(self._words.fileno(), LAST_WORDS, max(0, size - LAST_WORDS)).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        printable = _printable(lines[-1]) if lines else ""
        return f"; its last words: {printable[:500]}" if printable else ""


class _Answers:
    """The answers of one job, each a stranger's word."""

    def __init__(self, worker: Worker, stream: socket.socket, folder: Path) -> None:
        self.worker = worker
        self.stream = stream
        self.folder = folder
        self.deadline = time.monotonic() + worker.timeout
        self.said_why = False

    def __enter__(self) -> _Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()
        if kind is not None and not self.said_why:
            self.worker._stop()  # who knows what it is doing now
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, FormatError):
            raise WorkerError(f"the replaying process talked nonsense: {error}") from error

    def draft(self) -> Configuration:
        """The configuration that the program asked `record` for."""
        return Configuration.parse(self.expect("draft").fields().fields("configuration"))

    def expect(self, kind: str) -> Message:
        """The next answer, of this type.

        Raises:
            PolchainError: the child says what went wrong.
            WorkerError: it says something else, or nothing.
        """
        try:
            message = receive(self.stream, deadline=self.deadline)
        except WorkerError as error:
            raise WorkerError(f"{error}{self.worker.last_words()}", hint=error.hint) from error
        if message.type == "error":
            reported = _reported(message, self.worker.voice)
            self.said_why = True
            raise reported
        if message.type != kind:
            raise WorkerError(f"the replaying process sent {message.type!r} instead of {kind!r}")
        return message


def _reported(message: Message, voice: str) -> PolchainError:
    fields = message.fields()
    kind, text, hint = fields.str("kind"), fields.str("text", max_length=4096), fields.str("hint")
    # Only these can be a recipe's fault; whatever else it claims is a broken recipe.
    known: type[PolchainError] = {"DatasetError": DatasetError}.get(kind, RecipeError)
    if kind == "ManifestError":
        known = errors.ManifestError
    return known(voice + _printable(text), hint=_printable(hint))


def _printable(text: str) -> str:
    """A stranger's text without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _rows(message: Message) -> Manifest:
    try:
        return Manifest.decode(bytes(message.blobs[0]))
    except (PolchainError, IndexError) as error:
        raise WorkerError(f"the replaying process sent rows that are none: {error}") from error


def _fingerprint(fields: Fields) -> dict[str, str | int | bool]:
    found: dict[str, str | int | bool] = {}
    for name, value in fields.dict("fingerprint").items():
        if not isinstance(value, str | int | bool):
            raise FormatError("a fingerprint holds strings and numbers")
        found[name] = value
    return found
