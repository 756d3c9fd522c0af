"""Integrity: Claim + Policy -> IntactClaim, or the error that says what is false.

     (1) limits, paths, canonical bytes                    (6) kinds in order, steps by the interval schedule
     (2) every file listed, none extra                     (7) batch digests recomputed from the seed
     (3) the pinned key, where one is given                (8) manifests match entries, tensors match manifests
     (4) the head's signature and origin                   (9) anchored and other heads extend one log
     (5) entries rebuild the root; prev and chain hold    (10) receipts

(1) and (2) begin in `Claim.read`; (5) to (7) are in `sequence`, (9) in `heads`, (10) in `receipts`. Nobody is asked:
when a head was published is for `timing` to find out. No torch is loaded: this runs anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from polchain.anchors.binding import check_address_binding
from polchain.core.binding import check_key_binding
from polchain.core.claim import (
    BEACON,
    CHECKPOINTS,
    ENTRIES,
    HEAD,
    HEADS,
    MANIFESTS,
    RECEIPTS,
    Claim,
    checkpoint_name,
    manifest_name,
)
from polchain.core.entries import CheckpointEntry, Entry, KeyChange, Start, leaf_data, parse_entry
from polchain.core.entries import Final as FinalEntry
from polchain.core.genesis import Genesis
from polchain.core.keyline import KeyLine, key_line
from polchain.core.manifest import check_manifest
from polchain.core.merkle import leaf_hash
from polchain.core.note import TreeHead, open_head, origin_of
from polchain.core.packed import EntryList, Lazy
from polchain.core.rows import FileRow
from polchain.errors import ChainError, FormatError, KeyMismatchError
from polchain.storage.checkpoints import read_tensors
from polchain.training.randomness import BatchOrder
from polchain.verifier.heads import SignedHead, check_heads
from polchain.verifier.policy import Policy
from polchain.verifier.receipts import AnchoredHead, BeaconBlock, check_beacon_block, check_receipts
from polchain.verifier.sequence import check_batches, check_chain, check_order, check_tree

__all__ = ["IntactClaim", "Segment", "check_integrity"]

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

    def __str__(self) -> str:
        return f"steps {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class IntactClaim:
    """A claim whose integrity holds. Only `check_integrity` makes one.

    Attributes:
        claim: the claim's files.
        genesis, start: the entries of that kind; no start in a foreign run.
        checkpoints: the checkpoint entries, by rising step.
        key_changes: rotations and revocations.
        keys: who signs the log's heads.
        final: the final entry, where the log has one.
        head: the signed head over all entries.
        pinned: whether the policy pinned the key.
        recipe: the recipe's files by path.
        order: which samples each step used; None for a foreign run.
        seed: the run's seed; None for a foreign run.
        numbers: the number of each checkpoint's entry.
        roots: the root of the first 0, 1, 2, ... entries.
        anchored: the receipts, true in themselves.
        beacon: what is known of the seed's beacon; None where the seed comes from elsewhere.
        cut: whether the log goes on after the last checkpoint here, which a verdict on an earlier state is not about.
    """

    claim: Claim
    genesis: Genesis
    start: Start | None
    checkpoints: Sequence[CheckpointEntry]
    key_changes: tuple[KeyChange, ...]
    keys: KeyLine
    final: FinalEntry | None
    head: TreeHead
    pinned: bool
    recipe: Mapping[str, bytes]
    order: BatchOrder | None
    seed: bytes | None
    numbers: Sequence[int]
    roots: Sequence[bytes]
    anchored: tuple[AnchoredHead, ...]
    beacon: BeaconBlock | None
    seal: object
    cut: bool = False

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("an IntactClaim comes from check_integrity alone")

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments, by rising step; each is made when it is asked for."""
        entries = self.checkpoints
        return Lazy(range(len(entries) - 1), lambda i: Segment(i, entries[i], entries[i + 1]))

    @property
    def steps(self) -> int:
        """Steps that the log commits to."""
        return self.checkpoints[-1].step if self.checkpoints else 0


