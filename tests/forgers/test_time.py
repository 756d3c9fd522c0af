"""Time that is made up: receipts of something else, backdated blocks, strangers' stamps, beacons that were chosen; and
provers who keep two logs. Each is refused by name, against receipts of a real chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rlp

from polchain.anchors.base import Receipt, Target
from polchain.anchors.beacon import DISTANCE, fetch_beacon
from polchain.anchors.chain import Chain, RefusedError
from polchain.anchors.contract import call_data, contract, keccak256
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence
from polchain.anchors.interval import Bound
from polchain.anchors.journal import Journal
from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.sender import Sender
from polchain.anchors.tsa import Tsa
from polchain.anchors.wallet import Key, Unsigned
from polchain.core.claim import head_name, write_listing
from polchain.core.entries import Start
from polchain.core.keys import PrivateKey
from polchain.core.merkle import check_consistency
from polchain.core.note import TreeHead, open_head, sign_head
from polchain.errors import (
    AnchorError,
    AnchorUnavailableError,
    ChainError,
    EquivocationError,
    FormatError,
    InclusionError,
    PolchainError,
    SignatureError,
)
from polchain.verifier.sources import Sources
from polchain.verifier.verdict import Ruled
from tests.anchored import SIZE, AnchoredLog, asking, block_of, changed, hash_of
from tests.anchors.authority import DAY, NOW, Root, receipt_of, sha256
from tests.anchors.worlds import ANVIL_KEY, Anvil, AnvilWorld, Interposed
from tests.claims import entries_of, write_log

# The second of anvil's accounts: not the one that the logs here are bound to.
STRANGER_KEY = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")


@pytest.fixture(scope="module")
def world(require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnvilWorld]:
    node = Anvil(require("anvil"))
    yield AnvilWorld(tmp_path_factory.mktemp("world"), node)
    node.stop()


@pytest.fixture
def log(world: AnvilWorld, tmp_path: Path) -> AnchoredLog:
    return AnchoredLog(tmp_path / "claim", world)


@pytest.fixture
def another(world: AnvilWorld, tmp_path: Path) -> AnchoredLog:
    return AnchoredLog(tmp_path / "another", world)


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tests' chain under a name that says that its blocks are beyond the prover."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "polchain" / "networks.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[proving]\nchain_id = 31337\nfinality = 1\nevidence = "strong"\nbeacon = true\n')
    return "proving"


def refused(
    log: AnchoredLog, words: str, kind: type[PolchainError] = AnchorError, sources: Sources | None = None
) -> None:
    with pytest.raises(kind, match=words) as caught:
        log.times(sources)
    assert type(caught.value) is kind
    assert caught.value.exit_code == 1


def signed_call(target: Target, key: bytes = ANVIL_KEY, chain_id: int = 31337) -> bytes:
    """A transaction that would publish the target, and was never sent."""
    unsigned = Unsigned(chain_id, 999_999, 1, 2, 30_000, to=contract().address, data=call_data(target))
    return Key(key).sign(unsigned)


def published_by(world: AnvilWorld, key: bytes, target: Target) -> Receipt:
    """A receipt of the target, published from another account."""
    wallet = Key(key)
    journal = Journal(world.folder / f"journal-{wallet.address.hex()}")
    anchor = EthereumAnchor(world.network, sender=Sender(world.network, world.chain, wallet, journal))
    receipt = anchor.submit(target)
    world.mine(4)
    return anchor.upgrade(receipt, target)


# Receipts from a chain


def test_a_receipt_of_another_log_is_refused(log: AnchoredLog, another: AnchoredLog) -> None:
    theirs = another.anchor(5)
    log.put(theirs)
    refused(log, r"anchors/5-ethereum-31337\.json: the transaction publishes another head")
    # With a transaction of his own in its place, the event still is the other's.
    log.put(changed(theirs, transaction=signed_call(log.target(5))))
    refused(log, "the transaction receipt is of another log")


def test_a_receipt_of_another_head_is_refused(log: AnchoredLog) -> None:
    five = log.anchor(5)
    log.put(replace(five, head_size=6))
    refused(log, "the transaction publishes another head")
    log.put(changed(replace(five, head_size=6), transaction=signed_call(log.target(6))))
    refused(log, "the transaction receipt is of another head of this log")
    log.put(replace(five, head_size=6))
    (log.claim / "anchors/6-ethereum-31337.json").write_bytes(five.encode())
    write_listing(log.claim)
    refused(log, "the receipt says that it is of a head of 5 entries", FormatError)


def test_a_block_with_another_header_is_refused(log: AnchoredLog) -> None:
    filed = log.anchor(5)
    inclusion = Evidence.read(filed.receipt).inclusion
    assert inclusion is not None
    fields = rlp.decode(inclusion.header)
    fields[11] = (int.from_bytes(fields[11], "big") - 86_400).to_bytes(4, "big")
    log.put(changed(filed, header=rlp.encode(fields)))
    refused(log, "the block header hashes to 0x.*, the receipt names 0x")


def test_a_backdated_block_that_fits_together_convinces_no_node_and_no_pin(world: AnvilWorld, log: AnchoredLog) -> None:
    filed = log.anchor(5)
    inclusion = Evidence.read(filed.receipt).inclusion
    assert inclusion is not None
    fields = rlp.decode(inclusion.header)
    fields[11] = (int.from_bytes(fields[11], "big") - 86_400).to_bytes(4, "big")
    header = rlp.encode(fields)
    log.put(changed(filed, header=header, block=keccak256(header)))
    [anchor] = log.times().anchors
    assert (anchor.status, anchor.reason) == ("unchecked", "no node was asked whether the block is in the chain")
    assert log.times(asking(blocks=[hash_of(filed)])).anchors[0].status == "unchecked"
    [anchor] = log.times(asking(world.node.address)).anchors
    assert (anchor.status, anchor.timestamp) == ("refused", None)
    assert "is not block" in anchor.reason


def test_a_wrong_chain_is_refused(log: AnchoredLog) -> None:
    filed = log.anchor(5)
    log.drop("anchors/5-ethereum-31337.json")
    for chain_id, source, words in (
        (31337, "ethereum-1", "wrong chain: the receipt is of chain 31337, mainnet is 1"),
        (1, "ethereum-31337", "wrong chain: the receipt is of chain 1, local is 31337"),
        (1, "ethereum-1", "wrong chain: the transaction is for chain 31337, not 1"),
        (77, "ethereum-77", "wrong chain: the transaction is for chain 31337, not 77"),
    ):
        name = log.put(changed(filed, chain_id=chain_id), source)
        refused(log, words)
        log.drop(name)


def test_a_testnets_block_passed_off_as_mainnets_is_never_strong(world: AnvilWorld, log: AnchoredLog) -> None:
    # The block is real, the transaction beside it was signed for mainnet and never sent. Nothing offline tells.
    filed = log.anchor(5)
    log.drop("anchors/5-ethereum-31337.json")
    forged = changed(filed, chain_id=1, transaction=signed_call(log.target(5), chain_id=1))
    log.put(forged, "ethereum-1")
    assert log.times().anchors[0].status == "unchecked"
    for sources in (
        asking(world.node.address, network="mainnet"),
        Sources(rpc=(world.node.address,)),
        asking(blocks=[hash_of(filed)]),
    ):
        assert log.times(sources).anchors[0].status == "unchecked"
    [span, _] = log.times(Sources(blocks=frozenset({hash_of(filed)}))).spans
    assert isinstance(span.interval.not_after, Bound)
    assert span.interval.not_after.timestamp.weak == ("pinned without naming its network",)


def test_another_contract_is_refused(log: AnchoredLog) -> None:
    filed = log.anchor(5)
    log.put(changed(filed, contract=bytes(19) + b"\1"))
    refused(log, "wrong contract address")
    log.put(changed(filed, code_hash=bytes(32)))
    refused(log, "wrong contract code")


def test_a_head_published_by_another_than_the_bound_address_is_refused(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world)
    stranger = published_by(world, STRANGER_KEY, log.target(5))
    log.put(FiledReceipt(5, stranger))
    refused(log, r"wrong prover: published by 0x.*, the log is bound to 0x")
    lying = changed(FiledReceipt(5, stranger), prover=Key(ANVIL_KEY).address)
    log.put(lying)
    refused(log, "wrong prover: the transaction is signed by")
    log.put(changed(lying, transaction=signed_call(log.target(5))))
    refused(log, "wrong prover: the event in the transaction receipt names another account")
    # Nobody in particular may publish for a log that binds nobody.
    free = AnchoredLog(tmp_path / "free", world, bound=False)
    free.put(FiledReceipt(5, published_by(world, STRANGER_KEY, free.target(5))))
    assert free.times(asking(world.node.address)).anchors[0].status == "final"
    assert free.times(asking(world.node.address)).forks == (
        "whether the prover published another head of this log was not checked: the genesis binds no address",
    )


def test_a_binding_that_one_side_did_not_sign_is_refused(log: AnchoredLog) -> None:
    binding = log.genesis.ethereum
    assert binding is not None
    entries = entries_of(log.claim)[1:]
    for forged, words in (
        (replace(binding, address=Key(STRANGER_KEY).address), "the log's key did not sign the Ethereum address"),
        (replace(binding, by_address=bytes(65)), "the Ethereum address did not sign the log's key"),
    ):
        write_log(log.claim, [replace(log.genesis, ethereum=forged), *entries], log.key)
        refused(log, words, SignatureError)


def test_a_place_in_a_batch_of_another_head_is_refused(log: AnchoredLog) -> None:
    five, six = log.anchor(5, batch=True), log.anchor(6, batch=True)
    log.put(replace(five, batch=six.batch))
    refused(log, r"5-ethereum-31337-batch\.json: leaf", InclusionError)
    log.put(replace(five, receipt=six.receipt))
    refused(log, "the transaction publishes another head")


def test_a_receipt_under_a_name_that_it_does_not_have_is_refused(log: AnchoredLog) -> None:
    alone, batch = log.anchor(5), log.anchor(6, batch=True)
    for filed, source, kind, words in (
        (alone, "ethereum-31337-batch", FormatError, "a receipt of a batch is named -batch"),
        (batch, "ethereum-31337", FormatError, "a receipt of a batch is named -batch"),
        (alone, "rfc3161-example", FormatError, "a receipt of the kind ethereum under the name of another"),
        (alone, "ethereum-031337", AnchorError, "no policy accepts a receipt of the kind ethereum"),
        (alone, "bitcoin", AnchorError, "no policy accepts a receipt of the kind ethereum from bitcoin"),
    ):
        name = log.put(filed, source)
        refused(log, words, kind)
        log.drop(name)


@pytest.mark.parametrize("source", ["memory", "ethereum-31337", "rfc3161-memory"])
def test_the_double_and_unknown_kinds_are_accepted_by_nobody(log: AnchoredLog, source: str) -> None:
    for kind in ("memory", "prophecy"):
        log.put(FiledReceipt(5, Receipt(kind, "final", {"block": 1})), source)
        refused(log, f"no policy accepts a receipt of the kind {kind} from {source}")


def test_a_pending_receipt_is_none_of_something_else_and_no_time(world: AnvilWorld, log: AnchoredLog) -> None:
    pending = log.anchor(5, final=False)
    assert log.times().anchors[0].status == "pending"
    log.put(changed(pending, status="final"))
    assert log.times(asking(world.node.address)).anchors[0].status == "pending"
    log.put(changed(pending, transaction=signed_call(log.target(6))))
    refused(log, "the transaction publishes another head")
    world.mine(4)


# Tokens

AUTHORITY = Root("root").issue("tsa")
PINNED = Sources(tsas=(Tsa("example", certificates=frozenset({AUTHORITY.pin})),))


def stamped(
    log: AnchoredLog, note: bytes = b"", signer: Any = AUTHORITY, beside: Sequence[bytes] | None = None, **more: Any
) -> None:
    """File a token over the head of 6 entries, which may be over another note."""
    made = signer.token(sha256(note or log.note(6)), 7, **more)
    certificates = [signer.der] if beside is None else beside
    log.put(FiledReceipt(6, receipt_of(made, 7, certificates)), "rfc3161-example")


@pytest.mark.parametrize("sources", [Sources(), PINNED], ids=["nobody trusted", "pinned"])
def test_a_forged_token_is_refused_whoever_is_trusted(log: AnchoredLog, sources: Sources) -> None:
    stamped(log, note=log.note(5))
    refused(log, r"anchors/6-rfc3161-example\.json: the token is over something else than this note", sources=sources)
    stamped(log, signed=b"something else")
    refused(log, "the token's content is not what was signed", sources=sources)
    stamped(log, meant=Root("other").der)
    refused(log, "the token was signed for another certificate", sources=sources)
    # He has the authority's name and certificate, and not its key.
    impostor = Root("root").issue("tsa", serial=AUTHORITY.certificate.serial_number)
    stamped(log, signer=impostor, certificates=[AUTHORITY.der], meant=AUTHORITY.der, beside=[])
    refused(log, "the token's signature is wrong", sources=sources)
    expired = Root("root").issue("tsa", valid=(NOW - 9 * DAY, NOW - 8 * DAY))
    stamped(log, signer=expired)
    refused(log, "was not valid at the token's time", sources=sources)


def test_a_strangers_token_and_one_under_another_policy_are_not_used(log: AnchoredLog) -> None:
    impostor = Root("root").issue("tsa")
    stamped(log, signer=impostor)
    [anchor] = log.times(PINNED).anchors
    assert (anchor.status, anchor.timestamp) == ("refused", None)
    assert anchor.reason.startswith("TSA example: the token was signed with a certificate that is not pinned")
    stamped(log)
    demanding = Sources(tsas=(Tsa("example", certificates=frozenset({AUTHORITY.pin}), policy="1.2.3.9"),))
    [anchor] = log.times(demanding).anchors
    assert anchor.reason == "TSA example: the token is under policy 1.2.3.4.1, not under 1.2.3.9"


def test_a_batch_is_stamped_by_nobody(log: AnchoredLog) -> None:
    batch = log.anchor(6, batch=True)
    made = AUTHORITY.token(sha256(log.note(6)), 7)
    log.put(replace(batch, receipt=receipt_of(made, 7, [AUTHORITY.der])), "rfc3161-example")
    refused(log, "a receipt of a batch is named -batch", FormatError)


def test_times_that_contradict_each_other_are_the_sources_error(world: AnvilWorld, tmp_path: Path, real: str) -> None:
    # A pinned authority that was talked into an early time, over a head that holds a beacon known only later.
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    stamped(log, time=f"{NOW - DAY / 2:%Y%m%d%H%M%S}Z")
    sources = asking(world.node.address, network=real).plus(tsas=PINNED.tsas)
    with pytest.raises(AnchorUnavailableError, match=r"proving block .*; TSA example") as caught:
        log.times(sources)
    assert caught.value.exit_code == 4
    assert caught.value.hint is not None
    assert "leave one of them out" in caught.value.hint


# Beacons


@pytest.mark.parametrize("wait", [DISTANCE - 1, DISTANCE + 1, 5])
def test_a_seed_from_another_block_is_refused(world: AnvilWorld, tmp_path: Path, wait: int) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True, wait=wait)
    refused(log, r"anchors/beacon\.json: beacon: the genesis is in block (\d+), so the seed is the hash of block")


def test_a_seed_that_is_not_the_blocks_hash_is_refused(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    start = entries_of(log.claim)[1]
    assert isinstance(start, Start)
    log.write(replace(start, value=bytes(32)))
    refused(log, "hashes to something else than the value that the seed is made of")
    assert start.beacon is not None
    for ref, words in (
        (replace(start.beacon, chain=1), "said to come from chain 1, and the genesis names chain 31337"),
        (replace(start.beacon, block=start.beacon.block + 1), "the header is of block"),
    ):
        log.write(replace(start, beacon=ref))
        refused(log, words)
        # Nor where the receipt of the genesis is left out.
        saved = {name: (log.claim / name).read_bytes() for name in ("heads/1.note", "anchors/1-ethereum-31337.json")}
        log.drop(*saved)
        refused(log, words)
        (log.claim / "heads").mkdir(exist_ok=True)
        for name, data in saved.items():
            (log.claim / name).write_bytes(data)


def test_a_seed_from_a_later_anchor_of_the_same_genesis_is_not_verified(
    world: AnvilWorld, tmp_path: Path, real: str
) -> None:
    """Whoever publishes his genesis twice has two seeds to choose from."""
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    first = block_of(FiledReceipt.parse((log.claim / "anchors/1-ethereum-31337.json").read_bytes()))
    # The same call again, as a transaction that his journal knows nothing of.
    again = FiledReceipt(1, published_by(world, ANVIL_KEY, log.target(1)))
    start = log.beacon_start(again)
    log.put(again)
    log.write(start)
    sources = asking(world.node.address, network=real)
    verdict = log.verdict(sources)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons == (
        f"the genesis was published before, in proving block {first}:"
        f" the seed had to come from block {first + DISTANCE}",
    )
    # Without a node nobody can tell, and it counts for no more than the prover's own choice.
    verdict = log.verdict(asking(network=real))
    assert any("counts as the prover's own choice" in remark for remark in verdict.remarks)


def test_a_beacon_that_the_genesis_does_not_name_is_refused(world: AnvilWorld, tmp_path: Path, real: str) -> None:
    """Whoever may choose the chain after the genesis has a seed from each to choose from."""
    sources = asking(world.node.address, network=real)
    for bound in (True, False):
        log = AnchoredLog(tmp_path / f"none {bound}", world, bound=bound)
        log.write(log.beacon_start(log.anchor(1)))
        refused(log, "said to come from chain 31337, and the genesis names no beacon", sources=sources)
    other = AnchoredLog(tmp_path / "other", world, names=1)
    start = other.beacon_start(other.anchor(1))
    other.write(start)
    refused(other, "said to come from chain 31337, and the genesis names chain 1", sources=sources)
    # Nor does it help to call the block another chain's.
    assert start.beacon is not None
    other.write(replace(start, beacon=replace(start.beacon, chain=1)))
    refused(other, "the header is of chain 31337, the seed of chain 1", sources=sources)


def test_a_genesis_that_names_a_beacon_and_binds_nobody_is_refused(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world, bound=False, names=31337)
    refused(log, "a beacon takes an address that publishes the genesis", FormatError)


def test_a_search_that_was_made_to_fail_makes_no_beacon(
    world: AnvilWorld, tmp_path: Path, real: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever publishes his genesis many times, and so often that no node lists it all, has drawn his own seed."""
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    again = FiledReceipt(1, published_by(world, ANVIL_KEY, log.target(1)))
    start = log.beacon_start(again)
    log.put(again)
    log.write(start)
    assert start.beacon is not None

    def too_many(*_: Any) -> Any:
        raise RefusedError("the node answers eth_getLogs with an error: more than 10000 results")

    pins = [hash_of(again), start.value]
    flooded = Interposed(Chain.connect(world.node.address), "the flooded one", {"eth_getLogs": too_many})
    monkeypatch.setattr(Chain, "connect", lambda address: flooded)
    for sources in (asking("http://flooded", network=real), asking(network=real, blocks=pins)):
        times = log.times(sources)
        assert times.beacon is not None
        assert times.beacon.missing == ()
        assert times.beacon.doubt.startswith("nobody looked whether the genesis was published before")
        assert times.beacon.to_json()["counts_as"] == "prover"
        assert any(text.startswith("whether the prover published another head") for text in times.forks)


