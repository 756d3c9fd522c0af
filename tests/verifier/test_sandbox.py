"""The sandbox: whatever a stranger's recipe tries ends by name; verifier and next segment do not even notice."""

from __future__ import annotations

import os
import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from polchain.core.digest import blake3
from polchain.core.genesis import FileRef, RecipeRef
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import TensorRow
from polchain.errors import RecipeError, WorkerError
from polchain.training.dataset import Commitment
from polchain.training.fingerprint import Setting
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder
from polchain.training.wire import Bounds
from polchain.training.worker import Worker
from polchain.verifier.allowance import Allowance
from polchain.verifier.sandbox import Sandbox, find_sandbox

SEED = bytes(range(32))
DATA = [(float(i), i % 2) for i in range(12)]
LIBC = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)
"""
RECORD = "import polchain; polchain.record('x', data=[1.0], batch_size=1, steps=1).__enter__()"
HONEST = """
    import torch
    from torch import nn
    from torch.nn import functional as F
    import polchain

    HOSTILE
    data = [(float(i), i % 2) for i in range(12)]
    with polchain.record("ignored", data=data, batch_size=4, steps=9, every=3) as run:
        model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.3), nn.Linear(4, 2))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        run.attach(model=model, optimizer=optimizer)
        for step, (x, y) in run.batches():
            loss = F.cross_entropy(model(x.float()[:, None]), y)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
"""
ALLOWED = Allowance(memory=1.5, processes=60, scratch=0.125)


def program(text: str, **values: object) -> Program:
    """A recipe of this text; `NAME` in it is replaced by the repr of `name=`."""
    for name, value in values.items():
        text = text.replace(name.upper(), repr(str(value) if isinstance(value, Path) else value))
    data = textwrap.dedent(text).encode()
    return Program(
        RecipeRef("train.py", False, (), (FileRef("train.py", len(data), blake3(data)),), ()), {"train.py": data}
    )


def honest(hostile: str = "pass") -> Program:
    return program(HONEST.replace("HOSTILE", textwrap.indent(textwrap.dedent(hostile), "    ").strip()))


def batches(first: int, last: int) -> list[list[int]]:
    return list(BatchOrder(SEED, 12, 4).batches(first, last))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which a claim and a key lie too."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "data.csv").write_text("1,2,3\n")
    (folder / "claim" / "checkpoints").mkdir(parents=True)
    (folder / "claim" / "checkpoints" / "next.safetensors").write_text("the next state")
    (folder / "key").write_text("the key")
    return folder


@pytest.fixture(scope="module")
def sandbox(require_sandbox: None, place: Path) -> Sandbox:
    return find_sandbox(place, [place / "claim", place / "key"], ALLOWED)


@pytest.fixture(scope="module")
def fenced(sandbox: Sandbox, place: Path) -> Iterator[Worker]:
    """One warm process for all tests of this file; a test sets `worker.program`."""
    with Worker(honest(), Setting(threads=1), place, timeout=60, fence=sandbox) as made:
        made.commit_dataset()
        yield made


@pytest.fixture
def worker(fenced: Worker) -> Iterator[Worker]:
    """Whatever a test's program did, the same warm process takes the next job, and nothing of it is left."""
    process, files = fenced._process, os.listdir("/proc/self/fd")
    assert process is not None
    fenced.program, fenced.timeout = honest(), 60
    yield fenced
    fenced.program, fenced.timeout = honest(), 60
    assert fenced.commit_dataset()[1] == Commitment.of(DATA).leaves, "the worker is not usable after this test"
    assert fenced._process is process, "the warm process was lost"
    assert len(os.listdir("/proc/self/fd")) == len(files), "a descriptor was left open"


@pytest.fixture(scope="module")
def initial(fenced: Worker) -> Snapshot:
    fenced.program = honest()
    return fenced.initial(SEED)[0]


def run(worker: Worker, text: str, **values: object) -> None:
    """Run a recipe that ends with a call of `record`."""
    worker.program = program(textwrap.dedent(text) + "\n" + RECORD, **values)
    worker.commit_dataset(1)


