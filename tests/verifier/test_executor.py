"""The executor: several segments at a time give the verdict of one at a time, and a killed verification goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polchain.cli.app import main
from polchain.cli.verdicts import show_verdict
from polchain.core.encoding import JSON
from polchain.errors import DatasetError, WorkerError
from polchain.training.fingerprint import Setting
from polchain.training.worker import Worker
from polchain.verifier import executor
from polchain.verifier.capacity import CHILD, Capacity
from polchain.verifier.challenge import Pick
from polchain.verifier.executor import Done, Executor
from polchain.verifier.integrity import IntactClaim, Segment
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome, Reproduction
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import verify
from tests.claims import DATA, Recorded

SEED = bytes(range(32))
GIB = 1024**3
HERE = Capacity(None, Setting(threads=1), state=GIB, allowed=0, memory=24 * GIB, cores=8, gpus=())


class Idle:
    """A bench without children, which remembers what was done to it."""

    peak = 0

    def __init__(self, *, starts: bool = True) -> None:
        self.starts = starts
        self.interrupted = threading.Event()

    def worker(self) -> Idle:
        return self

    def warm(self) -> None:
        if not self.starts:
            raise WorkerError("no memory")

    def interrupt(self) -> None:
        self.interrupted.set()

    def reset(self) -> None:
        pass


@pytest.fixture
def picks(uneven: IntactClaim) -> list[Pick]:
    """Twelve picks, in another order than that of their steps."""
    return [Pick(segment, ("drawn",)) for segment in uneven.segments[11::-1]]


def lanes(number: int, make: Callable[[], Idle] = Idle) -> Executor:
    """An executor of so many lanes, from the beginning."""
    return Executor(make(), lambda *_: make(), replace(HERE, asked=number))  # type: ignore[arg-type,return-value]


def exact(pick: Pick) -> Reproduction:
    return Reproduction(pick, Outcome.EXACT, 0.0, 0.0)


def refuted(pick: Pick) -> Reproduction:
    return Reproduction(pick, Outcome.REFUTED, math.nan, 0.0, "a lie")


def unreplayed(pick: Pick) -> Reproduction:
    return Reproduction(pick, Outcome.INCONCLUSIVE, math.nan, 0.0, "could not be replayed: no memory")


def outcome(pool: Executor, picks: Sequence[Pick], kinds: Sequence[str], waits: Sequence[int]) -> tuple[list[Any], str]:
    """What comes back, and what was raised: each pick's replay is of this kind, and takes so many milliseconds."""
    beside = [0]
    lock = threading.Lock()

    def work(pick: Pick, _: object) -> Done:
        number = picks.index(pick)
        with lock:
            beside[0] += 1
        try:
            time.sleep(waits[number] / 1000)
            if kinds[number] == "crowded" and beside[0] > 1:
                return Done(unreplayed(pick), again=True)
            if kinds[number] == "never":
                return Done(unreplayed(pick), again=True)
            if kinds[number] == "raises":
                raise DatasetError(f"other data at {number}")
            return Done(refuted(pick), last=True) if kinds[number] == "lie" else Done(exact(pick))
        finally:
            with lock:
                beside[0] -= 1

    try:
        return pool.run(picks, work), ""
    except DatasetError as error:
        return [], str(error)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_however_many_lanes_and_whichever_is_faster_the_results_are_those_of_one(data: st.DataObject) -> None:
    entry: Any = None
    made = [Pick(Segment(index, entry, entry), ("drawn",)) for index in range(8)]
    kinds = data.draw(
        st.lists(st.sampled_from(["exact"] * 6 + ["lie", "raises", "crowded", "never"]), min_size=8, max_size=8)
    )
    waits = data.draw(st.lists(st.integers(0, 4), min_size=8, max_size=8))
    wanted = outcome(lanes(1), made, kinds, [0] * 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segment, "steps", 1)
        for number in (2, 3, 8):
            assert outcome(lanes(number), made, kinds, waits) == wanted, (kinds, waits, number)


