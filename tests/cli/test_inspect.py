"""`polchain status`, `log`, `show`, `export`, `fsck` on runs and claims."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from polchain.core.claim import checkpoint_name
from polchain.core.entries import encode_entry, leaf_data, parse_entry
from polchain.core.keys import PrivateKey
from polchain.core.merkle import check_inclusion
from polchain.prover.export import export
from polchain.storage.ledger import Ledger
from tests.cli.conftest import Done
from tests.runs import make_key, make_run, make_state

Call = Callable[..., Done]


@pytest.mark.parametrize("form", ["status RUN", "log RUN", "log CLAIM", "show RUN 3", "show CLAIM 0", "fsck RUN"])
def test_the_answer_is_on_stdout_and_json_is_one_object(form: str, call: Call, run: Path, claim: Path) -> None:
    words = form.replace("RUN", str(run)).replace("CLAIM", str(claim)).split()
    done = call(*words)
    assert done.code == 0
    assert done.out
    assert done.err == (
        "polchain: as the claim says it; `polchain verify` checks what it says\n" if "CLAIM" in form else ""
    )
    answer = json.loads(call(*words, "--json").out)
    assert isinstance(answer, dict)


def test_status_says_how_far(call: Call, run: Path) -> None:
    done = call("status", run)
    for text in (
        "step         4 of 4, finished",
        "entries      6",
        "states kept  3 of 3",
        "segment 2 and earlier ones replayed exactly",
        "prover",
    ):
        assert text in done.out
    assert "missing" not in done.out
    (run / checkpoint_name(make_state(2).manifest.state())).unlink()
    (run / "head.note").unlink()
    done = call("status", run)
    assert "states kept  2 of 3" in done.out
    assert "missing      the state of step 2:" in done.out
    assert "missing      head.note" in done.out
    answer = json.loads(call("status", run, "--json").out)
    assert answer["states"] == {"committed": 3, "kept": 2, "thinned": 0, "missing_steps": [2]}
    assert answer["finished"] is True


def test_show_has_decimals_beside_hexadecimal_and_counts_its_proof_from_0(call: Call, run: Path) -> None:
    shown = call("show", run, 3).out
    assert '"loss": "0x1.8000000000000p+0 = 1.5"' in shown
    assert '"l2": "0x1.0000000000000p-1 = 0.5"' in shown
    assert "\nproof 0 " in shown
    assert "\nproof 1 " in shown
    assert json.loads(call("show", run, 3, "--json").out)["entry"]["loss"] == "0x1.8000000000000p+0"


def test_status_of_a_foreign_run(call: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "foreign", make_key(tmp_path / "key"), foreign=True)
    assert "foreign: another program owns the loop" in call("status", run).out


def test_log_is_a_table_of_entries(call: Call, run: Path, claim: Path) -> None:
    lines = call("log", run).out.splitlines()
    assert lines[0].split() == ["entry", "kind", "step", "loss", "update", "state", "committed"]
    assert [line.split()[1] for line in lines[1:]] == ["genesis", "start", *["checkpoint"] * 3, "final"]
    assert lines[4].split()[:5] == ["3", "checkpoint", "2", "1.5", "0.5"]
    assert call("log", claim).out.splitlines()[0].split()[-1] == "state", "a claim has no clock"


def test_json_of_log_holds_the_entries_as_signed(call: Call, run: Path) -> None:
    answer = json.loads(call("log", run, "--json").out)
    with Ledger(run) as ledger:
        for number, (data, shown) in enumerate(zip(ledger.entries(), answer["entries"], strict=True)):
            assert shown["number"] == number
            assert encode_entry(parse_entry(data)) == data
            assert json.loads(data) == shown["entry"]
        assert answer["head"]["root"] == str(ledger.root)


def test_show_proves_inclusion(call: Call, run: Path, claim: Path) -> None:
    for path in (run, claim):
        answer = json.loads(call("show", path, "3", "--json").out)
        head = answer["inclusion"]["head"]
        proof = [bytes.fromhex(step.removeprefix("sha256:")) for step in answer["inclusion"]["proof"]]
        leaf = leaf_data(json.dumps(answer["entry"], sort_keys=True, separators=(",", ":")).encode())
        check_inclusion(leaf, 3, proof, head["size"], bytes.fromhex(head["root"].removeprefix("sha256:")))
        assert [row["name"] for row in answer["manifest"]] == ["model/weights"]
    text = call("show", run, "3").out
    assert "the entry is in the tree that the head signs" in text
    assert "model/weights  parameter F32  2x2       16" in text


def test_an_entry_that_is_not_there(call: Call, run: Path) -> None:
    done = call("show", run, "6")
    assert done.code == 4
    assert "entries 0 to 5" in done.err


def test_the_run_is_found(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = call("status", run).out.splitlines()[1:]
    monkeypatch.setenv("POLCHAIN_RUN", str(run))
    assert call("status").out.splitlines()[1:] == named
    assert call("show", "3").code == 0
    monkeypatch.delenv("POLCHAIN_RUN")
    (run / "deeper").mkdir()
    monkeypatch.chdir(run / "deeper")
    assert call("status").out.splitlines()[1:] != []
    monkeypatch.chdir("/")
    done = call("status")
    assert done.code == 2
    assert "POLCHAIN_RUN" in done.err


def test_export_and_what_it_refuses(call: Call, run: Path, tmp_path: Path) -> None:
    done = call("export", run, tmp_path / "claim")
    assert (done.code, done.err) == (0, "")
    assert "states   3" in done.out
    assert call("export", run, tmp_path / "claim").code == 2
    (run / checkpoint_name(make_state(2).manifest.state())).unlink()
    done = call("export", run, tmp_path / "b")
    assert done.code == 4
    assert "--allow-missing" in done.err
    assert not (tmp_path / "b").exists()
    done = call("export", run, tmp_path / "b", "--allow-missing")
    assert done.code == 0
    assert "left out" in done.err


def test_fsck_exits_1_where_something_is_damaged(call: Call, run: Path) -> None:
    assert call("fsck", run) == Done(0, "6 entries, 3 states: clean\n", "")
    (run / "checkpoints" / ".x.partial").touch()
    done = call("fsck", run)
    assert done.code == 0
    assert "note: checkpoints/.x.partial" in done.out
    assert "mended: " in call("fsck", run, "--repair").out
    assert call("fsck", run).out == "6 entries, 3 states: clean\n"
    path = run / checkpoint_name(make_state(2).manifest.state())
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    done = call("fsck", run)
    assert done.code == 1
    assert done.out.startswith("damaged: the state of step 2: ")
    assert json.loads(call("fsck", run, "--json").out)["clean"] is False


def test_a_run_that_is_written_to(call: Call, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    run = make_run(tmp_path / "run", key)
    with Ledger(run, key):
        assert [call(name, run).code for name in ("status", "log", "fsck")] == [0, 0, 4]


def test_nothing_there_is_exit_4(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for where in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        for words in (
            ["status", where],
            ["log", where],
            ["show", where, "0"],
            ["fsck", where],
            ["export", where, tmp_path / "c"],
        ):
            done = call(*words)
            assert done.code == 4, words
            assert done.err.startswith("polchain: error: ")


def test_a_strangers_text_cannot_steer_the_terminal(call: Call, tmp_path: Path) -> None:
    """Arguments are free text: they, and names of folders, are the ways in."""
    key = PrivateKey.generate()
    run = make_run(tmp_path / "evil\x1b[31m", key)
    with Ledger(run) as ledger:
        genesis = ledger.genesis
        rest = [parse_entry(data) for data in ledger.entries(1)]
    del rest
    assert genesis.recipe is not None
    recipe = type(genesis.recipe)(
        "train.py", False, ("\x1b]0;owned\x07", "\u202e", "\x9b2J"), genesis.recipe.files, ("\x1b[2J",)
    )
    changed = replace(genesis, recipe=recipe)
    other = tmp_path / "other"
    (other / "recipe").mkdir(parents=True)
    (other / "recipe" / "train.py").write_bytes((run / "recipe" / "train.py").read_bytes())
    Ledger.create(other, changed, key).close()
    claim = export(other, tmp_path / "claim").path
    for words in (
        ["log", claim],
        ["show", claim, "0"],
        ["show", other, "0"],
        ["status", run],
        ["fsck", run],
        ["show", run, "77"],
    ):
        for more in ([], ["--json"]):
            done = call(*words, *more)
            printed = (done.out + done.err).replace("\n", "")
            assert printed.isprintable(), (words, more)


def test_a_read_only_run_can_be_read(call: Call, run: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    run.chmod(0o500)
    assert call("log", run).code in (0, 4)
    run.chmod(0o700)
