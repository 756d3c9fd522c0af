"""A claim holds what its run holds, checked, or it is not written."""

import os
from pathlib import Path

import pytest

from polchain.core.claim import Claim, checkpoint_name
from polchain.core.note import PrivateKey, open_head, origin_of
from polchain.errors import CheckpointMissingError, FormatError, ManifestError, MissingFileError, UsageError
from polchain.prover.export import export
from polchain.storage.ledger import Ledger
from tests.runs import RECIPE, make_key, make_run, make_state


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "key")


@pytest.fixture
def run(tmp_path: Path, key: PrivateKey) -> Path:
    return make_run(tmp_path / "run", key)


def test_a_claim_reads_back_as_its_run(run: Path, key: PrivateKey, tmp_path: Path) -> None:
    done = export(run, tmp_path / "claim")
    claim = Claim.read(tmp_path / "claim")
    with Ledger(run) as ledger:
        assert list(claim.entries()) == list(ledger.entries())
        assert claim.head() == ledger.head()
        origin = origin_of(key.public, ledger.genesis.run_id)
    assert open_head(claim.head(), origin, key.public).size == done.entries == 6
    assert claim.recipe() == {"train.py": RECIPE}
    assert (done.states, done.missing) == (3, ())
    for step in (0, 2, 4):
        state = make_state(step).manifest.state()
        assert claim.manifest(state) == make_state(step).manifest
        path = claim.checkpoint(state)
        assert path is not None
        assert path.read_bytes() == (run / checkpoint_name(state)).read_bytes()
        assert path.stat().st_nlink == 1, "a changed claim must not change the run"


def test_two_exports_are_the_same_bytes(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "a")
    export(run, tmp_path / "b")
    assert (tmp_path / "a" / "claim.json").read_bytes() == (tmp_path / "b" / "claim.json").read_bytes()


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_overwritten(run: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "claim"
    {"folder": out.mkdir, "file": out.touch, "dangling link": lambda: out.symlink_to("nowhere")}[kind]()
    with pytest.raises(UsageError, match="already"):
        export(run, out)


def test_a_missing_state_is_named_by_its_step(run: Path, tmp_path: Path) -> None:
    (run / checkpoint_name(make_state(2).manifest.state())).unlink()
    with pytest.raises(CheckpointMissingError, match="step 2") as caught:
        export(run, tmp_path / "claim")
    assert "--allow-missing" in caught.value.hint
    assert sorted(os.listdir(tmp_path)) == ["key", "key.pub", "run"], "nothing half written may stay"
    done = export(run, tmp_path / "claim", allow_missing=True)
    assert (done.states, done.missing) == (2, (2,))
    state = make_state(2).manifest.state()
    claim = Claim.read(tmp_path / "claim")
    assert claim.checkpoint(state) is None
    assert claim.manifest(state) == make_state(2).manifest, "the rows are still there"


def test_a_foreign_run_that_kept_rows_alone_exports(tmp_path: Path, key: PrivateKey) -> None:
    run = make_run(tmp_path / "foreign", key, foreign=True)
    (run / checkpoint_name(make_state(2).manifest.state())).unlink()
    assert export(run, tmp_path / "claim").missing == (2,)


def test_a_changed_tensor_is_not_exported(run: Path, tmp_path: Path) -> None:
    path = run / checkpoint_name(make_state(2).manifest.state())
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ManifestError, match=r"step 2: .*model/weights"):
        export(run, tmp_path / "claim")
    assert not (tmp_path / "claim").exists()


def test_a_changed_recipe_is_not_exported(run: Path, tmp_path: Path) -> None:
    (run / "recipe" / "train.py").write_bytes(RECIPE + b"#")
    with pytest.raises(FormatError, match=r"recipe/train\.py"):
        export(run, tmp_path / "claim")
    (run / "recipe" / "train.py").unlink()
    with pytest.raises(MissingFileError, match=r"recipe/train\.py"):
        export(run, tmp_path / "claim")


def test_a_run_exports_while_it_is_written_to(tmp_path: Path, key: PrivateKey, run: Path) -> None:
    with Ledger(run, key):
        assert export(run, tmp_path / "claim").entries == 6