def test_what_is_computed_inside_is_what_is_computed_outside(worker: Worker, initial: Snapshot, place: Path) -> None:
    inside = worker.replay(SEED, 0, 9, batches(0, 9), initial, 3, Bounds.of_state([initial.manifest], sure=False))
    with Worker(honest(), Setting(threads=1), place, timeout=60) as plain:
        assert plain.initial(SEED)[0].manifest == initial.manifest
        outside = plain.replay(SEED, 0, 9, batches(0, 9), initial, 3)
    assert [c.snapshot.manifest for c in inside.closings] == [c.snapshot.manifest for c in outside.closings]
    assert inside.samples == outside.samples
    assert inside.fingerprint == outside.fingerprint


def test_the_data_is_shown_and_nothing_else(worker: Worker, place: Path) -> None:
    run(
        worker,
        """
        import os, pathlib, polchain
        data = polchain.data_dir()
        assert str(data) == PLACE
        assert (data / "data.csv").read_text() == "1,2,3\\n"
        assert sorted(os.listdir(data)) == ["claim", "data.csv", "key"] and os.listdir(data / "claim") == []
        assert os.listdir(os.environ["HOME"]) == [] and pathlib.Path.cwd().is_relative_to("/tmp")
        names = "PATH LANG LC_ PYTHON LD_ OMP MKL CUBLAS CUDA GOMP POLCHAIN HOME TMPDIR USER LOGNAME".split()
        assert [name for name in os.environ if not name.startswith(tuple(names))] == [], dict(os.environ)
        assert sorted(map(int, os.listdir("/proc/self/fd")))[:-1] == [0, 1, 2, 3], os.listdir("/proc/self/fd")
        """,
        place=place,
    )


FORBIDDEN_FILES = {
    "the claim": "CLAIM/checkpoints/next.safetensors",
    "the next checkpoint by another road": "/proc/1/root/CLAIM/checkpoints/next.safetensors",
    "the key": "KEY",
    "a file of the user": "SECRET",
    "a file of the user, through the first process": "/proc/1/root/SECRET",
    "the users of the machine": "/etc/passwd",
    "the password file": "/etc/shadow",
    "the home folder's": os.path.expanduser("~/.bashrc"),
    "the warm process's surroundings": "/proc/PARENT/environ",
    "the memory of the machine": "/proc/kcore",
}


