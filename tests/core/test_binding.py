"""An address and a key are bound to each other, for one run, or not at all."""

import pytest

from polchain.core.binding import Binding, check_key_binding, sign_key_binding
from polchain.core.encoding import Fields
from polchain.core.keys import PrivateKey
from polchain.errors import FormatError, SignatureError

KEY = PrivateKey.generate()
RUN = bytes(range(16))
ADDRESS = bytes(range(20))


def binding() -> Binding:
    return Binding(ADDRESS, sign_key_binding(KEY, RUN, ADDRESS), bytes(65))


def test_a_binding_is_read_as_it_was_written() -> None:
    assert Binding.parse(Fields(binding().to_json(), "binding")) == binding()


def test_the_key_signs_one_address_for_one_run() -> None:
    check_key_binding(binding(), KEY.public, RUN)
    for made, key, run in (
        (binding(), PrivateKey.generate().public, RUN),
        (binding(), KEY.public, bytes(16)),
        (Binding(bytes(20), binding().by_key, bytes(65)), KEY.public, RUN),
    ):
        with pytest.raises(SignatureError, match="did not sign"):
            check_key_binding(made, key, run)


@pytest.mark.parametrize(
    "change",
    [
        {"address": "0x" + "A" * 40},
        {"address": "a" * 40},
        {"by_key": "00" * 63},
        {"by_key": "zz" * 64},
        {"by_address": "00" * 66},
        {"more": "x"},
    ],
)
def test_another_form_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        Binding.parse(Fields(binding().to_json() | change, "binding"))
