"""Tasks: canonical, named by their digest, and what departs from one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.digest import Digest, sha256
from polchain.core.entries import Start
from polchain.core.genesis import Configuration, DatasetRef
from polchain.core.task import TASK_LIMIT, Task, departures
from polchain.errors import FormatError, PolchainError, UsageError
from tests.runs import make_genesis, make_key

ZERO = Digest("sha256", bytes(32))
TASK = Task(ZERO, DatasetRef(96, ZERO), Configuration(12, 16, ((0, 4),), "fp32", True), bytes(range(32)))


def test_a_task_reads_back_what_was_written_and_has_one_digest() -> None:
    assert Task.parse(TASK.encode()) == TASK
    assert Task.parse(TASK.encode() + b"\n") == TASK, "an editor's newline"
    assert TASK.digest == sha256(b"polchain-task/v1\0", TASK.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"format":"polchain-task/v2"}',
        TASK.encode().replace(b'"format"', b' "format"'),
        TASK.encode().replace(b"00010203", b"0001020G"),
        TASK.encode().replace(b"00010203", b"000102"),
        TASK.encode()[:-1] + b',"zeal":1}',
        TASK.encode() + b"\n\n",
        b" " * (TASK_LIMIT + 1),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Task.parse(data)


@given(st.binary(max_size=200) | st.integers(0, len(TASK.encode()) - 1).map(lambda i: TASK.encode()[:i] + b"\x00"))
def test_noise_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(PolchainError):
        Task.parse(data)


def test_what_departs_from_a_task_is_named(tmp_path: Path) -> None:
    genesis = make_genesis(make_key(tmp_path / "key"))
    task = Task.of(genesis, bytes(32))
    start = Start(ZERO, "task", bytes(32), {})
    assert departures(task, genesis, start) == ()
    assert departures(replace(task, seed=bytes([1] * 32)), genesis, start) == ("another seed",)
    assert departures(task, genesis, replace(start, source="prover")) == ("another seed",)
    assert genesis.dataset is not None
    other, salted = replace(genesis.dataset, root=sha256(b"x")), replace(genesis.dataset, salts=sha256(b"secret"))
    assert departures(task, replace(genesis, dataset=other), start) == ("another dataset",)
    private = ("another dataset, or the same under another secret",)
    assert departures(task, replace(genesis, dataset=salted), start) == private, "plain data was ordered"
    ordered = Task.of(replace(genesis, dataset=salted), bytes(32))
    assert Task.parse(ordered.encode()) == ordered != task
    assert departures(ordered, replace(genesis, dataset=salted), start) == ()
    assert departures(ordered, genesis, start) == private
    assert departures(replace(task, recipe=ZERO), genesis, None) == ("another recipe",)
    other = replace(genesis, dataset=DatasetRef(9, ZERO))
    assert departures(task, other, start) == ("another dataset",)
    assert departures(task, make_genesis(make_key(tmp_path / "k"), foreign=True), None)[0] == "another recipe"
    with pytest.raises(UsageError):
        Task.of(make_genesis(make_key(tmp_path / "k2"), foreign=True), bytes(32))
