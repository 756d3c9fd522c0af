"""The contract: what its source compiles to, what it costs, and its own tests."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.gas import EAS, HEAD_LIMIT, LOG_LIMIT, measure, table
from polchain.anchors.chain import Chain
from polchain.anchors.contract import PROXY, contract, keccak256
from polchain.anchors.deploy import PROXY_CODE_HASH, PROXY_PAYER, PROXY_TRANSACTION, deploy, state_of
from polchain.anchors.journal import Journal
from polchain.anchors.sender import Sender
from polchain.anchors.wallet import Key
from polchain.errors import AnchorError, AnchorUnavailableError
from tests.anchors.worlds import ANVIL_ACCOUNT, ANVIL_KEY, LOCAL, Anvil

CONTRACTS = Path(__file__).parent.parent.parent / "contracts"


def test_gas_is_within_its_limits(tmp_path: Path) -> None:
    head, batch, *others = rows = measure(tmp_path)
    assert head.gas <= HEAD_LIMIT
    assert batch.per_log < LOG_LIMIT
    assert [row.gas for row in others] == list(EAS.values())
    assert all(row.what in table(rows) for row in rows)


def test_the_source_compiles_to_the_artifact(require: Callable[[str], str]) -> None:
    require("solcjs")
    command = [require("node"), "compile.mjs", "--check"]
    done = subprocess.run(command, cwd=CONTRACTS, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_contracts_own_tests_pass(require: Callable[[str], str], tmp_path: Path) -> None:
    require("solcjs")
    done = subprocess.run(
        [require("forge"), "test", "--out", str(tmp_path / "out"), "--cache-path", str(tmp_path / "cache")],
        cwd=CONTRACTS,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed, 0 skipped" in done.stdout


def test_the_proxy_comes_from_nobodys_key() -> None:
    """The signature is 0x22.., the payer follows from it, and the proxy's address from the payer."""
    import rlp
    from eth_account import Account

    assert Account.recover_transaction(PROXY_TRANSACTION).lower() == f"0x{PROXY_PAYER.hex()}"
    assert keccak256(rlp.encode([PROXY_PAYER, 0]))[12:] == PROXY


@pytest.fixture
def sender(start_anvil: Callable[..., Anvil], tmp_path: Path) -> Sender:
    chain = Chain.connect(start_anvil().address)
    return Sender(LOCAL, chain, Key(ANVIL_KEY), Journal(tmp_path))


def test_it_is_deployed_once(sender: Sender) -> None:
    assert state_of(sender.chain) == "absent"
    assert deploy(sender) == "absent"
    assert deploy(sender) == "deployed"
    assert sender.chain.nonce(ANVIL_ACCOUNT, "latest") == 1
    assert sender.journal.open() == []


def test_the_proxy_is_put_where_it_is_missing(sender: Sender) -> None:
    sender.chain.ask("anvil_setCode", f"0x{PROXY.hex()}", "0x")
    with pytest.raises(AnchorUnavailableError, match="proxy is not at"):
        deploy(sender)
    sender.chain.ask("anvil_setNonce", f"0x{PROXY.hex()}", "0x0")
    assert deploy(sender, with_proxy=True) == "absent"
    code = sender.chain.code_hash(PROXY)
    assert code is not None
    assert code.hex() == PROXY_CODE_HASH
    assert sender.chain.code_hash(contract().address) == contract().code_hash


def test_another_proxy_is_refused(sender: Sender) -> None:
    sender.chain.ask("anvil_setCode", f"0x{PROXY.hex()}", "0x00")
    with pytest.raises(AnchorError, match="another proxy"):
        deploy(sender)


def test_a_deployment_that_no_block_takes_is_waited_for_and_resumed(sender: Sender) -> None:
    sender.chain.ask("evm_setAutomine", False)
    with pytest.raises(AnchorUnavailableError, match="in no block after"):
        deploy(sender, patience=0.2)
    sender.chain.ask("anvil_mine", "0x1")
    assert deploy(sender) == "deployed"
    assert sender.chain.nonce(ANVIL_ACCOUNT, "latest") == 1
