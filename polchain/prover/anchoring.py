"""Anchoring a run: its signed heads are published where time can be trusted.

    run's newest head -> heads/<size>.note -> sent -> anchors/<size>-<source>.json, pending -> final

The note is written before anything is sent and the receipt after, so what is killed on the way is found: the sender's
journal has the transaction (`anchors.sender`), the run has the head it is of, and the next call brings the two
together before it publishes anything new. A head that has a receipt is asked about, never sent again.

One head is published alone. The heads of several runs share one transaction, as a batch (`anchors.batch`); the same
heads make the same batch, and so the same transaction. Of a batch that was interrupted, a run that has grown meanwhile
makes no use: its new head goes into another.

Heads come from the ledger, which is only read: whoever trains is not disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.anchors.base import Receipt, Target
from polchain.anchors.batch import Batch, check_membership, make_batch
from polchain.anchors.chain import RefusedError
from polchain.anchors.networks import Network
from polchain.anchors.receipts import FiledReceipt
from polchain.errors import AnchorUnavailableError, UsageError
from polchain.prover.anchored import Kept
from polchain.prover.anchorlog import (
    AnchorLog,
    Published,
    bring_up,
    different,
    opened,
    read_log,
    source_of,
    source_of_tsa,
    stands,
)
from polchain.prover.waiting import Waiting, wait

if TYPE_CHECKING:
    from polchain.anchors.ethereum import EthereumAnchor
    from polchain.anchors.rfc3161 import Rfc3161Anchor
    from polchain.anchors.sender import Quote

__all__ = [
    "Published",
    "Waiting",
    "complete",
    "publish",
    "publish_from",
    "publish_head",
    "quote",
    "source_of",
    "source_of_tsa",
    "stamp",
    "stamp_from",
    "upgrade",
    "wait",
]


def publish(runs: Sequence[Path], anchor: EthereumAnchor) -> list[Published]:
    """Publish the newest head of each run: of one run alone, of several in one batch, which costs one transaction.

    A run of several whose newest head has a receipt of this network is not published again. What an interrupted call
    has left is completed first.

    Returns:
        One for each different run, in their order.

    Raises:
        UsageError: no run; or a single head that is bound to another account.
        MissingFileError: there is no run.
        RunLockedError: another process is anchoring one of them.
        RolledBackError: a ledger is older than a head that was published.
        FormatError: a receipt is damaged.
        AnchorUnavailableError: the network cannot be reached or refuses; what was signed is kept.
        AnchorError: other code in the contract's place, or a receipt that is not of its head.
        StorageError: the disk refused.
    """
    with opened(runs) as logs, _troubled(logs):
        return publish_from(logs, anchor)


def publish_head(run: Path, size: int, anchor: EthereumAnchor) -> Published:
    """Publish one head of a run alone; the genesis is the head of size 1. See `publish`.

    Raises:
        MissingFileError: there is no run, or its log never had that size.
        And what `publish` raises.
    """
    with opened([run], size) as [log], _troubled([log]):
        complete(log, anchor)
        return _alone(log, size, anchor)


def quote(runs: Sequence[Path], anchor: EthereumAnchor) -> Quote | None:
    """What `publish` would cost; nothing is sent or written. None where it would send nothing new.

    Raises:
        What `publish` raises, but for RunLockedError.
    """
    logs = [read_log(run) for run in different(runs)]
    if len(logs) == 1:
        [log] = logs
        target = log.targets[log.newest]
        if log.book.find(log.newest, source_of(anchor.network)) is not None or anchor.begun(target):
            return None
        log.need_account(anchor)
        return anchor.quote(target)
    lacking = [log for log in logs if _found(log, anchor.network) is None]
    if not lacking or _interrupted(logs, lacking, anchor.network) is not None:
        return None
    target = make_batch(log.note for log in lacking).target
    return None if anchor.begun(target) else anchor.quote(target)


def stamp(run: Path, anchors: Sequence[Rfc3161Anchor]) -> tuple[list[Published], list[AnchorUnavailableError]]:
    """Have a run's newest head stamped by several authorities at once; one that fails does not stop the others.

    Returns:
        The receipts, and why the others gave none; both in the order of `anchors`.

    Raises:
        UsageError: two authorities of one name.
        MissingFileError, RunLockedError, RolledBackError, FormatError, StorageError: as `publish`.
    """
    with opened([run]) as [log]:
        done, failed = stamp_from(log, anchors)
        log.book.set_trouble(str(failed[0][1]) if failed else None)
    return done, [error for _, error in failed]


def upgrade(run: Path, anchor: EthereumAnchor) -> list[Published]:
    """Ask what has become of every pending receipt of the network; nothing new is signed for, unless it is lost.

    What vanished from the chain is sent again. A receipt that an interrupted call has not written is written.

    Returns:
        Those that were pending or not written, as they are now.

    Raises:
        AnchorUnavailableError: the network cannot be reached; or one of the receipts can never become final, and
            then the others were asked about all the same.
        And what `publish` raises.
    """
    with opened([run]) as [log]:
        return upgrade_from(log, anchor)


def publish_from(logs: Sequence[AnchorLog], anchor: EthereumAnchor) -> list[Published]:
    """`publish`, of runs that are locked and read."""
    for log in logs:
        complete(log, anchor)
    if len(logs) == 1:
        return [_alone(logs[0], logs[0].newest, anchor)]
    return _together(logs, anchor)


def stamp_from(
    log: AnchorLog, anchors: Sequence[Rfc3161Anchor]
) -> tuple[list[Published], list[tuple[str, AnchorUnavailableError]]]:
    """`stamp`, of a run that is locked and read; what failed comes with its source."""
    from polchain.anchors.rfc3161 import submit_all

    by_source: dict[str, Rfc3161Anchor] = {}
    for anchor in anchors:
        source = source_of_tsa(anchor.tsa.name)
        if by_source.setdefault(source, anchor) is not anchor:
            raise UsageError(f"two time-stamping authorities are called {anchor.tsa.name}")
    target = log.targets[log.newest]
    found = {source: log.book.find(log.newest, source) for source in by_source}
    asked = [source for source, filed in found.items() if filed is None]
    log.book.put_head(log.newest, target.note)
    failed = []
    for source, answer in zip(asked, submit_all([by_source[source] for source in asked], target), strict=True):
        if isinstance(answer, AnchorUnavailableError):
            failed.append((source, answer))
            continue
        found[source] = FiledReceipt(log.newest, answer)
        log.book.put(source, FiledReceipt(log.newest, answer))
    return [log.published(source, filed) for source, filed in found.items() if filed is not None], failed


def upgrade_from(log: AnchorLog, anchor: EthereumAnchor) -> list[Published]:
    """`upgrade`, of a run that is locked and read."""
    found = complete(log, anchor)
    sources = (source_of(anchor.network), source_of(anchor.network, batch=True))
    lost: AnchorUnavailableError | None = None
    for kept in log.book.receipts():
        done = any((kept.filed.head_size, kept.source) == (one.size, one.source) for one in found)
        if kept.source not in sources or done:
            continue
        try:
            # A final one too: chains with a finality of their own have been known to go back on it.
            if not stands(kept, anchor):
                found.append(bring_up(log, kept, anchor))
        except AnchorUnavailableError as error:
            # A node that answers is asked about the others: one that is lost must not keep them pending.
            if not isinstance(error, RefusedError) and not isinstance(error.__cause__, RefusedError):
                raise
            lost = error
    if lost is not None:
        raise lost
    return found


def complete(log: AnchorLog, anchor: EthereumAnchor) -> list[Published]:
    """Write the receipts of heads whose transaction an interrupted call has signed, and perhaps sent."""
    source = source_of(anchor.network)
    found = []
    for size in log.book.heads():
        target = log.targets[size]
        if log.book.find(size, source) is None and anchor.begun(target):
            filed = FiledReceipt(size, anchor.submit(target))
            log.book.put(source, filed)
            found.append(log.published(source, filed))
    return found


def _alone(log: AnchorLog, size: int, anchor: EthereumAnchor) -> Published:
    source, target = source_of(anchor.network), log.targets[size]
    filed = log.book.find(size, source)
    if filed is not None:
        return bring_up(log, Kept(source, filed), anchor)
    log.need_account(anchor)
    log.book.put_head(size, target.note)
    filed = FiledReceipt(size, anchor.submit(target))
    log.book.put(source, filed)
    return log.published(source, filed)


def _together(logs: Sequence[AnchorLog], anchor: EthereumAnchor) -> list[Published]:
    found = {log.run: _found(log, anchor.network) for log in logs}
    lacking = [log for log in logs if found[log.run] is None]
    known: dict[Target, Receipt] = {}
    done = {log.run: bring_up(log, kept, anchor, known) for log in logs if (kept := found[log.run]) is not None}
    if lacking:
        batch = _interrupted(logs, lacking, anchor.network) or make_batch(log.note for log in lacking)
        for log in lacking:
            log.book.put_head(log.newest, log.note)
        receipt = known.get(batch.target) or anchor.submit(batch.target)
        source = source_of(anchor.network, batch=True)
        for log in lacking:
            filed = FiledReceipt(log.newest, receipt, batch.membership(log.note))
            log.book.put(source, filed)
            done[log.run] = log.published(source, filed)
    return [done[log.run] for log in logs]


def _interrupted(logs: Sequence[AnchorLog], lacking: Sequence[AnchorLog], network: Network) -> Batch | None:
    """The batch whose receipt some of the runs have and the others lack, because the call that made it was killed."""
    source = source_of(network, batch=True)
    holders: dict[Target, list[AnchorLog]] = {}
    for log in logs:
        filed = log.book.find(log.newest, source)
        if filed is not None and filed.batch is not None:
            holders.setdefault(check_membership(log.note, filed.batch), []).append(log)
    for target, having in holders.items():
        batch = make_batch(log.note for log in (*having, *lacking))
        if batch.target == target:
            return batch
    return None


def _found(log: AnchorLog, network: Network) -> Kept | None:
    """The receipt that the newest head has of the network: alone, else in a batch."""
    for source in (source_of(network), source_of(network, batch=True)):
        filed = log.book.find(log.newest, source)
        if filed is not None:
            return Kept(source, filed)
    return None


@contextmanager
def _troubled(logs: Sequence[AnchorLog]) -> Iterator[None]:
    """Write down in the runs why this failed, or that it worked."""
    try:
        yield
    except AnchorUnavailableError as error:
        for log in logs:
            log.book.set_trouble(str(error))
        raise
    for log in logs:
        log.book.set_trouble(None)
