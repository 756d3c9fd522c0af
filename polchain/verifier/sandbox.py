"""The sandbox: bubblewrap rooms in which a stranger's recipe is replayed.

    a room      new user, process, network, IPC, host-name, cgroup and mount namespaces; the files of `surroundings`;
                nothing writable but its own temporary files; held by a process that does nothing
    a job       one segment, in a room of its own; `fence` says how the warm process's fork gets in
    afterwards  the room's first process is killed, and with it everything inside: processes, files, shared memory

So what one segment leaves behind, the next cannot find. A sandbox is tried out once before it is relied on: a room is
made, a process goes in, and says what it finds there.
"""

from __future__ import annotations

import copy
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from polchain.errors import UnavailableError, WorkerError
from polchain.training import fence
from polchain.training.fence import Limits, sealed_interpreter
from polchain.training.fingerprint import Setting
from polchain.training.words import printable
from polchain.verifier.allowance import GIB, LEAST, Allowance
from polchain.verifier.surroundings import arguments, check_data, homes

__all__ = ["HINT", "Sandbox", "find_sandbox"]

HINT = "install bubblewrap (the package bubblewrap of Debian, Ubuntu, Fedora, Arch)"
FORBIDDEN = "user namespaces may be forbidden here (in a container, by a kernel setting or AppArmor)"
START_SECONDS = 20.0
END_SECONDS = 20.0
SAID_LIMIT = 16_384
# A process with no work: it gives back what it is sent, and so says that the room stands, until its input ends.
HOLDER = "/usr/bin/cat"
SLOWER_HOLDER = "import os\nwhile os.write(1, os.read(0, 1)): pass"
ALONE = (
    "--unshare-user", "--uid", "1000", "--gid", "1000", "--unshare-pid", "--unshare-net", "--unshare-ipc",
    "--unshare-uts", "--unshare-cgroup", "--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv",
)  # fmt: skip
# From 0.8 on no further user namespaces can be made inside, which would lead to more of the kernel.
NO_MORE = ("--disable-userns",)
CPU_FACTOR = 2
CPU_SPARE = 600
THREAD_FACTOR = 4


