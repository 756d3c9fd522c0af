"""What is recorded behind the training: killed, failing or interrupted at any moment, a run says so and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polchain.core.entries import CheckpointEntry, parse_entry
from polchain.prover import fsck
from polchain.prover.selfcheck import limit_of
from polchain.prover.status import describe, failed_check
from polchain.storage.ledger import Ledger
from tests.training.prank import MOMENTS

# The self-check's child is told nothing of what goes wrong: it has another environment.
SCRIPT = """
    import json, os, signal, sys, time
    import torch
    from torch import nn
    from torch.nn import functional as F
    import polchain
    exec(os.environ.get("FIRST", ""))
    if "PRANK" in os.environ:
        from tests.training.prank import play
        play(*json.loads(os.environ["PRANK"]))
    data = [(torch.tensor([i / 12, 1 - i / 12]), torch.tensor([float(i % 2)])) for i in range(12)]
    with polchain.record("run", data=data, batch_size=4, steps=12, every=2) as run:
        model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        run.attach(model=model, optimizer=optimizer)
        for step, (x, y) in run.batches():
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            print("step", step)
            if step == 5:
                exec(os.environ.get("AT_FIVE", ""))
    print("after the loop")
"""


@pytest.fixture
def train(desk: Any) -> Any:
    """`train(at, do)` runs the script, with something that goes wrong at that moment; `train()` runs it as it is."""
    desk.write(SCRIPT)

    def run(at: str = "", do: str = "", *, checked: bool = False, **variables: str) -> Any:
        return desk.run(PRANK=json.dumps([at, do, checked]), **variables)

    run.folder = desk.folder / "run"  # type: ignore[attr-defined]
    return run


def cores(count: int) -> str:
    """What has a script see so many; torch has one thread in these tests."""
    return f"os.sched_getaffinity = lambda _: set(range({count}))"


def entries(run: Path) -> list[bytes]:
    with Ledger(run) as ledger:
        ledger.check()
        return list(ledger.entries())


def steps(run: Path) -> list[int]:
    return [entry.step for data in entries(run) if isinstance(entry := parse_entry(data), CheckpointEntry)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed(moment: str, train: Any) -> None:
    killed = train(moment, "kill")
    assert killed.status == -9, killed.output
    before = entries(train.folder)
    reached = steps(train.folder)
    assert reached == [0, 2, 4][: len(reached)], "it was killed at step 4"
    assert not fsck.check(train.folder).damage, "a kill is no damage"
    again = train()
    assert again.status == 0, again.output
    assert entries(train.folder)[: len(before)] == before, "what was acknowledged is kept"
    assert steps(train.folder) == [0, 2, 4, 6, 8, 10, 12]
    assert not fsck.check(train.folder, repair=True).damage


@pytest.mark.parametrize("moment", list(MOMENTS)[1:])
def test_a_failure_behind_reaches_the_loop_by_name(moment: str, train: Any) -> None:
    done = train(moment, "refuse")
    assert done.status == 1
    assert done.said == "polchain.errors.StorageError: the disk refuses"
    assert "after the loop" not in done.output
    assert steps(train.folder)[:2] == [0, 2]
    assert len(steps(train.folder)) < 4, "nothing is recorded after what could not be"


def test_a_failure_behind_ends_a_training_at_the_next_commit_and_with_space_it_goes_on(train: Any) -> None:
    done = train("between hash and store", "refuse", AT_FIVE="time.sleep(0.5)")
    assert "StorageError" in done.said
    assert "step 5" in done.output
    assert "step 6" not in done.output
    assert train().status == 0
    assert steps(train.folder) == [0, 2, 4, 6, 8, 10, 12]


def test_a_thread_that_wants_to_end_does_not_end_the_training_quietly(train: Any) -> None:
    done = train("between store and append", "die")
    assert done.status == 1, "an exit status of 0 would say that all is recorded"
    assert "UnavailableError: the thread that records was ended by SystemExit" in done.said


@pytest.mark.parametrize(
    ("how", "said"),
    [("os.kill(os.getpid(), signal.SIGINT)", "KeyboardInterrupt"), ("raise ValueError('mine')", "ValueError: mine")],
    ids=["interrupted", "raised"],
)
def test_what_was_copied_is_recorded_though_the_loop_is_left(how: str, said: str, train: Any) -> None:
    done = train("between hash and store", "slow", AT_FIVE=how)
    assert (done.status, done.said) == (1, said)
    assert steps(train.folder) == [0, 2, 4]


def test_a_failure_behind_does_not_hide_the_loops_own(train: Any) -> None:
    done = train("between hash and store", "refuse", AT_FIVE="time.sleep(0.5); raise ValueError('mine')")
    assert done.said == "ValueError: mine"
    assert "what is recorded behind the training failed as well: the disk refuses" in done.output


def test_a_self_check_is_broken_off_when_the_loop_is_left_and_made_up_for(train: Any, desk: Any) -> None:
    desk.write(SCRIPT.replace('print("step", step)', '"PRANK" in os.environ or time.sleep(0.3)'))
    done = train(checked=True, FIRST=cores(2), AT_FIVE="time.sleep(0.3); raise ValueError('mine')")
    assert done.said == "ValueError: mine", done.output
    assert describe(train.folder).self_check == 0, "it was under way"
    assert steps(train.folder) == [0, 2, 4]
    assert train(checked=True).status == 0
    assert describe(train.folder).self_check == 6


def test_a_training_waits_for_a_self_check_that_needs_its_cores(train: Any) -> None:
    ask = "from polchain.prover.status import describe; print('checked', describe(run.host.folder).self_check)"
    done = train(checked=True, FIRST=cores(1), AT_FIVE=ask)
    assert done.status == 0, done.output
    assert "checked 2" in done.output, "both segments before step 5 were replayed before it"
    assert describe(train.folder).held.commits >= 4, "segments 1, 2 and 4, and the last; others for room"


def test_a_replay_that_never_ends_is_ended(desk: Any) -> None:
    waits = SCRIPT.replace('print("step", step)', '"PRANK" in os.environ or time.sleep(600)')
    short = "from polchain.prover import selfcheck; selfcheck.LEAST_SECONDS, selfcheck.TIMES = 5.0, 0.0"
    desk.write(waits)
    done = desk.run(PRANK=json.dumps(["", "", True]), FIRST=short)
    assert done.status == 1
    assert "did not end in 5 s, far longer than the training took" in done.said
    assert failed_check(desk.folder / "run") is None, "it says nothing against the run"


def test_a_replay_may_take_a_multiple_of_what_training_took() -> None:
    assert limit_of(0.0, 0) == 180
    assert limit_of(3600.0, 0) == 180 + 20 * 3600, "an hour a segment is no loop"
    assert limit_of(1.0, 100 * 10**9) == 180 + 20 + 2000


def test_a_training_that_is_faster_than_its_recording_waits_and_status_says_so(train: Any) -> None:
    assert train("between hash and store", "slow").status == 0
    held = describe(train.folder).held
    assert held.commits >= 3, "two states in memory, and no more"
    assert 0.2 < held.seconds < 60
    assert describe(train.folder).to_json()["held"] == {"commits": held.commits, "seconds": held.seconds}


def test_a_process_that_is_forked_off_in_the_loop_leaves_the_recording_alone(train: Any) -> None:
    fork = "time.sleep(0); child = os.fork(); child or sys.exit(); os.waitpid(child, 0)"
    done = train("between hash and store", "slow", AT_FIVE=fork)
    assert done.status == 0, done.output
    assert steps(train.folder) == [0, 2, 4, 6, 8, 10, 12]
    assert not fsck.check(train.folder).damage


def test_a_process_that_is_forked_off_cannot_go_on_recording(train: Any) -> None:
    done = train(AT_FIVE="os.fork() and (os.wait(), sys.exit())")
    assert "UnavailableError: this process was forked from the one that records" in done.output
    assert steps(train.folder) == [0, 2, 4]
