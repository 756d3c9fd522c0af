"""fsck names all damage, and does not call an interruption damage."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from polchain.anchors.base import Receipt
from polchain.anchors.batch import Membership, make_batch
from polchain.anchors.receipts import FiledReceipt
from polchain.core.claim import checkpoint_name, head_name, manifest_name
from polchain.core.keys import PrivateKey
from polchain.errors import MissingFileError, RunLockedError
from polchain.prover.anchored import AnchorBook
from polchain.prover.fsck import check
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger
from tests.runs import make_key, make_run, make_state


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "key")


@pytest.fixture
def run(tmp_path: Path, key: PrivateKey) -> Path:
    return make_run(tmp_path / "run", key)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def database(run: Path, *statements: str) -> None:
    with sqlite3.connect(run / "ledger.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


BATCH = "ethereum-1-batch"
RECEIPT = f"anchors/6-{BATCH}.json"


def anchor(run: Path) -> Path:
    """Give the last head a receipt that fits it, as far as no network is asked."""
    with Ledger(run) as ledger:
        note = ledger.head()
    membership = make_batch([note, b"another"]).membership(note)
    AnchorBook(run).put_head(6, note)
    AnchorBook(run).put(BATCH, FiledReceipt(6, Receipt("ethereum", "final", {}), membership))
    return run


def strange() -> FiledReceipt:
    membership: Membership = make_batch([b"one", b"another"]).membership(b"one")
    return FiledReceipt(6, Receipt("ethereum", "final", {}), membership)


def flip_head(run: Path) -> None:
    text = (run / head_name(6)).read_bytes()
    (run / head_name(6)).write_bytes(text.replace(b"\n6\n", b"\n7\n"))


def copy_head(run: Path, size: int) -> None:
    (run / head_name(size)).write_bytes((run / head_name(6)).read_bytes())


STATE = make_state(2).manifest.state()

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tensor": (lambda run: flip(run / checkpoint_name(STATE)), "step 2"),
    "a missing state": (lambda run: (run / checkpoint_name(STATE)).unlink(), "step 2"),
    "a missing manifest": (lambda run: (run / manifest_name(STATE)).unlink(), "step 2"),
    "a manifest": (lambda run: flip(run / manifest_name(STATE)), "step 2"),
    "an empty manifest": (lambda run: (run / manifest_name(STATE)).write_bytes(b""), "step 2"),
    "the recipe": (lambda run: flip(run / "recipe" / "train.py"), "recipe/train.py"),
    "a missing recipe": (lambda run: (run / "recipe" / "train.py").unlink(), "recipe/train.py"),
    "an entry": (lambda run: database(run, "UPDATE entries SET data = x'00' WHERE number = 2"), "entry 2"),
    "an entry of text": (lambda run: database(run, "UPDATE entries SET data = 'x' WHERE number = 2"), "entry 2"),
    "no genesis": (lambda run: database(run, "UPDATE entries SET data = 7 WHERE number = 0"), "genesis"),
    "a dropped entry": (lambda run: database(run, "DELETE FROM entries WHERE number = 3"), "entry 3"),
    "a head": (lambda run: database(run, "UPDATE heads SET note = x'00' WHERE size = 3"), "note"),
    "a head of text": (lambda run: database(run, "UPDATE heads SET note = 'x' WHERE size = 6"), "not bytes"),
    "a dropped head": (lambda run: database(run, "DELETE FROM heads WHERE size = 6"), "no head of size 6"),
    "a table": (lambda run: database(run, "DROP TABLE heads"), "heads"),
    "a rollback": (
        lambda run: database(
            run, "DELETE FROM entries WHERE number = 5", "DELETE FROM heads WHERE size = 6", "DELETE FROM sidecar"
        ),
        "older state",
    ),
    "an anchored head": (lambda run: flip_head(anchor(run)), head_name(6)),
    "a head of nobody": (lambda run: (anchor(run) / head_name(4)).write_bytes(b"nonsense"), head_name(4)),
    "a head of the future": (lambda run: copy_head(anchor(run), 9), head_name(9)),
    "a receipt": (lambda run: (anchor(run) / RECEIPT).write_bytes(b"{}"), RECEIPT),
    "a receipt of another head": (
        lambda run: (anchor(run) / RECEIPT).rename(run / "anchors" / "5-ethereum-1-batch.json"),
        "5-ethereum-1-batch.json: it is of a head of 6",
    ),
    "a receipt of no head": (
        lambda run: AnchorBook(run).put("rfc3161-tsa", FiledReceipt(9, Receipt("rfc3161", "final", {}))),
        "no head of 9 entries",
    ),
    "a batch without the head": (lambda run: AnchorBook(anchor(run)).put(BATCH, strange()), f"anchors/6-{BATCH}.json"),
    "a beacon": (lambda run: (anchor(run) / "anchors" / "beacon.json").write_bytes(b"{}"), "anchors/beacon.json"),
    "head.note": (lambda run: (run / "head.note").write_bytes(b"nonsense"), "head.note"),
    "the database": (lambda run: (run / "ledger.db").write_bytes(b"nonsense" * 999), "ledger.db"),
}


def test_an_untouched_run_is_clean(run: Path) -> None:
    found = check(run)
    assert (found.damage, found.leftovers, found.entries, found.states) == ([], [], 6, 3)


def test_an_anchored_run_is_clean_and_nothing_of_it_is_mended(run: Path) -> None:
    anchor(run)
    AnchorBook(run).set_trouble("the node is away")
    found = check(run, repair=True)
    assert (found.damage, found.leftovers) == ([], [])
    (run / "anchors" / f".6-{BATCH}.json.77.partial").write_bytes(b"half")
    (run / RECEIPT).write_bytes(b"{}")
    assert check(run, repair=True).damage
    assert (run / RECEIPT).read_bytes() == b"{}"
    assert not list((run / "anchors").glob(".*")), "what a killed writer left half written is no evidence"
    with AnchorBook(run).locked(), pytest.raises(RunLockedError, match="anchoring"):
        check(run)


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(run: Path, what: str) -> None:
    damage, named = DAMAGE[what]
    damage(run)
    found = check(run, repair=True)
    assert any(named in sentence for sentence in found.damage), found.damage


def test_all_damage_is_named_at_once(run: Path) -> None:
    flip(run / checkpoint_name(STATE))
    flip(run / "recipe" / "train.py")
    (run / checkpoint_name(make_state(4).manifest.state())).unlink()
    assert len(check(run).damage) == 3


def test_repair_never_removes_a_state_because_the_log_cannot_be_read(run: Path) -> None:
    database(run, "UPDATE entries SET data = x'00' WHERE number = 3")
    before = sorted(path for path in run.rglob("*.safetensors"))
    check(run, repair=True)
    assert sorted(path for path in run.rglob("*.safetensors")) == before


ROLLED_BACK = (
    "DELETE FROM entries WHERE number >= 3",
    "DELETE FROM heads WHERE size > 3",
    "DELETE FROM sidecar WHERE number >= 3",
)


@pytest.mark.parametrize("note", ["ahead", "unreadable"])
def test_repair_never_removes_a_state_because_the_ledger_was_put_back(run: Path, note: str) -> None:
    database(run, *ROLLED_BACK)
    if note == "unreadable":
        (run / "head.note").write_bytes(b"nonsense")
    kept = sorted(path for folder in ("checkpoints", "manifests") for path in (run / folder).iterdir())
    published = (run / "head.note").read_bytes()
    found = check(run, repair=True)
    assert found.damage
    assert sum("a state that no entry names" in text for text in found.leftovers) == 4
    assert found.mended == []
    assert sorted(path for folder in ("checkpoints", "manifests") for path in (run / folder).iterdir()) == kept
    assert (run / "head.note").read_bytes() == published


def test_repair_of_a_damaged_run_removes_only_what_is_half_written(run: Path) -> None:
    flip(run / "recipe" / "train.py")
    orphan = CheckpointStore(run).put(make_state(99))
    half = run / "checkpoints" / f".{orphan.hex}.safetensors.77.partial"
    half.write_bytes(b"half")
    found = check(run, repair=True)
    assert (len(found.leftovers), len(found.mended)) == (3, 1)
    assert CheckpointStore(run).has(orphan)
    assert not half.exists()


def test_what_a_kill_leaves_is_no_damage(run: Path, key: PrivateKey) -> None:
    with Ledger(run) as ledger:
        last, earlier = ledger.head(), ledger.head(4)
    (run / "head.note").write_bytes(earlier)
    orphan = CheckpointStore(run).put(make_state(99))
    (run / "checkpoints" / f".{orphan.hex}.safetensors.77.partial").write_bytes(b"half")
    (run / ".head.note.partial").write_bytes(b"half")
    found = check(run)
    assert found.damage == []
    assert len(found.leftovers) == 5, found.leftovers
    assert (run / checkpoint_name(orphan)).exists(), "only --repair removes"
    assert check(run, repair=True).damage == []
    again = check(run)
    assert (again.damage, again.leftovers) == ([], [])
    assert (run / "head.note").read_bytes() == last
    assert not (run / checkpoint_name(orphan)).exists()


def test_a_missing_head_note_is_put_back(run: Path) -> None:
    (run / "head.note").unlink()
    assert check(run, repair=True).damage == []
    assert (run / "head.note").exists()


def test_a_file_of_somebody_elses_is_left_alone(run: Path) -> None:
    (run / "checkpoints" / "notes.txt").write_text("mine")
    assert check(run, repair=True).leftovers == []
    assert (run / "checkpoints" / "notes.txt").exists()


def test_a_run_that_is_written_to_is_not_checked(run: Path, key: PrivateKey) -> None:
    with Ledger(run, key), pytest.raises(RunLockedError):
        check(run)


def test_a_foreign_run_may_keep_rows_alone(tmp_path: Path, key: PrivateKey) -> None:
    foreign = make_run(tmp_path / "foreign", key, foreign=True)
    (foreign / checkpoint_name(STATE)).unlink()
    assert check(foreign).damage == []
    (foreign / manifest_name(STATE)).unlink()
    assert "step 2" in check(foreign).damage[0]


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no run"):
        check(tmp_path)