@pytest.mark.parametrize("what", FORBIDDEN_FILES)
def test_a_recipe_that_reads(worker: Worker, place: Path, tmp_path: Path, what: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    assert worker._process is not None
    path = FORBIDDEN_FILES[what].replace("PARENT", str(worker._process.pid))
    for name, found in (("CLAIM", place / "claim"), ("KEY", place / "key"), ("SECRET", secret)):
        path = path.replace(name, str(found))
    with pytest.raises(RecipeError, match=r"raised (FileNotFoundError|PermissionError|NotADirectoryError)"):
        run(worker, "open(PATH, 'rb').read(10)", path=path)


@pytest.mark.parametrize("kind", ["loopback", "abstract", "path"])
def test_a_recipe_that_opens_a_socket(worker: Worker, place: Path, tmp_path: Path, kind: str) -> None:
    """A listener of the verifier's machine is not there in the room; the room's own sockets talk to nobody."""
    address: object = {
        "loopback": ("127.0.0.1", 0),
        "abstract": f"\0polchain-{os.getpid()}",
        "path": str(tmp_path / "s"),
    }[kind]
    family = socket.AF_INET if kind == "loopback" else socket.AF_UNIX
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(0.2)
        with pytest.raises(RecipeError, match=r"raised (ConnectionRefusedError|FileNotFoundError)"):
            run(
                worker,
                "import socket\ns = socket.socket(FAMILY)\ns.settimeout(5)\ns.connect(ADDRESS)",
                family=int(family),
                address=listener.getsockname() if kind == "loopback" else address,
            )
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("address", ["('192.0.2.1', 80)", "('8.8.8.8', 53)"])
def test_a_recipe_that_calls_home(worker: Worker, address: str) -> None:
    with pytest.raises(RecipeError, match="Network is unreachable"):
        run(worker, f"import socket\nsocket.create_connection({address}, 5)")


WRITES = {
    "the root": "open('/x', 'w')",
    "the system": "open('/usr/x', 'w')",
    "the data": "open(PLACE + '/x', 'w')",
    "over the data": "open(PLACE + '/data.csv', 'w')",
    "the place of the claim": "open(PLACE + '/claim/x', 'w')",
    "polchain": "import polchain; open(polchain.__file__, 'a')",
    "torch": "import torch; open(torch.__file__, 'a')",
    "the interpreter": "import sys; open(sys.executable, 'r+b')",
    "the interpreter by another road": "open('/proc/self/exe', 'r+b').write(b'x')",
    "a device": "open('/dev/x', 'w')",
    "its own standing": "open('/proc/self/oom_score_adj', 'w').write('0')",
    "the kernel": "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
    "a mode of a device": "import os; os.chmod('/dev/null', 0)",
    "a mode of the data": "import os; os.chmod(PLACE + '/data.csv', 0)",
    "a mode through its input": "import os; os.fchmod(0, 0)",
    "a mount": LIBC + "call('mount', b'/', b'/tmp', None, 4096, None)",
    "a user namespace": LIBC + "call('unshare', 0x10000000)",
}


@pytest.mark.parametrize("what", WRITES)
def test_a_recipe_that_changes(worker: Worker, place: Path, what: str) -> None:
    before = (os.stat("/dev/null").st_mode, (place / "data.csv").stat(), sorted(os.listdir(place)))
    with pytest.raises(RecipeError, match=r"raised (OSError|PermissionError|FileNotFoundError)"):
        run(worker, WRITES[what], place=place)
    assert (os.stat("/dev/null").st_mode, (place / "data.csv").stat(), sorted(os.listdir(place))) == before


def test_the_interpreter_on_the_disk_is_not_the_one_that_a_recipe_can_reach(worker: Worker) -> None:
    real = os.path.realpath("/proc/self/exe")
    before = os.stat(real).st_mode
    run(worker, "import os\nassert 'memfd' in os.readlink('/proc/self/exe')\nos.chmod('/proc/self/exe', 0o777)")
    assert os.stat(real).st_mode == before


def test_a_recipe_has_no_privileges_and_gets_none(worker: Worker) -> None:
    run(
        worker,
        """
        lines = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(lines[name], 16) == 0, (name, lines[name])
        assert lines["NoNewPrivs"] == "1"
        import subprocess
        inside = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
        assert "CapEff:\\t0000000000000000" in inside and "CapPrm:\\t0000000000000000" in inside
        import os
        assert os.sched_getscheduler(0) == os.SCHED_OTHER, "it runs before others, as its keeper does"
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            pass
        else:
            raise AssertionError("it may run before others")
        """,
    )


def test_a_recipe_that_forks_without_end(worker: Worker) -> None:
    # By name, and not because its time was over.
    with pytest.raises((RecipeError, WorkerError), match=r"processes and threads|BlockingIOError"):
        run(worker, "import os\nwhile True:\n    os.fork()")


def test_roots_keeper_counts_before_others_run(worker: Worker) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pytest.skip("only root may run before others")
    policies: set[int] = set()
    ended = threading.Event()
    looking = threading.Thread(target=watch_policies, args=(policies, ended))
    looking.start()
    run(worker, "import time\ntime.sleep(0.5)")
    ended.set()
    looking.join()
    assert os.SCHED_FIFO in policies, "whoever counts a fork bomb waits for his turn behind it"


def watch_policies(found: set[int], ended: threading.Event) -> None:
    while not ended.wait(0.05):
        found.update(policies_below(os.getpid()))


def policies_below(process: int) -> Iterator[int]:
    with suppress(OSError):
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                yield os.sched_getscheduler(child) & ~os.SCHED_RESET_ON_FORK
                yield from policies_below(child)


def test_a_recipe_that_starts_threads_without_end(worker: Worker) -> None:
    with pytest.raises((RecipeError, WorkerError), match=r"processes and threads|can't start new thread"):
        run(worker, "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()")


ALLOCATIONS = {
    "in one piece": ("bytearray(1 << 40)", "MemoryError"),
    "little by little": ("x = []\nwhile True: x.append(bytearray(1 << 24))", "MemoryError"),
    "as a tensor": ("import torch; torch.ones(1 << 34)", "allocate memory"),
    "in many processes": (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * (400 << 20)\n        time.sleep(60)\ntime.sleep(60)",
        "more memory than it may",
    ),
    "as shared memory": (
        "import mmap, time\nx = mmap.mmap(-1, 2 << 30)\nfor i in range(0, 2 << 30, 4096): x[i] = 1\ntime.sleep(60)",
        "more memory than it may",
    ),
    "as temporary files": (
        "open('/tmp/x', 'wb').write(bytes(100 << 20)); open('/tmp/y', 'wb').write(bytes(100 << 20))",
        "No space left",
    ),
    "as one file": ("open('/tmp/x', 'wb').write(bytes(200 << 20))", "File too large|No space left"),
    "as files of memory": (
        "import os\nf = os.memfd_create('x')\nwhile True: os.write(f, bytes(1 << 24))",
        "File too large",
    ),
    "in /dev/shm": (
        "f = open('/dev/shm/x', 'wb')\nwhile True: f.write(bytes(1 << 24))",
        "No space left|File too large",
    ),
}


@pytest.mark.parametrize("how", ALLOCATIONS)
def test_a_recipe_that_allocates_without_end(worker: Worker, how: str) -> None:
    text, said = ALLOCATIONS[how]
    with pytest.raises((RecipeError, WorkerError), match=said):
        run(worker, text)


LOOPS = {
    "spins": "while True: pass",
    "sleeps": "import time\nwhile True: time.sleep(1)",
    "will not be stopped": (
        "import signal\nfor s in sorted(signal.valid_signals() - {9, 19, 32, 33}):\n"
        "    signal.signal(s, signal.SIG_IGN)\nwhile True: pass"
    ),
    "prints": "while True: print('spam ' * 1000)",
    "has stopped its keeper's room": "import os, signal\nos.kill(2, signal.SIGSTOP)\nwhile True: pass",
}


@pytest.mark.parametrize("how", LOOPS)
def test_a_recipe_that_runs_for_ever(worker: Worker, how: str) -> None:
    worker.timeout = 1.5
    begun = time.monotonic()
    with pytest.raises(WorkerError, match="took too long") as caught:
        run(worker, LOOPS[how])
    assert "--timeout" in caught.value.hint
    assert time.monotonic() - begun < 15


def test_what_a_recipe_starts_ends_with_it(worker: Worker) -> None:
    mark = f"{os.getpid()}.125"
    text = """
        import os, subprocess
        if os.fork() == 0:
            os.setsid()
            subprocess.Popen(["sleep", MARK], start_new_session=True)
            subprocess.run(["sleep", MARK])
        """
    run(worker, text, mark=f"9{mark}")
    assert not processes(f"9{mark}"), "what the recipe had started is still there"


def processes(word: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_a_recipe_that_prints_megabytes(worker: Worker) -> None:
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        run(worker, "for _ in range(2000): print('spam ' * 10000)\n1 / 0")
    worker.kept = 1000
    with worker._job("dataset", SEED, 0, 0, []) as answers, pytest.raises(RecipeError):
        answers.draft()
    assert len(answers.words._said) <= 1000
    worker.kept = 1 << 20


TALKER = """
    from polchain.core.digest import blake3
    from polchain.core.encoding import encode
    from polchain.core.manifest import Manifest, TensorRow
    from polchain.training.child import current_host
    from polchain.training.wire import Message, send
    import os, struct
    host = current_host()
    draft = {"steps": 9, "batch_size": 4, "interval": [[0, 3]], "precision": "fp32", "deterministic": True}
    rows = Manifest(()).encode()
    def say(kind, body=None, blobs=()):
        send(host.stream, Message(kind, body or {}, blobs))
    def header(kind, sizes):
        text = encode({"type": kind, "sizes": sizes, "body": {}})
        host.stream.sendall(struct.pack("<I", len(text)) + text)
    def state(n):
        return [Manifest((TensorRow("model/w", "parameter", "U8", (n,), blake3(b"")),)).encode(), bytes(n)]
    say("draft", {"configuration": draft})
    SAY
    host.end()
"""
SAY_INITIAL = {
    "a header without end": ("host.stream.sendall(b'\\xff' * 4)", "a header of 4294967295 bytes"),
    "a header of megabytes": ("host.stream.sendall(struct.pack('<I', 8 << 20))", "a header of"),
    "too many parts": ("header('initial', [0] * 5000)", "parts, over the limit"),
    "a part without end": ("header('initial', [10, 1 << 50])", "bytes, over the limit"),
    "rows without end": ("header('initial', [1 << 26])", "a part of 67108864 bytes"),
    "half a part": ("header('initial', [10]); host.stream.sendall(b'123')", "ended in the middle of an answer"),
    "half a part, and then nothing": (
        "header('initial', [10]); host.stream.sendall(b'123'); import time; time.sleep(60)",
        "took too long",
    ),
    "nothing": ("pass", "ended in the middle of an answer"),
    "noise": ("host.stream.sendall(struct.pack('<I', 9) + b'not  json')", "nonsense"),
    "a state of another size": (
        "d = state(100); d[1] = d[1][1:]; say('initial', {'fingerprint': {}}, d)",
        "rows and bytes do not fit",
    ),
    "a state without a fingerprint": ("say('initial', {}, state(4))", "talked nonsense"),
    "another message": ("say('closing', {}, [])", "sent 'closing' instead of 'initial'"),
    "a message with a terminal's commands": ("say('\\x1b[2J', {}, [])", "sent '.?.2J' instead"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAY_INITIAL)
def test_a_recipe_that_answers(worker: Worker, initial: Snapshot, what: str) -> None:
    say, said = SAY_INITIAL[what]
    worker.program, worker.timeout = program(TALKER.replace("SAY", say, 1).replace("SAY", say)), 5
    with pytest.raises(WorkerError, match=said) as caught:
        worker.initial(SEED, Bounds.of_state([initial.manifest]))
    assert str(caught.value).isprintable()


def test_samples_and_leaves_are_bounded(worker: Worker, initial: Snapshot) -> None:
    worker.program = program(TALKER.replace("SAY", "header('leaves', [1 << 30])"))
    with pytest.raises(WorkerError, match="over the limit"):
        worker.commit_dataset(12)
    more = "say('opening', {'fingerprint': {}}, [rows]); say('samples', {}, [b'x'] * 13)"
    worker.program = program(TALKER.replace("SAY", more))
    with pytest.raises(WorkerError, match="13 parts, over the limit of 12"):
        worker.replay(SEED, 0, 3, batches(0, 3), initial, bounds=Bounds.of_state([initial.manifest]))


PATCHES = """
    import builtins, os, socket, sys, torch
    import polchain.training.session as session
    import polchain.training.snapshot, polchain.core.digest, polchain.training.wire
    import polchain.verifier.tolerance, polchain.verifier.replay, polchain.verifier.verdict
    polchain.verifier.replay.check_leaves = lambda *_: None
    polchain.verifier.tolerance.examine = polchain.verifier.verdict.judge = None
    polchain.core.digest.blake3 = polchain.training.wire.send
    torch.manual_seed = torch.zeros = builtins.planted = None
    os.environ["planted"] = "1"
    sys.modules["planted"] = sys
    socket.socket.sendall = None
"""


def test_a_recipe_that_patches_everything_patches_itself(worker: Worker, initial: Snapshot) -> None:
    worker.program = honest(PATCHES)
    with pytest.raises((RecipeError, WorkerError)):
        worker.replay(SEED, 0, 3, batches(0, 3), initial)
    worker.program = honest()
    first = worker.replay(SEED, 0, 3, batches(0, 3), initial).closings[0].snapshot.manifest
    worker.program = honest("import torch; torch.optim.Adam.step = lambda self: None")
    patched = worker.replay(SEED, 0, 3, batches(0, 3), initial).closings[0].snapshot.manifest
    assert patched.roots()["model"] == initial.manifest.roots()["model"] != first.roots()["model"]
    worker.program = honest()
    assert worker.replay(SEED, 0, 3, batches(0, 3), initial).closings[0].snapshot.manifest == first


def test_nothing_is_left_for_the_next_segment(worker: Worker) -> None:
    text = """
        import builtins, ctypes, os, socket, subprocess, sys, tempfile
        libc = ctypes.CDLL(None, use_errno=True)
        def there():
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect("\\0planted")
                yield "an abstract socket"
            except ConnectionRefusedError:
                pass
            yield from (path for path in ("/tmp/planted", "/dev/shm/planted", "planted") if os.path.exists(path))
            if libc.shmget(4711, 4096, 0o600) >= 0:
                yield "shared memory"
            if "planted" in os.environ or "planted" in sys.modules or hasattr(builtins, "planted"):
                yield "a module"
            if len([name for name in os.listdir("/proc") if name.isdigit()]) > 3:
                yield "a process"
        assert not list(there()), list(there())
        for path in ("/tmp/planted", "/dev/shm/planted", "planted"):
            open(path, "w").write("planted")
        os.environ["planted"] = "1"
        sys.modules["planted"] = builtins.planted = sys
        assert libc.shmget(4711, 4096, 0o1600) >= 0
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\\0planted")
        listener.listen()
        if os.fork() == 0:
            os.setsid()
            import time
            time.sleep(60)
        assert len(list(there())) == 7, list(there())
        """
    for _ in range(3):
        run(worker, text)


def test_no_job_is_in_the_memory_that_the_next_one_is_forked_from(worker: Worker) -> None:
    """A segment is not shown the states of others, not even as rests in the warm process's memory."""
    data = bytes(i * i % 251 for i in range(100_000))  # as nothing else in memory is
    row = TensorRow("model/w", "parameter", "U8", (len(data),), blake3(data))
    state = Snapshot(Manifest((row,)), {"model/w": memoryview(data)})
    # The second half is made anew for each comparison: whoever looks must not find what he looks for in his own hands.
    look = """
        first = bytes(i * i % 251 for i in range(1000, 1040))
        found = 0
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for line in maps:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                if " rw" not in line or "[v" in line:
                    continue
                memory.seek(start)
                piece = memory.read(end - start)
                at = piece.find(first)
                while at >= 0:
                    found += all(piece[at + 40 + i] == (i + 1040) * (i + 1040) % 251 for i in range(20))
                    at = piece.find(first, at + 1)
        """
    worker.program = program(textwrap.dedent(look) + "\nassert found, 'the scan finds nothing'\n" + RECORD)
    with pytest.raises(RecipeError, match="ended without a call"):
        worker.replay(SEED, 0, 0, [], state)
    run(worker, textwrap.dedent(look) + "\nassert not found, f'{found} pieces of a state of another job'")


ATTACKS = {
    "kills its group": "import os; os.kill(0, 9)",
    "kills its parent": "import os; assert os.getppid() == 0; os.kill(os.getppid(), 9)",
    "kills all": "import os; os.kill(-1, 9); os._exit(1)",
    "kills the room's holder": "import os, time; os.kill(2, 9); time.sleep(60)",
    "kills the room's first": "import os; os.kill(1, 9); os._exit(1)",
    "kills the warm process": "import os; os.kill(PARENT, 9)",
    "traces the warm process": LIBC + "call('ptrace', 16, PARENT, 0, 0)",
    "dies": "import os; os._exit(0)",
    "faults": "import ctypes; ctypes.string_at(0)",
    "ends by a signal": "import os, signal; os.kill(os.getpid(), signal.SIGUSR1)",
}


@pytest.mark.parametrize("how", ATTACKS)
def test_a_recipe_that_attacks(worker: Worker, how: str) -> None:
    assert worker._process is not None
    begun = time.monotonic()
    with pytest.raises((RecipeError, WorkerError), match=r"ended in the middle|ProcessLookupError|went away"):
        run(worker, ATTACKS[how], parent=worker._process.pid)
    assert worker._process.poll() is None
    assert time.monotonic() - begun < 20


def test_a_recipe_that_ends_by_a_signal_is_said_to(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="it was ended by signal 11"):
        run(worker, "import os, signal; signal.signal(11, signal.SIG_DFL); os.kill(os.getpid(), 11)")


def test_the_other_end_of_its_stream_leads_nowhere(worker: Worker) -> None:
    """A socket can name the process at its other end: the verifier. That process has none of its signals or files."""
    text = """
        import ctypes, os, signal, struct
        from polchain.training.child import current_host
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            (peer,) = struct.unpack("i", current_host().stream.getsockopt(1, 77, 4))
        except OSError as error:
            peer = None  # before Linux 6.5, or refused
        if peer is not None:
            assert libc.syscall(438, peer, 0, 0) == -1, "a file of the verifier's"
            try:
                signal.pidfd_send_signal(peer, signal.SIGKILL)
            except OSError:
                pass
            else:
                raise AssertionError("a signal to the verifier")
        pid = struct.unpack("3i", current_host().stream.getsockopt(1, 17, 12))[0]
        assert pid == 0, pid
        """
    run(worker, text)


def test_rooms_can_be_used_from_threads(sandbox: Sandbox, place: Path) -> None:
    """A room lives as long as its job, whichever thread began it."""
    found: list[int] = []

    def work() -> None:
        with Worker(honest(), Setting(threads=1), place, timeout=60, fence=sandbox) as made:
            found.append(len(made.commit_dataset()[1]))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [12, 12]
