"""A cast for disputes: provers who really train on one chain, and thieves who have everything but the past.

    owner = Prover(lab, folder)                   a genesis, published; the seed from the block 64 after it
    owner.train()                                 60 steps, honestly, signed
    thief = Foreigner(lab, folder, [weights])     a log of checkpoints that polchain did not train

The children that train and replay stay warm from one to the next, and a claim is verified once for all disputes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest

from polchain.anchors.batch import make_batch
from polchain.anchors.binding import sign_address_binding
from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.wallet import Key
from polchain.core import merkle
from polchain.core.binding import Binding, sign_key_binding
from polchain.core.claim import HEADS, RECEIPTS, Claim, write_listing
from polchain.core.digest import Digest, blake3
from polchain.core.entries import Entry, KeyChange, encode_entry, leaf_data
from polchain.core.genesis import DatasetRef, FileRef
from polchain.core.keys import PrivateKey
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.merkle import leaf_hash
from polchain.core.note import sign_head
from polchain.core.rows import TensorRow
from polchain.training.randomness import BatchOrder, run_seed
from polchain.verifier import parties
from polchain.verifier.dispute import Case, rule_between
from polchain.verifier.policy import Policy
from polchain.verifier.ruling import Ruling
from polchain.verifier.terms import Terms
from tests.anchored import AnchoredLog, asking
from tests.anchors.worlds import ANVIL_KEY, AnvilWorld
from tests.claims import DATA, copy_of, entries_of, genesis_of, write_log
from tests.court import Memory, foreign_claim
from tests.forgers import warm
from tests.forgers.forge import ZERO, Workshop, tensors_of, with_rows

NETWORKS = '[proving]\nchain_id = 31337\nfinality = 1\nevidence = "strong"\nbeacon = true\n'
HOUR = 3600


class Lab:
    """One chain, children that stay warm, and verdicts that are reached once."""

    def __init__(self, world: AnvilWorld, victim: Path) -> None:
        self.world = world
        self.victim = victim
        self.memory = Memory()

    @contextlib.contextmanager
    def open(self) -> Iterator[Lab]:
        """Put the warm children and the remembered verdicts in their places."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("polchain.verifier.bench.Worker", warm.KeptWorker)
            patch.setattr(parties, "verify_intact", self.memory.verify_once)
            yield self

    def wait(self, seconds: int = HOUR) -> None:
        """Let the chain's clock go on."""
        self.world.chain.ask("evm_increaseTime", seconds)
        self.world.mine()

    def rule(
        self,
        *logs: AnchoredLog,
        model: Path | None = None,
        bases: Sequence[Path] = (),
        pinned: bool = True,
        heads: dict[str, bytes] | None = None,
        distance: float = 1e-3,
    ) -> Ruling:
        """The ruling of an arbiter who has every party's key, the honest recipe, and a node."""
        read = [log.genesis.recipe for log in logs if log.genesis.recipe is not None]
        policy = Policy(
            recipes=frozenset(recipe.program() for recipe in read),
            keys=frozenset(log.genesis.key for log in logs) if pinned else frozenset(),
            sources=asking(self.world.node.address, network="proving"),
            unsafe_no_sandbox=True,
            dispute=Terms(distance, tuple(bases)),
        )
        return rule_between(Case(tuple(log.claim for log in logs), policy, DATA, model, jobs=1, heads=heads or {}))


