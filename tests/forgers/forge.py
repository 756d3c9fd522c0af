"""A forger's workshop.

From any states that a forger invents it makes a well-formed claim: own key, own run id, a seed bound to both, batches
in the order of that seed, linked entries, a signed head, every file listed. `check_integrity` finds nothing wrong with
it; what is wrong is that the states were not trained.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from polchain.core.claim import Claim
from polchain.core.digest import Digest, blake3
from polchain.core.entries import CheckpointEntry, Entry, Final, Start, encode_entry, leaf_data
from polchain.core.genesis import Configuration, Genesis, RecipeRef
from polchain.core.manifest import Manifest, Row, Scalar, ScalarRow, Snapshot, TensorRow, group_of
from polchain.core.merkle import leaf_hash
from polchain.core.note import PrivateKey
from polchain.storage.checkpoints import CheckpointStore
from polchain.training.distance import update_size
from polchain.training.fingerprint import setting_of
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder, batch_digest, run_seed
from polchain.training.state import DTYPE_NAMES, tensor_bytes, tensor_from
from polchain.training.worker import Worker
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from tests.claims import DATA, write_log

ZERO = Digest("sha256", bytes(32))


@dataclass
class Workshop:
    """A forger at work, with the claim that he stole from.

    Attributes:
        victim: the claim with the weights he wants to have trained.
        key, run_id, value: his own key, run id and seed value.
        ref, files, configuration: the recipe that he says he ran; the victim's where he names none.
        source, task: where he says that his seed comes from.
    """

    victim: Path
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    run_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    value: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    ref: RecipeRef | None = None
    files: Mapping[str, bytes] | None = None
    configuration: Configuration | None = None
    source: str = "prover"
    task: Digest | None = None

    def __post_init__(self) -> None:
        self.stolen: IntactClaim = check_integrity(Claim.read(self.victim), Policy())
        theirs = self.stolen.genesis
        assert theirs.recipe is not None
        assert theirs.dataset is not None
        assert self.stolen.start is not None
        self.files = self.files if self.files is not None else self.stolen.recipe
        self.configuration = self.configuration or theirs.configuration
        assert self.configuration is not None
        self.genesis = Genesis(
            self.run_id,
            self.key.public,
            recipe=self.ref or theirs.recipe,
            dataset=theirs.dataset,
            configuration=self.configuration,
            task=self.task,
        )
        self.start = Start(ZERO, self.source, self.value, self.stolen.start.fingerprint)
        leaf = leaf_hash(leaf_data(encode_entry(self.genesis)))
        self.seed = run_seed(self.value, leaf, self.source)
        self.order = BatchOrder(self.seed, theirs.dataset.samples, self.configuration.batch_size)

    def states(self) -> list[Snapshot]:
        """The victim's states, as anybody reads them from his claim."""
        store = CheckpointStore(self.victim)
        return [store.get(entry.state) for entry in self.stolen.checkpoints]

    def worker(self) -> Worker:
        """A process that runs the recipe honestly."""
        assert self.genesis.recipe is not None
        assert self.files is not None
        return Worker(Program(self.genesis.recipe, self.files), setting_of(self.start.fingerprint), DATA)

    def initial(self) -> Snapshot:
        """Initial weights, honestly drawn from the forger's own seed."""
        with self.worker() as worker:
            return worker.initial(self.seed)[0]

    def train(self, steps: int) -> tuple[list[Snapshot], list[float | None]]:
        """The honest states up to a step, and their losses; trained, not forged."""
        assert self.configuration is not None
        stops, at = 0, 0
        while at < steps:
            at, stops = self.configuration.next_checkpoint(at), stops + 1
        with self.worker() as worker:
            first, _ = worker.initial(self.seed)
            found = worker.replay(self.seed, 0, steps, list(self.order.batches(0, steps)), first, stops=stops)
        return [first, *(c.snapshot for c in found.closings)], [None, *(c.loss for c in found.closings)]

    def entries(self, states: Sequence[Snapshot], losses: Sequence[float | None] | None = None) -> list[Entry]:
        """A complete log over invented states, at the steps of the interval schedule."""
        assert self.configuration is not None
        made: list[Entry] = [self.genesis, self.start]
        step = 0
        for index, state in enumerate(states):
            before = step
            step = 0 if index == 0 else self.configuration.next_checkpoint(step)
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
    ) -> Path:
        """Write the claim; `edit` may change each entry before it is linked and signed."""
        store = CheckpointStore(out)
        for state in states:
            store.put(state)
        assert self.files is not None
        for name, text in self.files.items():
            target = out / "recipe" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text)
        write_log(out, [edit(entry) for entry in self.entries(states, losses)], self.key)
        return out


def tensors_of(state: Snapshot, group: str = "model") -> dict[str, torch.Tensor]:
    """Copies of a state's tensors, by the names of their rows."""
    return {
        row.name: tensor_from(bytearray(state.buffers[row.name]), row.dtype, row.shape)
        for row in state.manifest.tensors()
        if group_of(row.name) == group
    }


def settings_of(state: Snapshot) -> dict[str, Scalar]:
    """The settings of a state's first parameter group, as the checkpoint has them."""
    prefix = "schedule/settings/0/"
    return {
        row.name.removeprefix(prefix): row.value
        for row in state.manifest.group("schedule")
        if isinstance(row, ScalarRow) and row.name.startswith(prefix)
    }


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
