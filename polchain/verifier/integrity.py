"""Integrity: Claim + Policy -> IntactClaim, or the error that says what is false.

     (1) limits, paths, canonical bytes                    (6) kinds in order, steps by the interval schedule
     (2) every file listed, none extra                     (7) batch digests recomputed from the seed
     (3) the pinned key, where one is given                (8) manifests match entries, tensors match manifests
     (4) the head's signature and origin                   (9) anchored and other heads extend one log
     (5) entries rebuild the root; prev and chain hold    (10) receipts

(1) and (2) begin in `Claim.read`. (9) and (10) have nothing to look at until claims carry more than their last head.
No torch is loaded: this runs anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from polchain.core import merkle
from polchain.core.claim import ENTRIES, HEAD, Claim, checkpoint_name, manifest_name
from polchain.core.entries import (
    CheckpointEntry,
    Entry,
    KeyChange,
    Start,
    chain_base,
    extend_chain,
    leaf_data,
    parse_entry,
)
from polchain.core.entries import Final as FinalEntry
from polchain.core.genesis import Genesis
from polchain.core.manifest import FileRow, check_manifest
from polchain.core.note import TreeHead, open_head, origin_of
from polchain.errors import ChainError, FormatError, KeyMismatchError, UsageError
from polchain.storage.checkpoints import read_tensors
from polchain.training.randomness import BatchOrder, batch_digest, run_seed
from polchain.verifier.policy import Policy

__all__ = ["IntactClaim", "Segment", "check_integrity"]

# What a verifier is willing to hold in memory: 8 bytes a sample for an epoch's order, some 40 an index for a segment.
MAX_SAMPLES: Final = 2**27
MAX_INDICES: Final = 2**28

_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Segment:
    """The steps between two consecutive checkpoints: `first` to `last`, `last` excluded."""

    index: int
    opening: CheckpointEntry
    closing: CheckpointEntry

    @property
    def first(self) -> int:
        """The first step."""
        return self.opening.step

    @property
    def last(self) -> int:
        """The step after the last one."""
        return self.closing.step

    @property
    def steps(self) -> int:
        """How many steps."""
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class IntactClaim:
    """A claim whose integrity holds. Only `check_integrity` makes one.

    Attributes:
        claim: the claim's files.
        genesis, start: the entries of that kind; no start in a foreign run.
        checkpoints: the checkpoint entries, by rising step.
        key_changes: rotations and revocations, which are not evaluated yet.
        final: the final entry, where the log has one.
        head: the signed head over all entries.
        pinned: whether the policy pinned the key.
        recipe: the recipe's files by path.
        order: which samples each step used; None for a foreign run.
        seed: the run's seed; None for a foreign run.
    """

    claim: Claim
    genesis: Genesis
    start: Start | None
    checkpoints: tuple[CheckpointEntry, ...]
    key_changes: tuple[KeyChange, ...]
    final: FinalEntry | None
    head: TreeHead
    pinned: bool
    recipe: Mapping[str, bytes]
    order: BatchOrder | None
    seed: bytes | None
    seal: object

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("an IntactClaim comes from check_integrity alone")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, by rising step."""
        pairs = zip(self.checkpoints, self.checkpoints[1:], strict=False)
        return tuple(Segment(index, opening, closing) for index, (opening, closing) in enumerate(pairs))

    @property
    def steps(self) -> int:
        """Steps that the log commits to."""
        return self.checkpoints[-1].step if self.checkpoints else 0


