"""Scripts that record, run as Python would run them, each in a fork of a process that has torch already.

    Recorder(threads).run(script, arguments, folder, environment)      its exit status, and all that it printed

To load torch is most of what a short recording costs, once for the script and once for its self-check. The process that
is forked has run no recipe; nor has the child that it keeps for self-checks, which forks for each segment, as always.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Done:
    """A script that has ended: its exit status (negative for a signal), and what it printed."""

    status: int
    output: str


class Recorder:
    """The process that is forked, for one number of threads; started when it is first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "2000"}
        self.process: subprocess.Popen[str] | None = None

    def run(self, script: Path, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Done:
        """Run a script in a folder, until it ends. Variables that torch reads when it is loaded do nothing here."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.NamedTemporaryFile("r", prefix="polchain-recording-") as output:
            job = {
                "script": str(script),
                "arguments": list(arguments),
                "folder": str(folder),
                "environment": {**environment, **self.threads},
                "output": output.name,
            }
            try:
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
                return Done(int(process.stdout.readline()), output.read())
            except BaseException:  # it took too long: what it answers later belongs to no other script
                self.process = None
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            command = [sys.executable, "-P", "-c", "from tests.recording import serve; serve()"]
            path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            environment = {**os.environ, **self.threads, "PYTHONPATH": path}
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,
            )
            atexit.register(self.end)
        return self.process

    def end(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.communicate(timeout=30)


_recorders: dict[int, Recorder] = {}


def recorder(threads: int = 1) -> Recorder:
    """The one of this test worker for so many threads."""
    return _recorders.setdefault(threads, Recorder(threads))


def serve() -> None:
    """Run jobs, one a line, each in a fork, until stdin closes."""
    import polchain.prover.recorder  # noqa: F401
    from polchain.prover import selfcheck
    from polchain.training import child
    from polchain.training.fingerprint import fingerprint, setting_of
    from tests.claims import DATA
    from tests.forgers import warm

    child._warm_up()
    setting = setting_of(fingerprint("cpu", "fp32"))
    selfcheck.Worker = warm.KeptWorker  # type: ignore[misc]
    for line in sys.stdin:
        with warm.KeptWorker(None, setting, DATA) as worker:  # type: ignore[arg-type]
            worker.warm()  # where the one before is gone
        pid = os.fork()
        if pid == 0:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class _Cousin:
    """The kept child of self-checks as a fork sees it, to which it is no child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 1
        return None

    def wait(self) -> None:
        pass  # who started it does


def _run(job: dict[str, Any]) -> NoReturn:
    from tests.forgers import warm

    status, folders = 1, len(warm._folders)
    for idle in warm._idle.values():
        for one in idle:
            one.process = _Cousin(one.process.pid)  # type: ignore[assignment]
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(os.open(job["output"], os.O_WRONLY | os.O_APPEND), number)
        os.environ.clear()
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        sys.argv, sys.path[0:0] = [job["script"], *job["arguments"]], [str(Path(job["script"]).parent)]
        runpy.run_path(job["script"], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for folder in warm._folders[folders:]:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(status & 0xFF)
