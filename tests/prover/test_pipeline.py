"""The thread behind the training: in order, bounded, and never silently gone."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from polchain.errors import StorageError, UnavailableError
from polchain.prover.pipeline import Held, Pipeline


def nothing() -> None:
    pass


@pytest.fixture
def line() -> Iterator[Pipeline[str]]:
    made: Pipeline[str] = Pipeline(("a room", "another"), nothing)
    made.start()
    yield made
    made.close(quiet=True)


def fail_with(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_work_is_done_in_order_and_all_of_it(line: Pipeline[str]) -> None:
    done: list[tuple[int, str]] = []
    for number in range(50):
        line.put(lambda n=number: done.append((n, threading.current_thread().name)))
    line.drain()
    assert done == [(number, "polchain-recorder") for number in range(50)]


def test_a_third_room_is_waited_for_and_the_wait_is_counted(line: Pipeline[str]) -> None:
    gate = threading.Event()
    first, second = line.acquire(), line.acquire()
    assert {first, second} == {"a room", "another"}
    assert line.held == Held(), "nobody has waited yet"

    def work() -> None:
        gate.wait()
        line.release(first)

    line.put(work)
    threading.Timer(0.05, gate.set).start()
    assert line.acquire() == first
    assert line.held.commits == 1
    assert line.held.seconds >= 0.03


@pytest.mark.parametrize("call", ["acquire", "put", "drain"])
def test_what_fails_behind_is_raised_by_the_next_call_and_only_there(call: str) -> None:
    line: Pipeline[str] = Pipeline(("a room",), nothing)
    line.start()
    later: list[int] = []
    line.put(fail_with(StorageError("the disk refused")))
    while not line.ended:
        time.sleep(0.001)
    with pytest.raises(StorageError, match="the disk refused"):
        getattr(line, call)(*([lambda: later.append(1)] if call == "put" else []))
    line.close(quiet=False)
    assert later == [], "nothing is recorded after what could not be recorded"


def test_what_fails_behind_while_a_room_is_waited_for_ends_the_wait(line: Pipeline[str]) -> None:
    both = [line.acquire(), line.acquire()]
    assert len(both) == 2
    line.put(fail_with(StorageError("the disk refused")))
    with pytest.raises(StorageError):
        line.acquire()


def test_what_fails_at_the_very_end_is_raised_by_closing() -> None:
    line: Pipeline[str] = Pipeline((), nothing)
    line.start()
    line.put(fail_with(StorageError("the disk refused")))
    with pytest.raises(StorageError):
        line.close(quiet=False)
    line.close(quiet=False)  # said once


def test_a_failure_beside_another_error_is_logged_and_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    line: Pipeline[str] = Pipeline((), nothing)
    line.start()
    line.put(fail_with(StorageError("the disk refused")))
    with caplog.at_level(logging.ERROR, "polchain"):
        line.close(quiet=True)
    assert "failed as well: the disk refused" in caplog.text


def test_closing_has_everything_done_first() -> None:
    line: Pipeline[str] = Pipeline((), nothing)
    line.start()
    done: list[int] = []
    line.put(lambda: time.sleep(0.05))
    line.put(lambda: done.append(1))
    line.close(quiet=True)
    assert done == [1]
    assert line.ended


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_what_ends_a_thread_does_not_end_the_program_quietly(error: BaseException) -> None:
    line: Pipeline[str] = Pipeline((), nothing)
    line.start()
    line.put(fail_with(error))
    with pytest.raises(UnavailableError, match=f"ended by {type(error).__name__}"):
        line.drain()


def test_a_thread_that_is_gone_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polchain.prover.pipeline.LOOK", 0.01)
    monkeypatch.setattr(Pipeline, "_run", lambda self, prepare: setattr(self, "_ready", True))
    line: Pipeline[str] = Pipeline((), nothing)
    line.start()
    with pytest.raises(UnavailableError, match="has ended without a word"):
        line.acquire()
    with pytest.raises(UnavailableError, match="has ended without a word"):
        line.drain()


def test_a_failure_to_prepare_is_raised_at_the_start() -> None:
    line: Pipeline[str] = Pipeline((), fail_with(MemoryError("no more")))
    with pytest.raises(MemoryError):
        line.start()


def test_a_forked_process_is_told_and_does_not_hang(line: Pipeline[str]) -> None:
    gate = threading.Event()

    def hold() -> None:
        with line._changed:  # what a fork in the middle of something would inherit
            gate.set()
            time.sleep(0.2)

    line.put(hold)
    gate.wait()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            line.close(quiet=False)
            line.drain()
        except UnavailableError as error:
            code = 0 if "was forked" in str(error) else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline, "the child waits for a lock that nobody gives back"
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_an_interruption_ends_the_wait_and_loses_nothing(line: Pipeline[str]) -> None:
    done: list[int] = []
    both = [line.acquire(), line.acquire()]
    assert len(both) == 2
    line.put(lambda: time.sleep(0.2))
    line.put(lambda: done.append(1))
    # A process in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        line.acquire()
    signal.signal(signal.SIGINT, before)
    line.close(quiet=True)
    assert done == [1]


@pytest.mark.parametrize(
    "text", [None, "", "{}", "[1]", "3", '{"commits": "x", "seconds": 1}', "{" * 5000, '{"commits": 1e999}']
)
def test_a_note_that_is_damaged_is_no_wait(text: str | None) -> None:
    assert Held.parse(text) == Held()


def test_a_note_is_read_as_it_was_written() -> None:
    assert Held.parse(Held(3, 1.25).encode()) == Held(3, 1.25)
    assert Held(3, 1.0).and_for(0.5) == Held(4, 1.5)