class Sandbox:
    """bubblewrap's rooms for one claim's recipe. A `fence.Fence`.

    Args:
        program: bubblewrap's path.
        data: the folder with the dataset.
        hidden: files and folders that are never shown: the claim, keys.
        allowance: what the recipe may use.

    Attributes:
        name: what it is, with its version.
        environment: variables that the sealed interpreter needs.
    """

    def __init__(self, program: str, data: Path, hidden: Sequence[Path], allowance: Allowance) -> None:
        self._program = program
        self._data = data
        self._hidden = hidden
        self._allowance = allowance
        self._memory = allowance.bytes()
        self.name, newer = _version(program)
        self._alone = [*ALONE, *(NO_MORE if newer else ())]
        self._environment: dict[str, str] = {}
        self._files: dict[bool, list[str]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the sealed interpreter needs."""
        return self._environment

    @property
    def kept(self) -> int:
        """How many bytes of what a recipe prints are kept."""
        return int(self._allowance.output * (1 << 20))

    def limits(self, setting: Setting, seconds: float) -> Limits:
        """What a job with this setting and time may use."""
        return Limits(
            memory=self._memory,
            # CUDA maps much more than it uses.
            heap=0 if setting.cuda else self._memory,
            tasks=self._allowance.processes + THREAD_FACTOR * setting.threads,
            file=int(self._allowance.scratch * GIB),
            seconds=int(CPU_FACTOR * setting.threads * seconds) + CPU_SPARE,
        )

    def share(self, parts: int) -> Sandbox:
        """This sandbox for one of several recipes at a time: where nobody set the memory, each has a part of it."""
        if self._allowance.memory or parts <= 1:
            return self
        shared = copy.copy(self)
        shared._memory = max(LEAST, self._memory // parts)
        return shared

    def open(self, setting: Setting) -> BubbleRoom:
        """A new room.

        Raises:
            WorkerError: bubblewrap cannot make one; its own words are in the message.
        """
        if setting.cuda not in self._files:
            scratch = max(4096, int(self._allowance.scratch * GIB))
            self._files[setting.cuda] = arguments(
                self._data, self._hidden, self._allowance.show, scratch=scratch, cuda=setting.cuda
            )
        return BubbleRoom([self._program, *self._alone, *self._files[setting.cuda]])

    def try_out(self) -> None:
        """Make a room, go in, and look around.

        Raises:
            UnavailableError: that cannot be done here, or the room is not what it has to be.
        """
        watched = [str(path) for path in (*self._hidden, *(path / ".ssh" for path in homes()))]
        try:
            room = self.open(Setting(threads=1))
            try:
                found, self._environment = _look_around(room, watched)
            finally:
                room.close()
            wrong = [
                *(["it has privileges"] if found["powers"] or not found["fixed"] else []),
                *(["it has a network"] if found["links"] not in ([], ["lo"]) else []),
                *(["it sees other processes"] if len(found["processes"]) > 3 else []),
                *(f"it sees {path}" for path in found["seen"]),
            ]
        except (OSError, ValueError, LookupError, TypeError, subprocess.SubprocessError, WorkerError) as error:
            raise UnavailableError(
                f"{self.name} makes no sandbox here: {printable(str(error))}", hint=FORBIDDEN
            ) from error
        if wrong:
            raise UnavailableError(f"{self.name} makes no sandbox here: {wrong[0]}")


class BubbleRoom:
    """A room, held by bubblewrap and a process without work. A `fence.Room`."""

    def __init__(self, command: Sequence[str]) -> None:
        reader, writer = os.pipe()
        said, saying = os.pipe()
        slower = [os.path.realpath(sys.executable), "-I", "-S", "-c", SLOWER_HOLDER]
        holder = [HOLDER] if os.access(HOLDER, os.X_OK) else slower
        self.init = -1
        self._over = False
        try:
            self._process = subprocess.Popen(
                [*command, "--info-fd", str(writer), "--chdir", "/", "--", *holder],
                pass_fds=[writer],
                stdin=subprocess.PIPE,
                stdout=saying,
                stderr=saying,
                start_new_session=True,
            )
            os.close(writer)
            os.close(saying)
            writer = saying = -1
            try:
                self._await(reader, said)
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise WorkerError(f"{command[0]} cannot be run: {error.strerror}") from error
        finally:
            for number in (reader, writer, said, saying):
                if number >= 0:
                    os.close(number)

    def _await(self, reader: int, said: int) -> None:
        end = time.monotonic() + START_SECONDS
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has failed, and says why
            os.write(self._process.stdin.fileno(), b".")
        info = _read(reader, end)
        sign = _read(said, end, 1) if info else b""
        if sign == b".":
            try:
                self.init = os.pidfd_open(int(json.loads(info)["child-pid"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise WorkerError(f"the sandbox does not say where it is: {error}") from error
            if self._process.poll() is None:
                return  # bubblewrap has not waited for its child yet, so the number is still the child's
        self._process.kill()  # where it stands and says nothing
        words = (sign + _read(said, end, SAID_LIMIT)).decode("utf-8", "replace").strip()
        raise WorkerError(
            f"the sandbox could not be made: {printable(words.splitlines()[-1]) if words else 'no answer'}"
        )

    def end(self) -> None:
        """End whatever is in the room, without waiting for it."""
        if self._over:
            return  # bubblewrap itself is left alone: that it ends says that all others have
        self._over = True
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            if self.init >= 0:
                signal.pidfd_send_signal(self.init, signal.SIGKILL)
            else:
                self._process.kill()
        except ProcessLookupError:
            pass  # it has ended
        finally:
            if self.init >= 0:
                os.close(self.init)
                self.init = -1

    def close(self) -> None:
        """End whatever is in the room, and wait for it.

        Raises:
            WorkerError: it does not end.
        """
        self.end()
        # bubblewrap ends after its child, and its child, the first process, after all others.
        if self._process.returncode is None and not _ends(self._process.pid, END_SECONDS):
            raise WorkerError("what ran in the sandbox cannot be ended")
        self._process.wait()


def find_sandbox(data: Path, hidden: Sequence[Path], allowance: Allowance) -> Sandbox:
    """The sandbox of this machine, tried out.

    Raises:
        UnavailableError: there is none; why, and what to do about it.
        UsageError: there is one, and the data folder cannot be shown in it.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise UnavailableError("bwrap is not installed", hint=HINT)
    check_data(data)
    try:
        sandbox = Sandbox(program, data, hidden, allowance)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{program} cannot be run: {error}", hint=HINT) from error
    sandbox.try_out()
    return sandbox


def _version(program: str) -> tuple[str, bool]:
    """bubblewrap's name with its version, and whether it can forbid more user namespaces."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=START_SECONDS, check=False)
    name = printable(done.stdout.strip())[:64] or "bubblewrap"
    numbers = [int(part) for part in name.rpartition(" ")[2].split(".") if part.isdigit()]
    return name, numbers >= [0, 8]


def _look_around(room: BubbleRoom, watched: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a process finds in a room, and what a copy of this Python in memory needs to start: nothing, or to be told
    where its library is."""
    paths = (
        os.environ.get("LD_LIBRARY_PATH"),
        sysconfig.get_config_var("LIBDIR"),
        os.path.join(sys.base_prefix, "lib"),
    )
    said = ""
    for environment in ({}, {"LD_LIBRARY_PATH": os.pathsep.join(path for path in paths if path)}):
        reader, writer = os.pipe()
        copy = sealed_interpreter()
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", fence.__file__, str(room.init), str(writer), *watched],
                executable=f"/proc/self/fd/{copy}",
                pass_fds=[copy, room.init, writer],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=START_SECONDS,
                check=False,
            )
            os.set_blocking(reader, False)
            with suppress(BlockingIOError):
                said = os.read(reader, SAID_LIMIT).decode("utf-8", "replace").strip()
        finally:
            for number in (reader, writer, copy):
                os.close(number)
        if said.startswith("ended 0 "):
            return json.loads(done.stdout), environment
        if said:
            break
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    raise OSError(said or "nothing could be started in it")


def _ends(pid: int, seconds: float) -> bool:
    """Whether a child of this process ends in time; it is not reaped. (`Popen.wait` looks only now and then.)"""
    process = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        return bool(waiting.poll(1000 * seconds))
    finally:
        os.close(process)


def _read(descriptor: int, end: float, size: int = SAID_LIMIT) -> bytes:
    """What comes until the other side closes, `size` bytes are there, or the time is over."""
    data = b""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while len(data) < size and waiting.poll(max(0.0, 1000 * (end - time.monotonic()))):
        piece = os.read(descriptor, size - len(data))
        if not piece:
            break
        data += piece
    return data