class Prover(AnchoredLog):
    """Somebody with a recorded run: honest if he trains, a thief if he writes somebody else's states."""

    def __init__(
        self,
        lab: Lab,
        folder: Path,
        *,
        beacon: bool = True,
        recovery: PrivateKey | None = None,
        script: Path | None = None,
    ) -> None:
        self.lab, self.world, self.claim = lab, lab.world, folder
        self.shop = Workshop(lab.victim) if script is None else workshop_of(lab.victim, script)
        self.recovery = recovery
        self.key = self.shop.key
        address = Key(ANVIL_KEY).address
        by_address = sign_address_binding(Key(ANVIL_KEY), self.key.public, self.shop.run_id)
        binding = Binding(address, sign_key_binding(self.key, self.shop.run_id, address), by_address)
        chain = self.world.network.chain_id if beacon else None
        self.genesis = replace(self.shop.genesis, ethereum=binding, beacon=chain)
        if recovery is not None:
            self.genesis = replace(self.genesis, recovery=recovery.public)
        self.shop.genesis = self.genesis
        self.states: list[Snapshot] = []
        assert self.shop.files is not None
        for name, text in self.shop.files.items():
            (folder / "recipe" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "recipe" / name).write_bytes(text)
        write_log(folder, [self.genesis], self.key)
        if beacon:
            self.shop.start = replace(self.beacon_start(self.anchor(1)), fingerprint=self.shop.start.fingerprint)
        start, configuration, dataset = self.shop.start, self.genesis.configuration, self.genesis.dataset
        assert configuration is not None
        assert dataset is not None
        leaf = leaf_hash(leaf_data(encode_entry(self.genesis)))
        self.shop.seed = run_seed(start.value, leaf, start.source)
        self.shop.order = BatchOrder(self.shop.seed, dataset.samples, configuration.batch_size)
        write_log(folder, [self.genesis, start], self.key)

    def train(self, steps: int = 60) -> Prover:
        """Do what he says that he does."""
        self.states, losses = self.shop.train(steps)
        return self.sign(self.states, losses)

    def sign(
        self,
        states: Sequence[Snapshot],
        losses: Sequence[float | None] | None = None,
        edit: Callable[[Entry], Entry] = lambda entry: entry,
    ) -> Prover:
        """Write these states as his log."""
        self.states = list(states)
        self.shop.claim(self.claim, states, losses, edit)
        return self

    def revoke(self) -> Prover:
        """Append that the key counts no more, signed by the recovery key."""
        assert self.recovery is not None
        entries = [*entries_of(self.claim), KeyChange(ZERO, "revoke", self.key.public)]
        write_log(self.claim, entries, self.recovery)
        return self

    def note(self, size: int) -> bytes:
        """That head, signed by whoever signs heads of its size."""
        last = entries_of(self.claim)[size - 1]
        revoked = isinstance(last, KeyChange) and self.recovery is not None
        return sign_head(self.head(size), self.recovery if revoked and self.recovery is not None else self.key)

    def initial(self) -> Snapshot:
        """Initial weights, honestly drawn from his own seed."""
        return self.shop.initial()

    def copy(self, folder: Path, *, anchors: bool = True) -> Prover:
        """Another copy of the same claim, with or without its receipts."""
        other = copy(self)
        other.claim = copy_of(self.claim, folder)
        if not anchors:
            for name in [
                name for name in Claim.read(folder).files if RECEIPTS.fullmatch(name) or HEADS.fullmatch(name)
            ]:
                (folder / name).unlink()
            (folder / "anchors").rmdir()
            write_listing(folder)
        return other

    @property
    def size(self) -> int:
        """The entries of his log."""
        return len((self.claim / "entries.jsonl").read_bytes().splitlines())

    @property
    def weights(self) -> Snapshot:
        """What anybody has of him: the model's rows of his last state."""
        return weights_of(self.states[-1])


def workshop_of(victim: Path, script: Path) -> Workshop:
    """A workshop for another program, on the data that it makes itself."""
    files = {script.name: script.read_bytes()}
    refs = tuple(FileRef(name, len(text), blake3(text)) for name, text in files.items())
    theirs = Workshop(victim).genesis.recipe
    assert theirs is not None
    ref = replace(theirs, entry=script.name, module=False, arguments=(), files=refs)
    with Workshop(victim, ref=ref, files=files).worker() as worker:
        configuration, leaves = worker.commit_dataset()
    data = DatasetRef(len(leaves), Digest("sha256", merkle.root(leaves)))
    return Workshop(victim, ref=ref, files=files, configuration=configuration, dataset=data)


class Foreigner(AnchoredLog):
    """Somebody with a log of checkpoints that polchain did not train."""

    def __init__(
        self, lab: Lab, folder: Path, states: Sequence[Snapshot], parent: Digest | None = None, first: int = 0
    ) -> None:
        self.lab, self.world, self.claim, self.key = lab, lab.world, folder, PrivateKey.generate()
        foreign_claim(folder, states, key=self.key, parent=parent, first=first)
        self.genesis = genesis_of(entries_of(folder))
        self.states = list(states)
        self.size = 1 + len(states)


def weights_of(state: Snapshot) -> Snapshot:
    """The model's rows alone."""
    rows = [row for row in state.manifest.rows if row.name.startswith("model/")]
    names = {row.name for row in rows if isinstance(row, TensorRow)}
    return Snapshot(Manifest.of(rows), {name: state.buffers[name] for name in names})


def nearly(state: Snapshot, factor: float = 1 + 1e-4) -> Snapshot:
    """The same weights within the usual distance, no bit of a row the same."""
    return with_rows(state, {name: tensor * factor for name, tensor in tensors_of(state).items()})


def together(*logs: Prover | Foreigner) -> None:
    """Publish the heads of several logs in one transaction, and so in one block."""
    notes = [log.note(log.size) for log in logs]
    many = make_batch(notes)
    receipt = logs[0].publish(many.target)
    for log, note in zip(logs, notes, strict=True):
        log.put(FiledReceipt(log.size, receipt, many.membership(note)))
