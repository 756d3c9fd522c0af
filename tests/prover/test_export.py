"""A claim holds what its run holds, checked, or it is not written."""

import os
from pathlib import Path

import pytest

from polchain.anchors.base import Receipt
from polchain.anchors.beacon import BeaconEvidence
from polchain.anchors.receipts import FiledReceipt
from polchain.core.claim import Claim, checkpoint_name, head_name
from polchain.core.keys import PrivateKey
from polchain.core.note import open_head, origin_of
from polchain.errors import (
    CheckpointMissingError,
    FormatError,
    ManifestError,
    MissingFileError,
    RolledBackError,
    UsageError,
)
from polchain.prover.anchored import AnchorBook
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
        place = claim.checkpoint(state)
        assert place is not None
        assert place.path.read_bytes() == (run / checkpoint_name(state)).read_bytes()
        assert place.path.stat().st_nlink == 1, "a changed claim must not change the run"


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


def receipt(size: int, status: str = "final") -> FiledReceipt:
    """A receipt as it is kept; what it proves is not looked at here."""
    return FiledReceipt(size, Receipt("rfc3161", "pending" if status == "pending" else "final", {}))


def anchor(run: Path, *sizes: int, status: str = "final") -> AnchorBook:
    book = AnchorBook(run)
    for size in sizes:
        with Ledger(run) as ledger:
            book.put_head(size, ledger.head(size))
        book.put("rfc3161-tsa", receipt(size, status))
    return book


def test_a_claim_has_the_receipts_of_its_heads_and_these_heads(run: Path, tmp_path: Path) -> None:
    book = anchor(run, 1, 6)
    anchor(run, 4, status="pending")
    (run / head_name(1)).unlink()  # the ledger has it too
    with Ledger(run) as ledger:
        book.put_head(2, ledger.head(2))  # no receipt came
        heads = {size: ledger.head(size) for size in (1, 4, 6)}
    book.put("rfc3161-tsa", receipt(7))  # anchored after the log was read
    evidence = BeaconEvidence(11155111, "sepolia", b"\xc0")
    book.put_beacon(evidence)
    book.set_trouble("the node is away")
    with book.locked():
        done = export(run, tmp_path / "claim")
    assert (done.receipts, done.pending) == (3, 1)
    claim = Claim.read(tmp_path / "claim")
    assert claim.heads() == heads
    assert [(name, size) for name, size, _ in claim.receipts()] == [
        (f"anchors/{size}-rfc3161-tsa.json", size) for size in (1, 4, 6)
    ]
    assert [FiledReceipt.parse(data) for _, _, data in claim.receipts()] == [
        receipt(1), receipt(4, "pending"), receipt(6),
    ]  # fmt: skip
    assert claim.beacon() is None, "this run drew its seed after all"


@pytest.mark.parametrize("name", ["anchors/6-rfc3161-tsa.json", "anchors/beacon.json"])
def test_damaged_evidence_of_time_is_named_and_not_exported(run: Path, tmp_path: Path, name: str) -> None:
    anchor(run, 6)
    (run / name).write_bytes(b"{}")
    with pytest.raises(FormatError, match=name):
        export(run, tmp_path / "claim")
    assert not (tmp_path / "claim").exists()


def test_another_head_than_the_ledgers_is_not_exported(run: Path, tmp_path: Path) -> None:
    anchor(run, 6)
    (run / head_name(6)).write_bytes((run / head_name(6)).read_bytes()[:-2])
    with pytest.raises(RolledBackError, match=head_name(6)):
        export(run, tmp_path / "claim")


def test_more_receipts_than_a_claim_may_have_are_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchor(run, 1, 2, 3)
    monkeypatch.setattr("polchain.prover.export.MAX_RECEIPTS", 2)
    with pytest.raises(FormatError, match="3 receipts are more than the 2"):
        export(run, tmp_path / "claim")


def test_a_zip_holds_what_the_folder_holds(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "claim")
    done = export(run, tmp_path / "claim.zip")
    assert done.bytes == (tmp_path / "claim.zip").stat().st_size
    assert Claim.read(tmp_path / "claim.zip").files == Claim.read(tmp_path / "claim").files
    export(run, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "claim.zip").read_bytes()
    with pytest.raises(UsageError, match="already"):
        export(run, tmp_path / "claim.zip")
    left = {"key", "key.pub", "run", "claim", "claim.zip", "again.zip"}
    assert set(os.listdir(tmp_path)) == left, "nothing half written may stay"


def test_a_sealed_claim_has_every_manifest_and_no_tensors(run: Path, tmp_path: Path) -> None:
    done = export(run, tmp_path / "claim", sealed=True)
    assert (done.states, done.missing, done.sealed) == (0, (), True)
    claim = Claim.read(tmp_path / "claim")
    for step in (0, 2, 4):
        state = make_state(step).manifest.state()
        assert claim.manifest(state) == make_state(step).manifest
        assert claim.checkpoint(state) is None
    assert not (tmp_path / "claim" / "checkpoints").exists()
