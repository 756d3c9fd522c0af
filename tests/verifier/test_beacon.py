"""The whole road with a beacon: genesis, its block, the block 64 after it, seed, training, anchor, verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from polchain.anchors.base import target_of
from polchain.anchors.beacon import DISTANCE, fetch_beacon
from polchain.anchors.binding import sign_address_binding
from polchain.anchors.interval import Bound
from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.wallet import Key
from polchain.core.binding import Binding, sign_key_binding
from polchain.core.claim import BEACON, head_name, receipt_name, write_listing
from polchain.core.entries import BeaconRef, encode_entry, leaf_data
from polchain.core.merkle import leaf_hash
from polchain.core.note import TreeHead, origin_of, sign_head
from polchain.training.randomness import BatchOrder, run_seed
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify
from tests.anchored import asking, block_of
from tests.anchors.worlds import ANVIL_KEY, Anvil, AnvilWorld
from tests.claims import DATA, DIGITS, Recorded
from tests.forgers.forge import Workshop
from tests.verifier.conftest import SGD


def anchor(world: AnvilWorld, claim: Path, note: bytes, head: TreeHead) -> FiledReceipt:
    """Publish a head alone, and file it in the claim."""
    pending = world.anchor.submit(target_of(head, note))
    world.mine(4)
    filed = FiledReceipt(head.size, world.anchor.upgrade(pending, target_of(head, note)))
    for name, data in ((head_name(head.size), note), (receipt_name(head.size, "ethereum-31337"), filed.encode())):
        (claim / name).parent.mkdir(parents=True, exist_ok=True)
        (claim / name).write_bytes(data)
    return filed


def preregister(world: AnvilWorld, claim: Path, shop: Workshop) -> None:
    """Bind an address, publish the genesis, take the seed from its beacon."""
    address = Key(ANVIL_KEY).address
    by_address = sign_address_binding(Key(ANVIL_KEY), shop.key.public, shop.run_id)
    binding = Binding(address, sign_key_binding(shop.key, shop.run_id, address), by_address)
    shop.genesis = replace(shop.genesis, ethereum=binding, beacon=world.network.chain_id)
    leaf = leaf_hash(leaf_data(encode_entry(shop.genesis)))
    head = TreeHead(origin_of(shop.key.public, shop.run_id), 1, leaf)
    number = block_of(anchor(world, claim, sign_head(head, shop.key), head)) + DISTANCE
    world.mine(number + 3 - world.chain.height())
    evidence = fetch_beacon(world.chain, world.network, number)
    (claim / BEACON).write_bytes(evidence.encode())
    ref = BeaconRef(evidence.chain_id, evidence.network, number)
    shop.start = replace(shop.start, source="beacon", value=evidence.value, beacon=ref)
    shop.seed = run_seed(evidence.value, leaf, "beacon")
    assert shop.genesis.dataset is not None
    assert shop.configuration is not None
    shop.order = BatchOrder(shop.seed, shop.genesis.dataset.samples, shop.configuration.batch_size)


def test_a_run_that_was_preregistered_is_verified_with_both_bounds(
    recorded: Recorded, require: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "polchain").mkdir(parents=True)
    (tmp_path / "config" / "polchain" / "networks.toml").write_text(
        '[proving]\nchain_id = 31337\nfinality = 1\nevidence = "strong"\nbeacon = true\n'
    )
    node = Anvil(require("anvil"))
    try:
        world = AnvilWorld(tmp_path, node)
        claim = tmp_path / "claim"
        shop = Workshop(recorded.claim)
        preregister(world, claim, shop)
        states, losses = shop.train(60)
        shop.claim(claim, states, losses)
        note = (claim / "heads/last.note").read_bytes()
        head = TreeHead.parse(note.decode().partition("\n\n")[0] + "\n")
        anchor(world, claim, note, head)
        write_listing(claim)

        policy = Policy(keys=frozenset({shop.key.public}), sources=asking(node.address, network="proving"))
        found = verify(claim, policy, data=DATA, recipe=DIGITS, recipe_arguments=SGD, timeout=120)
    finally:
        node.stop()
    assert found.outcome is Ruled.VERIFIED, found.reasons
    assert not any("choice" in remark or "not checked" in remark for remark in found.remarks), found.remarks
    assert found.times is not None
    [span] = found.times.spans
    assert (span.first, span.last) == (0, 60)
    low, high = span.interval.not_before, span.interval.not_after
    assert isinstance(low, Bound)
    assert isinstance(high, Bound)
    assert low.final
    assert high.final
    assert low.time <= high.time
    said = found.to_json()
    assert isinstance(said["beacon"], dict)
    assert said["beacon"]["counts_as"] == "beacon"
