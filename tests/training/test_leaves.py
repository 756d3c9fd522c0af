"""Leaves of a dataset: the same by one process and by several, at once and after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import polchain.training.leaves as module
from polchain.core import merkle
from polchain.errors import DatasetError, StorageError, UsageError
from polchain.training.dataset import Commitment, encode_sample, sample_leaf
from polchain.training.leaves import WORKERS, Leaves


class Numbers:
    """Samples that are numbers; it can fail at one, and counts what is read."""

    def __init__(self, size: int = 100, fail_at: int = -1, shift: int = 0) -> None:
        self.size, self.fail_at, self.shift, self.read = size, fail_at, shift, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.fail_at:
            raise DatasetError("sample 77 cannot be read")
        self.read += 1
        return torch.tensor([index + self.shift]), index


EXPECTED = [sample_leaf(encode_sample((torch.tensor([index]), index))) for index in range(100)]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 8)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_do_not_change_a_commitment(workers: int) -> None:
    done: list[int] = []
    found = Commitment.of(Numbers(), done.append, workers=workers)
    assert list(found.leaves) == EXPECTED
    assert found.ref().root.value == merkle.root(EXPECTED)
    assert done == sorted(done)
    assert done[-1] == 100
    assert module._shared is None


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_dataset_raises_is_raised_whole(workers: int) -> None:
    with pytest.raises(DatasetError, match="sample 77"):
        Commitment.of(Numbers(fail_at=77), workers=workers)


def test_an_interrupted_commitment_goes_on(tmp_path: Path) -> None:
    kept = tmp_path / "leaves"
    with pytest.raises(DatasetError):
        Commitment.of(Numbers(fail_at=77), kept=kept)
    assert kept.stat().st_size == len(b"polchain-leaves/v1\n") + 8 + 32 * 72
    data = Numbers()
    assert list(Commitment.of(data, kept=kept).leaves) == EXPECTED
    assert data.read < 28 + module.AGAIN + 10, "it was computed again from the start"
    assert not kept.exists()


@pytest.mark.parametrize("what", ["another dataset", "a longer one", "torn", "garbage", "empty"])
def test_what_was_kept_of_something_else_is_not_believed(tmp_path: Path, what: str) -> None:
    kept = tmp_path / "leaves"
    with pytest.raises(DatasetError):
        Commitment.of(Numbers(fail_at=77, shift=1 if what == "another dataset" else 0), kept=kept)
    if what == "torn":
        kept.write_bytes(kept.read_bytes()[:-7])
    elif what in ("garbage", "empty"):
        kept.write_bytes(b"garbage" * 100 if what == "garbage" else b"")
    data = Numbers(120 if what == "a longer one" else 100)
    assert list(Commitment.of(data, kept=kept).leaves)[:100] == EXPECTED
    assert len(Commitment.of(data).leaves) == len(data)


def test_how_many_workers_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(WORKERS, "2")
    assert list(Commitment.of(Numbers()).leaves) == EXPECTED
    monkeypatch.setenv(WORKERS, "many")
    with pytest.raises(UsageError, match=WORKERS):
        Commitment.of(Numbers())
    with pytest.raises(StorageError, match="cannot write"):
        Commitment.of(Numbers(), workers=0, kept=tmp_path / "nowhere" / "leaves")


def test_leaves_are_a_sequence_in_one_buffer() -> None:
    leaves = Leaves(b"".join(EXPECTED))
    assert (len(leaves), leaves[0], leaves[-1]) == (100, EXPECTED[0], EXPECTED[-1])
    assert list(leaves[10:20]) == EXPECTED[10:20]
    assert list(leaves[20:10]) == []
    assert merkle.prove_inclusion(leaves, 41) == merkle.prove_inclusion(EXPECTED, 41)
    with pytest.raises(IndexError):
        leaves[100]
    with pytest.raises(UsageError):
        leaves[::2]
