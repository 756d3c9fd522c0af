"""`polchain verify`: what its options refuse, and how it says so. The verdicts themselves are in tests/verifier."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done
from tests.runs import make_key

Call = Callable[..., Done]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--key", "ed25519:abc"),
        ("--key", "ssh-ed25519 AAAA"),
        ("--key", "ed25519:" + bytes(32).hex()),
        ("--trust-recipe", "sha256:12"),
        ("--trust-recipe", "nothing"),
        ("--seed", "xyz"),
        ("--seed", "00"),
        ("--recipe-args", "'never closed"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(option: str, value: str, claim: Path, call: Call) -> None:
    done = call("verify", claim, option, value)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"polchain: error: {option}")
    assert json.loads(call("verify", claim, option, value, "--json").out)["error"]["name"] == "UsageError"


def test_a_private_key_is_not_taken_for_a_public_one(claim: Path, tmp_path: Path, call: Call) -> None:
    make_key(tmp_path / "key")
    done = call("verify", claim, "--key", tmp_path / "key")
    assert (done.code, done.out) == (2, "")
    assert f"--key {tmp_path / 'key'}: that is a private key" in done.err
    assert "pass the .pub file, and never send this one" in done.err
    (tmp_path / "noise").write_bytes(b"\xff" * 100)
    assert f"--key {tmp_path / 'noise'}: " in call("verify", claim, "--key", tmp_path / "noise").err
    assert call("verify", claim, "--key", tmp_path / "none.pub").code == 4


def test_what_is_no_claim_is_named_for_what_it_is(run: Path, claim: Path, tmp_path: Path, call: Call) -> None:
    done = call("verify", run)
    assert done.code == 4
    assert "is a run, not a claim" in done.err
    assert "polchain export" in done.err
    done = call("verify", claim / "claim.json")
    assert done.code == 4
    assert "is a file, not a claim" in done.err
    for verb in ("status", "fsck"):
        done = call(verb, claim)
        assert done.code == 4
        assert "is a claim, not a run" in done.err
        assert "polchain verify" in done.err
    assert "is a file, not a run" in call("status", claim / "claim.json").err
    assert "no run at" in call("status", tmp_path / "nowhere").err
