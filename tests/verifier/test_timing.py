"""When a log was written: what nodes, pinned blocks and authorities make of its receipts, on a real chain."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from polchain.anchors.base import Timestamp
from polchain.anchors.beacon import DISTANCE, fetch_beacon
from polchain.anchors.chain import Chain
from polchain.anchors.deploy import deploy
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.interval import Bound, Unknown
from polchain.anchors.journal import Journal
from polchain.anchors.networks import Network, named
from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.sender import Sender
from polchain.anchors.tsa import Tsa
from polchain.anchors.wallet import Key
from polchain.core.entries import BeaconRef, Start
from polchain.errors import AnchorError, AnchorUnavailableError, UsageError
from polchain.verifier.sources import Sources
from polchain.verifier.verdict import Ruled
from tests.anchored import SIZE, ZERO, AnchoredLog, asking, block_of, changed, hash_of
from tests.anchors.authority import Root, accurate, receipt_of, sha256
from tests.anchors.worlds import ANVIL_KEY, Anvil, AnvilWorld, Interposed

OWNER = "a local chain, whose blocks its owner dates"
NOBODY = "no node was asked whether the block is in the chain"
DEAD = "http://127.0.0.1:9/a-secret-path"


@pytest.fixture(scope="module")
def world(require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnvilWorld]:
    node = Anvil(require("anvil"))
    yield AnvilWorld(tmp_path_factory.mktemp("world"), node)
    node.stop()


@pytest.fixture
def log(world: AnvilWorld, tmp_path: Path) -> AnchoredLog:
    """A log whose head of 5 entries, up to step 20, was published; nothing else was."""
    log = AnchoredLog(tmp_path / "claim", world)
    log.anchor(5)
    return log


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tests' chain under a name that says that its blocks are beyond the prover."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "polchain" / "networks.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[proving]\nchain_id = 31337\nfinality = 1\nevidence = "strong"\nbeacon = true\n')
    return "proving"


def after(log: AnchoredLog, sources: Sources | None = None) -> Timestamp:
    """What bounds the first steps from above."""
    bound = log.times(sources).spans[0].interval.not_after
    assert isinstance(bound, Bound)
    return bound.timestamp


# Blocks


def test_without_a_node_or_a_pin_nothing_is_final_and_the_words_say_why(log: AnchoredLog) -> None:
    times = log.times()
    assert [(one.source, one.size, one.step, one.status, one.reason) for one in times.anchors] == [
        ("ethereum-31337", 5, 20, "unchecked", NOBODY)
    ]
    assert [(span.first, span.last) for span in times.spans] == [(0, 20), (30, 30)]
    assert str(times.spans[0]).startswith("steps 0 to 20: not before unknown; not after local block ")
    assert str(times.spans[0]).endswith(f"UTC, unchecked, weak: {OWNER}, {NOBODY}")
    assert str(times.spans[1]) == "step 30: not before unknown; not after unknown"
    assert times.forks == ("whether the prover published another head of this log was not checked: no node was asked",)


def test_a_node_that_is_alone_makes_it_final_and_weak(world: AnvilWorld, log: AnchoredLog) -> None:
    for sources in (asking(world.node.address), Sources(rpc=(world.node.address,))):
        stamp = after(log, sources)
        assert (stamp.status, stamp.weak) == ("final", (OWNER, "a single RPC"))
        forks = log.times(sources).forks
        assert forks == ("no other head of this log was published by the bound address on local",)


def test_with_the_node_switched_off_a_pinned_block_is_final(require: Callable[[str], str], tmp_path: Path) -> None:
    node = Anvil(require("anvil"))
    try:
        log = AnchoredLog(tmp_path / "claim", AnvilWorld(tmp_path, node))
        pin = hash_of(log.anchor(5))
    finally:
        node.stop()
    assert (after(log, asking(blocks=[pin])).status, after(log, asking(blocks=[pin])).weak) == ("final", (OWNER,))
    # Its network was not named, and a block's hash does not say it.
    stamp = after(log, Sources(blocks=frozenset({pin})))
    assert (stamp.status, stamp.weak) == ("final", (OWNER, "pinned without naming its network"))
    assert after(log, asking(blocks=[bytes(32)])).status == "unchecked"
    # A pin for another network is none for this one.
    assert after(log, asking(network="mainnet", blocks=[pin])).status == "unchecked"
    stamp = after(log, asking(node.address))
    assert stamp.status == "unchecked"
    assert any("cannot be reached" in reason for reason in stamp.weak)
    # The pin needs no node.
    assert after(log, asking(node.address, blocks=[pin])).status == "final"


def test_a_dead_node_a_node_behind_and_one_of_another_chain_vouch_for_nothing(
    world: AnvilWorld, log: AnchoredLog, require: Callable[[str], str]
) -> None:
    stamp = after(log, asking(world.node.address, DEAD))
    assert stamp.status == "unchecked"
    assert any("127.0.0.1:9 cannot be reached" in reason for reason in stamp.weak)
    assert not any("secret" in reason for reason in stamp.weak)
    [said] = log.times(asking(world.node.address, DEAD)).forks
    assert f"by the word of {world.chain.name} alone: 127.0.0.1:9 cannot be reached" in said
    behind, foreign = Anvil(require("anvil")), Anvil(require("anvil"), "--chain-id", "99")
    try:
        for node, words in ((behind, "has no block"), (foreign, "wrong chain")):
            stamp = after(log, asking(world.node.address, node.address))
            assert stamp.status == "unchecked"
            assert any(words in reason for reason in stamp.weak), stamp.weak
    finally:
        behind.stop()
        foreign.stop()


def test_a_block_that_is_not_final_yet_is_unchecked(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world)
    pending = world.anchor.submit(log.target(5))
    world.mine()
    log.put(FiledReceipt(5, world.anchor.upgrade(pending, log.target(5))))
    stamp = after(log, asking(world.node.address))
    assert stamp.status == "unchecked"
    assert any(reason.startswith("not final yet on") for reason in stamp.weak)
    world.mine(3)
    # The prover's word is still "pending"; the chain's counts.
    assert after(log, asking(world.node.address)).status == "final"


def test_nodes_that_contradict_each_other_are_an_error_of_theirs(
    world: AnvilWorld, log: AnchoredLog, require: Callable[[str], str]
) -> None:
    other = Anvil(require("anvil"))
    try:
        Chain.connect(other.address).ask("anvil_mine", hex(1000))
        for addresses in ((world.node.address, other.address), (other.address, world.node.address)):
            with pytest.raises(AnchorUnavailableError, match="contradict each other") as caught:
                log.times(asking(*addresses))
            assert caught.value.exit_code == 4
    finally:
        other.stop()


@pytest.mark.parametrize("status", ["final", "pending"])
def test_a_block_that_every_node_denies_gives_no_time_whatever_the_receipt_calls_itself(
    world: AnvilWorld, log: AnchoredLog, require: Callable[[str], str], status: str
) -> None:
    log.put(changed(log.anchor(6), status=status))
    other = Anvil(require("anvil"))
    try:
        Chain.connect(other.address).ask("anvil_mine", hex(1000))
        times = log.times(asking(other.address))
    finally:
        other.stop()
    for anchor in times.anchors:
        assert (anchor.status, anchor.timestamp) == ("refused", None)
        assert anchor.reason.endswith(f"{urlsplit(other.address).netloc} has not got it")
    assert all(span.interval.not_after == Unknown() for span in times.spans)
    assert any(remark.startswith("a receipt from ethereum-31337 is refused: block 0x") for remark in times.remarks)
    # The rest of the claim stands.
    assert log.verdict(asking(world.node.address)).outcome is Ruled.VERIFIED


def test_a_beacon_whose_blocks_every_node_denies_is_inconclusive(
    world: AnvilWorld, tmp_path: Path, require: Callable[[str], str], real: str
) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    other = Anvil(require("anvil"))
    try:
        Chain.connect(other.address).ask("anvil_mine", hex(world.chain.height() + 10))
        verdict = log.verdict(asking(other.address, network=real))
    finally:
        other.stop()
    assert verdict.outcome is Ruled.INCONCLUSIVE
    beacon, genesis = verdict.reasons
    assert beacon.startswith("the seed's block 0x")
    assert beacon.endswith("has not got it")
    assert genesis.startswith("the receipt of the genesis on proving is refused: block 0x")
    assert verdict.times is not None
    assert all(span.interval.not_before == Unknown() for span in verdict.times.spans)


def test_one_node_under_two_spellings_is_one(world: AnvilWorld, log: AnchoredLog) -> None:
    port = urlsplit(world.node.address).port
    spellings = [f"http://127.0.0.1:{port}", f"http://localhost:{port}/", f"http://LocalHost:{port}"]
    assert "a single RPC" in after(log, asking(*spellings)).weak


def test_a_second_node_that_lies_makes_nothing_final(
    world: AnvilWorld, log: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_hash(answer: Any, *_: Any) -> Any:
        return {**answer, "hash": f"0x{'11' * 32}"}

    honest = Chain.connect(world.node.address)
    liar = Interposed(honest, "the liar", {"eth_getBlockByNumber": other_hash})
    nodes = {"http://honest": honest, "http://liar": liar}
    monkeypatch.setattr(Chain, "connect", lambda address: nodes[address])
    with pytest.raises(AnchorUnavailableError, match="contradict each other"):
        log.times(asking("http://honest", "http://liar"))
    garbled = Interposed(honest, "garbled", {"eth_getBlockByNumber": lambda *_: "nonsense"})
    nodes["http://liar"] = garbled
    assert after(log, asking("http://honest", "http://liar")).status == "unchecked"


def test_a_prover_whose_block_vanished_is_not_called_a_liar(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world)
    pending = world.anchor.submit(log.target(5))
    world.mine()
    log.put(FiledReceipt(5, world.anchor.upgrade(pending, log.target(5))))
    world.vanish()
    [anchor] = log.times(asking(world.node.address)).anchors
    assert (anchor.status, anchor.timestamp) == ("refused", None)
    assert "is not block" in anchor.reason
    world.mine(3)


def test_nodes_of_a_network_that_nobody_named_are_not_guessed_at(world: AnvilWorld, log: AnchoredLog) -> None:
    foreign = asking(network="sepolia")
    assert after(log, foreign.plus(rpc=[world.node.address])).status == "final"
    unanchored = AnchoredLog(log.claim.parent / "second", world)
    assert unanchored.times(Sources(rpc=(world.node.address,))).remarks == (
        "the log is not anchored: it says what, not when",
    )


class Elsewhere:
    """Another chain, with a node and PolAnchor on it."""

    def __init__(self, node: Anvil, folder: Path) -> None:
        self.address = node.address
        self.chain = Chain.connect(node.address)
        network = Network("other", 4242, finality=1)
        sender = Sender(network, self.chain, Key(ANVIL_KEY), Journal(folder / "journal"))
        deploy(sender, with_proxy=True, patience=5)
        self.anchor = EthereumAnchor(network, sender=sender)

    def publish(self, log: AnchoredLog, size: int) -> FiledReceipt:
        pending = self.anchor.submit(log.target(size))
        self.chain.ask("anvil_mine", hex(3))
        return FiledReceipt(size, self.anchor.upgrade(pending, log.target(size)))


@pytest.fixture
def elsewhere(require: Callable[[str], str], tmp_path: Path) -> Iterator[Elsewhere]:
    node = Anvil(require("anvil"), "--chain-id", "4242")
    yield Elsewhere(node, tmp_path)
    node.stop()


def test_two_networks_and_one_unnamed_node_are_a_usage_error(
    world: AnvilWorld, log: AnchoredLog, elsewhere: Elsewhere
) -> None:
    log.put(elsewhere.publish(log, 6), "ethereum-4242")
    with pytest.raises(UsageError, match=r"2 networks \(chain 4242, local\): of which is the node"):
        log.times(Sources(rpc=(world.node.address,)))
    # A chain that no table knows is called by its number, whatever the prover calls it.
    [first, second] = log.times(asking(world.node.address)).anchors
    assert (first.status, second.status) == ("final", "unchecked")
    assert second.timestamp is not None
    assert second.timestamp.source.startswith("chain 4242 block ")
    assert "a chain that this verifier does not know" in second.timestamp.weak


def test_heads_of_a_batch_are_dated_by_the_batch(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world)
    block = block_of(log.anchor(SIZE, batch=True))
    [span] = log.times(asking(world.node.address)).spans
    assert (span.first, span.last) == (0, 30)
    assert after(log, asking(world.node.address)).source == f"local block {block}"


def test_a_pending_receipt_gives_no_time_and_is_said(world: AnvilWorld, log: AnchoredLog) -> None:
    log.anchor(6, final=False)
    times = log.times(asking(world.node.address))
    assert [one.status for one in times.anchors] == ["final", "pending"]
    assert str(times.spans[1]) == "step 30: not before unknown; not after pending"
    assert "a receipt from ethereum-31337 is pending: its receipt names no block" in times.remarks
    world.mine(3)


# Authorities

AUTHORITY = Root("root").issue("tsa")
PINNED = Tsa("example", certificates=frozenset({AUTHORITY.pin}))
STRANGER = Root("other").issue("tsa")


def token(log: AnchoredLog, size: int, signer: Any = AUTHORITY, **more: Any) -> FiledReceipt:
    made = signer.token(sha256(log.note(size)), 7, accuracy=accurate(2), **more)
    return FiledReceipt(size, receipt_of(made, 7, [signer.der]))


def test_a_token_of_a_pinned_authority_is_final(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world)
    log.put(token(log, 6), "rfc3161-whatever")
    stamp = after(log, Sources(tsas=(PINNED,)))
    assert (stamp.source, stamp.status, stamp.margin, stamp.weak) == ("TSA example", "final", 2, ())


def test_a_token_that_nobody_pinned_is_unchecked_and_names_what_to_pin(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world)
    log.put(token(log, 6), "rfc3161-whatever")
    [anchor] = log.times().anchors
    assert anchor.status == "unchecked"
    assert anchor.reason == f"no authority is trusted; this one's certificate is {AUTHORITY.pin}"
    assert after(log).status == "unchecked"


def test_among_trusted_authorities_a_strangers_token_is_refused_and_not_used(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world)
    log.put(token(log, 6), "rfc3161-ours")
    log.put(token(log, 7, STRANGER), "rfc3161-theirs")
    times = log.times(Sources(tsas=(PINNED,)))
    ours, theirs = times.anchors
    assert (ours.status, theirs.status, theirs.timestamp) == ("final", "refused", None)
    assert "a certificate that is not pinned" in theirs.reason
    assert any(remark.startswith("a receipt from rfc3161-theirs is refused: TSA example:") for remark in times.remarks)
    log.drop("heads/6.note", "anchors/6-rfc3161-ours.json")
    assert all(span.interval.not_after == Unknown() for span in log.times(Sources(tsas=(PINNED,))).spans)


def test_an_authority_that_knows_the_day_only_is_refused(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world)
    made = AUTHORITY.token(sha256(log.note(6)), 7, accuracy=accurate(90_000))
    log.put(FiledReceipt(6, receipt_of(made, 7, [AUTHORITY.der])), "rfc3161-slow")
    for sources in (Sources(), Sources(tsas=(PINNED,))):
        [anchor] = log.times(sources).anchors
        assert anchor.status == "refused"
        assert "says nothing" in anchor.reason


# Beacons


def test_a_beacon_that_is_real_and_vouched_for_bounds_from_below_and_needs_no_excuse(
    world: AnvilWorld, tmp_path: Path, real: str
) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    log.anchor(SIZE)
    sources = asking(world.node.address, network=real)
    times = log.times(sources)
    assert times.beacon is not None
    assert (times.beacon.missing, times.beacon.doubt) == ((), "")
    assert times.beacon.to_json()["counts_as"] == "beacon"
    [span] = times.spans
    assert isinstance(span.interval.not_before, Bound)
    assert span.interval.not_before.final
    assert not any("own choice" in remark for remark in times.remarks)
    assert log.verdict(sources).outcome is Ruled.VERIFIED
    assert not any("own choice" in remark for remark in log.verdict(sources).remarks)


def test_a_beacon_on_a_chain_of_ones_own_counts_as_ones_own_choice(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    log.anchor(SIZE)
    for sources in (asking(world.node.address), None):
        verdict = log.verdict(sources)
        assert verdict.outcome is Ruled.VERIFIED
        assert f"the seed counts as the prover's own choice: local is {OWNER}" in verdict.remarks
        assert verdict.times is not None
        assert all(span.interval.not_before == Unknown() for span in verdict.times.spans)


def test_a_beacon_that_nobody_vouches_for_counts_as_ones_own_choice(
    world: AnvilWorld, tmp_path: Path, real: str
) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    genesis, beacon = (hash_of(log.anchor(1)), log.times().beacon)
    assert beacon is not None
    assert beacon.block.header is not None
    pin = beacon.block.header.hash
    both = asking(network=real, blocks=[pin, genesis])
    for sources, words in (
        (asking(network=real), "nobody vouches for the beacon's block: no node was asked"),
        (asking(network=real, blocks=[pin]), "nobody vouches for the block with the genesis: no node was asked"),
        (asking(network=real, blocks=[genesis]), "nobody vouches for the beacon's block: no node was asked"),
        (asking(DEAD, network=real), "127.0.0.1:9 cannot be reached"),
        (asking(network=real).plus(blocks=[pin, genesis]), "the beacon's block was pinned without naming its network"),
    ):
        verdict = log.verdict(sources)
        assert verdict.outcome is Ruled.VERIFIED
        [remark] = [remark for remark in verdict.remarks if "own choice" in remark]
        assert words in remark
    # What only a node can tell was not asked.
    times = log.verdict(both).times
    assert times is not None
    assert times.beacon is not None
    assert times.beacon.doubt.startswith("nobody looked whether the genesis was published before")
    assert times.beacon.to_json()["counts_as"] == "prover"


def test_of_several_chains_only_the_one_that_the_genesis_names_has_a_seed(
    world: AnvilWorld, tmp_path: Path, elsewhere: Elsewhere, real: str
) -> None:
    table = tmp_path / "config" / "polchain" / "networks.toml"
    table.write_text(table.read_text() + '[other]\nchain_id = 4242\nfinality = 1\nevidence = "strong"\nbeacon = true\n')
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    sources = asking(world.node.address, network=real).plus(named("other"), [elsewhere.address])
    other = elsewhere.publish(log, 1)
    log.put(other, "ethereum-4242")
    times = log.times(sources)
    assert times.beacon is not None
    assert (times.beacon.missing, times.beacon.doubt) == ((), "")
    number = block_of(other) + DISTANCE
    elsewhere.chain.ask("anvil_mine", hex(DISTANCE))
    evidence = fetch_beacon(elsewhere.chain, elsewhere.anchor.network, number)
    log.put_beacon(evidence)
    log.write(Start(ZERO, "beacon", evidence.value, {}, BeaconRef(4242, "other", number)))
    with pytest.raises(AnchorError, match="said to come from chain 4242, and the genesis names chain 31337"):
        log.times(sources)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("anchors/beacon.json", "which the claim does not show"),
        ("anchors/1-ethereum-31337.json", "no receipt shows the genesis, alone, on local"),
    ],
)
def test_a_beacon_without_its_evidence_is_inconclusive_and_says_what_is_missing(
    world: AnvilWorld, tmp_path: Path, lost: str, words: str
) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    log.anchor(SIZE)
    log.drop(lost, *(["heads/1.note"] if "1-" in lost else []))
    verdict = log.verdict(asking(world.node.address))
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert len(verdict.reasons) == 1
    assert words in verdict.reasons[0]


# What is loaded


def test_web3_is_loaded_only_to_ask_a_node(world: AnvilWorld, log: AnchoredLog) -> None:
    program = """
import sys
from polchain.cli.app import main
code = main(sys.argv[1:])
print(code, *sorted({"torch", "web3"} & sys.modules.keys()), file=sys.stderr)
"""
    pin = f"0x{hash_of(log.anchor(5)).hex()}"
    for more, loaded in (([], ""), (["--block-hash", pin], ""), (["--rpc", world.node.address], " web3")):
        words = ["verify", str(log.claim), "--integrity-only", "--network", "local", *more]
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == f"0{loaded}", done.stderr
