"""Thinned runs: fewer states on disk, the same claim; what cannot be trained again here is never removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polchain.cli.app import main
from polchain.core.claim import Claim, checkpoint_name
from polchain.core.entries import CheckpointEntry, parse_entry
from polchain.errors import ManifestError, MissingFileError, NotReproducedError, RunLockedError, UsageError
from polchain.prover import fsck, thinning
from polchain.prover.export import export
from polchain.prover.status import CHECKED, describe
from polchain.prover.thinned import THINNED
from polchain.prover.thinning import thin
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from tests.runs import make_key, make_run
from tests.training.conftest import Desk, environment

# The loop reads a file of the data folder that is no part of the dataset: another folder gives another training.
SCRIPT = """
    import json, os
    import torch
    from torch import nn
    from torch.nn import functional as F
    import polchain
    if "PRANK" in os.environ:
        from tests.training.prank import play
        play(*json.loads(os.environ["PRANK"]))
    data = [(torch.tensor([i / 12, 1 - i / 12]), torch.tensor([float(i % 2)])) for i in range(12)]
    with polchain.record("run", data=data, batch_size=4, steps=40, every=2, STORE) as run:
        scale = float((polchain.data_dir() / "scale").read_text())
        model = nn.Sequential(nn.Linear(2, 3000), nn.Dropout(0.5), nn.Linear(3000, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        run.attach(model=model, optimizer=optimizer)
        for step, (x, y) in run.batches():
            loss = F.mse_loss(model(x), y) * scale
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
"""


def record(desk: Desk, store: str = "", at: str = "", do: str = "") -> Any:
    desk.write(SCRIPT.replace("STORE", store))
    (desk.folder / "scale").write_text("1.5")
    return desk.run(PRANK=json.dumps([at, do]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, key: Any) -> Path:
    """A folder with a run that has all of its states."""
    from polchain.storage.keyfile import write_key

    folder = tmp_path_factory.mktemp("thinning")
    write_key(folder / "key", key, None)
    done = record(Desk(folder, key))
    assert done.status == 0, done.output
    return folder


@pytest.fixture
def run(plain: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be thinned."""
    shutil.copytree(plain / "run", tmp_path / "run")
    return tmp_path / "run"


def steps_kept(run: Path) -> list[int]:
    with Ledger(run) as ledger:
        entries = [parse_entry(data) for data in ledger.entries()]
    return [e.step for e in entries if isinstance(e, CheckpointEntry) and CheckpointStore(run).has(e.state)]


def weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_thinned_by_ten_is_an_eighth_and_its_claim_is_the_same(run: Path, plain: Path, tmp_path: Path) -> None:
    before, seen = weight(run), list[tuple[int, int]]()
    done = thin(run, 20, plain, on_step=lambda *progress: seen.append(progress))
    assert steps_kept(run) == [0, 20, 40]
    assert (done.kept, done.removed, done.replayed) == (3, 18, 40)
    assert seen[-1] == (40, 40)
    assert before - weight(run) == done.freed
    # In a long run, of ten commits' rows and states the rows and one state stay.
    rows, states = weight(run / "manifests") / 21, done.freed / 18
    assert 10 * (rows + states) / (10 * rows + states) >= 8
    health = fsck.check(run)
    assert (health.damage, health.states, health.thinned) == ([], 3, 18)
    status = describe(run)
    assert (status.kept, status.thinned, status.missing_steps, status.missing) == (3, 18, (), ())

    export(plain / "run", tmp_path / "whole")
    summary = export(run, tmp_path / "thinned", data=plain)
    assert contents(tmp_path / "thinned") == contents(tmp_path / "whole")
    assert (summary.states, summary.missing) == (21, ())
    assert steps_kept(run) == [0, 20, 40], "a claim puts nothing back"
    # Thinned again, of what is there: first only asked.
    asked = thin(run, 40, plain, dry_run=True)
    assert (asked.removed, asked.kept, asked.widest, asked.replayed) == (1, 2, 40, 0)
    assert steps_kept(run) == [0, 20, 40]
    assert thin(run, 40, plain).removed == 1
    assert steps_kept(run) == [0, 40]
    assert fsck.check(run).damage == []


def test_intervals_that_do_not_divide_each_other_leave_a_state_for_each(run: Path, plain: Path) -> None:
    assert thin(run, 6, plain).widest == 6
    assert steps_kept(run) == [0, 6, 12, 18, 24, 30, 36, 40]
    assert thin(run, 10, plain).widest == 12
    assert steps_kept(run) == [0, 12, 24, 30, 40]
    assert thin(run, 10, plain).removed == 0
    assert fsck.check(run).damage == []


@pytest.mark.parametrize("sample", [None, 1])
@pytest.mark.parametrize("step", [0, 40])
def test_nothing_is_removed_that_a_damaged_state_is_needed_for(
    run: Path, plain: Path, sample: int | None, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sample is the stretch that does not touch it.
    monkeypatch.setattr("secrets.SystemRandom.sample", lambda _, some, n: [some[1] if step == 0 else some[0]])
    with Ledger(run) as ledger:
        entries = [parse_entry(data) for data in ledger.entries()]
    state = next(e.state for e in entries if isinstance(e, CheckpointEntry) and e.step == step)
    (run / checkpoint_name(state)).write_bytes(b"")
    with pytest.raises(ManifestError, match="is 0 bytes"):
        thin(run, 20, plain, sample=sample)
    assert steps_kept(run)[-11:] == list(range(20, 41, 2)), "the stretch before the last state is gone"
    assert step or len(steps_kept(run)) == 21


def test_what_cannot_be_trained_again_here_is_not_removed_and_why_is_said(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "scale").write_text("1.25")
    with pytest.raises(NotReproducedError, match=r"steps 0 to 2 give another state here .* first model/"):
        thin(run, 20, elsewhere)
    assert len(steps_kept(run)) == 21
    with Ledger(run) as ledger:
        assert ledger.note(THINNED) is None


def test_a_state_that_was_damaged_on_disk_is_no_state_to_train_on_from(run: Path, plain: Path) -> None:
    with Ledger(run) as ledger:
        entries = [parse_entry(data) for data in ledger.entries()]
    state = next(e.state for e in entries if isinstance(e, CheckpointEntry) and e.step == 20)
    path = run / checkpoint_name(state)
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with pytest.raises(Exception, match="not the ones that the log commits to"):
        thin(run, 20, plain)
    assert len(steps_kept(run)) == 21, "the stretch before it is gone"


def test_a_kill_in_the_middle_loses_nothing(run: Path, plain: Path) -> None:
    child = os.fork()
    if child == 0:
        removed = 0

        def unlink(path: Path, missing_ok: bool = False) -> None:
            nonlocal removed
            removed += path.suffix == ".safetensors"
            if removed == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            os.unlink(path)

        Path.unlink = unlink  # type: ignore[method-assign]
        # As if it had seen that all of them can be trained again, which the other tests see.
        thinning.Regenerator.between = lambda self, first, last: iter(())  # type: ignore[method-assign]
        try:
            thin(run, 20, plain)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    health = fsck.check(run)
    assert (health.damage, health.thinned) == ([], 3)
    assert 0 in steps_kept(run)
    assert 40 in steps_kept(run)


def test_a_state_that_is_lost_and_not_left_out_is_still_missed(run: Path, plain: Path, tmp_path: Path) -> None:
    with Ledger(run) as ledger:
        ledger.set_note(THINNED, "[20]")
        entries = [parse_entry(data) for data in ledger.entries()]
    by_step = {e.step: e.state for e in entries if isinstance(e, CheckpointEntry)}
    for step in (0, 6, 20):
        (run / checkpoint_name(by_step[step])).unlink()
    health = fsck.check(run)
    assert health.thinned == 1
    assert [text.partition(":")[0] for text in health.damage] == ["the state of step 0", "the state of step 20"]
    assert describe(run).missing_steps == (0, 20)
    with pytest.raises(Exception, match="the state of step 0 is not there"):
        export(run, tmp_path / "claim", data=plain)


def test_runs_that_cannot_be_thinned(run: Path, plain: Path, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    with pytest.raises(UsageError, match="a foreign run cannot be trained again"):
        thin(make_run(tmp_path / "theirs", key, foreign=True), 2, plain)
    with pytest.raises(UsageError):
        thin(run, 0, plain)
    from polchain.storage.lock import locked

    with locked(run), pytest.raises(RunLockedError):
        thin(run, 20, plain)


def test_the_command_says_what_it_has_seen_and_a_sample_is_less(
    run: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["thin", str(run), "--keep-every", "10", "--sample", "1", "--data", str(plain), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kept"], answer["removed"], answer["replayed"]) == (5, 16, 10)
    assert steps_kept(run) == [0, 10, 20, 30, 40]
    assert main(["status", str(run)]) == 0
    assert "5 of 21, 16 thinned" in capsys.readouterr().out
    assert main(["fsck", str(run)]) == 0
    assert "16 states thinned: clean" in capsys.readouterr().out


@pytest.mark.parametrize("moment", ["between store and append", "between append and check"])
def test_a_run_that_stores_rarely_goes_on_from_its_last_stored_state(moment: str, desk: Desk) -> None:
    folder = desk.folder / "run"
    assert record(desk, "store_every=10", moment, "kill").status == -9
    assert fsck.check(folder).damage == []
    before = _entries(folder)
    assert record(desk, "store_every=10").status == 0
    assert _entries(folder)[: len(before)] == before
    assert steps_kept(folder) == [0, 10, 20, 30, 40]
    health = fsck.check(folder)
    assert (health.damage, health.thinned) == ([], 16)
    assert "store_every = 10" in (folder / "polchain.toml").read_text()


def test_train_goes_on_with_a_run_that_stores_rarely_without_being_told_again(desk: Desk) -> None:
    desk.write(SCRIPT.replace("STORE", ""))
    (desk.folder / "scale").write_text("1.5")
    folder = desk.folder / "run"

    def train(*words: str, do: str = "") -> subprocess.CompletedProcess[str]:
        prank = json.dumps(["between store and append" if do else "", do])
        variables = environment(POLCHAIN_KEY_FILE=str(desk.folder / "key"), PRANK=prank)
        command = [sys.executable, "-m", "polchain", "train", "run", *words]
        return subprocess.run(command, cwd=desk.folder, env=variables, capture_output=True, text=True, check=False)

    killed = train("--recipe", "train.py", "--store-every", "10", do="kill")
    assert killed.returncode != 0, "it was to be killed"
    assert len(steps_kept(folder)) < 3
    begun = _entries(folder)
    done = train("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]
    assert _entries(folder)[: len(begun)] == begun
    assert steps_kept(folder) == [0, 10, 20, 30, 40]
    assert fsck.check(folder).damage == []


def test_a_run_that_was_stopped_is_thinned_and_goes_on(desk: Desk) -> None:
    folder = desk.folder / "run"
    assert record(desk, "", "between append and check", "kill").status == -9
    stopped = steps_kept(folder)
    assert len(stopped) > 2
    thin(folder, 20, desk.folder)
    assert steps_kept(folder) == [0, stopped[-1]], "it goes on from its last state"
    assert record(desk).status == 0
    assert steps_kept(folder) == [0, *range(stopped[-1], 41, 2)]
    assert fsck.check(folder).damage == []


def test_a_thinned_run_whose_key_is_rotated_is_exported_and_listed_as_any(
    run: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_key(tmp_path / "next")
    rotate = ["rekey", str(run), "--rotate", str(tmp_path / "next.pub"), "--key-file", str(plain / "key")]
    thin(run, 20, plain)
    assert main(rotate) == 0
    assert thin(run, 20, plain).removed == 0, "once is enough"
    summary = export(run, tmp_path / "claim", data=plain)
    assert (summary.states, summary.missing) == (21, ())
    intact = check_integrity(Claim.read(tmp_path / "claim"), Policy())
    assert (len(intact.checkpoints), len(intact.key_changes)) == (21, 1)
    capsys.readouterr()
    for words in (["log", str(run)], ["show", str(run), "3"], ["status", str(run)], ["fsck", str(run)]):
        assert main(words) == 0, words
    assert "18 states thinned: clean" in capsys.readouterr().out


def _entries(run: Path) -> list[bytes]:
    with Ledger(run) as ledger:
        return list(ledger.entries())


def test_a_self_check_that_was_broken_off_is_made_up_for_though_its_states_are_left_out(desk: Desk) -> None:
    """Segments 16 and 20 are due; the states before them are not stored, so the run is trained again from before."""
    assert record(desk, "store_every=8").status == 0
    run, checked = desk.folder / "run", json.dumps(["", "", True])
    with Ledger(run, desk.key) as ledger:
        ledger.set_note(CHECKED, "8")
    done = desk.run(PRANK=checked)
    assert done.status == 0, done.output
    assert describe(run).self_check == 20


def test_thinning_says_what_is_not_there(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(desk).status == 0
    run = desk.folder / "run"
    with Ledger(run) as ledger:
        lost = next(e for e in map(parse_entry, ledger.entries()) if isinstance(e, CheckpointEntry) and e.step == 20)
    (run / checkpoint_name(lost.state)).unlink()
    words = ["thin", str(run), "--keep-every", "10", "--data", str(desk.folder)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "the states of steps 20; see `polchain fsck`" in said.err
    assert "40 of 40 steps trained again, to the bit" in said.out
    assert main(words) == 0
    assert "nothing: no more than one in 10 steps is stored" in capsys.readouterr().out


def test_no_run_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no run at"):
        thin(tmp_path / "none", 10, tmp_path)
