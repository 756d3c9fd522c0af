"""What a prover has published about a log: the events of PolAnchor, asked of a node.

    eth_getLogs  contract, [Anchored, prover, log], first block to newest  ->  (block, size, root, transaction), ...

Whoever anchored one head and shows another is found this way. A public node limits how many blocks one question may
span: refused, the span is halved, and the search goes on in pieces. A node that leaves events out is not found out
here: who must be sure asks several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from polchain.anchors.base import Target
from polchain.anchors.chain import Chain, RefusedError
from polchain.anchors.contract import contract, event_topics
from polchain.anchors.inclusion import quantity, raw_bytes
from polchain.anchors.networks import Network
from polchain.errors import AnchorUnavailableError

__all__ = ["Event", "published"]

SMALLEST: Final = 1_000  # blocks; a node that refuses these has another reason
MAX_CALLS: Final = 200

# How some nodes, or what stands before them, say that a question is too large.
_TOO_LARGE: Final = (400, 413, 504)


@dataclass(frozen=True, slots=True)
class Event:
    """A head that was published.

    Attributes:
        block: the number of its block.
        size: the head's entries.
        root: the head's root.
        transaction: the hash of the transaction.
    """

    block: int
    size: int
    root: bytes
    transaction: bytes


def published(
    chain: Chain, network: Network, *, log: bytes, prover: bytes, first: int = 0, last: int | None = None
) -> tuple[Event, ...]:
    """Every event of a log by a prover, from block `first` to block `last`, or the newest, in the chain's order.

    Raises:
        AnchorUnavailableError: the node cannot be reached, is of another chain, has no block `first` or `last` yet,
            refuses or answers nonsense; or there are too many blocks to search by the pieces that it allows.
    """
    chain.expect(network)
    topics = event_topics(prover, Target(log, bytes(32), 0))
    newest = _newest(chain)
    needed = first if last is None else max(first, last)
    if newest < needed:
        # Nothing found would read as nothing there.
        raise AnchorUnavailableError(f"{chain.name} has no block {needed} yet: its newest is {newest}")
    if last is not None:
        newest = last
    found: dict[tuple[int, int, int], Event] = {}
    span = newest - first + 1
    calls = 0
    while first <= newest:
        calls += 1
        end = min(first + span - 1, newest)
        try:
            answer = _ask(chain, topics, first, end)
        except AnchorUnavailableError as error:
            asked = end - first + 1
            if asked <= SMALLEST or not _too_large(error):
                raise
            span = max(asked // 2, SMALLEST)
            if calls + -(-(newest - first + 1) // span) > MAX_CALLS:
                raise AnchorUnavailableError(
                    f"{chain.name}: too many blocks to search: {newest - first + 1}, by {span} or fewer at a time",
                    hint="a node that allows more, or a later first block",
                ) from error
            continue
        for place, event in _events(chain, answer, topics, range(first, end + 1)):
            if place in found:
                raise _nonsense(chain, "eth_getLogs")
            found[place] = event
        first = end + 1
    return tuple(event for _, event in sorted(found.items(), key=lambda item: item[0]))


def _newest(chain: Chain) -> int:
    block = chain.block("latest") or {}
    try:
        return quantity(block["number"])
    except (KeyError, ValueError) as error:
        raise _nonsense(chain, "eth_getBlockByNumber") from error


def _ask(chain: Chain, topics: tuple[bytes, ...], first: int, last: int) -> Any:
    wanted = {
        "address": f"0x{contract().address.hex()}",
        "topics": [f"0x{topic.hex()}" for topic in topics],
        "fromBlock": hex(first),
        "toBlock": hex(last),
    }
    return chain.ask("eth_getLogs", wanted)


def _too_large(error: AnchorUnavailableError) -> bool:
    """Whether a smaller question may get an answer; nodes say no in too many words to tell why."""
    return isinstance(error, RefusedError) or getattr(error.__cause__, "code", None) in _TOO_LARGE


def _events(
    chain: Chain, answer: Any, topics: tuple[bytes, ...], blocks: range
) -> list[tuple[tuple[int, int, int], Event]]:
    """The answer, read: each event with its place in the chain."""
    # A node's array is a list; a provider in this process may have a tuple.
    if not isinstance(answer, list | tuple):
        raise _nonsense(chain, "eth_getLogs")
    try:
        return [_event(one, topics, blocks) for one in answer if not _removed(one)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _nonsense(chain, "eth_getLogs") from error


def _removed(one: Mapping[str, Any]) -> bool:
    """Whether a reorganisation took the event away; not every node has the field."""
    removed = one.get("removed", False)
    if type(removed) is not bool:
        raise ValueError("removed")
    return removed


def _event(one: Mapping[str, Any], topics: tuple[bytes, ...], blocks: range) -> tuple[tuple[int, int, int], Event]:
    if raw_bytes(one["address"]) != contract().address or tuple(raw_bytes(each) for each in one["topics"]) != topics:
        raise ValueError("another event than asked for")
    data, transaction = raw_bytes(one["data"]), raw_bytes(one["transactionHash"])
    block = quantity(one["blockNumber"])
    if len(data) != 64 or any(data[32:56]) or len(transaction) != 32 or block not in blocks:
        raise ValueError("lengths or block")
    place = (block, quantity(one["transactionIndex"]), quantity(one["logIndex"]))
    return place, Event(block, int.from_bytes(data[32:], "big"), data[:32], transaction)


def _nonsense(chain: Chain, method: str) -> AnchorUnavailableError:
    return AnchorUnavailableError(f"{chain.name} answers {method} with nonsense")
