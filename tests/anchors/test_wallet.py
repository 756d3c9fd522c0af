"""Keys in keystores, keys elsewhere, and signers that sign something else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from polchain.anchors.contract import call_data, contract
from polchain.anchors.wallet import Key, NodeAccount, Unsigned, open_keystore, parse_address, sign
from polchain.errors import AnchorError, AnchorUnavailableError, KeyUnavailableError, UsageError
from tests.anchors.worlds import ANVIL_ACCOUNT, ANVIL_KEY, AnvilWorld, Interposed, target

UNSIGNED = Unsigned(31337, 0, 1, 3 * 10**9, 30_000, to=contract().address, data=call_data(target()))


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keystore.json"
    path.write_text(json.dumps(Account.encrypt(ANVIL_KEY, "a passphrase é", kdf="scrypt", iterations=1024)))
    return path


def test_a_keystore_opens_with_its_passphrase(keystore: Path, tmp_path: Path) -> None:
    assert open_keystore(keystore, "a passphrase é".encode()).address == ANVIL_ACCOUNT
    path = tmp_path / "pbkdf2.json"
    path.write_text(json.dumps(Account.encrypt(ANVIL_KEY, "another", kdf="pbkdf2", iterations=1024)))
    assert open_keystore(path, b"another").address == ANVIL_ACCOUNT


def test_a_keystore_that_does_not_open_is_named_and_nothing_leaks(keystore: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailableError, match=r"passphrase .* is another one"):
        open_keystore(keystore, b"wrong")
    with pytest.raises(KeyUnavailableError, match="cannot be read"):
        open_keystore(tmp_path / "missing", b"")
    for text in ("", "[]", "{}", '{"version": 3}', '{"version": 1, "crypto": {}}', '{"version": 3, "crypto": {}}'):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(KeyUnavailableError, match="not a keystore"):
            open_keystore(tmp_path / "bad", b"")
    with pytest.raises(KeyUnavailableError):
        open_keystore(keystore, b"\xff\xfe")


def test_a_node_signs_for_its_account(anvil: AnvilWorld) -> None:
    assert sign(NodeAccount(anvil.chain, ANVIL_ACCOUNT), UNSIGNED) == sign(Key(ANVIL_KEY), UNSIGNED)
    # geth and clef answer with an object around the bytes.
    geth = Interposed(anvil.chain, "geth", {"eth_signTransaction": lambda raw, *_: {"raw": raw, "tx": {}}})
    assert sign(NodeAccount(geth, ANVIL_ACCOUNT), UNSIGNED) == sign(Key(ANVIL_KEY), UNSIGNED)


def test_a_signer_that_refuses_or_babbles_is_named(anvil: AnvilWorld) -> None:
    with pytest.raises(AnchorUnavailableError, match="refuses eth_signTransaction"):
        sign(NodeAccount(anvil.chain, bytes(19) + b"\1"), UNSIGNED)
    for answer in ({}, 5, "soon", None):
        babbler = Interposed(anvil.chain, "babbler", {"eth_signTransaction": lambda raw, *_, answer=answer: answer})
        with pytest.raises(AnchorUnavailableError, match="babbler answers eth_signTransaction with nonsense"):
            sign(NodeAccount(babbler, ANVIL_ACCOUNT), UNSIGNED)


@pytest.mark.parametrize(
    "other",
    [
        {"nonce": 1},
        {"chain_id": 1},
        {"max_fee": 9 * 10**9},
        {"max_priority_fee": 2},
        {"gas": 31_000},
        {"to": bytes(20)},
        {"data": b"\1"},
        {"value": 1},
    ],
    ids=str,
)
def test_a_signer_that_signs_something_else_is_refused(other: dict[str, Any]) -> None:
    class Wrong(Key):
        def sign(self, transaction: Unsigned) -> bytes:
            return super().sign(replace(transaction, **other))

    with pytest.raises(AnchorError, match="signed another transaction"):
        sign(Wrong(ANVIL_KEY), UNSIGNED)


def test_a_signer_that_signs_as_somebody_else_is_refused() -> None:
    class Other(Key):
        @property
        def address(self) -> bytes:
            return bytes(20)

    with pytest.raises(AnchorError, match="signed another transaction"):
        sign(Other(ANVIL_KEY), UNSIGNED)


def test_addresses_are_read_with_their_checksum() -> None:
    assert parse_address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266") == ANVIL_ACCOUNT
    assert parse_address("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266") == ANVIL_ACCOUNT
    for text in ("", "0x", "f39fd6e51aad88f6f4ce6ab8827279cfffb92266", "0xF39Fd6e51aad88F6F4ce6aB8827279cffFb92266"):
        with pytest.raises(UsageError, match="not an Ethereum address"):
            parse_address(text)