@pytest.mark.parametrize("size", [1, 3, 99])
def test_an_event_that_one_node_made_up_does_not_spoil_an_honest_claim(
    world: AnvilWorld, tmp_path: Path, real: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    log.anchor(SIZE)

    def one_more(answer: Any, *_: Any) -> Any:
        data = (log.target(1).root if size == 1 else bytes(32)) + size.to_bytes(32, "big")
        made = {"data": f"0x{data.hex()}", "blockNumber": "0x1", "transactionHash": f"0x{'11' * 32}"}
        return [{**answer[0], **made}, *answer]

    honest = Chain.connect(world.node.address)
    liar = Interposed(honest, "the liar", {"eth_getLogs": one_more})
    nodes = {"http://honest": honest, "http://liar": liar}
    monkeypatch.setattr(Chain, "connect", lambda address: nodes[address])
    for addresses in (list(nodes), list(reversed(nodes))):
        verdict = log.verdict(asking(*addresses, network=real))
        assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
        assert verdict.times is not None
        assert verdict.times.beacon is not None
        # Whether the genesis was published before is what they differ about, or not.
        assert verdict.times.beacon.to_json()["counts_as"] == ("prover" if size == 1 else "beacon")
        differ, *more = verdict.times.forks
        assert differ == (
            f"the nodes of proving differ: the liar lists 1 head of the bound address that {honest.name} does not,"
            f" the first, of {size} entries, in block 1"
        )
        assert len(more) == (0 if size == 1 else 1)
        assert all(text.endswith("by the word of the liar alone") for text in more)


def test_a_genesis_published_in_a_batch_is_no_preregistration(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world, names=31337)
    log.write(log.beacon_start(log.anchor(1, batch=True)))
    verdict = log.verdict(asking(world.node.address))
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert "no receipt shows the genesis, alone, on local" in verdict.reasons[0]


def test_a_genesis_whose_receipt_is_pending_is_no_preregistration(world: AnvilWorld, tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    filed = FiledReceipt.parse((log.claim / "anchors/1-ethereum-31337.json").read_bytes())
    evidence = replace(Evidence.read(filed.receipt), inclusion=None)
    log.put(replace(filed, receipt=evidence.receipt("final")))
    verdict = log.verdict(asking(world.node.address))
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons == ("the receipt of the genesis on local is pending: its receipt names no block",)


def test_a_beacons_evidence_without_a_beacons_seed_is_refused(world: AnvilWorld, log: AnchoredLog) -> None:
    world.mine(3)
    log.put_beacon(fetch_beacon(world.chain, world.network, 1))
    refused(log, "is there, but the seed is not said to be a beacon's", FormatError)


def test_a_block_of_ones_own_making_is_a_beacon_for_nobody(world: AnvilWorld, tmp_path: Path, real: str) -> None:
    """A header ground until its hash gives a good seed: it fits together, and no chain has it."""
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    start = entries_of(log.claim)[1]
    assert isinstance(start, Start)
    evidence = fetch_beacon(world.chain, world.network, start.beacon.block if start.beacon else 0)
    fields = rlp.decode(evidence.header)
    fields[12] = b"ground"
    forged = replace(evidence, header=rlp.encode(fields))
    log.put_beacon(forged)
    log.write(replace(start, value=forged.value))
    assert any("counts as the prover's own choice" in remark for remark in log.verdict().remarks)
    verdict = log.verdict(asking(world.node.address, network=real))
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert verdict.reasons[0].startswith("the seed's block 0x")
    assert "is not block" in verdict.reasons[0]


# Two logs


def fork(log: AnchoredLog, size: int) -> bytes:
    """A head over other entries, signed by the log's own key."""
    return sign_head(replace(log.head(size), root=bytes(32)), log.key)


def test_two_heads_of_one_size_convict_and_are_printed_whole(log: AnchoredLog) -> None:
    log.anchor(5)
    other = fork(log, 5)
    with pytest.raises(EquivocationError) as caught:
        log.intact(heads={"theirs.note": other})
    assert caught.value.exit_code == 1
    assert other.decode() in str(caught.value)
    assert log.note(5).decode() in str(caught.value)
    assert "heads/5.note" in str(caught.value)
    assert "consistency" not in caught.value.proof
    # Whoever has the key needs nothing else.
    first, second = (open_head(note, log.origin, log.key.public) for note in (log.note(5), other))
    assert (first.size, first.root) != (second.size, second.root)


def test_two_heads_of_different_sizes_convict_with_a_consistency_proof(log: AnchoredLog) -> None:
    other = fork(log, 5)
    with pytest.raises(EquivocationError) as caught:
        log.intact(heads={"theirs.note": other})
    proof = caught.value.proof
    assert other.decode() in proof
    assert log.note(SIZE).decode() in proof
    lines = dict(line.rpartition(": ")[::2] for line in proof.splitlines() if line.startswith("root of"))
    between = bytes.fromhex(lines["root of the first 5"])
    path = [bytes.fromhex(line.rpartition(" ")[2]) for line in proof.splitlines() if line.startswith("consistency")]
    check_consistency(5, between, SIZE, log.head(SIZE).root, path)
    assert between != bytes(32)


def test_a_fork_in_the_claim_itself_convicts_too(log: AnchoredLog) -> None:
    filed = log.anchor(5)
    log.put(filed, note=fork(log, 5))
    with pytest.raises(EquivocationError, match=r"heads/5\.note, of 5 entries, and heads/last\.note, of 7"):
        log.intact()


def test_two_heads_beyond_the_claim_that_differ_convict(log: AnchoredLog) -> None:
    head = TreeHead(log.origin, 20, bytes(32))
    notes = {f"{i}.note": sign_head(replace(head, root=bytes([i]) * 32), log.key) for i in (1, 2)}
    with pytest.raises(EquivocationError, match=r"2\.note, of 20 entries, and 1\.note, of 20"):
        log.intact(heads=notes)


def test_a_rolled_back_claim_is_refused(world: AnvilWorld, log: AnchoredLog) -> None:
    newer = log.note(SIZE)
    start = entries_of(log.claim)[1]
    assert isinstance(start, Start)
    filed = log.anchor(6)
    log.write(start, until=5)
    words = "the claim leaves out entries: its prover signed a head of 6"
    with pytest.raises(ChainError, match=words):
        log.intact()
    log.drop("heads/6.note", "anchors/6-ethereum-31337.json")
    assert log.intact().head.size == 5
    with pytest.raises(ChainError, match=r"a head of 7 \(mine\.note\), and the claim has 5"):
        log.intact(heads={"mine.note": newer})
    # And what was published tells it to whoever asks a node.
    assert filed.head_size == 6
    times = log.times(asking(world.node.address))
    assert times.forks == (
        "the bound address has published a later head, of 6 entries, on local: this claim is not the newest",
    )


def test_a_head_of_another_key_or_log_is_none_of_this(log: AnchoredLog, another: AnchoredLog) -> None:
    stranger = sign_head(log.head(5), PrivateKey.generate())
    for note in (stranger, another.note(5), b"not a note\n", log.note(5)[:-9] + b"AAAAAAAA\n", b""):
        with pytest.raises((SignatureError, FormatError), match=r"elsewhere\.note: "):
            log.intact(heads={"elsewhere.note": note})
    filed = log.anchor(5)
    for note in (stranger, another.note(5)):
        log.put(filed, note=note)
        with pytest.raises(SignatureError, match=r"heads/5\.note: "):
            log.intact()


def test_heads_and_receipts_come_in_pairs(log: AnchoredLog) -> None:
    log.anchor(5)
    log.anchor(6)
    note = (log.claim / head_name(6)).read_bytes()
    log.drop(head_name(6))
    refused(log, r"anchors/6-ethereum-31337\.json is a receipt without its head, heads/6\.note", FormatError)
    (log.claim / head_name(6)).write_bytes(note)
    log.drop("anchors/6-ethereum-31337.json")
    refused(log, r"heads/6\.note is a head without a receipt", FormatError)
    log.anchor(6)
    (log.claim / head_name(6)).write_bytes(log.note(5))
    write_listing(log.claim)
    refused(log, r"heads/6\.note is a head of 5 entries", FormatError)


def test_a_fork_framed_by_a_strangers_address_is_not_looked_at(world: AnvilWorld, log: AnchoredLog) -> None:
    log.anchor(5)
    published_by(world, STRANGER_KEY, replace(log.target(6), root=bytes(32)))
    verdict = log.verdict(asking(world.node.address))
    assert verdict.outcome is Ruled.VERIFIED
    assert "no other head of this log was published by the bound address on local" in verdict.remarks


def test_a_fork_published_by_the_bound_address_is_said_and_convicts_nobody(world: AnvilWorld, log: AnchoredLog) -> None:
    log.anchor(5)
    published_by(world, ANVIL_KEY, replace(log.target(6), root=bytes(32)))
    verdict = log.verdict(asking(world.node.address))
    assert verdict.outcome is Ruled.VERIFIED
    [said] = [remark for remark in verdict.remarks if "published" in remark]
    assert said.startswith("unexplained: the bound address published 1 other head on local, the first, of 6 entries,")
    assert said.endswith("no signed head shows a fork, so it proves nothing")


def test_a_node_that_hides_events_is_not_believed_to_know_of_none(
    world: AnvilWorld, log: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.anchor(5)
    quiet = Interposed(Chain.connect(world.node.address), "the quiet one", {"eth_getLogs": lambda *_: []})
    monkeypatch.setattr(Chain, "connect", lambda address: quiet)
    [said] = log.times(asking("http://quiet")).forks
    assert said.endswith("not checked on local: the quiet one does not list what the claim's receipts prove")
