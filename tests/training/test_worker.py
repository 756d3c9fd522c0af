"""The worker: a warm child replays a program, and whatever that program does is an error by name."""

from __future__ import annotations

import dataclasses
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from polchain.core.digest import blake3
from polchain.core.genesis import FileRef, RecipeRef
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import ScalarRow, TensorRow
from polchain.errors import DatasetError, ManifestError, RecipeError, WorkerError
from polchain.training import child
from polchain.training.dataset import Commitment, check_leaves
from polchain.training.fingerprint import Setting
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder
from polchain.training.worker import Worker

SEED = bytes(range(32))
DATA = [(float(i), i % 2) for i in range(12)]

HONEST = """
    import sys
    import torch
    from torch.nn import functional as F
    import polchain
    from helper import make_model

    data = [(float(i), i % 2) for i in range(12)]

    with polchain.record("ignored", data=data, batch_size=4, steps=9, every=3) as run:
        model = make_model()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        run.attach(model=model, optimizer=optimizer)
        for step, (x, y) in run.batches(workers=2):
            loss = F.cross_entropy(model(x.float()[:, None]), y)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
        raise AssertionError("a child never gets here")
"""
HELPER = """
    from torch import nn

    def make_model():
        return nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.3), nn.Linear(4, 2))
"""


SLOW = "import time; time.sleep(0 if step < 1 else 60)"
# All that the job says, and all that its host keeps, but for the number of its socket and the name of its folder.
TELLTALE = """
    import hashlib
    from polchain.training.child import current_host
    host = current_host()
    body = {name: value for name, value in host.job.body.items() if name != "folder"}
    kept = {name: value for name, value in vars(host).items() if name not in ("stream", "job")}
    told = repr((body, kept, [bytes(blob) for blob in host.job.blobs]))
    raise RuntimeError("told " + hashlib.sha256(told.encode()).hexdigest())
"""


def program(text: str, *arguments: str, module: bool = False) -> Program:
    files = {"train.py": textwrap.dedent(text).encode(), "helper.py": textwrap.dedent(HELPER).encode()}
    refs = tuple(FileRef(name, len(data), blake3(data)) for name, data in sorted(files.items()))
    return Program(RecipeRef("train" if module else "train.py", module, arguments, refs, ()), files)


def batches(first: int, last: int) -> list[list[int]]:
    return list(BatchOrder(SEED, 12, 4).batches(first, last))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One warm child for all tests of this file; a test sets `worker.program`."""
    with Worker(program(HONEST), Setting(threads=1), tmp_path_factory.mktemp("data"), timeout=60) as made:
        yield made


@pytest.fixture(autouse=True)
def _usable_afterwards(worker: Worker) -> Iterator[None]:
    """Whatever a test's program did, the worker takes the next job."""
    yield
    worker.program, worker.timeout = program(HONEST), 60
    configuration, _ = worker.commit_dataset()
    assert configuration.steps == 9, "the worker is not usable after this test"


@pytest.fixture(scope="module")
def initial(worker: Worker) -> Snapshot:
    worker.program = program(HONEST)
    return begin(worker)


def begin(worker: Worker, seed: bytes = SEED) -> Snapshot:
    found: Any = worker.initial(seed)
    snapshot: Snapshot = found[0] if isinstance(found, tuple) else found
    return snapshot


def roots(snapshot: Snapshot) -> Any:
    return snapshot.manifest.roots()


def test_the_dataset_is_committed_as_the_program_reads_it(worker: Worker) -> None:
    configuration, leaves = worker.commit_dataset()
    assert (configuration.batch_size, configuration.interval) == (4, ((0, 3),))
    assert leaves == Commitment.of(DATA).leaves


def test_the_initial_state_follows_from_the_seed(worker: Worker, initial: Snapshot) -> None:
    assert roots(begin(worker)) == roots(initial)
    assert roots(begin(worker, bytes(32)))["model"] != roots(initial)["model"]
    assert initial.manifest.group("optimizer") == ()


