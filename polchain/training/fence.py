"""Going behind walls that stand already: how the fork of a warm process enters a sandbox's room.

A room is a set of namespaces that somebody else made and can close: other files, no network, no other process. The
warm process stays outside and never reads a job. What it forks goes in before it reads anything:

    zygote    warm, outside; forks and waits
    keeper    its fork: joins the room, gives up every privilege, forks; then counts what the room uses, and closes it
              when that is too much, or when the child has ended
    child     the keeper's fork: lets go of what it inherited, takes its limits, and only then reads its job

The child cannot reach the other two: they live in another process namespace, so it has no number for them, and in an
outer user namespace, so nothing that it may do counts there. What it shares with them is a copy of memory in which no
job was ever read. And its program is a sealed copy of the interpreter in memory: /proc/self/exe leads to the file that
a process was started from, past all walls, and the host's own interpreter would be one that its owner may change.

Only the standard library is used here: a sandbox is tried out by running this file as a script.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import select
import signal
import socket
import stat
import sys
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

if TYPE_CHECKING:
    from polchain.training.fingerprint import Setting

__all__ = ["PLACE", "PRIVATE", "Fence", "Limits", "Room", "enter", "sealed_interpreter"]

# The room's own folders: they begin empty and end with it.
PRIVATE = "/tmp"
SHARED_MEMORY = "/dev/shm"
PLACE = "/tmp/polchain-child"

TICK = 100  # milliseconds between two counts
LEAST_FREE = 128 * 1024 * 1024  # of the whole machine
MAX_FILES = 4096

# From the kernel's headers; Python names some of them only from 3.12 on.
NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
EVERYTHING = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
MS_RDONLY, MS_NOSUID, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 8, 32, 4096
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAPABILITY_VERSION_3 = 0x20080522
MFD_EXEC = 0x10
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
KEYCTL_JOIN_SESSION_KEYRING = 1
# Since 5.14 processes are counted by user namespace; before, the host's own would count too.
COUNTS_BY_NAMESPACE = (5, 14)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a room may use; 0 is no limit.

    Attributes:
        memory: bytes, of all processes and private files together.
        heap: bytes of private memory of any one process.
        tasks: processes and threads.
        file: bytes of any one file.
        seconds: CPU time of any one process.
    """

    memory: int = 0
    heap: int = 0
    tasks: int = 0
    file: int = 0
    seconds: int = 0

    def __str__(self) -> str:
        return ",".join(map(str, astuple(self)))

    @classmethod
    def parse(cls, text: str) -> Limits:
        """What `str` wrote; both ends are polchain's."""
        return cls(*map(int, text.split(",")))


class Room(Protocol):
    """A room: namespaces whose first process somebody holds."""

    @property
    def init(self) -> int:
        """A pidfd of the room's first process: when that ends, everything in the room does."""

    def end(self) -> None:
        """End whatever is in the room, without waiting for it."""

    def close(self) -> None:
        """End whatever is in the room, and wait for it. Raises WorkerError where it does not end."""


class Fence(Protocol):
    """What makes rooms: a verifier's sandbox."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the sealed interpreter needs to start."""

    def limits(self, setting: Setting, seconds: float) -> Limits:
        """What a job with this setting and time may use."""

    def open(self, setting: Setting) -> Room:
        """A new room. Raises WorkerError where there is none to be had."""


def enter(room: int, report: int, limits: Limits, keep: Collection[int]) -> None:
    """Go into a room. Returns only in the child, which has `keep` and nothing else open; the keeper ends in here.

    Args:
        room: pidfd of the room's first process.
        report: where the keeper says, in a line, how it ended.
        limits: what the room may use.
        keep: descriptors that the child goes on with; all over 2.
    """
    try:
        _go_first()
        _count_before_all()
        _join(room)
        _renounce()
        child = os.fork()
    except BaseException as error:
        _tell(report, f"refused {error}")
        os._exit(1)
    if child:
        for number in keep:
            os.close(number)
        _keep(child, room, report, limits)
    try:
        _settle(limits, keep)
    except BaseException as error:
        _tell(report, f"refused {error}")
        os._exit(1)


