"""Policies: what a verifier writes is read as meant, or refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polchain.core.digest import Digest, sha256
from polchain.core.keys import PrivateKey
from polchain.errors import PolicyError
from polchain.verifier.policy import Policy

KEY = PrivateKey.generate().public
PROGRAM = sha256(b"a program")


def read(folder: Path, text: str | bytes) -> Policy:
    path = folder / "policy.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Policy.read(path)


def test_a_policy_is_read_as_written(tmp_path: Path) -> None:
    policy = read(
        tmp_path,
        f"""
        keys = ["{KEY}", "{KEY.openssh()} alice@example.org"]
        recipes = ["{PROGRAM}"]
        fraction = 0.01
        confidence = 0.95
        top_updates = 0
        unsafe_no_sandbox = true
        """,
    )
    assert policy == Policy(frozenset({KEY}), frozenset({PROGRAM}), 0.01, 0.95, 0, unsafe_no_sandbox=True)
    assert policy.draws == 299


def test_an_empty_policy_trusts_nobody_and_has_the_defaults_of_the_design(tmp_path: Path) -> None:
    policy = read(tmp_path, "")
    assert policy == Policy()
    assert (policy.keys, policy.recipes, policy.unsafe_no_sandbox) == (frozenset(), frozenset(), False)
    assert (policy.fraction, policy.confidence, policy.top_updates, policy.draws) == (0.05, 0.99, 5, 90)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("key = []", "unknown name 'key'"),
        ("draws = 3", "unknown name 'draws'"),
        ("[keys]\na = 1", "keys is a list of strings"),
        ("keys = [1]", "keys is a list of strings"),
        ("keys = 'ed25519:00'", "keys is a list of strings"),
        ("keys = ['ed25519:00']", "public key"),
        (f"keys = ['ed25519:{'00' * 32}']", "small order"),
        ("recipes = ['blake2:00']", "digest"),
        ("fraction = '0.05'", "fraction is a number"),
        ("fraction = true", "fraction is a number"),
        ("fraction = nan", "is not between 0 and 1"),
        ("fraction = inf", "is not between 0 and 1"),
        ("fraction = 0", "is not between 0 and 1"),
        ("fraction = 1e-300", "draws"),
        (f"fraction = 1{'0' * 400}", "no number that could be meant"),
        ("confidence = 1.0", "is not between 0 and 1"),
        ("top_updates = 1.5", "top_updates is a whole number"),
        ("top_updates = true", "top_updates is a whole number"),
        ("top_updates = -1", "not between 0 and 10,000"),
        ("unsafe_no_sandbox = 1", "unsafe_no_sandbox is true or false"),
        ("fraction = 0.1\nfraction = 0.2", "cannot read the policy"),
        ("fraction =", "cannot read the policy"),
        ("a = " + "[" * 5000 + "]" * 5000, "policy.toml"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_policy_that_is_not_a_file_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read the policy"):
        Policy.read(tmp_path / "none.toml")
    with pytest.raises(PolicyError, match="cannot read the policy"):
        Policy.read(tmp_path)
    with pytest.raises(PolicyError, match="is over"):
        read(tmp_path, b"#" * (1024 * 1024 + 1))


NAMES = st.sampled_from(["keys", "recipes", "fraction", "confidence", "top_updates", "unsafe_no_sandbox", "other"])
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(lambda x: repr(x).replace("+", "")),
    st.booleans().map(lambda x: str(x).lower()),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=70).map(lambda x: f"['{x}']"),
    st.just(f"['{KEY}']"),
    st.just(f"['{PROGRAM}']"),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=200), st.dictionaries(NAMES, VALUES, max_size=4)))
def test_any_text_is_a_policy_or_a_policy_error(tmp_path: Path, source: bytes | dict[str, str]) -> None:
    text = source if isinstance(source, bytes) else "\n".join(f"{k} = {v}" for k, v in source.items()).encode()
    path = tmp_path / f"{os.getpid()}.toml"
    path.write_bytes(text)
    try:
        policy = Policy.read(path)
    except PolicyError:
        return
    assert 1 <= policy.draws <= 1_000_000
    assert all(isinstance(item, Digest) for item in policy.recipes)
