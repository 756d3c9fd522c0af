"""Who signs transactions: a key from an encrypted keystore (Web3 Secret Storage, version 3), or an external signer.

    wallet = open_keystore(path, passphrase)        geth, cast, MetaMask and others write such files
    wallet = NodeAccount(chain, address)            eth_signTransaction: a node's account, clef behind it, a proxy

What comes back from a signer is read again: other fields, or another account's signature, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from polchain.anchors.chain import Chain
from polchain.anchors.inclusion import raw_bytes
from polchain.anchors.transaction import open_transaction
from polchain.errors import AnchorError, AnchorUnavailableError, KeyUnavailableError, UsageError

__all__ = ["Key", "NodeAccount", "Unsigned", "Wallet", "open_keystore", "parse_address", "sign"]


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A transaction before it is signed (EIP-1559); fees in wei. It carries a value only to fund a deployment."""

    chain_id: int
    nonce: int
    max_priority_fee: int
    max_fee: int
    gas: int
    to: bytes
    data: bytes
    value: int = 0

    def fields(self) -> dict[str, Any]:
        """By the names of JSON-RPC, numbers as numbers."""
        from eth_utils.address import to_checksum_address

        return {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": self.nonce,
            "maxPriorityFeePerGas": self.max_priority_fee,
            "maxFeePerGas": self.max_fee,
            "gas": self.gas,
            "to": str(to_checksum_address(self.to)),
            "value": self.value,
            "data": f"0x{self.data.hex()}",
        }


class Wallet(Protocol):
    """An account that can sign."""

    @property
    def address(self) -> bytes:
        """The account."""

    def sign(self, transaction: Unsigned) -> bytes:
        """The transaction, signed, raw."""

    def sign_typed(self, data: Mapping[str, Any]) -> bytes:
        """The signature of structured data (EIP-712): r, s, v; 65 bytes."""


class Key:
    """A private key in this process."""

    def __init__(self, secret: bytes) -> None:
        from eth_account import Account

        self._account = Account.from_key(secret)

    @property
    def address(self) -> bytes:
        """The account."""
        return raw_bytes(str(self._account.address))

    def sign(self, transaction: Unsigned) -> bytes:
        """The transaction, signed, raw."""
        return bytes(self._account.sign_transaction(transaction.fields()).raw_transaction)

    def sign_typed(self, data: Mapping[str, Any]) -> bytes:
        """The signature of structured data."""
        return bytes(self._account.sign_typed_data(full_message=dict(data)).signature)


def open_keystore(path: Path, passphrase: bytes) -> Key:
    """The key of an encrypted keystore file.

    Raises:
        KeyUnavailableError: no such file, not a keystore, or another passphrase.
    """
    import json

    from eth_account import Account

    try:
        # eth-account takes a passphrase as text; bytes are UTF-8 in every wallet.
        return Key(bytes(Account.decrypt(json.loads(path.read_text(encoding="utf-8")), passphrase.decode())))
    except OSError as error:
        raise KeyUnavailableError(f"the keystore {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        if "mac" in str(error).lower():
            raise KeyUnavailableError(f"the passphrase of the keystore {path} is another one") from None
        raise KeyUnavailableError(
            f"{path} is not a keystore (Web3 Secret Storage, version 3)", hint="`cast wallet new FOLDER` makes one"
        ) from None


class NodeAccount:
    """An account whose key lies elsewhere: a node, or a signer that speaks like one, signs."""

    def __init__(self, chain: Chain, address: bytes) -> None:
        self._chain = chain
        self._address = address

    @property
    def address(self) -> bytes:
        """The account."""
        return self._address

    def sign(self, transaction: Unsigned) -> bytes:
        """Ask for a signature; a person may have to agree to it."""
        fields = {name: hex(value) if type(value) is int else value for name, value in transaction.fields().items()}
        fields["from"] = f"0x{self._address.hex()}"
        answer = self._chain.ask("eth_signTransaction", fields)
        try:
            # geth and clef answer with an object, anvil and some proxies with the bytes alone.
            return raw_bytes(answer["raw"] if isinstance(answer, Mapping) else answer)
        except (KeyError, ValueError) as error:
            raise AnchorUnavailableError(f"{self._chain.name} answers eth_signTransaction with nonsense") from error

    def sign_typed(self, data: Mapping[str, Any]) -> bytes:
        """Ask for a signature; a person may have to agree to it."""
        answer = self._chain.ask("eth_signTypedData_v4", f"0x{self._address.hex()}", dict(data))
        try:
            return raw_bytes(answer)
        except ValueError as error:
            raise AnchorUnavailableError(f"{self._chain.name} answers eth_signTypedData_v4 with nonsense") from error


def sign(wallet: Wallet, transaction: Unsigned) -> bytes:
    """Have a transaction signed, and see that it is what was asked for.

    Raises:
        AnchorError: the signer signed something else, or as somebody else.
        AnchorUnavailableError: the signer cannot be reached, or refuses.
    """
    raw = wallet.sign(transaction)
    signed = open_transaction(raw)
    asked = (wallet.address, *(getattr(transaction, name) for name in Unsigned.__dataclass_fields__))
    if (signed.sender, *(getattr(signed, name) for name in Unsigned.__dataclass_fields__)) != asked:
        raise AnchorError("the signer signed another transaction than the one it was asked to sign")
    return raw


def parse_address(text: str) -> bytes:
    """An account's address: 0x and 40 hexadecimal digits, with a checksum in their case if it is mixed (EIP-55).

    Raises:
        UsageError: no address, or mistyped.
    """
    from eth_utils.address import is_hex_address, to_checksum_address

    digits = text[2:]
    mixed = digits not in (digits.lower(), digits.upper())
    if not text.startswith("0x") or not is_hex_address(text) or (mixed and to_checksum_address(text) != text):
        raise UsageError(f"{text!a} is not an Ethereum address", hint="0x and 40 hexadecimal digits; check the case")
    return bytes.fromhex(text[2:])