def test_segments_one_by_one_give_what_they_give_in_one_go(worker: Worker, initial: Snapshot) -> None:
    whole = worker.replay(SEED, 0, 9, batches(0, 9), initial, stops=3)
    assert [closing.step for closing in whole.closings] == [3, 6, 9]
    assert all(closing.loss is not None for closing in whole.closings)
    opening = initial
    for number, closing in enumerate(whole.closings):
        first = 3 * number
        part = worker.replay(SEED, first, first + 3, batches(first, first + 3), opening)
        assert part.opening.roots() == roots(opening)
        assert roots(part.closings[0].snapshot) == roots(closing.snapshot)
        assert part.closings[0].loss == closing.loss
        opening = closing.snapshot


def test_a_replay_shows_the_samples_that_it_used(worker: Worker, initial: Snapshot) -> None:
    order = batches(0, 3)
    replayed = worker.replay(SEED, 0, 3, order, initial)
    used = [index for batch in order for index in batch]
    leaves = Commitment.of(DATA).leaves
    check_leaves(used, replayed.samples, leaves)
    with pytest.raises(DatasetError):
        check_leaves(used[::-1], replayed.samples, leaves)


def test_a_replay_uses_the_batches_that_it_is_given(worker: Worker, initial: Snapshot) -> None:
    honest = worker.replay(SEED, 0, 3, batches(0, 3), initial)
    other = worker.replay(SEED, 0, 3, batches(3, 6), initial)
    assert roots(honest.closings[0].snapshot)["model"] != roots(other.closings[0].snapshot)["model"]


def test_a_replay_ends_where_it_is_asked_to_between_two_checkpoints_too(worker: Worker, initial: Snapshot) -> None:
    order = batches(0, 3)
    plain = worker.replay(SEED, 0, 3, order, initial)
    ended = worker.replay(SEED, 0, 2, order[:2], initial)
    assert [closing.step for closing in ended.closings] == [2]
    both = worker.replay(SEED, 0, 3, order, initial, shown=2)
    assert both.shown is not None
    assert roots(both.shown) == roots(ended.closings[0].snapshot)
    # The mean loss of the segment is that of all its steps, whatever was shown on the way.
    assert [(c.step, roots(c.snapshot), c.loss) for c in both.closings] == [
        (c.step, roots(c.snapshot), c.loss) for c in plain.closings
    ]
    assert both.samples == plain.samples


def test_a_replay_that_is_broken_off_has_done_no_more_than_that(worker: Worker, initial: Snapshot) -> None:
    # A step after the one that is shown would take longer than a job may.
    worker.program, worker.timeout = program(HONEST.replace("run.log(", "SLOW; run.log(").replace("SLOW", SLOW)), 20
    order = batches(0, 3)
    begun = time.monotonic()
    broken = worker.replay(SEED, 0, 3, order, initial, shown=1, further=False)
    assert time.monotonic() - begun < 15
    assert broken.closings == ()
    assert broken.shown is not None
    check_leaves(order[0], broken.samples, Commitment.of(DATA).leaves)


def test_a_program_is_told_the_same_whether_its_replay_is_broken_off_or_not(worker: Worker, initial: Snapshot) -> None:
    worker.program = program(TELLTALE)
    said = []
    for further in (True, False):
        with pytest.raises(RecipeError) as caught:
            worker.replay(SEED, 0, 3, batches(0, 3), initial, shown=1, further=further)
        said.append(str(caught.value))
    assert "told" in said[0]
    assert said[0] == said[1]


def test_opening_a_state_without_steps_gives_its_rows_back(worker: Worker, initial: Snapshot) -> None:
    replayed = worker.replay(SEED, 0, 3, batches(0, 3), initial)
    closing = replayed.closings[0].snapshot
    opened = worker.replay(SEED, 3, 3, [], closing)
    assert opened.opening.roots() == roots(closing)
    assert opened.closings == ()
    assert opened.fingerprint["threads"] == 1
    assert opened.seconds > 0


