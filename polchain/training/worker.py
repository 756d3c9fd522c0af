"""Replaying, seen from the parent: a warm child, one job at a time.

    Program     a recipe's text: entry point, arguments, files
    Worker      a child with one setting (threads, instruction sets), which replays that program
    Fence       what makes a room for each job of a stranger's program; without one, a job runs as the user

Batch indices and every comparison belong to this side; what the child answers is bounded and hashed here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import site
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from polchain.core.encoding import JSON
from polchain.core.genesis import Configuration, RecipeRef
from polchain.core.manifest import Manifest, Snapshot
from polchain.errors import FormatError, WorkerError
from polchain.training.answers import Answers, Closing, fingerprint_of, rows_of
from polchain.training.dataset import SAMPLE_LIMIT, sample_leaf
from polchain.training.fence import PLACE, Fence, Room, sealed_interpreter
from polchain.training.fingerprint import Setting
from polchain.training.held import Held
from polchain.training.program import Program
from polchain.training.snapshot import rehash
from polchain.training.wire import Bounds, Hashing, Message, receive, send, snapshot_of, state_message
from polchain.training.words import KEPT, Words

__all__ = ["Closing", "Replayed", "Worker"]

START_SECONDS = 120.0
LEAF = 32
SPARE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay answered.

    Attributes:
        opening: rows of the state that the segment was opened with, after it was put into the recipe's objects.
        fingerprint: what the child says that it computed with.
        samples: leaf hashes of the samples it says it used, in order.
        closings: the states it arrived at.
        seconds: wall time of the whole job.
        shown: the state on the way that was asked for.
        start: of the seconds, those until the opening state was in the recipe's objects.
    """

    opening: Manifest
    fingerprint: Mapping[str, str | int | bool]
    samples: tuple[bytes, ...]
    closings: tuple[Closing, ...]
    seconds: float
    shown: Snapshot | None = None
    start: float = 0.0