def test_a_refuted_segment_stops_what_has_not_begun(picks: list[Pick]) -> None:
    begun: list[Pick] = []
    pool = lanes(2)

    def work(pick: Pick, bench: Any) -> Done:
        begun.append(pick)
        if pick is picks[1]:
            return Done(refuted(pick), last=True)
        # The first takes its time, and is awaited: it was picked before. The third is ended: nobody needs it.
        bench.interrupted.wait(0.5 if pick is picks[0] else 20)
        return Done(exact(pick))

    begin = time.monotonic()
    found = pool.run(picks, work)
    assert found == [exact(picks[0]), refuted(picks[1])]
    assert len(begun) <= 3
    assert time.monotonic() - begin < 10


def test_what_came_to_no_end_beside_others_is_tried_again_alone(picks: list[Pick]) -> None:
    tried: list[int] = []
    running: set[int] = set()

    def work(pick: Pick, _: object) -> Done:
        number = picks.index(pick)
        running.add(number)
        time.sleep(0.01)
        crowded = len(running) > 1 or tried.count(5) == 0
        running.discard(number)
        tried.append(number)
        return Done(unreplayed(pick), again=True) if number == 5 and crowded else Done(exact(pick))

    assert lanes(3).run(picks, work) == [exact(pick) for pick in picks]
    assert tried.count(5) == 2
    assert tried[-1] == 5
    tried.clear()
    assert lanes(1).run(picks, work)[5] == unreplayed(picks[5]), "alone there is nobody else's fault"
    assert tried.count(5) == 1


def test_what_is_known_is_not_replayed_and_comes_in_its_place(picks: list[Pick]) -> None:
    known = {pick.segment.index: replace(exact(pick), earlier=True) for pick in picks[::2]}
    replayed: list[Pick] = []
    came: list[Reproduction] = []

    def work(pick: Pick, _: object) -> Done:
        replayed.append(pick)
        return Done(exact(pick))

    for pool in (lanes(1), lanes(2)):
        replayed.clear()
        came.clear()
        found = pool.run(picks, work, known, came.append)
        assert [item.pick for item in found] == picks
        assert [item.earlier for item in found] == [True, False] * 6
        assert sorted(map(picks.index, replayed)) == list(range(1, 12, 2))
        assert sorted(picks.index(item.pick) for item in came if item.pick is not None) == list(range(1, 12, 2))


def test_an_interruption_ends_what_is_under_way_and_leaves_no_thread(picks: list[Pick]) -> None:
    def work(pick: Pick, bench: Any) -> Done:
        if pick is picks[0]:
            return Done(exact(pick))
        assert bench.interrupted.wait(20), "this lane was left alone"
        raise WorkerError("replaying was interrupted")

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lanes(3).run(picks, work, arrived=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("polchain-lane")]


def test_a_lane_whose_child_does_not_start_takes_nothing(picks: list[Pick]) -> None:
    benches = iter([Idle(), Idle(starts=False), Idle(starts=False)])
    pool = lanes(3, lambda: next(benches))
    assert pool.run(picks, lambda pick, _: Done(exact(pick))) == [exact(pick) for pick in picks]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "WORTH", 0.0)
    monkeypatch.setattr(executor, "PATIENCE", 0.1)
    monkeypatch.setattr(executor, "TICK", 0.02)


@pytest.mark.parametrize(
    ("changes", "opened"),
    [({"memory": 99 * GIB}, 4), ({}, 3), ({"memory": 13 * GIB}, 2), ({"memory": GIB}, 1), ({"cores": 1}, 1)],
)
def test_where_nobody_says_how_many_as_many_open_as_fit(
    picks: list[Pick], eager: None, changes: dict[str, int], opened: int
) -> None:
    made: list[tuple[int, int]] = []

    def another(*which: int) -> Any:
        made.append((which[0], which[1]))
        return Idle()

    capacity = replace(HERE, **{"cores": 4, **changes})  # type: ignore[arg-type]
    pool = Executor(Idle(), another, capacity)  # type: ignore[arg-type]
    found = pool.run(picks, lambda pick, _: time.sleep(0.2 if pick is picks[0] else 0.02) or Done(exact(pick)))
    assert found == [exact(pick) for pick in picks]
    assert made == [(number, opened) for number in range(1, opened)]


