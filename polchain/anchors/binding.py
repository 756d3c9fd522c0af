"""The address's half of a binding (see `core.binding`): an EIP-712 signature over the log's key and run id.

A wallet shows what it signs: "polchain", the key, the run.
"""

from __future__ import annotations

from typing import Any, Final

from polchain.anchors.contract import keccak256
from polchain.anchors.wallet import Wallet
from polchain.core.binding import Binding
from polchain.core.keys import PublicKey
from polchain.errors import AnchorError, SignatureError

__all__ = ["check_address_binding", "sign_address_binding", "typed_data"]

_DOMAIN: Final = "EIP712Domain(string name,string version)"
_LOG: Final = "Log(bytes32 key,bytes16 run)"
_NAME: Final = "polchain"
_VERSION: Final = "1"
# The order of secp256k1. Of the two forms of a signature only the one with the lower s is taken (EIP-2).
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def typed_data(key: PublicKey, run_id: bytes) -> dict[str, Any]:
    """The message as a wallet takes it (EIP-712, `eth_signTypedData_v4`)."""
    return {
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "version", "type": "string"}],
            "Log": [{"name": "key", "type": "bytes32"}, {"name": "run", "type": "bytes16"}],
        },
        "primaryType": "Log",
        "domain": {"name": _NAME, "version": _VERSION},
        "message": {"key": f"0x{key.value.hex()}", "run": f"0x{run_id.hex()}"},
    }


def sign_address_binding(wallet: Wallet, key: PublicKey, run_id: bytes) -> bytes:
    """Have the address sign that it publishes for this log; 65 bytes.

    Raises:
        AnchorError: the signer signed something else, or as somebody else.
        AnchorUnavailableError: the signer cannot be reached, or refuses.
    """
    signature = wallet.sign_typed(typed_data(key, run_id))
    try:
        check_address_binding(Binding(wallet.address, b"", signature), key, run_id)
    except SignatureError as error:
        raise AnchorError("the signer signed something else than the binding it was asked to sign") from error
    return signature


def check_address_binding(binding: Binding, key: PublicKey, run_id: bytes) -> None:
    """Check the address's half.

    Raises:
        SignatureError: signed by another address, for another key or run, or no signature of the one form.
    """
    from eth_keys.datatypes import Signature
    from eth_keys.exceptions import BadSignature
    from eth_utils.exceptions import ValidationError

    refused = SignatureError("genesis: the Ethereum address did not sign the log's key beside it")
    if len(binding.by_address) != 65:
        raise refused
    r, s = (int.from_bytes(binding.by_address[at : at + 32], "big") for at in (0, 32))
    v = binding.by_address[64] - 27
    if v not in (0, 1) or not 0 < r < _ORDER or not 0 < s <= _ORDER // 2:
        raise refused
    try:
        signer = Signature(vrs=(v, r, s)).recover_public_key_from_msg_hash(_digest(key, run_id))
    except (BadSignature, ValidationError) as error:
        raise refused from error
    if signer.to_canonical_address() != binding.address:
        raise refused


def _digest(key: PublicKey, run_id: bytes) -> bytes:
    """What is signed (EIP-712): keccak256(0x1901, domain separator, hash of the struct)."""
    domain = keccak256(_text(_DOMAIN) + _text(_NAME) + _text(_VERSION))
    message = keccak256(_text(_LOG) + key.value + run_id.ljust(32, b"\0"))
    return keccak256(b"\x19\x01" + domain + message)


def _text(text: str) -> bytes:
    return keccak256(text.encode())
