"""The address's half of a binding: recovered from the signature, as any wallet makes it."""

import pytest
from eth_account import Account

from polchain.anchors.binding import check_address_binding, sign_address_binding, typed_data
from polchain.anchors.wallet import Key
from polchain.core.binding import Binding
from polchain.core.keys import PrivateKey
from polchain.errors import AnchorError, SignatureError
from tests.anchors.worlds import ANVIL_ACCOUNT, ANVIL_KEY, AnvilWorld

LOG = PrivateKey.generate().public
RUN = bytes(range(16))


def bound(signature: bytes, address: bytes = ANVIL_ACCOUNT) -> Binding:
    return Binding(address, bytes(64), signature)


def test_a_wallet_signs_what_is_checked() -> None:
    signature = sign_address_binding(Key(ANVIL_KEY), LOG, RUN)
    check_address_binding(bound(signature), LOG, RUN)
    # The oracle: another implementation of EIP-712 signs the same bytes.
    theirs = Account.sign_typed_data(ANVIL_KEY, full_message=typed_data(LOG, RUN))
    assert bytes(theirs.signature) == signature


def test_a_node_signs_the_same(anvil: AnvilWorld) -> None:
    from polchain.anchors.wallet import NodeAccount

    account = NodeAccount(anvil.chain, ANVIL_ACCOUNT)
    assert sign_address_binding(account, LOG, RUN) == sign_address_binding(Key(ANVIL_KEY), LOG, RUN)


def test_another_key_run_or_address_is_refused() -> None:
    signature = sign_address_binding(Key(ANVIL_KEY), LOG, RUN)
    for binding, key, run in (
        (bound(signature), PrivateKey.generate().public, RUN),
        (bound(signature), LOG, bytes(16)),
        (bound(signature, bytes(20)), LOG, RUN),
    ):
        with pytest.raises(SignatureError, match="did not sign"):
            check_address_binding(binding, key, run)


def test_every_flipped_bit_is_refused() -> None:
    signature = sign_address_binding(Key(ANVIL_KEY), LOG, RUN)
    for place in range(0, 65 * 8, 7):
        changed = bytearray(signature)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(SignatureError):
            check_address_binding(bound(bytes(changed)), LOG, RUN)


def test_the_other_form_of_a_signature_is_refused() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    signature = sign_address_binding(Key(ANVIL_KEY), LOG, RUN)
    s = order - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + s.to_bytes(32, "big") + bytes([27 + 28 - signature[64]])
    with pytest.raises(SignatureError):
        check_address_binding(bound(twin), LOG, RUN)
    for signature in (b"", bytes(65), b"\xff" * 65):
        with pytest.raises(SignatureError):
            check_address_binding(bound(signature), LOG, RUN)


def test_a_signer_that_signs_something_else_is_named() -> None:
    class Other(Key):
        def sign_typed(self, data: object) -> bytes:
            return super().sign_typed(typed_data(LOG, bytes(16)))

    with pytest.raises(AnchorError, match="something else"):
        sign_address_binding(Other(ANVIL_KEY), LOG, RUN)
