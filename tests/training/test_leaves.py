"""Leaves of a dataset: the same by one process and by several, at once and after an interruption."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import polchain.training.leaves as module
from polchain.core import merkle
from polchain.errors import DatasetError, StorageError, UsageError
from polchain.training.dataset import Commitment, encode_sample, sample_leaf
from polchain.training.leaves import WORKERS, Leaves

HERE = os.getpid()


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


class Deadly(Numbers):
    """A dataset that ends whatever process reads sample 50 of it, but this one."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 50 and os.getpid() != HERE:
            os._exit(9)
        return super().__getitem__(index)


def test_a_reading_process_that_is_killed_is_an_error_with_a_hint() -> None:
    with pytest.raises(DatasetError, match="was ended") as caught:
        Commitment.of(Deadly(), workers=2)
    assert WORKERS in caught.value.hint
    assert module._shared is None


def test_an_interrupted_commitment_goes_on(tmp_path: Path) -> None:
    kept = tmp_path / "leaves"
    with pytest.raises(DatasetError):
        Commitment.of(Numbers(fail_at=77), kept=kept)
    assert kept.stat().st_size == len(b"polchain-leaves/v1\n") + 16 + 9 * (8 * 32 + 32)
    assert kept.stat().st_mode & 0o777 == 0o600, "leaves of private data are for nobody else"
    data = Numbers()
    assert list(Commitment.of(data, kept=kept).leaves) == EXPECTED
    assert data.read < 28 + module.AGAIN + 10, "it was computed again from the start"
    assert not kept.exists()


@pytest.mark.parametrize("what", ["another dataset", "a longer one", "torn", "a flipped bit", "a hole", "empty"])
def test_what_was_kept_of_something_else_is_not_believed(tmp_path: Path, what: str) -> None:
    kept = tmp_path / "leaves"
    with pytest.raises(DatasetError):
        Commitment.of(Numbers(fail_at=77, shift=1 if what == "another dataset" else 0), kept=kept)
    written = bytearray(kept.read_bytes())
    if what == "torn":
        del written[-7:]
    elif what == "a flipped bit":
        written[-40] ^= 1
    elif what == "a hole":
        # A power loss leaves a file as long as it was, and zeros where the disk had not got to.
        written[300:400] = bytes(100)
    elif what == "empty":
        written.clear()
    kept.write_bytes(written)
    data = Numbers(120 if what == "a longer one" else 100)
    assert list(Commitment.of(data, kept=kept).leaves)[:100] == EXPECTED
    assert not kept.exists()


@pytest.mark.parametrize("text", [b"garbage" * 100, b"x", b"polchain-leaves/v2\n" + bytes(40)])
def test_a_file_of_something_else_is_not_written_over(tmp_path: Path, text: bytes) -> None:
    kept = tmp_path / "thesis.txt"
    kept.write_bytes(text)
    with pytest.raises(UsageError, match="no file of leaf hashes"):
        Commitment.of(Numbers(), kept=kept)
    assert kept.read_bytes() == text


def test_two_that_keep_their_leaves_in_one_file_do_not_mix_them(tmp_path: Path) -> None:
    with module.Journal(tmp_path / "leaves", 100, 8), pytest.raises(UsageError, match="another process"):
        Commitment.of(Numbers(), kept=tmp_path / "leaves")


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