def check_integrity(claim: Claim, policy: Policy, heads: Mapping[str, bytes] | None = None) -> IntactClaim:
    """Check that a claim is what its prover signed, byte by byte.

    Args:
        claim: the claim.
        policy: what the verifier trusts.
        heads: signed heads of this log that the verifier got elsewhere, as notes, by a name for messages.

    Raises:
        EvidenceError: what is false, by name: a format, a signature, a key, a root, a link, a manifest, a tensor.
        MissingFileError: a file that every claim has is not there.
    """
    # (1) limits, paths, canonical bytes: each parser below refuses what it would not have written.
    entries, leaves, first = EntryList(), bytearray(), b""
    for number, data in enumerate(claim.entries()):
        entries.append(_parse(number, data))
        leaves += leaf_hash(leaf_data(data))
        first = first or data
    genesis = entries.others.get(0)
    if not isinstance(genesis, Genesis):
        raise ChainError("the log does not begin with a genesis")

    # (3) the pinned key, before anything that it signs is believed
    if policy.keys and genesis.key not in policy.keys:
        raise KeyMismatchError(
            f"the claim is signed by {genesis.key}, which is not the pinned key",
            hint="the prover's key comes from outside the claim: ask for it again",
        )

    # (4) the head's signature and origin; the address that the key is bound to, where it is to one
    note = claim.head()
    changes = tuple((number, entry) for number, entry in entries.others.items() if isinstance(entry, KeyChange))
    keys = key_line(genesis, changes, len(entries))
    head = open_head(note, origin_of(genesis.key, genesis.run_id), keys.signer(len(entries)))
    if genesis.ethereum is not None:
        check_key_binding(genesis.ethereum, genesis.key, genesis.run_id)
        check_address_binding(genesis.ethereum, genesis.key, genesis.run_id)

    # (5) entries rebuild the root; each prev and chain holds
    check_tree(leaves, entries, head)
    check_chain(genesis, entries)
    roots = Lazy(range(len(entries) + 1), lambda size: entries.prev(size) if size < len(entries) else head.root)

    # (6) kinds in order, steps increasing by the interval schedule
    numbers = check_order(genesis, entries)
    checkpoints = Lazy(numbers, entries.checkpoint)
    starts = [(number, entry) for number, entry in entries.others.items() if isinstance(entry, Start)]
    started, start = starts[0] if starts else (0, None)

    # (7) batch digests, recomputed from the seed
    outlines = (one for one in map(entries.outline, numbers) if one is not None)
    seed, order = check_batches(genesis, start, outlines, first)

    # (2) again: what is listed is what the log refers to, and nothing else
    disclosed = _check_layout(claim, genesis, checkpoints)

    # (8) manifests match entries, disclosed tensors match manifests
    for number in disclosed:
        _check_state(claim, genesis, checkpoints[number])

    # (9) anchored heads, and those from elsewhere, extend one log
    anchored_heads = check_heads(claim, SignedHead(HEAD, head, note), roots, claim.entries, keys, heads or {})

    # (10) receipts, and the beacon's block, which is found by one of them
    anchored = check_receipts(claim, genesis, anchored_heads, policy.sources)
    beacon = check_beacon_block(claim, genesis, start, started, anchored, policy.sources)

    return IntactClaim(
        claim=claim,
        genesis=genesis,
        start=start,
        checkpoints=checkpoints,
        key_changes=tuple(entry for _, entry in changes),
        keys=keys,
        final=next((entry for entry in entries.others.values() if isinstance(entry, FinalEntry)), None),
        head=head,
        pinned=bool(policy.keys),
        recipe=claim.recipe(),
        order=order,
        seed=seed,
        numbers=numbers,
        roots=roots,
        anchored=anchored,
        beacon=beacon,
        seal=_SEAL,
    )


def _parse(number: int, data: bytes) -> Entry:
    try:
        return parse_entry(data)
    except FormatError as error:
        raise FormatError(f"entry {number}: {error}", hint=error.hint) from error


def _check_layout(claim: Claim, genesis: Genesis, checkpoints: Sequence[CheckpointEntry]) -> list[int]:
    """Check which files there are; returns the places of the checkpoints of which some are."""
    known = {ENTRIES, HEAD, BEACON}
    known |= {name for name in claim.files if HEADS.fullmatch(name) or RECEIPTS.fullmatch(name)}
    states = {name for name in claim.files if MANIFESTS.fullmatch(name) or CHECKPOINTS.fullmatch(name)}
    disclosed = []
    for place, entry in enumerate(checkpoints) if states else ():
        names = states & {manifest_name(entry.state), checkpoint_name(entry.state)}
        if names:
            known |= names
            disclosed.append(place)
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
    return disclosed


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
