"""The beacon: exactly one block, by its header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.anchors.beacon import DISTANCE, BeaconEvidence, check_beacon, fetch_beacon
from polchain.core.entries import BeaconRef
from polchain.errors import AnchorError, AnchorUnavailableError, FormatError
from tests.anchors.worlds import EthTesterWorld


def test_the_block_is_fetched_once_it_is_final(tester: EthTesterWorld) -> None:
    height = tester.chain.height()
    with pytest.raises(AnchorUnavailableError, match="not final yet"):
        fetch_beacon(tester.chain, tester.network, height)
    tester.mine(5)
    evidence = fetch_beacon(tester.chain, tester.network, height)
    assert evidence.value == tester.chain.block_hash(height)
    assert evidence.open().number == height
    assert BeaconEvidence.parse(evidence.encode()) == evidence


def test_exactly_one_block_will_do(tester: EthTesterWorld) -> None:
    tester.mine(DISTANCE + 5)
    number = tester.chain.height() - 3
    evidence = fetch_beacon(tester.chain, tester.network, number)
    ref = BeaconRef(tester.network.chain_id, "embedded", number)
    assert check_beacon(evidence, ref, evidence.value, number - DISTANCE).number == number
    for changed, value, anchored in (
        (BeaconRef(1, "embedded", number), evidence.value, number - DISTANCE),
        (BeaconRef(ref.chain, "embedded", number + 1), evidence.value, number - DISTANCE),
        (ref, bytes(32), number - DISTANCE),
        (ref, evidence.value, number - DISTANCE + 1),
        (ref, evidence.value, number - DISTANCE - 1),
    ):
        with pytest.raises(AnchorError, match="beacon: "):
            check_beacon(evidence, changed, value, anchored)


def test_a_changed_header_is_refused(tester: EthTesterWorld) -> None:
    tester.mine(5)
    number = tester.chain.height() - 3
    evidence = fetch_beacon(tester.chain, tester.network, number)
    ref = BeaconRef(tester.network.chain_id, "embedded", number)
    for place in range(0, len(evidence.header), 17):
        header = bytearray(evidence.header)
        header[place] ^= 1
        changed = BeaconEvidence(evidence.chain_id, evidence.network, bytes(header))
        with pytest.raises(AnchorError):
            check_beacon(changed, ref, evidence.value, number - DISTANCE)


@given(st.binary(max_size=200))
def test_whatever_is_no_evidence_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        BeaconEvidence.parse(data)


@given(st.binary(max_size=700))
def test_whatever_is_no_header_is_an_anchor_error(header: bytes) -> None:
    with pytest.raises(AnchorError):
        BeaconEvidence(1, "mainnet", header).open()
