"""Anchored logs for the tests: undisclosed states, real signatures, receipts of a real chain.

    log = AnchoredLog(folder, world)                 genesis, start, steps 0, 10, 20, 30, final; nothing is published
    log = AnchoredLog(folder, world, beacon=True)    the genesis published first, the seed from the block 64 after it
    log.anchor(5)                                    heads/5.note and its receipt, final

The claim is written as a prover writes it, and listed anew after each change.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from polchain.anchors.base import Receipt, Target, target_of
from polchain.anchors.batch import make_batch
from polchain.anchors.beacon import DISTANCE, BeaconEvidence, fetch_beacon
from polchain.anchors.binding import sign_address_binding
from polchain.anchors.evidence import Evidence
from polchain.anchors.inclusion import check_header
from polchain.anchors.networks import named
from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.wallet import Key
from polchain.core.binding import Binding, sign_key_binding
from polchain.core.claim import BEACON, ENTRIES, Claim, head_name, receipt_name, write_listing
from polchain.core.digest import Digest, blake3, sha256
from polchain.core.entries import BeaconRef, CheckpointEntry, Entry, Final, Start, Update, encode_entry, leaf_data
from polchain.core.genesis import Configuration, DatasetRef, FileRef, Genesis, RecipeRef
from polchain.core.keys import PrivateKey
from polchain.core.merkle import leaf_hash, root
from polchain.core.note import TreeHead, origin_of, sign_head
from polchain.training.randomness import BatchOrder, batch_digest, run_seed
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome, Reproduction
from polchain.verifier.sources import Sources, TrustedNetwork
from polchain.verifier.times import Times
from polchain.verifier.timing import establish
from polchain.verifier.verdict import Verdict, judge
from tests.anchors.worlds import ANVIL_KEY, EthereumWorld
from tests.claims import write_log

RECIPE = b"print('the recipe')\n"
STEPS = (0, 10, 20, 30)
SIZE = 7  # entries: genesis, start, four checkpoints, final
ZERO = Digest("sha256", bytes(32))


class AnchoredLog:
    """A prover, his log and what he publishes of it; `mine` is his chain's clock."""

    def __init__(
        self,
        folder: Path,
        world: EthereumWorld,
        *,
        bound: bool = True,
        beacon: bool = False,
        names: int | None = None,
        wait: int = DISTANCE,
    ) -> None:
        """The genesis names the chain `names` for its beacon; unless told, its own where it has one."""
        self.world = world
        self.claim = folder
        self.key = PrivateKey.generate()
        run_id = secrets.token_bytes(16)
        address = Key(ANVIL_KEY).address
        by_address = sign_address_binding(Key(ANVIL_KEY), self.key.public, run_id)
        binding = Binding(address, sign_key_binding(self.key, run_id, address), by_address) if bound else None
        recipe = RecipeRef("train.py", False, (), (FileRef("train.py", len(RECIPE), blake3(RECIPE)),), ())
        configuration = Configuration(STEPS[-1], 4, ((0, 10),), "fp32", True)
        self.genesis = Genesis(
            run_id,
            self.key.public,
            ethereum=binding,
            beacon=world.network.chain_id if beacon and names is None else names,
            recipe=recipe,
            dataset=DatasetRef(64, ZERO),
            configuration=configuration,
        )
        (folder / "recipe").mkdir(parents=True)
        (folder / "recipe" / "train.py").write_bytes(RECIPE)
        write_log(folder, [self.genesis], self.key)
        start = Start(ZERO, "prover", bytes(32), {})
        if beacon:
            start = self.beacon_start(self.anchor(1), wait)
        self.write(start)

    def beacon_start(self, genesis: FiledReceipt, wait: int = DISTANCE) -> Start:
        """Take the seed from the block `wait` after the genesis, and keep its header."""
        number = block_of(genesis) + wait
        self.world.mine(number + 3 - self.world.chain.height())
        evidence = fetch_beacon(self.world.chain, self.world.network, number)
        self.put_beacon(evidence)
        return Start(ZERO, "beacon", evidence.value, {}, BeaconRef(evidence.chain_id, evidence.network, number))

    def write(self, start: Start, *, until: int = SIZE) -> None:
        """The whole log over that seed, or the beginning of it."""
        assert self.genesis.configuration is not None
        seed = run_seed(start.value, leaf_hash(leaf_data(encode_entry(self.genesis))), start.source)
        order = BatchOrder(seed, 64, self.genesis.configuration.batch_size)
        entries: list[Entry] = [self.genesis, start]
        before = 0
        for step in STEPS:
            roots = {group: sha256(f"{group} {step}".encode()) for group in ("model", "optimizer", "schedule", "extra")}
            batches = batch_digest(list(order.batches(before, step)))
            entries.append(CheckpointEntry(ZERO, step, roots, ZERO, batches, Update(0.5, 0.25) if step else None, 1.5))
            before = step
        entries.append(Final(ZERO, before, roots, ZERO))
        write_log(self.claim, entries[:until], self.key)

    def head(self, size: int) -> TreeHead:
        """The head of the first entries."""
        lines = (self.claim / ENTRIES).read_bytes().splitlines()[:size]
        assert len(lines) == size
        return TreeHead(self.origin, size, root([leaf_hash(leaf_data(line)) for line in lines]))

    @property
    def origin(self) -> str:
        return origin_of(self.key.public, self.genesis.run_id)

    def note(self, size: int) -> bytes:
        """That head, signed."""
        return sign_head(self.head(size), self.key)

    def target(self, size: int) -> Target:
        return target_of(self.head(size), self.note(size))

    def publish(self, target: Target, *, final: bool = True) -> Receipt:
        """A target's receipt from the chain."""
        receipt = self.world.anchor.submit(target)
        if not final:
            return receipt
        self.world.mine(4)
        return self.world.anchor.upgrade(receipt, target)

    def anchor(self, size: int, *, batch: bool = False, final: bool = True) -> FiledReceipt:
        """Publish a head, alone or with a stranger's, and file the receipt."""
        note = self.note(size)
        if batch:
            many = make_batch([note, b"a stranger's head\n", b"and another's\n"])
            filed = FiledReceipt(size, self.publish(many.target, final=final), many.membership(note))
        else:
            filed = FiledReceipt(size, self.publish(self.target(size), final=final))
        self.put(filed)
        return filed

    def put(self, filed: FiledReceipt, source: str = "", *, note: bytes | None = None) -> str:
        """File a receipt, and the head that it is filed under; returns the receipt's name."""
        size = filed.head_size
        source = source or f"ethereum-{self.world.network.chain_id}" + ("-batch" if filed.batch else "")
        (self.claim / "anchors").mkdir(exist_ok=True)
        (self.claim / head_name(size)).write_bytes(note or self.note(size))
        (self.claim / receipt_name(size, source)).write_bytes(filed.encode())
        write_listing(self.claim)
        return receipt_name(size, source)

    def drop(self, *names: str) -> None:
        """Leave files out of the claim."""
        for name in names:
            (self.claim / name).unlink()
        for folder in {(self.claim / name).parent for name in names}:
            if not any(folder.iterdir()):
                folder.rmdir()
        write_listing(self.claim)

    def put_beacon(self, evidence: BeaconEvidence) -> None:
        (self.claim / "anchors").mkdir(exist_ok=True)
        (self.claim / BEACON).write_bytes(evidence.encode())
        write_listing(self.claim)

    def intact(self, sources: Sources | None = None, heads: dict[str, bytes] | None = None) -> IntactClaim:
        """The claim, as a verifier who pins the key finds it; raises what is false."""
        return check_integrity(Claim.read(self.claim), self.policy(sources), heads)

    def times(self, sources: Sources | None = None) -> Times:
        """When it was written, as that verifier finds."""
        return establish(self.intact(sources), self.policy(sources))

    def verdict(self, sources: Sources | None = None) -> Verdict:
        """The verdict of a verifier who replayed everything exactly and vouches for the recipe."""
        intact = self.intact(sources)
        challenge = draw_challenge(intact, bytes(32), 90)
        exact = [Reproduction(pick, Outcome.EXACT, 0.0, 0.0) for pick in (None, *challenge.picks)]
        policy = self.policy(sources)
        return judge(intact, challenge, exact, policy, vouched=True, times=establish(intact, policy))

    def policy(self, sources: Sources | None = None) -> Policy:
        return Policy(keys=frozenset({self.key.public}), sources=sources or Sources())