def check_integrity(claim: Claim, policy: Policy) -> IntactClaim:
    """Check that a claim is what its prover signed, byte by byte.

    Raises:
        EvidenceError: what is false, by name: a format, a signature, a key, a root, a link, a manifest, a tensor.
        MissingFileError: a file that every claim has is not there.
    """
    # (1) limits, paths, canonical bytes: each parser below refuses what it would not have written.
    data = tuple(claim.entries())
    entries = tuple(_parse(number, entry) for number, entry in enumerate(data))
    genesis = entries[0] if entries else None
    if not isinstance(genesis, Genesis):
        raise ChainError("the log does not begin with a genesis")

    # (3) the pinned key, before anything that it signs is believed
    if policy.keys and genesis.key not in policy.keys:
        raise KeyMismatchError(
            f"the claim is signed by {genesis.key}, which is not the pinned key",
            hint="the prover's key comes from outside the claim: ask for it again",
        )

    # (4) the head's signature and origin
    head = open_head(claim.head(), origin_of(genesis.key, genesis.run_id), genesis.key)

    # (5) entries rebuild the root; each prev and chain holds
    _check_tree(data, entries, head)
    _check_chain(genesis, entries)

    # (6) kinds in order, steps increasing by the interval schedule
    checkpoints = _check_order(genesis, entries)
    start = next((entry for entry in entries if isinstance(entry, Start)), None)

    # (7) batch digests, recomputed from the seed
    seed, order = _check_batches(genesis, start, checkpoints, data[0])

    # (2) again: what is listed is what the log refers to, and nothing else
    _check_layout(claim, genesis, checkpoints)

    # (8) manifests match entries, disclosed tensors match manifests
    for entry in checkpoints:
        _check_state(claim, genesis, entry)

    return IntactClaim(
        claim=claim,
        genesis=genesis,
        start=start,
        checkpoints=checkpoints,
        key_changes=tuple(entry for entry in entries if isinstance(entry, KeyChange)),
        final=next((entry for entry in entries if isinstance(entry, FinalEntry)), None),
        head=head,
        pinned=bool(policy.keys),
        recipe=claim.recipe(),
        order=order,
        seed=seed,
        seal=_SEAL,
    )


def _parse(number: int, data: bytes) -> Entry:
    try:
        return parse_entry(data)
    except FormatError as error:
        raise FormatError(f"entry {number}: {error}", hint=error.hint) from error


def _check_tree(data: tuple[bytes, ...], entries: tuple[Entry, ...], head: TreeHead) -> None:
    frontier = merkle.Frontier()
    for number, (raw, entry) in enumerate(zip(data, entries, strict=True)):
        if entry.prev.value != frontier.root():
            raise ChainError(
                f"entry {number} does not follow the one before it: an entry was changed, swapped or dropped"
            )
        frontier.append(merkle.leaf_hash(leaf_data(raw)))
    if head.size != frontier.size:
        raise ChainError(f"the head signs {head.size} entries, the log has {frontier.size}")
    if head.root != frontier.root():
        raise ChainError("the entries do not rebuild the root that the head signs")


def _check_chain(genesis: Genesis, entries: tuple[Entry, ...]) -> None:
    chain = chain_base(genesis)
    for number, entry in enumerate(entries):
        if isinstance(entry, CheckpointEntry):
            expected = extend_chain(chain, entry.state)
            if entry.chain != expected:
                raise ChainError(f"entry {number}: chain does not follow from the states before it")
            chain = expected.value


def _check_order(genesis: Genesis, entries: tuple[Entry, ...]) -> tuple[CheckpointEntry, ...]:
    checkpoints: list[CheckpointEntry] = []
    started = ended = False
    for number, entry in enumerate(entries[1:], start=1):
        if ended:
            raise ChainError(f"entry {number} comes after the final one")
        if isinstance(entry, Genesis):
            raise ChainError(f"entry {number} is a second genesis")
        if isinstance(entry, Start):
            if started or checkpoints or genesis.foreign:
                raise ChainError(f"entry {number}: a start in the wrong place")
            if entry.source == "task" and genesis.task is None:
                # A task's seed is bound to no key: without this, anybody's run could be signed again with its seed.
                raise ChainError(f"entry {number}: the seed is a task's, but the genesis names no task")
            started = True
        elif isinstance(entry, CheckpointEntry):
            _check_step(genesis, started, checkpoints[-1] if checkpoints else None, entry, number)
            checkpoints.append(entry)
        elif isinstance(entry, FinalEntry):
            last = checkpoints[-1] if checkpoints else None
            if last is None or (entry.step, entry.state, entry.chain) != (last.step, last.state, last.chain):
                raise ChainError(f"entry {number}: the final state is not the last checkpoint's")
            ended = True
    return tuple(checkpoints)