def test_rows_of_another_model_are_refused_by_name(worker: Worker, initial: Snapshot) -> None:
    rows = [
        dataclasses.replace(r, name="model/9.bias") if r.name == "model/2.bias" else r for r in initial.manifest.rows
    ]
    buffers = {("model/9.bias" if name == "model/2.bias" else name): data for name, data in initial.buffers.items()}
    with pytest.raises(ManifestError, match=r"model/2\.bias"):
        worker.replay(SEED, 0, 3, batches(0, 3), Snapshot(Manifest.of(rows), buffers))


def test_a_planted_learning_rate_in_the_opening_state_is_not_used(worker: Worker, initial: Snapshot) -> None:
    rows = [ScalarRow(row.name, 1e-9) if row.name == "schedule/settings/0/lr" else row for row in initial.manifest.rows]
    forged = Snapshot(Manifest.of(rows), initial.buffers)
    assert roots(forged) != roots(initial)
    replayed = worker.replay(SEED, 0, 3, batches(0, 3), forged)
    assert replayed.opening.roots() == roots(initial)


def test_a_module_is_run_as_a_module_with_its_arguments(worker: Worker) -> None:
    worker.program = program(
        """
        import sys
        import polchain
        assert __name__ == "__main__" and __package__ == "", (__name__, __package__)
        polchain.record("x", data=[0.0] * 3, batch_size=1, steps=int(sys.argv[1]), every=1).__enter__()
        """,
        "5",
        module=True,
    )
    configuration, leaves = worker.commit_dataset()
    assert (configuration.steps, len(leaves)) == (5, 3)


def test_jobs_leave_nothing_for_the_next_one(worker: Worker) -> None:
    worker.program = program(
        """
        import builtins, os, pathlib, sys
        import polchain
        assert not hasattr(builtins, "planted") and "planted" not in os.environ and "planted" not in sys.modules
        assert not pathlib.Path("planted").exists()
        builtins.planted = sys.modules["planted"] = 1
        os.environ["planted"] = "1"
        pathlib.Path("planted").touch()
        polchain.record("x", data=[0.0], batch_size=1, steps=1, every=1).__enter__()
        """
    )
    worker.commit_dataset()
    worker.commit_dataset()


