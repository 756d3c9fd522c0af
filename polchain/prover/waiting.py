"""Waiting for what was published to become final."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.anchors.base import Receipt, Target
from polchain.anchors.evidence import Evidence
from polchain.anchors.inclusion import check_header, quantity
from polchain.anchors.receipts import FiledReceipt
from polchain.errors import AnchorUnavailableError, RunLockedError
from polchain.prover.anchored import AnchorBook, Kept
from polchain.prover.anchorlog import AnchorLog, Published, bring_up, read_log

if TYPE_CHECKING:
    from polchain.anchors.chain import Chain
    from polchain.anchors.ethereum import EthereumAnchor

__all__ = ["Waiting", "as_kept", "not_final", "wait"]

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 6.0
SAMPLE = 32  # blocks that the time of one is measured over


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is waited for.

    Attributes:
        pending: how many receipts are not final.
        block: the latest block that one of them is in; None while one is in none.
        to_go: how many blocks until that one is final; seconds: how long they take at the pace of the last ones.
        problem: why the network could not be asked this time; empty where it was.
    """

    pending: int
    block: int | None = None
    to_go: int | None = None
    seconds: float | None = None
    problem: str = ""


def wait(
    published: Iterable[Published],
    anchor: EthereumAnchor,
    *,
    timeout: float = 3600.0,
    on_progress: Callable[[Waiting], None] | None = None,
) -> list[Published]:
    """Wait until these are final; each change is written down. A network that is away for a while is waited for.

    Args:
        timeout: the most seconds to wait.
        on_progress: called with what is waited for, after each look.

    Raises:
        AnchorUnavailableError: not final in that time. What was published is kept (`as_kept`).
        AnchorError: a receipt that is not of its head.
        StorageError: the disk refused.
    """
    waiting = list(published)
    logs = {one.run: read_log(one.run) for one in waiting if not one.final}
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    while not all(one.final for one in waiting):
        try:
            waiting = _look(waiting, logs, anchor)
            state = _state([one.receipt for one in waiting if not one.final], anchor)
        except (AnchorUnavailableError, RunLockedError) as error:
            state = Waiting(sum(not one.final for one in waiting), problem=str(error))
        if not state.pending:
            break
        if on_progress is not None:
            on_progress(state)
        left = deadline - time.monotonic()
        if left <= 0:
            raise not_final(anchor.network.name, timeout, state.problem)
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return waiting


def not_final(network: str, timeout: float, problem: str = "") -> AnchorUnavailableError:
    """What to raise where waiting was in vain."""
    return AnchorUnavailableError(
        f"{network}: not final after {timeout:g} s" + (f": {problem}" if problem else ""),
        hint="what was published is kept: `polchain anchor RUN --upgrade --wait` goes on",
    )


def as_kept(published: Iterable[Published]) -> list[Published]:
    """These as they are written down now.

    Raises:
        FormatError: a receipt was damaged meanwhile.
    """
    return [_as_kept(one) for one in published]


def _as_kept(one: Published) -> Published:
    filed = AnchorBook(one.run).find(one.size, one.source)
    if filed is None:
        return one
    return Published(one.run, one.size, one.source, filed.receipt, filed.batch, one.root)


def _look(waiting: Sequence[Published], logs: Mapping[Path, AnchorLog], anchor: EthereumAnchor) -> list[Published]:
    known: dict[Target, Receipt] = {}
    looked = []
    for one in waiting:
        if not one.final:
            with logs[one.run].book.locked():
                now = _as_kept(one)  # another process may have asked since
                kept = Kept(now.source, FiledReceipt(now.size, now.receipt, now.batch))
                one = bring_up(logs[one.run], kept, anchor, known)
        looked.append(one)
    return looked


def _state(pending: Sequence[Receipt], anchor: EthereumAnchor) -> Waiting:
    inclusions = [Evidence.read(receipt).inclusion for receipt in pending]
    headers = [check_header(found.header, found.block) for found in inclusions if found is not None]
    if not headers or len(headers) < len(pending):
        return Waiting(len(pending))
    node = anchor.nodes[0]
    number = max(header.number for header in headers)
    to_go = max(0, number - node.final_height(anchor.network))
    pace = _pace(node)
    return Waiting(len(pending), number, to_go, None if pace is None else pace * to_go)


def _pace(node: Chain) -> float | None:
    """How many seconds a block takes, by the last ones; None where the node does not say."""
    height = node.height()
    span = min(SAMPLE, height)
    newest, older = node.block(height), node.block(height - span)
    if newest is None or older is None or not span:
        return None
    try:
        return (quantity(newest.get("timestamp")) - quantity(older.get("timestamp"))) / span
    except ValueError:
        return None
