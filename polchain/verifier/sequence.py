"""Steps (5) to (7) of integrity: entries that follow from each other, in order, over the batches of the seed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

from polchain.core import merkle
from polchain.core.entries import Final as FinalEntry
from polchain.core.entries import KeyChange, Start, chain_base, extend_chain, leaf_data
from polchain.core.genesis import Genesis
from polchain.core.manifest import state_of_roots
from polchain.core.note import TreeHead
from polchain.core.packed import EntryList, Outline
from polchain.errors import ChainError, FormatError, UsageError
from polchain.training.randomness import BatchOrder, run_seed

__all__ = ["check_batches", "check_chain", "check_order", "check_tree"]

# What a verifier is willing to hold in memory: 8 bytes a sample for an epoch's order, some 40 an index for a segment.
MAX_SAMPLES: Final = 2**27
MAX_INDICES: Final = 2**28


def check_tree(leaves: bytes | bytearray, entries: EntryList, head: TreeHead) -> None:
    """Step (5): every entry carries the root of those before it, and the head signs them all.

    Args:
        leaves: the entries' leaf hashes, one after the other.

    Raises:
        ChainError: an entry was changed, swapped or dropped, or the head is of other entries.
    """
    frontier = merkle.Frontier()
    for number in range(len(entries)):
        if entries.prev(number) != frontier.root():
            raise ChainError(
                f"entry {number} does not follow the one before it: an entry was changed, swapped or dropped"
            )
        frontier.append(bytes(leaves[32 * number : 32 * number + 32]))
    if head.size != frontier.size:
        raise ChainError(f"the head signs {head.size} entries, the log has {frontier.size}")
    if head.root != frontier.root():
        raise ChainError("the entries do not rebuild the root that the head signs")


def check_chain(genesis: Genesis, entries: EntryList) -> None:
    """Step (5): every `chain` follows from the states before it.

    Raises:
        ChainError: one does not.
    """
    chain = chain_base(genesis)
    for number in range(len(entries)):
        entry = entries.outline(number)
        if entry is not None:
            chain = extend_chain(chain, state_of_roots(entry.roots)).value
            if entry.chain != chain:
                raise ChainError(f"entry {number}: chain does not follow from the states before it")


def check_order(genesis: Genesis, entries: EntryList) -> array[int]:
    """Step (6): kinds in order, steps by the interval schedule; returns the numbers of the checkpoints.

    Raises:
        ChainError: an entry in the wrong place, or a checkpoint at another step than the schedule has.
    """
    numbers = array("Q")
    last: Outline | None = None
    started = ended = False
    for number in range(1, len(entries)):
        checkpoint = entries.outline(number)
        entry = entries.others.get(number)
        if ended and not isinstance(entry, KeyChange):
            raise ChainError(f"entry {number} comes after the final one")
        if checkpoint is not None:
            _check_step(genesis, started, last, checkpoint, number)
            numbers.append(number)
            last = checkpoint
        elif isinstance(entry, Genesis):
            raise ChainError(f"entry {number} is a second genesis")
        elif isinstance(entry, Start):
            if started or last is not None or genesis.foreign:
                raise ChainError(f"entry {number}: a start in the wrong place")
            if entry.source == "task" and genesis.task is None:
                # A task's seed is bound to no key: without this, anybody's run could be signed again with its seed.
                raise ChainError(f"entry {number}: the seed is a task's, but the genesis names no task")
            started = True
        elif isinstance(entry, FinalEntry):
            before = entries.checkpoint(numbers[-1]) if numbers else None
            if before is None or (entry.step, entry.state, entry.chain) != (before.step, before.state, before.chain):
                raise ChainError(f"entry {number}: the final state is not the last checkpoint's")
            ended = True
    return numbers


def _check_step(genesis: Genesis, started: bool, before: Outline | None, entry: Outline, number: int) -> None:
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
    if entry.updated != (before is not None):
        raise ChainError(f"entry {number}: an update size belongs to every checkpoint but the first")


def check_batches(
    genesis: Genesis, start: Start | None, checkpoints: Iterable[Outline], first: bytes
) -> tuple[bytes | None, BatchOrder | None]:
    """Step (7): the batches are those that the seed gives; returns the seed and the order, None for a foreign run.

    Raises:
        ChainError: a checkpoint names other batches.
        FormatError: more samples than a verifier holds in memory.
    """
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
        digest = order.digest(done, entry.step)
        if entry.batches != (digest.algorithm, digest.value):
            raise ChainError(f"step {entry.step}: the batches are not the ones that the seed gives")
        done = entry.step
    return seed, order