class Worker:
    """A warm child that replays one program. A context manager.

    Args:
        program: the recipe's text.
        setting: what the child's environment fixes before torch loads.
        data: the folder that `polchain.data_dir()` names in the child.
        timeout: the most seconds that one job may take.
        voice: what goes before every error that comes out of the child, which may be a stranger's words.
        fence: what makes a room for each job; None to run the program as the user.
        kept: how many bytes of what a job prints are kept.
        gpu: the one that it may see, as CUDA_VISIBLE_DEVICES names it; empty for those that this process sees.
        held: samples that the program is handed instead of reading its data; None where it reads.
    """

    def __init__(
        self,
        program: Program,
        setting: Setting,
        data: Path,
        *,
        timeout: float = 3600.0,
        voice: str = "",
        fence: Fence | None = None,
        kept: int = KEPT,
        gpu: str = "",
        held: Held | None = None,
    ) -> None:
        self.program = program
        self.setting = setting
        self.data = data
        self.timeout = timeout
        self.voice = voice
        self.fence = fence
        self.kept = kept
        self.gpu = gpu
        self._peak = 0
        self._interrupted = False
        self._answers: Answers | None = None
        self._rooms: list[Room] = []
        self.held = held
        self._folder = Path(tempfile.mkdtemp(prefix="polchain-replay-"))
        self._words = Words()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child and remove what it wrote.

        Raises:
            WorkerError: what ran in a room does not end.
        """
        self._stop()
        self._words.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._close_rooms()

    @property
    def peak(self) -> int:
        """Bytes that a job has had in memory at most, of those that have ended; 0 without a fence."""
        return max(self._peak, self._answers.peak if self._answers is not None else 0)

    def warm(self) -> None:
        """Start the child, where it does not run yet.

        Raises:
            WorkerError: it does not start.
        """
        if self._interrupted:
            raise WorkerError("replaying was interrupted")
        if self._process is None or self._process.poll() is not None:
            self._start()

    def interrupt(self) -> None:
        """From another thread: what is under way ends in a WorkerError, and so does whatever is asked later."""
        self._interrupted = True
        for stream in (self._control, self._answers.stream if self._answers is not None else None):
            if stream is not None:
                with contextlib.suppress(OSError):  # it is closed already
                    stream.shutdown(socket.SHUT_RDWR)

    def commit_dataset(self, expected: int | None = None) -> tuple[Configuration, tuple[bytes, ...]]:
        """The configuration that the program asks for, and the leaf hashes of the data that it reads.

        Args:
            expected: how many samples there should be; None for any number.

        Raises:
            DatasetError: the data cannot be read.
            RecipeError, WorkerError: the program failed, or the child did.
        """
        with self._job("dataset", bytes(32), 0, 0, []) as answers:
            configuration = answers.draft()
            # Twice as many, and some: the wrong data has a better error than too much of it.
            bounds = Bounds() if expected is None else Bounds.of(1, 2 * LEAF * expected + SPARE)
            flat = b"".join(answers.expect("leaves", bounds).blobs)
        if len(flat) % LEAF:
            raise WorkerError("the replaying process sent leaf hashes that are none")
        return configuration, tuple(bytes(flat[i : i + LEAF]) for i in range(0, len(flat), LEAF))

    def configuration(self) -> Configuration:
        """The configuration that the program asks for; its data is not read.

        Raises:
            RecipeError, WorkerError: the program failed, or the child did.
        """
        with self._job("program", bytes(32), 0, 0, []) as answers:
            asked = answers.draft()
            answers.expect("program", Bounds(blobs=0))
        return asked

    def read_samples(self, indices: Sequence[int]) -> tuple[tuple[bytes, ...], dict[int, bytes]]:
        """The leaf hashes of the data that one's own program reads, and the encodings of these samples.

        Raises:
            DatasetError: the data cannot be read, or has no such sample.
            RecipeError, WorkerError: the program failed, or the child did.
        """
        with self._job("dataset", bytes(32), 0, 0, [indices]) as answers:
            answers.draft()
            flat = b"".join(answers.expect("leaves", None).blobs)
            found = answers.expect("samples", None).blobs if indices else ()
        leaves = tuple(bytes(flat[i : i + LEAF]) for i in range(0, len(flat), LEAF))
        return leaves, dict(zip(indices, map(bytes, found), strict=True))

    def initial(
        self, seed: bytes, bounds: Bounds | None = None, *, precision: str = "", tensors: bool = True
    ) -> tuple[Snapshot, Mapping[str, str | int | bool]]:
        """The state of step 0, built by a child that is shown no state, and what the child computed with.

        Args:
            seed: the run's seed.
            bounds: the most that the state may be; None for a program that is one's own.
            precision: another precision than the program asks for; empty for its own.
            tensors: whether they are kept, or the rows alone.

        Raises:
            RecipeError, DatasetError, WorkerError: the program failed, or the child did.
        """
        with self._job("initial", seed, 0, 0, [], precision=precision) as answers:
            answers.draft()
            answer, built = _state(answers, "initial", bounds, tensors)
            found = fingerprint_of(answer.fields())
        return built, found

    def replay(
        self,
        seed: bytes,
        first: int,
        last: int,
        batches: Sequence[Sequence[int]],
        opening: Snapshot,
        stops: int = 1,
        bounds: Bounds | None = None,
        *,
        shown: int = 0,
        further: bool = True,
        at: Sequence[int] = (),
        precision: str = "",
        tensors: bool = True,
    ) -> Replayed:
        """Train steps `first` to `last` (excluded) from an opening state.

        `last` need not be a checkpoint of the run. To end earlier, ask for a state on the way and for nothing further:
        until then the program is told the same as in a replay of the whole, which lasts longer.

        Args:
            seed: the run's seed.
            first, last: the steps; equal to only put the opening state back and read it again.
            batches: the dataset indices of each step.
            opening: the state to begin from; its `schedule` rows are not sent.
            stops: how many checkpoints lie on the way, the last one included.
            bounds: the most that a state may be; None for a program that is one's own.
            shown: a step before the first checkpoint whose state is wanted besides; 0 for none.
            further: whether to go on after that state.
            at: the steps whose states are wanted, `last` included, in place of the program's own checkpoints.
            precision: another precision than the program asks for; empty for its own.
            tensors: whether those of the states that are arrived at are kept, or their rows alone.

        Raises:
            RecipeError, DatasetError, WorkerError: the program failed, or the child did.
        """
        begun = time.monotonic()
        rows = tuple(row for row in opening.manifest.rows if not row.name.startswith("schedule/"))
        message = state_message("state", Snapshot(Manifest(rows), opening.buffers))
        samples: list[bytes] = []
        closings: list[Closing] = []
        used = sum(len(batch) for batch in batches)

        def closing(answers: Answers) -> Closing:
            # Hashed as they come: together they may be more than fits.
            some = Bounds.of(used, used * SAMPLE_LIMIT, blob=SAMPLE_LIMIT)
            samples.extend(bytes(leaf) for leaf in answers.expect("samples", some, _leaf).blobs)
            answer, state = _state(answers, "closing", bounds, tensors)
            body = answer.fields()
            step = body.int("step")
            loss = body.float("loss") if body.has("loss") else None
            return Closing(step, state, loss)

        seen = None
        with self._job(
            "replay", seed, first, last, batches, message.blobs, shown=shown, at=at, precision=precision
        ) as answers:
            answers.draft()
            answer = answers.expect("opening", bounds)
            opened = rows_of(answer)
            found = fingerprint_of(answer.fields())
            start = time.monotonic() - begun
            if shown:
                seen = closing(answers)
                if seen.step != shown:
                    raise WorkerError("the replaying process showed the state of another step")
            if shown and further:
                answers.go_on()
            for _ in range((len(at) or stops) if last > first and further else 0):
                closings.append(closing(answers))
        state = seen.snapshot if seen is not None else None
        return Replayed(opened, found, tuple(samples), tuple(closings), time.monotonic() - begun, state, start)

    def describe(self, folder: Path, entry: str, module: bool, arguments: Sequence[str]) -> RecipeRef:
        """The program that a script of one's own is: run in its own folder up to `record`, as Python would run it.

        It is one's own program, so it is run as oneself, whatever fence there is.

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
            fields = answers.expect("program", Bounds(blobs=0)).fields()
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
        shown: int = 0,
        at: Sequence[int] = (),
        precision: str = "",
        program: Program | None = None,
        place: Path | None = None,
    ) -> Answers:
        self.warm()
        assert self._control is not None
        program = program or self.program
        files: list[JSON] = [[path, data.hex()] for path, data in program.files.items()]
        arguments: list[JSON] = list(program.ref.arguments)
        flat = [index for batch in batches for index in batch]
        own_data = self.held is None or place is not None
        handed = [] if self.held is None or own_data else [self.held.pack(flat)]
        fenced = self.fence is not None and place is None
        own = None if fenced else Path(tempfile.mkdtemp(prefix="job-", dir=self._folder))
        body: dict[str, JSON] = {
            "mode": mode,
            "seed": seed.hex(),
            "first": first,
            "last": last,
            "shown": shown,
            "at": list(at),
            "precision": precision,
            "width": len(batches[0]) if batches else 0,
            "entry": program.ref.entry,
            "module": program.ref.module,
            "arguments": arguments,
            "files": files,
            "folder": str(place or own or PLACE),
            "fenced": fenced,
            "held": 0 if self.held is None or own_data else self.held.count,
        }
        self._peak = self.peak
        words = Words(self.kept)
        self._answers = answers = Answers(own, self.timeout, self.voice, words, self._stop, self._rooms.append)
        try:
            if self._interrupted:
                raise WorkerError("replaying was interrupted")
            if self.fence is not None and fenced:
                answers.fence_in(self.fence.open(self.setting))
            self._close_rooms()  # they came down while the new one was made
        except BaseException:
            answers.close()
            raise
        try:
            socket.send_fds(self._control, [b"j"], answers.descriptors())
            answers.hand_over()
            send(answers.stream, Message("job", body, [struct.pack(f"<{len(flat)}Q", *flat), *handed, *blobs]))
        except (OSError, WorkerError) as error:
            why = answers.why() or answers.words.last() or self._words.last()
            answers.close()
            self._stop()
            raise WorkerError(f"the replaying process does not take a job{why}") from error
        return answers

    def _close_rooms(self) -> None:
        """Wait for the rooms of earlier jobs: in them all was ended."""
        while self._rooms:
            self._rooms.pop().close()

    def _start(self) -> None:
        self._stop()
        self._control, theirs = socket.socketpair()
        kept = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if name in kept},
            **self.setting.environment(),
            **({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {}),
            "HOME": str(home),
            "TMPDIR": str(home),
            "POLCHAIN_DATA": str(self.data),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if site.ENABLE_USER_SITE:
            environment["PYTHONUSERBASE"] = site.getuserbase()  # which lies in the home that is not shown
        command = [sys.executable, "-P", "-c", "from polchain.training.child import main; main()", str(theirs.fileno())]
        sealed = None
        if self.fence is not None:
            environment |= self.fence.environment
            command.append(str(self.fence.limits(self.setting, self.timeout)))
            sealed = sealed_interpreter()
        words = Words()
        try:
            self._process = subprocess.Popen(
                command,
                executable=sys.executable if sealed is None else f"/proc/self/fd/{sealed}",
                pass_fds=[theirs.fileno(), *([] if sealed is None else [sealed])],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=words.writer,
                stderr=words.writer,
                start_new_session=True,
            )
        finally:
            theirs.close()
            if sealed is not None:
                os.close(sealed)
            words.hand_over()
            self._words.close()
            self._words = words
        try:
            receive(self._control, bounds=Bounds.of(0, 0), deadline=time.monotonic() + START_SECONDS, words=words)
        except WorkerError as error:
            raise WorkerError(f"the replaying process did not start{words.last()}") from error

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


def _state(answers: Answers, kind: str, bounds: Bounds | None, tensors: bool) -> tuple[Message, Snapshot]:
    if not tensors:
        hashing = Hashing()
        answer = answers.expect(kind, bounds, hashing)
        return answer, hashing.snapshot(answer)
    answer = answers.expect(kind, bounds)
    rows, buffers = snapshot_of(answer)
    return answer, Snapshot(rehash(rows, buffers), buffers)


def _leaf(_: int, pieces: Iterator[memoryview]) -> bytes:
    return sample_leaf(b"".join(map(bytes, pieces)))
