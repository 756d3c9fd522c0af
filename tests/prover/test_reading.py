"""The recorder reads a dataset: shown where it is large, and gone on with only where that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

import polchain.prover.recorder as module
import polchain.training.leaves as leaves
from polchain.errors import DatasetError
from polchain.prover.launch import Launch
from polchain.prover.recorder import Recorder
from polchain.training.dataset import Commitment


class Numbers:
    """A hundred numbers, of which one can be out of reach."""

    def __init__(self, out_of_reach: int | None = None) -> None:
        self.out_of_reach, self.read = out_of_reach, 0

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        if index == self.out_of_reach:
            raise DatasetError("the disk with the data is gone")
        self.read += 1
        return index


@pytest.mark.parametrize("asked", [False, True])
def test_a_reading_that_was_interrupted_goes_on_only_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    kept = tmp_path / "kept"
    monkeypatch.setattr(leaves, "PIECE", 10)
    monkeypatch.setattr(leaves, "AGAIN", 5)
    if asked:
        monkeypatch.setenv(leaves.KEPT, str(kept))
    recorder = Recorder(tmp_path / "run")
    with pytest.raises(DatasetError, match="gone"):
        recorder._commit(Numbers(out_of_reach=85))
    assert kept.exists() == asked
    assert not (tmp_path / "run").exists(), "nothing is made before the data is read"
    data = Numbers()
    assert recorder._commit(data).ref() == Commitment.of(range(100)).ref()
    assert (data.read < 50) == asked, f"{data.read} samples were read"
    assert not kept.exists()


@pytest.mark.parametrize("large", [False, True])
def test_the_reading_of_a_large_dataset_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    monkeypatch.setattr(leaves, "PIECE", 40)
    monkeypatch.setattr(module, "MANY_SAMPLES", 100 if large else 101)
    shown: list[tuple[int, int]] = []
    launch = Launch(on_sample=lambda done, samples: shown.append((done, samples)))
    Recorder(tmp_path / "run", launch)._commit(Numbers())
    assert shown == ([(40, 100), (80, 100), (100, 100)] if large else [])