def test_a_short_verification_opens_no_second_lane(picks: list[Pick]) -> None:
    pool = Executor(Idle(), lambda *_: pytest.fail("a lane was opened"), HERE)  # type: ignore[arg-type]
    assert len(pool.run(picks, lambda pick, _: time.sleep(0.01) or Done(exact(pick)))) == len(picks)


def test_the_capacity_follows_from_cores_memory_and_gpus() -> None:
    # 3 GiB for the copies of a state, half a GiB for a child, and 3 more while nobody has seen a job.
    assert CHILD == GIB // 2
    assert [replace(HERE, memory=m * GIB).lanes(0) for m in (1, 6, 13, 24, 1000)] == [1, 1, 2, 3, 8]
    assert [HERE.lanes(peak) for peak in (1, GIB, 5 * GIB, 50 * GIB)] == [6, 6, 3, 1]
    assert replace(HERE, allowed=9 * GIB).lanes(GIB) == 2
    assert [replace(HERE, setting=Setting(threads=n), state=0).lanes(1) for n in (1, 2, 3, 8, 64)] == [8, 4, 2, 1, 1]
    assert replace(HERE, asked=5, memory=GIB).lanes(0) == 5, "who asks for so many gets them"
    cuda = replace(HERE, setting=Setting(threads=4, cuda=True), state=0, gpus=("3", "GPU-8f2a", "1"))
    assert cuda.most == 3
    assert [cuda.gpu(lane) for lane in range(4)] == ["3", "GPU-8f2a", "1", "3"]
    assert replace(cuda, gpus=("0",)).gpu(1) == "", "there is no choice"


def test_a_child_sees_the_gpu_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def start(*_: object, env: dict[str, str], **__: object) -> None:
        seen.append(env)
        raise WorkerError("that is enough")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    monkeypatch.setattr(subprocess, "Popen", start)
    for gpu in ("", "6"):
        with Worker(object(), Setting(1, cuda=True), tmp_path, gpu=gpu) as worker, pytest.raises(WorkerError):  # type: ignore[arg-type]
            worker.warm()
    assert [env["CUDA_VISIBLE_DEVICES"] for env in seen] == ["5,6", "6"]


# Real claims


def judged(recorded: Recorded, **more: Any) -> Verdict:
    policy = Policy(keys=frozenset({recorded.key.public}))
    return verify(
        recorded.claim,
        policy,
        data=DATA,
        recipe=recorded.script,
        recipe_arguments=recorded.arguments,
        seed=SEED,
        **more,
    )


def report(verdict: Verdict) -> dict[str, JSON]:
    """The verdict's JSON, but for clocks and sittings."""
    value = verdict.to_json()
    replays = value["replays"]
    assert isinstance(replays, list)
    for item in replays:
        assert isinstance(item, dict)
        del item["seconds"], item["earlier"]
    return value


@pytest.fixture(scope="module")
def alone(recorded: Recorded) -> Verdict:
    """The verdict of a verification in one sitting, one segment at a time."""
    return judged(recorded, jobs=1)


def test_two_at_a_time_give_the_verdict_of_one_at_a_time(recorded: Recorded, alone: Verdict) -> None:
    told: list[tuple[str, int, int]] = []
    verdict = judged(recorded, jobs=2, progress=lambda *said: told.append(said))
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert report(verdict) == report(alone)
    # The first steps are replayed once more for each of two tests.
    assert {total for _, _, total in told} == {60 + 2 * 5}
    assert [what for what, _, _ in told[:2]] == ["reading the data", "initial state"]
    assert [done for what, done, _ in told if what == "replaying"] == list(range(0, 61, 5))
    assert told[-1] == ("tests of behaviour", 60, 70)


