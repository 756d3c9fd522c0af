"""Keys that change, from the command line to the verifier: rotation, revocation, and the recovery key."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from polchain.core.claim import Claim, write_listing
from polchain.core.keys import PrivateKey
from polchain.errors import ChainError, KeyMismatchError, SignatureError
from polchain.prover.export import export
from polchain.storage.ledger import Ledger
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import judge_unreplayed
from tests.claims import entries_of, write_log
from tests.cli.conftest import Done
from tests.runs import make_key, make_run

Call = Callable[..., Done]


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, PrivateKey]:
    return {name: make_key(tmp_path / name) for name in ("first", "second", "recovery")}


def begun(tmp_path: Path, call: Call) -> Path:
    run = tmp_path / "run"
    done = call("init", run, "--foreign", "--key-file", tmp_path / "first", "--recovery-key", tmp_path / "recovery.pub")
    assert done.code == 0, done.err
    return run


def test_a_rotated_key_signs_from_then_on(tmp_path: Path, call: Call, keys: dict[str, PrivateKey]) -> None:
    run = make_run(tmp_path / "run", keys["first"], foreign=True)
    words = ("rekey", run, "--rotate", tmp_path / "second.pub", "--key-file", tmp_path / "first")
    done = call(*words, "--json")
    assert json.loads(done.out) == {
        "run": str(run), "change": "rotate", "key": str(keys["second"].public), "size": 5,
    }  # fmt: skip
    refused = call(*words)
    assert (refused.code, "belongs to " + str(keys["second"].public) in refused.err) == (1, True)
    (tmp_path / "weights.txt").write_text("a state")
    commit = ("commit", run, tmp_path / "weights.txt", "--step", 6, "--key-file", tmp_path / "second")
    assert call(*commit).code == 0
    assert call("fsck", run).code == 0
    assert call("log", run).code == 0
    export(run, tmp_path / "claim")
    pinned = Policy(keys=frozenset({keys["first"].public}))
    intact = check_integrity(Claim.read(tmp_path / "claim"), pinned)
    assert [str(change.key) for change in intact.key_changes] == [str(keys["second"].public)]
    assert call("verify", tmp_path / "claim", "--integrity-only").code == 0
    verdict = judge_unreplayed(intact, pinned, ["a foreign run"], vouched=False)
    assert f"the log rotates its key to {keys['second'].public}" in verdict.remarks
    with pytest.raises(KeyMismatchError):
        check_integrity(Claim.read(tmp_path / "claim"), Policy(keys=frozenset({keys["second"].public})))
    (tmp_path / "claim" / "heads" / "5.note").unlink()
    write_listing(tmp_path / "claim")
    with pytest.raises(ChainError, match="nothing shows that the key was handed over in entry 4"):
        check_integrity(Claim.read(tmp_path / "claim"), pinned)


def test_nobody_hands_a_log_over_to_himself(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    from polchain.core.entries import KeyChange

    make_run(tmp_path / "run", keys["first"], foreign=True)
    export(tmp_path / "run", tmp_path / "claim")
    entries = entries_of(tmp_path / "claim")
    stolen = [*entries, KeyChange(entries[0].prev, "rotate", keys["second"].public)]
    write_log(tmp_path / "claim", stolen, keys["second"])
    with pytest.raises(SignatureError):
        check_integrity(Claim.read(tmp_path / "claim"), Policy())


def test_the_recovery_key_revokes_and_hands_over(tmp_path: Path, call: Call, keys: dict[str, PrivateKey]) -> None:
    run = begun(tmp_path, call)
    with Ledger(run) as ledger:
        assert ledger.genesis.recovery == keys["recovery"].public
    refused = call("rekey", run, "--revoke", "--key-file", tmp_path / "first")
    assert refused.code == 1
    assert f"the next head takes the signature of {keys['recovery'].public}" in refused.err
    done = call("rekey", run, "--revoke", "--key-file", tmp_path / "recovery")
    assert done.code == 0, done.err
    assert f"revoke {keys['first'].public}" in done.out
    (tmp_path / "weights.txt").write_text("a state")
    for name in ("first", "recovery"):
        commit = call("commit", run, tmp_path / "weights.txt", "--step", 1, "--key-file", tmp_path / name)
        assert commit.code == 1, "nothing is signed after a revocation"
    words = ("rekey", run, "--rotate", tmp_path / "second.pub", "--key-file", tmp_path / "recovery")
    assert call(*words).code == 0
    assert call("commit", run, tmp_path / "weights.txt", "--step", 1, "--key-file", tmp_path / "second").code == 0
    export(run, tmp_path / "claim")
    intact = check_integrity(Claim.read(tmp_path / "claim"), Policy(keys=frozenset({keys["first"].public})))
    assert intact.keys.recovered
    assert [kind.kind for kind in intact.key_changes] == ["revoke", "rotate"]


def test_rekey_needs_one_of_two(tmp_path: Path, call: Call, keys: dict[str, PrivateKey]) -> None:
    run = begun(tmp_path, call)
    for words in ((), ("--revoke", "--rotate", tmp_path / "second.pub")):
        done = call("rekey", run, *words, "--key-file", tmp_path / "first")
        assert (done.code, "one of them" in done.err) == (2, True)
    done = call("rekey", run, "--rotate", tmp_path / "second", "--key-file", tmp_path / "first")
    assert (done.code, "that is a private key" in done.err) == (2, True)
