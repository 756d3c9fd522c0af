"""Pre-registration: the genesis bound and published, the seed from exactly the block 64 later."""

from pathlib import Path

import pytest

from polchain.anchors.beacon import DISTANCE
from polchain.anchors.binding import check_address_binding, sign_address_binding
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.wallet import Key
from polchain.core.binding import check_key_binding
from polchain.core.keys import PrivateKey
from polchain.errors import AnchorError, AnchorUnavailableError, SignatureError
from polchain.prover.anchored import AnchorBook
from polchain.prover.anchoring import publish_head
from polchain.prover.preregister import (
    AddressHalf,
    BeaconPendingError,
    beacon_ref,
    due,
    published_genesis,
    take_beacon,
)
from polchain.prover.seed import draw, make_start, seed_of
from polchain.storage.ledger import Ledger
from tests.anchors.worlds import TESTER_KEY, EthTesterWorld
from tests.runs import make_genesis, make_key

FINGERPRINT = {"threads": 1}


@pytest.fixture
def world(tmp_path: Path) -> EthTesterWorld:
    return EthTesterWorld(tmp_path)


def begin(folder: Path, key: PrivateKey, *, named: bool = True) -> Path:
    """A run of which the genesis is written, and nothing else."""
    run_id = bytes(range(16))
    wallet = Key(TESTER_KEY)
    half = AddressHalf(run_id, wallet.address, sign_address_binding(wallet, key.public, run_id))
    genesis = make_genesis(key, ethereum=half.bind(key), beacon=EthTesterWorld.network.chain_id if named else None)
    with Ledger.create(folder, genesis, key) as ledger:
        draw(ledger)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return begin(tmp_path / "run", make_key(tmp_path / "key"))


def test_both_halves_of_a_binding_hold(run: Path) -> None:
    with Ledger(run) as ledger:
        genesis = ledger.genesis
    assert genesis.ethereum is not None
    check_key_binding(genesis.ethereum, genesis.key, genesis.run_id)
    check_address_binding(genesis.ethereum, genesis.key, genesis.run_id)


def test_an_address_that_signed_for_another_key_is_not_bound(tmp_path: Path) -> None:
    wallet, run_id = Key(TESTER_KEY), bytes(16)
    half = AddressHalf(run_id, wallet.address, sign_address_binding(wallet, PrivateKey.generate().public, run_id))
    with pytest.raises(SignatureError, match="did not sign"):
        half.bind(make_key(tmp_path / "key"))


def test_the_seed_comes_from_the_block_64_after_the_genesis(run: Path, world: EthTesterWorld) -> None:
    publish_head(run, 1, world.anchor)
    with pytest.raises(BeaconPendingError) as pending:
        take_beacon(run, world.anchor)
    assert pending.value.due.block is None
    world.mine(DISTANCE + 2)
    with pytest.raises(BeaconPendingError) as pending:
        take_beacon(run, world.anchor)
    number = pending.value.due.block
    assert number is not None
    assert f"block {number} of embedded" in str(pending.value)
    world.mine(world.network.finality)
    evidence = take_beacon(run, world.anchor)
    assert evidence.value == world.chain.block_hash(number)
    assert number == due(run, world.anchor).anchored_in + DISTANCE
    with Ledger(run) as ledger:
        own, seed = seed_of(ledger, own=True), seed_of(ledger)
        start = make_start(ledger, FINGERPRINT)
        assert own != seed
        assert (start.source, start.value, start.beacon) == ("beacon", evidence.value, beacon_ref(run, evidence))
        assert make_start(ledger, FINGERPRINT, own=True).source == "prover"


def test_until_its_block_is_known_such_a_run_has_no_seed(run: Path) -> None:
    with Ledger(run) as ledger:
        with pytest.raises(AnchorUnavailableError, match="64 after it"):
            seed_of(ledger)
        seed_of(ledger, own=True)


def test_a_genesis_that_names_no_beacon_waits_for_none(tmp_path: Path, world: EthTesterWorld) -> None:
    run = begin(tmp_path / "other", make_key(tmp_path / "key"), named=False)
    publish_head(run, 1, world.anchor)
    with Ledger(run) as ledger:
        assert seed_of(ledger) == seed_of(ledger, own=True)


def test_a_genesis_that_was_not_published_has_no_beacon_yet(run: Path, world: EthTesterWorld) -> None:
    assert published_genesis(run, world.network.chain_id) is None
    with pytest.raises(AnchorUnavailableError, match="not published on embedded yet"):
        take_beacon(run, world.anchor)


def test_a_genesis_that_moved_to_another_block_has_another_beacon(run: Path, world: EthTesterWorld) -> None:
    publish_head(run, 1, world.anchor)
    world.mine()
    first = due(run, world.anchor).block
    world.vanish()
    publish_head(run, 1, world.anchor)
    world.mine(3)
    second = due(run, world.anchor).block
    assert first is not None
    assert second is not None
    assert second > first
    world.mine(DISTANCE + 3)
    assert take_beacon(run, world.anchor).open().number == second


def test_another_block_is_refused_before_it_is_signed(run: Path, world: EthTesterWorld) -> None:
    from polchain.anchors.beacon import fetch_beacon

    publish_head(run, 1, world.anchor)
    world.mine(DISTANCE + 8)
    number = due(run, world.anchor).block
    assert number is not None
    AnchorBook(run).put_beacon(fetch_beacon(world.chain, world.network, number + 1))
    with Ledger(run) as ledger, pytest.raises(AnchorError, match="the seed is the hash of block"):
        make_start(ledger, FINGERPRINT)


def test_a_network_that_cannot_be_reached_is_named(run: Path, world: EthTesterWorld) -> None:
    publish_head(run, 1, world.anchor)
    world.stop()
    with pytest.raises(AnchorUnavailableError, match="cannot be reached"):
        take_beacon(run, EthereumAnchor(world.network, [world.chain]))