# Killed right after the fourth result, with the fifth half written.
DYING = """
    import os, signal, sys
    from pathlib import Path
    from polchain.cli.app import main
    from polchain.verifier.results import Results

    add, count = Results.add, [0]

    def dying(self, segment, seconds):
        count[0] += 1
        if count[0] == 5:
            os.pwrite(self._file, b'{"kind":"exact","mac":"00', self._whole)
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, segment, seconds)

    Results.add = dying
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The stretches that are replayed, whole segments alone."""
    made: list[tuple[int, int]] = []
    replay = Worker.replay

    def counting(self: Worker, seed: bytes, first: int, last: int, *rest: Any, **more: Any) -> Any:
        made.append((first, last))
        return replay(self, seed, first, last, *rest, **more)

    monkeypatch.setattr(Worker, "replay", counting)
    return made


def test_a_killed_verification_goes_on_where_it_was(
    recorded: Recorded,
    intact: IntactClaim,
    alone: Verdict,
    tmp_path: Path,
    counted: list[tuple[int, int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "results"
    words = ["verify", str(recorded.claim), "--key", str(recorded.key.public), "--trust-recipe", str(alone.program)]
    words += ["--data", str(DATA), "--resume", str(file)]
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DYING), *words, "--jobs", "2", "--seed", SEED.hex()],
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_bytes().splitlines()) == 6, "the first line, four results, and a torn one"

    # The seed is the file's: it need not be given again. How many at a time may be another number.
    assert main([*words, "--jobs", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sum(item["earlier"] for item in said["replays"]) == 4
    for item in said["replays"]:
        del item["seconds"], item["earlier"]
    assert said == {**report(alone), "claim": str(recorded.claim)}
    # Eight that were missing, and the tests of behaviour: two stretches of the first segment.
    assert len(counted) == 8 + 2
    assert counted[-2:] == [(0, 5), (0, 5)]
    assert len(set(counted[:8])) == 8
    assert file.read_bytes().count(b"\n") == 1 + 12

    resumed = replace(alone, reproductions=tuple(replace(r, earlier=r.pick is not None) for r in alone.reproductions))
    show_verdict(resumed, intact, recorded.claim, as_json=False)
    assert "; 12 of them in an earlier sitting" in capsys.readouterr().out


@pytest.mark.parametrize("fenced", [False, True], ids=["as the user", "in a room"])
def test_a_worker_that_is_interrupted_answers_at_once(
    fenced: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from polchain.verifier.allowance import Allowance
    from polchain.verifier.sandbox import find_sandbox
    from tests.training.test_worker import program

    if fenced:
        request.getfixturevalue("require_sandbox")
    fence = find_sandbox(tmp_path, [], Allowance()) if fenced else None
    ended: list[BaseException] = []

    def ask(worker: Worker) -> None:
        try:
            worker.commit_dataset()
        except WorkerError as error:
            ended.append(error)

    with Worker(program("import time; time.sleep(60)"), Setting(1), tmp_path, fence=fence) as worker:
        worker.warm()
        asking = threading.Thread(target=ask, args=[worker])
        asking.start()
        time.sleep(0.5)
        begun = time.monotonic()
        worker.interrupt()
        asking.join(20)
        assert ended
        assert time.monotonic() - begun < 5
        with pytest.raises(WorkerError, match="interrupted"):
            worker.commit_dataset()
    assert not [pid for pid in children() if "sleep(60)" in pid]


def children() -> list[str]:
    """The command lines of this process' children."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if parent == str(os.getpid()):
                    found.append((folder / "cmdline").read_text())
            except OSError:
                continue
    return found


def test_jobs_are_counted_from_one(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(recorded.claim), "--jobs", "0"]) == 2
    assert "--jobs" in capsys.readouterr().err
