"""A forger's workshop.

From any states that a forger invents it makes a well-formed claim: own key, own run id, a seed bound to both, batches
in the order of that seed, linked entries, a signed head, every file listed. `check_integrity` finds nothing wrong with
it; what is wrong is that the states were not trained.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.published_check import Batches, Sample, gap, settings_of, tensors_of, weights_of
from polchain.core.claim import Claim
from polchain.core.digest import Digest, blake3
from polchain.core.entries import CheckpointEntry, Entry, Final, Start, encode_entry, leaf_data
from polchain.core.genesis import Configuration, DatasetRef, Genesis, RecipeRef
from polchain.core.keys import PrivateKey
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.merkle import leaf_hash
from polchain.core.rows import AliasRow, Row, Scalar, ScalarRow, TensorRow
from polchain.storage.checkpoints import CheckpointStore
from polchain.training.distance import update_size
from polchain.training.fingerprint import setting_of
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder, batch_digest, run_seed
from polchain.training.tensors import DTYPE_NAMES, tensor_bytes
from polchain.training.worker import Worker
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from tests.claims import DATA, write_log
from tests.forgers import warm

ZERO = Digest("sha256", bytes(32))


def constant(step: int) -> float:
    """The factor of a recipe without a schedule."""
    return 1.0


@dataclass
class Workshop:
    """A forger at work, with the claim that he stole from.

    Attributes:
        victim: the claim with the weights he wants to have trained.
        key, run_id, value: his own key, run id and seed value.
        ref, files, configuration: the recipe that he says he ran; the victim's where he names none.
        dataset: the dataset that he commits to; the victim's where he names none.
        source, task: where he says that his seed comes from.
        factor: of the recipe's learning rate, by step.
    """

    victim: Path
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    run_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    value: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    ref: RecipeRef | None = None
    files: Mapping[str, bytes] | None = None
    configuration: Configuration | None = None
    dataset: DatasetRef | None = None
    source: str = "prover"
    task: Digest | None = None
    factor: Callable[[int], float] = constant

    def __post_init__(self) -> None:
        self.stolen: IntactClaim = check_integrity(Claim.read(self.victim), Policy())
        theirs = self.stolen.genesis
        assert theirs.recipe is not None
        assert theirs.dataset is not None
        assert self.stolen.start is not None
        self.files = self.files if self.files is not None else self.stolen.recipe
        self.configuration = self.configuration or theirs.configuration
        self.dataset = self.dataset or theirs.dataset
        assert self.configuration is not None
        self.genesis = Genesis(
            self.run_id,
            self.key.public,
            recipe=self.ref or theirs.recipe,
            dataset=self.dataset,
            configuration=self.configuration,
            task=self.task,
        )
        self.start = Start(ZERO, self.source, self.value, self.stolen.start.fingerprint)
        leaf = leaf_hash(leaf_data(encode_entry(self.genesis)))
        self.seed = run_seed(self.value, leaf, self.source)
        self.order = BatchOrder(self.seed, self.dataset.samples, self.configuration.batch_size)

    def states(self) -> list[Snapshot]:
        """The victim's states, as anybody reads them from his claim."""
        store = CheckpointStore(self.victim)
        return [store.get(entry.state) for entry in self.stolen.checkpoints]

    def worker(self) -> Worker:
        """A process that runs the recipe honestly."""
        assert self.genesis.recipe is not None
        assert self.files is not None
        return warm.KeptWorker(Program(self.genesis.recipe, self.files), setting_of(self.start.fingerprint), DATA)

    def initial(self) -> Snapshot:
        """Initial weights, honestly drawn from the forger's own seed."""
        with self.worker() as worker:
            return worker.initial(self.seed)[0]

    def stops(self) -> list[int]:
        """The steps that have a checkpoint, by the interval schedule."""
        assert self.configuration is not None
        found = [0]
        while found[-1] < self.configuration.steps:
            found.append(self.configuration.next_checkpoint(found[-1]))
        return found

    def batches(self) -> list[Batches]:
        """The batches of each segment, as the seed gives them."""
        return [list(self.order.batches(a, b)) for a, b in pairwise(self.stops())]

    def first(self) -> Snapshot:
        """The victim's first state."""
        return CheckpointStore(self.victim).get(self.stolen.checkpoints[0].state)

    def last(self) -> Snapshot:
        """The victim's last state."""
        return CheckpointStore(self.victim).get(self.stolen.checkpoints[-1].state)

    def target(self) -> dict[str, torch.Tensor]:
        """The weights that he wants to have trained: the victim's last."""
        return weights_of(self.last())

    def stolen_model(self) -> dict[str, torch.Tensor]:
        """The same with the model's buffers, for a state that shows them."""
        return tensors_of(self.last())

    def slot(self, name: str) -> str:
        """What the optimizer's rows of a parameter begin with: a tied one goes by another name there."""
        rows = self.last().manifest.rows
        names = [name, *(row.name for row in rows if isinstance(row, AliasRow) and row.target == name)]
        slots = [f"optimizer/{each.removeprefix('model/')}/" for each in names]
        return next(slot for slot in slots if any(row.name.startswith(slot) for row in rows)).removesuffix("/")

    @property
    def peak(self) -> float:
        """The recipe's learning rate, before its schedule."""
        settings = settings_of(self.first())
        return float(settings.get("initial_lr", settings["lr"]))  # type: ignore[arg-type]

    def rates(self, step: int, steps: int, rate: float | None = None) -> list[float]:
        """The learning rates of so many steps from `step` on; of the recipe, or of one with this peak."""
        peak = self.peak if rate is None else rate
        return [peak * self.factor(each) for each in range(step, step + steps)]

    def scheduled(self, state: Snapshot, step: int, rate: float | None = None) -> Snapshot:
        """A state whose schedule is that of a step; of the recipe, or with another peak of the learning rate."""
        [now] = self.rates(step, 1, rate)
        changed: dict[str, Scalar] = {}
        for row in state.manifest.group("schedule"):
            end = row.name.removeprefix("schedule/")
            if end.endswith("/lr") or end.startswith("scheduler/_last_lr/"):
                changed[row.name] = now
            elif rate is not None and (end.endswith("/initial_lr") or end.startswith("scheduler/base_lrs/")):
                changed[row.name] = rate
            elif end in ("scheduler/last_epoch", "scheduler/_step_count"):
                changed[row.name] = step + (end == "scheduler/_step_count")
        return with_rows(state, {}, changed)

    def train(self, steps: int) -> tuple[list[Snapshot], list[float | None]]:
        """The honest states up to a step, and their losses; trained, not forged."""
        with self.worker() as worker:
            first, _ = worker.initial(self.seed)
            states, losses = self.go_on(worker, first, 0, steps)
        return [first, *states], [None, *losses]

    def go_on(
        self, worker: Worker, state: Snapshot, first: int, last: int
    ) -> tuple[list[Snapshot], list[float | None]]:
        """Train honestly from any state: the states at the checkpoints after `first` up to `last`, and their losses."""
        stops = sum(first < stop <= last for stop in self.stops())
        if not stops:
            return [], []
        found = worker.replay(self.seed, first, last, list(self.order.batches(first, last)), state, stops=stops)
        return [c.snapshot for c in found.closings], [c.loss for c in found.closings]

    def entries(self, states: Sequence[Snapshot], losses: Sequence[float | None] | None = None) -> list[Entry]:
        """A complete log over invented states, at the steps of the interval schedule."""
        made: list[Entry] = [self.genesis, self.start]
        stops = self.stops()
        for index, state in enumerate(states):
            before, step = stops[max(0, index - 1)], stops[index]
            made.append(
                CheckpointEntry(
                    ZERO,
                    step,
                    state.manifest.roots(),
                    ZERO,
                    batches=batch_digest(list(self.order.batches(before, step))),
                    update=update_size(states[index - 1], state) if index else None,
                    loss=losses[index] if losses is not None else None,
                )
            )
        last = made[-1]
        assert isinstance(last, CheckpointEntry)
        return [*made, Final(ZERO, last.step, last.roots, ZERO)]

    def claim(
        self,
        out: Path,
        states: Sequence[Snapshot],
        losses: Sequence[float | None] | None = None,
        edit: Callable[[Entry], Entry] = lambda entry: entry,
        withheld: Collection[int] = (),
    ) -> Path:
        """Write the claim; `edit` may change each entry before it is linked and signed.

        The states with a number in `withheld` are committed to, but not shown.
        """
        store = CheckpointStore(out)
        for number, state in enumerate(states):
            if number not in withheld:
                store.put(state)
        assert self.files is not None
        for name, text in self.files.items():
            target = out / "recipe" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text)
        write_log(out, [edit(entry) for entry in self.entries(states, losses)], self.key)
        return out