FORMS = {
    "never records": ("pass", RecipeError, "without a call of polchain.record"),
    "stops itself": ("raise SystemExit(3)", RecipeError, "stopped itself with exit status 3"),
    "stops itself well": ("import sys; sys.exit()", RecipeError, "stopped itself with exit status"),
    "raises": ("1 / 0", RecipeError, "raised ZeroDivisionError: division by zero"),
    "raises what does not print": ("raise ValueError('\\x1b[2J\\ud800 x')", RecipeError, "raised ValueError: ?[2J? x"),
    "is no program": ("def", RecipeError, "raised SyntaxError"),
    "interrupts itself": ("raise KeyboardInterrupt", RecipeError, "raised KeyboardInterrupt"),
    "imports what is not there": ("import nowhere_to_be_found", RecipeError, "nowhere_to_be_found"),
    "closes its output": ("import sys; sys.stdout.close(); sys.stderr = None", RecipeError, "without a call"),
    "dies": ("import os; print('so long', flush=True); os._exit(0)", WorkerError, "its last words: so long"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", WorkerError, "ended in the middle of an answer"),
    "kills its server": (
        "import os; os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)",
        WorkerError,
        "replaying process",
    ),
    "prints megabytes": ("print('spam ' * 10**6); 1 / 0", RecipeError, "ZeroDivisionError"),
    "recurses": ("def f(): f()\nf()", RecipeError, "RecursionError"),
    "has no data": (
        "import polchain\npolchain.record('x', data=lambda: open('nowhere'), batch_size=1, steps=1).__enter__()",
        DatasetError,
        "FileNotFoundError",
    ),
    "has no samples": (
        "import polchain\npolchain.record('x', data=[], batch_size=1, steps=1).__enter__()",
        DatasetError,
        "the dataset is empty",
    ),
    "asks for nonsense": (
        "import polchain\npolchain.record('x', data=[1], batch_size=0, steps=1).__enter__()",
        RecipeError,
        "at least 1",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_program_that(worker: Worker, form: str) -> None:
    text, kind, said = FORMS[form]
    worker.program = program(text)
    with pytest.raises(kind) as caught:
        worker.commit_dataset()
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_program_that_sleeps_is_stopped_in_time(worker: Worker) -> None:
    worker.program, worker.timeout = program("import time; time.sleep(60)"), 0.5
    begun = time.monotonic()
    with pytest.raises(WorkerError, match="took too long"):
        worker.commit_dataset()
    assert time.monotonic() - begun < 10


def test_what_a_program_starts_ends_with_it(worker: Worker) -> None:
    worker.program, worker.timeout = (
        program(
            """
        import os, pathlib, subprocess, time
        sleeper = subprocess.Popen(["sleep", "60"])
        print(sleeper.pid, flush=True)
        time.sleep(60)
        """
        ),
        1.5,
    )
    with pytest.raises(WorkerError, match=r"its last words: ([0-9]+)") as caught:
        worker.commit_dataset()
    pid = int(str(caught.value).rpartition(" ")[2])
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            return
        time.sleep(0.05)
    pytest.fail(f"the program's child {pid} is still there")


def test_last_words_are_those_of_this_job(worker: Worker) -> None:
    worker.program = program(
        "print('first', flush=True)\nimport polchain\n"
        "polchain.record('x', data=[1.0], batch_size=1, steps=1).__enter__()"
    )
    worker.commit_dataset()
    worker.program = program("import os; os._exit(0)")
    with pytest.raises(WorkerError) as caught:
        worker.commit_dataset()
    assert "first" not in str(caught.value)


LEFT_EARLY = HONEST.replace("loss.backward()", "BODY").replace("raise AssertionError", "print")


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("break", RecipeError, "left its loop early"),
        ("import os; os._exit(1) if step == 1 else loss.backward()", WorkerError, "ended in the middle"),
        ("raise RuntimeError(f'at {step}')", RecipeError, "RuntimeError: at 0"),
        ("loss.backward(); optimizer.step()", RecipeError, "the optimizer was stepped 2 times in step 0"),
    ],
    ids=["leaves", "dies", "raises", "steps twice"],
)
def test_a_loop_that(worker: Worker, initial: Snapshot, body: str, kind: type[Exception], said: str) -> None:
    worker.program = program(LEFT_EARLY.replace("BODY", body))
    with pytest.raises(kind, match=said):
        worker.replay(SEED, 0, 3, batches(0, 3), initial)


TALKER = """
    from polchain.training.child import current_host
    from polchain.training.wire import Message, send
    host = current_host()
    draft = {"steps": 9, "batch_size": 4, "interval": [[0, 3]], "precision": "fp32", "deterministic": True}
    def say(kind, body=None, blobs=()):
        send(host.stream, Message(kind, body or {}, blobs))
    SAY
    host.end()
"""
TALK = {
    "no draft": "say('leaves')",
    "a draft of nonsense": "say('draft', {'configuration': {**draft, 'steps': 'many'}})",
    "half a leaf": "say('draft', {'configuration': draft}); say('leaves', blobs=[b'x' * 33])",
    "nothing more": "say('draft', {'configuration': draft})",
}


@pytest.mark.parametrize("what", TALK)
def test_a_program_that_talks_itself_is_not_believed(worker: Worker, what: str) -> None:
    worker.program = program(TALKER.replace("SAY", TALK[what]))
    with pytest.raises(WorkerError):
        worker.commit_dataset()


REPLY = {
    "rows that are none": "say('opening', {'fingerprint': {}}, [b'rows'])",
    "a fingerprint that is none": "say('opening', {'fingerprint': {'threads': []}}, [rows])",
    "a closing without its tensors": "good(); say('samples'); say('closing', {'step': 3}, [full])",
    "a loss that is none": "good(); say('samples'); say('closing', {'step': 3, 'loss': 'low'}, [rows])",
}


@pytest.mark.parametrize("what", REPLY)
def test_an_answer_that_is_malformed_is_an_error_by_name(worker: Worker, initial: Snapshot, what: str) -> None:
    setup = """
    from polchain.core.manifest import Manifest
    say('draft', {'configuration': draft})
    rows, full = Manifest(()).encode(), bytes(host.job.blobs[1])
    def good():
        say('opening', {'fingerprint': {}}, [rows])
    """
    worker.program = program(TALKER.replace("SAY", setup + REPLY[what]))
    with pytest.raises(WorkerError):
        worker.replay(SEED, 0, 3, batches(0, 3), initial)


def test_digests_that_a_child_sends_are_not_believed(worker: Worker) -> None:
    worker.program = program(
        TALKER.replace(
            "SAY",
            """
    from polchain.core.digest import blake3
    from polchain.core.manifest import Manifest, TensorRow
    row = TensorRow("model/w", "parameter", "U8", (4,), blake3(b"good"))
    say("draft", {"configuration": draft})
    say("initial", {"fingerprint": {}}, [Manifest((row,)).encode(), b"evil"])
    """,
        )
    )
    row = begin(worker).manifest["model/w"]
    assert isinstance(row, TensorRow)
    assert row.digest == blake3(b"evil")


def test_a_child_that_answered_but_stays_busy_does_not_stop_the_next_job(worker: Worker) -> None:
    stay = "say('draft', {'configuration': draft}); say('leaves', blobs=[b'x' * 32])\n    import time; time.sleep(60)"
    worker.program = program(TALKER.replace("SAY", stay))
    assert worker.commit_dataset()[1] == (b"x" * 32,)
    worker.program, worker.timeout = program(HONEST), 1.5
    begun = time.monotonic()
    with pytest.raises(WorkerError):
        worker.replay(SEED, 0, 9, batches(0, 9), big_state())
    assert time.monotonic() - begun < 20


def big_state() -> Snapshot:
    """More than a socket's buffer holds."""
    data = bytes(4 << 20)
    row = TensorRow("model/w", "parameter", "U8", (len(data),), blake3(data))
    return Snapshot(Manifest((row,)), {"model/w": memoryview(data)})


def test_a_child_sees_its_setting_and_none_of_the_users_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    monkeypatch.setenv("POLCHAIN_KEY_FILE", "/secret")
    text = """
        import os, torch, polchain
        seen = dict(os.environ)
        assert "SECRET_TOKEN" not in seen and "POLCHAIN_KEY_FILE" not in seen, "the child sees the user's environment"
        assert torch.get_num_threads() == 2 and not torch.backends.mkldnn.enabled
        data = [str(polchain.data_dir()), seen["HOME"]]
        polchain.record("x", data=data, batch_size=1, steps=1).__enter__()
    """
    with Worker(program(text), Setting(threads=2, onednn=False), tmp_path, timeout=60) as worker:
        _, leaves = worker.commit_dataset()
        assert leaves[0] == Commitment.of([str(tmp_path)]).leaves[0]
        folder = worker._folder
    assert not folder.exists()


def test_a_worker_that_cannot_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with (
        Worker(program(HONEST), Setting(threads=1), tmp_path) as worker,
        pytest.raises(WorkerError, match="did not start"),
    ):
        worker.commit_dataset()


def test_warming_up_leaves_the_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA that a process has started cannot be used by its forks, and every replay is a fork of the warm process."""

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the warm process asked for a GPU")

    monkeypatch.setattr(torch.cuda, "is_available", asked)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", asked)
    child._warm_up()
