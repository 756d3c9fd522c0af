"""The table of networks, and what a user may add to it."""

from pathlib import Path

import pytest

from polchain.anchors.networks import named, networks, user_file
from polchain.errors import PolicyError, UsageError


def test_the_table_that_comes_along() -> None:
    known = networks()
    assert set(known) == {"mainnet", "sepolia", "hoodi", "local", "embedded"}
    assert {name for name, one in known.items() if not one.weak} == {"mainnet"}
    assert {name for name, one in known.items() if one.beacon} == {"mainnet", "sepolia", "hoodi"}
    assert {name: one.chain_id for name, one in known.items() if one.beacon} == {
        "mainnet": 1,
        "sepolia": 11155111,
        "hoodi": 560048,
    }
    assert all(one.genesis is not None and one.finality == "finalized" for one in known.values() if one.beacon)
    assert known["sepolia"].page(b"\xab" * 32) == "https://sepolia.etherscan.io/tx/0x" + "ab" * 32
    assert known["local"].page(bytes(32)) == ""


def test_a_users_file_adds_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "networks.toml"
    path.write_text(
        '[rollup]\nchain_id = 10\nfinality = 30\nevidence = "weak"\nwhy = "one sequencer"\n'
        '[mainnet]\nchain_id = 1\nevidence = "strong"\n'
    )
    known = networks(path)
    assert (known["rollup"].finality, known["rollup"].weak, known["rollup"].beacon) == (30, "one sequencer", False)
    assert (known["mainnet"].genesis, known["mainnet"].finality) == (None, "finalized")
    assert named("sepolia", path).chain_id == 11155111
    user_file().parent.mkdir(parents=True, exist_ok=True)
    user_file().write_text(path.read_text())
    try:
        assert named("rollup") == known["rollup"]
    finally:
        user_file().unlink()
    with pytest.raises(UsageError, match="no network is called 'rollup'"):
        named("rollup")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not toml", "cannot be read"),
        ("rollup = 1", "not a table"),
        ("[a]\nchain_id = 0", "chain_id"),
        ("[a]\nchain_id = true", "chain_id"),
        ('[a]\nchain_id = "1"', "chain_id"),
        ("[a]\nchain_id = 5", "evidence"),
        ('[a]\nchain_id = 5\nevidence = "weak"', "evidence"),
        ('[a]\nchain_id = 5\nevidence = "strong"\nwhy = "no"', "evidence"),
        ('[a]\nchain_id = 5\nevidence = "strong"\nfinality = -1', "finality"),
        ('[a]\nchain_id = 5\nevidence = "strong"\nfinality = "safe"', "finality"),
        ('[a]\nchain_id = 5\nevidence = "strong"\ngenesis = "0x12"', "genesis"),
        ('[a]\nchain_id = 5\nevidence = "strong"\ngenesis = 5', "genesis"),
        ('[a]\nchain_id = 5\nevidence = "strong"\nbeacon = 1', "beacon"),
        ('[a]\nchain_id = 5\nevidence = "strong"\nrpc = "x"', "unknown field 'rpc'"),
    ],
)
def test_a_table_that_says_something_else_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "networks.toml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=words):
        networks(path)
    with pytest.raises(PolicyError):
        networks(tmp_path / "missing.toml")
