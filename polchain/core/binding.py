r"""The Ethereum address that a run's heads are published from, bound to the log's key both ways.

    address      0x and 40 hexadecimal digits, in lower case
    by_key       Ed25519, by the log's key, over: tag `key-binding`, run id (16 bytes), address (20 bytes)
    by_address   secp256k1, by the address, over the EIP-712 message below: r, s, v (27 or 28)

    domain       EIP712Domain(string name, string version): "polchain", "1"; no chain, as the address is one on all
    message      Log(bytes32 key, bytes16 run): the Ed25519 public key, the run id

So nobody names a stranger's address in his log, and nobody's address publishes for a log that it did not choose. The
key's half is checked here; the address's takes Ethereum's arithmetic, and is checked in `anchors.binding`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from polchain.core.digest import tag
from polchain.core.encoding import JSON, Fields
from polchain.core.keys import PrivateKey, PublicKey
from polchain.errors import FormatError, SignatureError

__all__ = ["Binding", "check_key_binding", "sign_key_binding"]

_ADDRESS: Final = re.compile(r"0x[0-9a-f]{40}")
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class Binding:
    """An Ethereum address and the two signatures that bind it to a log.

    Attributes:
        address: 20 bytes.
        by_key: 64 bytes.
        by_address: 65 bytes.
    """

    address: bytes
    by_key: bytes
    by_address: bytes

    def to_json(self) -> dict[str, JSON]:
        return {
            "address": f"0x{self.address.hex()}",
            "by_key": self.by_key.hex(),
            "by_address": self.by_address.hex(),
        }

    @classmethod
    def parse(cls, fields: Fields) -> Binding:
        """Read what `to_json` wrote. No signature is checked.

        Raises:
            FormatError: anything else.
        """
        address = fields.str("address", max_length=42)
        if _ADDRESS.fullmatch(address) is None:
            raise FormatError("binding: an address is 0x and 40 lower-case hexadecimal digits")
        value = cls(bytes.fromhex(address[2:]), _signature(fields, "by_key", 64), _signature(fields, "by_address", 65))
        fields.done()
        return value


def sign_key_binding(key: PrivateKey, run_id: bytes, address: bytes) -> bytes:
    """The key's half: that this log is published from this address."""
    return key.sign(_message(run_id, address))


def check_key_binding(binding: Binding, key: PublicKey, run_id: bytes) -> None:
    """Check the key's half.

    Raises:
        SignatureError: signed by another key, or for another run or address.
    """
    try:
        key.verify(binding.by_key, _message(run_id, binding.address))
    except SignatureError as error:
        raise SignatureError("genesis: the log's key did not sign the Ethereum address beside it") from error


def _message(run_id: bytes, address: bytes) -> bytes:
    return tag("key-binding") + run_id + address


def _signature(fields: Fields, name: str, length: int) -> bytes:
    text = fields.str(name, max_length=2 * length)
    if len(text) != 2 * length or _HEX.fullmatch(text) is None:
        raise FormatError(f"binding: {name} is {length} bytes in lower-case hexadecimal")
    return bytes.fromhex(text)