def _check_step(
    genesis: Genesis, started: bool, before: CheckpointEntry | None, entry: CheckpointEntry, number: int
) -> None:
    configuration = genesis.configuration
    if configuration is None:
        if before is not None and entry.step <= before.step:
            raise ChainError(f"entry {number}: step {entry.step} does not come after step {before.step}")
        return
    if not started:
        raise ChainError(f"entry {number}: a checkpoint before the start")
    expected = 0 if before is None else configuration.next_checkpoint(before.step)
    if before is not None and before.step >= configuration.steps:
        raise ChainError(f"entry {number}: a checkpoint after the last step, {configuration.steps}")
    if entry.step != expected:
        raise ChainError(f"entry {number}: step {entry.step} where the interval schedule has step {expected}")
    if (entry.update is None) != (before is None):
        raise ChainError(f"entry {number}: an update size belongs to every checkpoint but the first")


def _check_batches(
    genesis: Genesis, start: Start | None, checkpoints: tuple[CheckpointEntry, ...], first: bytes
) -> tuple[bytes | None, BatchOrder | None]:
    if genesis.dataset is None or genesis.configuration is None or start is None:
        return None, None
    seed = run_seed(start.value, merkle.leaf_hash(leaf_data(first)), start.source)
    size = genesis.configuration.batch_size
    if genesis.dataset.samples > MAX_SAMPLES:
        raise FormatError(f"genesis: {genesis.dataset.samples} samples, over the limit of {MAX_SAMPLES}")
    try:
        order = BatchOrder(seed, genesis.dataset.samples, size)
    except UsageError as error:
        raise FormatError(f"genesis: {error}") from error
    done = 0
    for entry in checkpoints:
        if (entry.step - done) * size > MAX_INDICES:
            raise FormatError(f"step {entry.step}: a segment of over {MAX_INDICES} samples")
        if entry.batches != batch_digest(list(order.batches(done, entry.step))):
            raise ChainError(f"step {entry.step}: the batches are not the ones that the seed gives")
        done = entry.step
    return seed, order


def _check_layout(claim: Claim, genesis: Genesis, checkpoints: tuple[CheckpointEntry, ...]) -> None:
    known = {ENTRIES, HEAD}
    for entry in checkpoints:
        known |= {manifest_name(entry.state), checkpoint_name(entry.state)}
    files = genesis.recipe.files if genesis.recipe is not None else ()
    for ref in files:
        name = f"recipe/{ref.path}"
        known.add(name)
        listed = claim.files.get(name)
        if listed is None:
            raise FormatError(f"{name} is part of the recipe, but not of the claim", hint="ask the prover for it")
        if (listed.size, listed.digest) != (ref.size, ref.digest):
            raise FormatError(f"{name} is not the file that the genesis commits to")
    extra = sorted(claim.files.keys() - known)
    if extra:
        raise FormatError(f"{extra[0]} belongs to nothing in the log")


def _check_state(claim: Claim, genesis: Genesis, entry: CheckpointEntry) -> None:
    manifest = claim.manifest(entry.state)
    path = claim.checkpoint(entry.state)
    if manifest is None:
        if path is not None:
            raise FormatError(f"step {entry.step}: tensors without a manifest")
        return
    check_manifest(manifest, entry.roots)
    if not genesis.foreign and any(isinstance(row, FileRow) for row in manifest.rows):
        raise FormatError(f"step {entry.step}: an unopened file in the state of a recorded run")
    if path is not None:
        # The length by the manifest first: hashing a file that is said to be huge would take for ever.
        read_tensors(path, manifest)
        claim.check_file(checkpoint_name(entry.state))
