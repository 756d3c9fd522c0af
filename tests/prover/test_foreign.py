"""Foreign runs: what another loop saved is committed, once, in order, durably."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file
from torch import nn

from polchain.core.digest import Digest
from polchain.core.entries import chain_base, extend_chain
from polchain.core.genesis import Configuration, DatasetRef, Genesis, RecipeRef
from polchain.core.keys import PrivateKey
from polchain.core.note import open_head
from polchain.errors import (
    ConflictError,
    FormatError,
    KeyMismatchError,
    MissingFileError,
    RunLockedError,
    StorageError,
    UsageError,
)
from polchain.prover import foreign as module
from polchain.prover.foreign import Committed, commit, init_foreign, watch
from polchain.prover.settings import RunSettings
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger
from polchain.storage.runs import SETTINGS

KEY = PrivateKey.generate()
SETTLE = 0.1


@pytest.fixture
def run(tmp_path: Path) -> Path:
    init_foreign(tmp_path / "run", KEY).close()
    return tmp_path / "run"


@pytest.fixture
def saves(tmp_path: Path) -> Path:
    (tmp_path / "saves").mkdir()
    return tmp_path / "saves"


def state(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), float(value)), "bias": torch.zeros(3)}


def save(folder: Path, step: int, value: float | None = None) -> Path:
    path = folder / f"ckpt_{step}.pt"
    torch.save({"model": state(step if value is None else value), "epoch": step}, path)
    return path


def steps(run: Path) -> list[int]:
    with Ledger(run) as ledger:
        ledger.check()
        return [entry.step for entry in module._committed(ledger)]


def test_a_foreign_run_begins_without_recipe_data_or_configuration(tmp_path: Path) -> None:
    settings = RunSettings(key_file=tmp_path / "key")
    with init_foreign(tmp_path / "run", KEY, settings=settings) as ledger:
        assert ledger.genesis == Genesis(ledger.genesis.run_id, KEY.public)
        assert ledger.genesis.foreign
    assert RunSettings.read(tmp_path / "run").key_file == tmp_path / "key"
    assert (tmp_path / "run" / SETTINGS).exists()
    with pytest.raises(UsageError, match="already"):
        init_foreign(tmp_path / "run", KEY)


def test_two_commits_are_two_entries_of_one_chain(run: Path, saves: Path) -> None:
    first = commit(run, save(saves, 10), 10, key=KEY)
    second = commit(run, save(saves, 20), 20, key=KEY, loss=0.5)
    with Ledger(run) as ledger:
        ledger.check()
        assert [ledger.entry(1), ledger.entry(2)] == [first.entry, second.entry]
        assert open_head(ledger.head(), ledger.origin, KEY.public) == second.head
        base = extend_chain(chain_base(ledger.genesis), first.entry.state)
    assert second.entry.chain == extend_chain(base.value, second.entry.state)
    assert (first.entry.update, first.entry.batches, second.entry.batches) == (None, None, None)
    assert second.entry.update is not None
    assert second.entry.update.linf == 10.0
    assert second.entry.loss == 0.5
    assert (second.step, second.repeated, second.head.size) == (20, False, 3)
    kept = CheckpointStore(run).get(second.entry.state)
    assert bytes(kept.buffers["model/weight"]) == state(20)["weight"].numpy().tobytes()


def test_the_same_checkpoint_again_changes_nothing(run: Path, saves: Path) -> None:
    first = commit(run, save(saves, 10), 10, key=KEY)
    commit(run, save(saves, 20), 20, key=KEY)
    again = commit(run, saves / "ckpt_10.pt", 10, key=KEY)
    assert again.repeated
    assert again.entry == first.entry
    assert again.head.size == 3
    assert steps(run) == [10, 20]


def test_another_state_at_a_committed_step_is_a_conflict(run: Path, saves: Path) -> None:
    commit(run, save(saves, 10), 10, key=KEY)
    with pytest.raises(ConflictError, match="another state is committed at step 10"):
        commit(run, save(saves, 10, value=0.5), 10, key=KEY)
    assert steps(run) == [10]


def test_steps_only_rise(run: Path, saves: Path) -> None:
    commit(run, save(saves, 10), 10, key=KEY)
    with pytest.raises(UsageError, match="step 5 lies before step 10"):
        commit(run, save(saves, 5), 5, key=KEY)
    for step in (-1, 2**40 + 1):
        with pytest.raises(UsageError, match="is not from 0"):
            commit(run, saves / "ckpt_10.pt", step, key=KEY)
    with pytest.raises(UsageError, match="a loss of nan"):
        commit(run, save(saves, 11), 11, key=KEY, loss=float("nan"))


def test_a_run_whose_loop_polchain_owns_takes_no_commits(tmp_path: Path, saves: Path) -> None:
    digest = Digest("sha256", bytes(32))
    genesis = Genesis(
        bytes(16),
        KEY.public,
        recipe=RecipeRef("a", True, (), (), ()),
        dataset=DatasetRef(1, digest),
        configuration=Configuration(1, 1, ((0, 1),), "fp32", True),
    )
    Ledger.create(tmp_path / "owned", genesis, KEY).close()
    with pytest.raises(UsageError, match="polchain owns the loop"):
        commit(tmp_path / "owned", save(saves, 1), 1, key=KEY)
    with pytest.raises(UsageError, match="polchain owns the loop"):
        watch(tmp_path / "owned", saves, key=KEY, once=True, settle=0)


def test_a_wrong_key_a_missing_run_a_damaged_file_and_a_second_writer_have_their_own_errors(
    run: Path, saves: Path
) -> None:
    path = save(saves, 1)
    with pytest.raises(KeyMismatchError):
        commit(run, path, 1, key=PrivateKey.generate())
    with pytest.raises(MissingFileError):
        commit(saves, path, 1, key=KEY)
    with pytest.raises(MissingFileError):
        commit(run, saves / "none.pt", 1, key=KEY)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FormatError):
        commit(run, path, 1, key=KEY)
    with Ledger(run, KEY), pytest.raises(RunLockedError):
        commit(run, path, 1, key=KEY)
    assert steps(run) == []


def test_without_storing_only_the_rows_are_kept_and_storing_later_mends_it(run: Path, saves: Path) -> None:
    first = commit(run, save(saves, 1), 1, key=KEY, store=False)
    shelf = CheckpointStore(run)
    assert not shelf.has(first.entry.state)
    assert shelf.manifest(first.entry.state).state() == first.entry.state
    second = commit(run, save(saves, 2), 2, key=KEY)
    assert second.entry.update is None
    assert second.remarks == ("the size of the update is not recorded: the state of step 1 was not kept",)
    commit(run, saves / "ckpt_1.pt", 1, key=KEY)
    assert shelf.has(first.entry.state)


def test_an_update_between_different_parameters_is_not_recorded(run: Path, saves: Path) -> None:
    commit(run, save(saves, 1), 1, key=KEY)
    torch.save({"model": nn.Linear(2, 2).state_dict()}, saves / "other.pt")
    committed = commit(run, saves / "other.pt", 2, key=KEY)
    assert committed.entry.update is None
    assert "other parameters" in committed.remarks[0]
    assert commit(run, save(saves, 3, value=float("nan")), 3, key=KEY).entry.update is None


def test_an_unopened_file_is_committed_by_its_digest_and_that_is_said(run: Path, saves: Path) -> None:
    torch.save(nn.Linear(2, 2), saves / "module.pt")
    committed = commit(run, saves / "module.pt", 1, key=KEY)
    assert "unopened" in committed.remarks[0]
    assert commit(run, saves / "module.pt", 1, key=KEY).repeated


@pytest.mark.parametrize("value", [{"net": {"w": torch.ones(2)}, "epoch": 3}, {"epoch": 3, "net": [1]}])
def test_a_checkpoint_without_a_recognised_model_is_refused_unsigned(run: Path, saves: Path, value: object) -> None:
    torch.save(value, saves / "one.pt")
    with pytest.raises(UsageError, match=r"no model is recognised in one\.pt, which has epoch, net") as caught:
        commit(run, saves / "one.pt", 1, key=KEY)
    assert "--map KEY=model" in caught.value.hint
    assert steps(run) == []
    assert not list(run.glob("manifests/*"))


def test_a_model_that_is_named_or_unopened_or_no_rows_is_not_refused(run: Path, saves: Path) -> None:
    torch.save({"net": {"w": torch.ones(2)}}, saves / "named.pt")
    torch.save({"model": {"w": torch.eye(2).to_sparse()}}, saves / "sparse.pt")
    (saves / "folder").mkdir()
    torch.save(nn.Linear(2, 2), saves / "folder" / "model.bin")
    torch.save({"state": {}, "param_groups": []}, saves / "folder" / "optimizer.pt")
    commit(run, saves / "named.pt", 1, key=KEY, mapping={"net": "model"})
    commit(run, saves / "sparse.pt", 2, key=KEY)
    commit(run, saves / "folder", 3, key=KEY)
    assert steps(run) == [1, 2, 3]


def test_the_state_is_durable_before_its_entry(run: Path, saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: CheckpointStore, snapshot: object) -> Digest:
        raise StorageError("no space")

    monkeypatch.setattr(CheckpointStore, "put", refuse)
    with pytest.raises(StorageError):
        commit(run, save(saves, 1), 1, key=KEY)
    assert steps(run) == []


# Watching.


def watched(run: Path, saves: Path, settle: float = 0.0) -> int:
    return watch(run, saves, key=KEY, once=True, settle=settle)


def test_once_commits_what_is_there_by_rising_step_and_then_nothing(run: Path, saves: Path) -> None:
    for step in (100, 20, 3):
        save(saves, step)
    (saves / "checkpoint-50").mkdir()
    save_file(state(50), saves / "checkpoint-50" / "model.safetensors")
    seen: list[Committed] = []
    assert watch(run, saves, key=KEY, once=True, settle=0.05, on_commit=seen.append) == 4
    assert [one.step for one in seen] == steps(run) == [3, 20, 50, 100]
    assert watched(run, saves) == 0


def test_hidden_temporary_and_other_files_are_no_candidates(run: Path, saves: Path) -> None:
    whole = save(saves, 1).read_bytes()
    for name in (".ckpt_2.pt", "ckpt_3.pt.tmp", "ckpt_4.partial.pt", "tmp-5.pt", "last.pt", "log_6.txt", "ckpt_7.pt~"):
        (saves / name).write_bytes(whole)
    (saves / f"ckpt_{10**20}.pt").write_bytes(whole)
    (saves / "model-00001-of-00002.safetensors").write_bytes(save_safetensors(state(1)))
    (saves / "events-8").mkdir()
    (saves / "events-8" / "log.txt").write_text("")
    (saves / "checkpoint-9").mkdir()
    (saves / "checkpoint-9" / "model.pt").write_bytes(whole)
    (saves / "checkpoint-9" / "optimizer.pt.tmp").write_bytes(whole)
    init_foreign(saves / "run-10", KEY).close()
    watched(run, saves)
    assert steps(run) == [1]


def test_a_candidate_that_never_parses_is_reported_once_and_left_alone(
    run: Path, saves: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (saves / "ckpt_1.safetensors").write_bytes(save_safetensors(state(1))[:-1])
    save(saves, 2)
    with caplog.at_level(logging.WARNING, "polchain"):
        watch(run, saves, key=KEY, once=True, settle=0.02)
    assert steps(run) == [2]
    (record,) = caplog.records
    assert record.getMessage().startswith("ckpt_1.safetensors is left alone: cut short or damaged")


def test_watching_says_once_what_it_leaves_alone(run: Path, saves: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("best.pt", "last.pt", ".hidden.pt", "notes.txt"):
        torch.save({"model": state(1)}, saves / name)
    torch.save({"net": state(1), "epoch": 1}, saves / "ckpt_1.pt")
    with caplog.at_level(logging.WARNING, "polchain"):
        assert watched(run, saves, settle=0.02) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "left alone, for want of a step in the name: best.pt, last.pt",
        "ckpt_1.pt is left alone: no model is recognised in ckpt_1.pt, which has epoch, net; "
        "--map KEY=model says where it is",
    ]


def test_a_folder_is_looked_at_before_it_is_announced(run: Path, saves: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "polchain"), pytest.raises(MissingFileError):
        watch(run, saves / "none", key=KEY)
    assert caplog.records == []


def test_a_second_candidate_for_a_step_and_one_that_comes_late_are_left_alone(
    run: Path, saves: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(saves, 20)
    save_file(state(0), saves / "other_20.safetensors")
    with caplog.at_level(logging.WARNING, "polchain"):
        watched(run, saves)
        save(saves, 10)
        watched(run, saves)
    assert steps(run) == [20]
    assert "other_20.safetensors is left alone: step 20 is committed already, from ckpt_20.pt" in caplog.text
    assert "ckpt_10.pt is left alone: step 10 lies before step 20" in caplog.text


def test_a_directory_that_is_not_there_cannot_be_watched(run: Path, saves: Path) -> None:
    with pytest.raises(MissingFileError, match="cannot be watched"):
        watched(run, saves / "none")


@pytest.fixture
def watching(run: Path, saves: Path) -> Iterator[list[int]]:
    """A watcher in a thread, ended as Ctrl-C ends it; gives the steps as they are committed."""
    seen: list[int] = []
    done = threading.Event()

    def interrupted(committed: Committed) -> None:
        seen.append(committed.step)
        if committed.step == 99:
            raise KeyboardInterrupt

    def work() -> None:
        watch(run, saves, key=KEY, settle=SETTLE, on_commit=interrupted)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    yield seen
    save(saves, 99)
    assert done.wait(20), "the watcher did not end when it was interrupted"
    thread.join()


def wait_for(seen: list[int], wanted: list[int]) -> None:
    for _ in range(400):
        if seen == wanted:
            return
        time.sleep(0.025)
    assert seen == wanted


def test_files_are_committed_as_they_appear_and_not_before_they_are_whole(
    watching: list[int], run: Path, saves: Path
) -> None:
    save(saves, 1)
    wait_for(watching, [1])
    whole = save_safetensors({"weight": torch.ones(1000)})
    with (saves / "ckpt_2.safetensors").open("wb") as file:
        # Longer than the settling time in all, never as long without a change.
        for start in range(0, len(whole), 500):
            file.write(whole[start : start + 500])
            file.flush()
            if start == 0:
                save(saves, 3)
            time.sleep(SETTLE / 4)
            assert watching == [1], "step 3 did not wait for step 2, or step 2 was taken half-written"
    wait_for(watching, [1, 2, 3])
    assert steps(run) == [1, 2, 3]


def test_a_truncated_file_is_committed_once_it_is_whole(watching: list[int], run: Path, saves: Path) -> None:
    whole = save_safetensors(state(1))
    (saves / "ckpt_1.safetensors").write_bytes(whole[:-4])
    time.sleep(4 * SETTLE)
    assert watching == []
    (saves / "ckpt_1.safetensors").write_bytes(whole)
    wait_for(watching, [1])