def sealed_interpreter() -> int:
    """A copy of the running Python in memory that nobody can write to: its descriptor, to be executed and closed.

    Raises:
        OSError: there is no such memory, or no room for it.
    """
    try:
        copy = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        copy = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)  # before Linux 6.3
    try:
        with open("/proc/self/exe", "rb") as source:
            while os.sendfile(copy, source.fileno(), None, 1 << 30):
                pass
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _go_first() -> None:
    """Where the machine runs out of memory, this is what the kernel ends, and not the verifier."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _count_before_all() -> None:
    """The keeper runs before whatever wants the processor; the child, its fork, does not.

    Only root may, and only root needs it: nobody's processes but root's go on past the kernel's limit.
    """
    first = os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO))
    with contextlib.suppress(OSError):  # an ordinary user, or a container that has no such power
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, first)


def _join(room: int) -> None:
    if os.geteuid() == 0:
        # The room's devices are the host's, and root owns them: no mode may be changed through the room. Writing to a
        # device is no writing to its file system.
        _call("setns", _libc().setns(room, NEWNS))
        for name in set(os.listdir("/dev")) - {"pts", "shm"}:
            path = f"/dev/{name}"
            if stat.S_ISCHR(os.lstat(path).st_mode) or os.path.ismount(path):
                flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC
                _call("mount", _libc().mount(None, path.encode(), None, ctypes.c_ulong(flags), None))
    _call("setns", _libc().setns(room, EVERYTHING))


def _renounce() -> None:
    """Give up what joining a user namespace gives: every capability, in it and for whatever is executed later."""
    libc = _libc()
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            if ctypes.get_errno() == errno.EINVAL:
                break  # the kernel knows no more
            _call("prctl", -1)
    _call("prctl", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _call("capset", libc.capset(header, (ctypes.c_uint32 * 6)()))


def _settle(limits: Limits, keep: Collection[int]) -> None:
    os.setsid()
    os.umask(0o077)
    call = KEYCTL.get(platform.machine())
    if call is not None:
        # The user's keyring stays outside; a kernel without keyrings has none to show.
        _libc().syscall(ctypes.c_long(call), ctypes.c_long(KEYCTL_JOIN_SESSION_KEYRING), None)
    release = tuple(int(part) for part in platform.release().partition("-")[0].split(".")[:2] if part.isdigit())
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, MAX_FILES)
    for kind, value in (
        (resource.RLIMIT_DATA, limits.heap),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_CPU, limits.seconds),
        # A quarter more: whoever goes on past the limit is to be counted there, and the whole room ended for it.
        # Root is exempt, in whatever namespace: then only the count holds.
        (resource.RLIMIT_NPROC, limits.tasks + limits.tasks // 4 if release >= COUNTS_BY_NAMESPACE else 0),
    ):
        if value:
            _limit(kind, value)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    for number in (int(name) for name in os.listdir("/proc/self/fd")):
        if number > 2 and number not in keep:
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.close(number)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _keep(child: int, room: int, report: int, limits: Limits) -> NoReturn:
    """Wait for the child, count what the room uses, and close the room in any case."""
    try:
        waiting = select.poll()
        waiting.register(os.pidfd_open(child), select.POLLIN)
        why = ""
        while not why and not waiting.poll(TICK):
            why = _excess(limits)
        _close(room)
        _, status, used = os.wait4(child, 0)
        _tell(report, why or f"ended {os.waitstatus_to_exitcode(status)} {1024 * used.ru_maxrss}")
        os._exit(0)
    finally:
        _close(room)
        os._exit(1)


def _close(room: int) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        signal.pidfd_send_signal(room, signal.SIGKILL)


def _excess(limits: Limits) -> str:
    """What the room has too much of, `memory` or `tasks`; empty where nothing. The /proc seen here is the room's."""
    numbers = _processes()
    if limits.tasks and len(numbers) > limits.tasks:
        return "tasks"
    names = ("Threads", "RssAnon", "RssShmem", "VmSwap")
    rests = {number: _numbers(f"/proc/{number}/status", names) for number in numbers}
    if limits.tasks and sum(rest.pop("Threads", 0) for rest in rests.values()) > limits.tasks:
        return "tasks"
    if not limits.memory:
        return ""
    if _available() < LEAST_FREE:
        return "memory"  # what no process has mapped is in nobody's account, but it is missing in the machine's
    files = [os.statvfs(folder) for folder in (PRIVATE, SHARED_MEMORY)]
    spare = limits.memory - sum((found.f_blocks - found.f_bfree) * found.f_frsize for found in files)
    if sum(sum(rest.values()) for rest in rests.values()) <= spare:
        return ""
    # What forks share was counted for each. A share takes longer to ask for, and a process may refuse to tell.
    for number in numbers:
        share = _numbers(f"/proc/{number}/smaps_rollup", ("Pss_Anon", "Pss_Shmem", "SwapPss"))
        spare -= sum((share or rests[number]).values())
        if limits.tasks and len(_processes()) > limits.tasks:
            return "tasks"
    return "memory" if spare < 0 else ""


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _numbers(path: str, names: Sequence[str]) -> dict[str, int]:
    """The lines of these names in one of the kernel's tables, kB as bytes; empty where it cannot be read."""
    found = {}
    with contextlib.suppress(OSError), open(path, "rb") as file:  # the process has ended
        for line in file.read().decode("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if name in names:
                number, *unit = value.split()
                found[name] = int(number) * (1024 if unit else 1)
    return found


def _available() -> int:
    with open("/proc/meminfo", "rb") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"MemAvailable:"))


def _tell(report: int, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(report, text[:500].encode("utf-8", "replace") + b"\n")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _attest(arguments: Sequence[str]) -> None:
    """Enter a room, and say on standard output what is found there. Run by a sandbox that tries itself out."""
    room, report = int(arguments[0]), int(arguments[1])
    enter(room, report, Limits(), ())
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    found = {
        "powers": int(status["CapEff"], 16) | int(status["CapPrm"], 16) | int(status["CapBnd"], 16),
        "fixed": status["NoNewPrivs"] == "1",
        "links": [name for _, name in socket.if_nameindex()],
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "seen": [path for path in arguments[2:] if _shows(path)],
    }
    print(json.dumps(found), flush=True)
    os._exit(0)


def _shows(path: str) -> bool:
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        with open(path, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


if __name__ == "__main__":
    _attest(sys.argv[1:])
