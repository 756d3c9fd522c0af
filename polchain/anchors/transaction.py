"""Signed transactions that publish a target: reading them, and who signed.

    0x02, RLP [chain id, nonce, tip, fee, gas, to, value, data, access list, parity, r, s]      (EIP-1559, EIP-2718)

polchain sends no other kind. Nothing that a signer gives back is believed: what was signed is read from the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polchain.anchors.base import Target
from polchain.anchors.contract import call_data, contract, keccak256
from polchain.errors import AnchorError

__all__ = ["Transaction", "open_transaction"]

TYPE = b"\x02"
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed transaction, read; fees in wei."""

    hash: bytes
    sender: bytes
    chain_id: int
    nonce: int
    max_priority_fee: int
    max_fee: int
    gas: int
    to: bytes
    value: int
    data: bytes

    def publishes(self, target: Target) -> bool:
        """Whether it is the call that publishes the target, and pays nobody."""
        return self.to == contract().address and self.value == 0 and self.data == call_data(target)


def open_transaction(raw: bytes) -> Transaction:
    """Read a signed transaction, and recover who signed it.

    Raises:
        AnchorError: not an EIP-1559 transaction, or not signed by anybody.
    """
    try:
        return _open(raw)
    # A stranger's bytes: the libraries answer bad ones with any exception.
    except Exception as error:
        raise AnchorError(f"the transaction is not a signed EIP-1559 transaction ({type(error).__name__})") from error


def _open(raw: bytes) -> Transaction:
    import rlp  # type: ignore[import-untyped]
    from eth_keys.datatypes import Signature

    if raw[:1] != TYPE:
        raise ValueError("type")
    fields: list[Any] = rlp.decode(raw[1:])
    chain_id, nonce, tip, fee, gas, to, value, data, access, parity, r, s = fields
    if not isinstance(access, list) or len(to) != 20 or not isinstance(data, bytes):
        raise ValueError("fields")
    signature = _number(parity), _number(r), _number(s)
    if signature[2] > HALF_ORDER:
        raise ValueError("the signature is malleable (EIP-2)")
    signed = keccak256(TYPE + rlp.encode(fields[:9]))
    sender = Signature(vrs=signature).recover_public_key_from_msg_hash(signed).to_canonical_address()
    return Transaction(
        hash=keccak256(raw),
        sender=sender,
        chain_id=_number(chain_id),
        nonce=_number(nonce),
        max_priority_fee=_number(tip),
        max_fee=_number(fee),
        gas=_number(gas),
        to=to,
        value=_number(value),
        data=data,
    )


def _number(data: Any) -> int:
    if not isinstance(data, bytes) or len(data) > 32 or data.startswith(b"\0"):
        raise ValueError("number")
    return int.from_bytes(data, "big")
