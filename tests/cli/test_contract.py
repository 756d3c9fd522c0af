"""`polchain contract`, against a real node."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from eth_account import Account

from polchain.anchors.contract import contract
from tests.anchors.worlds import ANVIL_KEY, Anvil
from tests.cli.conftest import Done

Call = Callable[..., Done]
ADDRESS = f"0x{contract().address.hex()}"
ACCOUNT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


@pytest.fixture
def node(require: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Anvil]:
    """An empty local chain, and a state folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    node = Anvil(require("anvil"))
    yield node
    node.stop()


def test_the_address_needs_no_network(call: Call) -> None:
    done = call("contract", "address", "--json")
    assert (done.code, json.loads(done.out)["address"]) == (0, ADDRESS)
    assert ADDRESS in call("contract", "address").out


def test_the_contract_is_deployed_once(call: Call, node: Anvil, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("--network", "local", "--rpc", node.address)
    done = call("contract", "check", *where)
    assert (done.code, "absent" in done.out) == (1, True)
    done = call("contract", "deploy", *where, "--account", ACCOUNT, "--dry-run", "--json")
    assert (done.code, done.err) == (0, "")
    assert 0 < json.loads(done.out)["gas"] < 150_000
    done = call("contract", "deploy", *where, "--account", ACCOUNT, "--dry-run")
    assert "ether" in done.out
    assert call("contract", "check", *where).code == 1
    monkeypatch.setenv("POLCHAIN_NETWORK", "local")
    monkeypatch.setenv("POLCHAIN_RPC", node.address)
    done = call("contract", "deploy", "--account", ACCOUNT, "--json")
    assert (done.code, json.loads(done.out)["state"]) == (0, "deployed")
    done = call("contract", "deploy", "--account", ACCOUNT, "--json")
    assert (done.code, json.loads(done.out)["state"]) == (0, "deployed before")
    assert json.loads(call("contract", "check", "--json").out)["state"] == "deployed"


def test_a_keystore_pays_for_contract_and_proxy(call: Call, node: Anvil, tmp_path: Path) -> None:
    from polchain.anchors.chain import Chain

    Chain.connect(node.address).ask("anvil_setCode", "0x4e59b44847b379578588920cA78FbF26c0B4956C", "0x")
    keystore = tmp_path / "keystore"
    keystore.write_text(json.dumps(Account.encrypt(ANVIL_KEY, "secret", kdf="pbkdf2", iterations=1000)))
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    words = ("contract", "deploy", "--network", "local", "--rpc", node.address, "--keystore", keystore)
    words = (*words, "--keystore-passphrase-file", secret)
    done = call(*words)
    assert (done.code, "--with-proxy" in done.err) == (4, True)
    done = call(*words, "--with-proxy")
    assert (done.code, "deployed" in done.out) == (0, True)
    secret.write_text("wrong\n")
    done = call(*words)
    assert (done.code, "passphrase" in done.err) == (4, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("contract", "explode"), 2, "explode"),
        (("contract", "check"), 2, "no network"),
        (("contract", "check", "--network", "atlantis"), 2, "atlantis"),
        (("contract", "check", "--network", "sepolia"), 2, "no node"),
        (("contract", "check", "--network", "local", "--dry-run"), 2, "sends nothing"),
        (("contract", "check", "--network", "local", "--rpc", "http://127.0.0.1:9"), 4, "cannot be reached"),
    ],
)
def test_what_cannot_be_done_is_said(call: Call, words: tuple[str, ...], code: int, said: str) -> None:
    done = call(*words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no account"),
        (("--account", "0x12"), "not an Ethereum address"),
        (("--account", ACCOUNT, "--keystore", "x"), "one of them"),
    ],
)
def test_who_pays_must_be_clear(call: Call, node: Anvil, words: tuple[str, ...], said: str) -> None:
    done = call("contract", "deploy", "--network", "local", "--rpc", node.address, *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_other_code_is_refused(call: Call, node: Anvil) -> None:
    from polchain.anchors.chain import Chain

    Chain.connect(node.address).ask("anvil_setCode", ADDRESS, "0x00")
    for verb in (("check",), ("deploy", "--account", ACCOUNT)):
        done = call("contract", *verb, "--network", "local", "--rpc", node.address)
        assert (done.code, "wrong contract code" in done.err) == (1, True)