def asking(*addresses: str, network: str = "local", blocks: Iterable[bytes] = ()) -> Sources:
    """A verifier's sources: the nodes of one network, and the blocks of it that he knows."""
    return Sources((TrustedNetwork(named(network), addresses, frozenset(blocks)),))


def block_of(filed: FiledReceipt) -> int:
    """The number of the block with a receipt's event."""
    inclusion = Evidence.read(filed.receipt).inclusion
    assert inclusion is not None
    return check_header(inclusion.header, inclusion.block).number


def hash_of(filed: FiledReceipt) -> bytes:
    """The hash of that block."""
    inclusion = Evidence.read(filed.receipt).inclusion
    assert inclusion is not None
    return inclusion.block


def changed(filed: FiledReceipt, *, status: Any = None, **changes: Any) -> FiledReceipt:
    """A receipt from a chain with other evidence in it."""
    evidence = Evidence.read(filed.receipt)
    inclusion = {
        name: changes.pop(name) for name in ("block", "header", "index", "receipt", "proof") if name in changes
    }
    if inclusion:
        assert evidence.inclusion is not None
        changes["inclusion"] = replace(evidence.inclusion, **inclusion)
    receipt = replace(evidence, **changes).receipt(status or filed.receipt.status)
    return replace(filed, receipt=receipt)