@dataclass(frozen=True)
class Forgery:
    """What a forger made, ready to be shown to either verifier.

    Attributes:
        shop: whose it is.
        states, losses: of the claim.
        shown: the batches that he names to the published check, which believes him; those of his seed where None.
        seeds: the seed of each segment's randomness that he names to it; his own where None.
        samples: the data that he shows; the victim's where None.
        edit: what he changes in the entries before he signs them.
        withheld: the numbers of the states that he does not show.
    """

    shop: Workshop
    states: Sequence[Snapshot]
    losses: Sequence[float | None] | None = None
    shown: Sequence[Batches] | None = None
    seeds: Sequence[bytes] | None = None
    samples: Sequence[Sample] | None = None
    edit: Callable[[Entry], Entry] = lambda entry: entry
    withheld: Collection[int] = ()

    @property
    def batches(self) -> Sequence[Batches]:
        """What the published check is told of the batches."""
        return self.shown if self.shown is not None else self.shop.batches()

    def claim(self, out: Path) -> Path:
        """Write the claim."""
        return self.shop.claim(out, self.states, self.losses, self.edit, self.withheld)

    def arrived(self) -> float:
        """How far the last weights are from the stolen ones, as a share of the way that the victim went."""
        target = self.shop.target()
        return gap(weights_of(self.states[-1]), target) / gap(weights_of(self.shop.first()), target)


def with_rows(
    state: Snapshot,
    tensors: Mapping[str, torch.Tensor] | None = None,
    scalars: Mapping[str, Scalar] | None = None,
    roles: Mapping[str, str] | None = None,
) -> Snapshot:
    """A state with some rows replaced or added; a tensor row keeps its role, and a new one has that of `roles`."""
    roles = {**(roles or {}), **{row.name: row.role for row in state.manifest.tensors()}}
    rows: dict[str, Row] = {row.name: row for row in state.manifest.rows}
    buffers = dict(state.buffers)
    for name, tensor in (tensors or {}).items():
        data = memoryview(bytearray(tensor_bytes(tensor)))
        role = roles.get(name, "state")
        rows[name] = TensorRow(name, role, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), blake3(data))
        buffers[name] = data
    for name, value in (scalars or {}).items():
        rows[name] = ScalarRow(name, value)
    return Snapshot(Manifest.of(rows.values()), buffers)


def edited(kind: type, step: int | None = None, **changes: object) -> Callable[[Entry], Entry]:
    """An `edit` for `Workshop.claim`: replaces fields of the entry of this kind (and step)."""

    def edit(entry: Entry) -> Entry:
        if isinstance(entry, kind) and (step is None or getattr(entry, "step", None) == step):
            return replace(entry, **changes)  # type: ignore[type-var]
        return entry

    return edit
