"""What is known of when a log was written: the values that `timing` makes, and their JSON."""

from __future__ import annotations

from dataclasses import dataclass

from polchain.anchors.base import Timestamp
from polchain.anchors.interval import Bound, Evidence, Interval, Unknown
from polchain.core.encoding import JSON
from polchain.verifier.receipts import BeaconBlock

__all__ = ["AnchorTime", "BeaconTime", "StepSpan", "Times", "plain"]


@dataclass(frozen=True, slots=True)
class AnchorTime:
    """What one receipt was found to prove.

    Attributes:
        source, size: the receipt, as its file names it.
        step: the last step whose state the head covers; None where it covers none.
        status: final, unchecked, pending or refused.
        timestamp: None while pending, and if refused.
        reason: why it is unchecked, pending or refused.
    """

    source: str
    size: int
    step: int | None
    status: str
    timestamp: Timestamp | None
    reason: str

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {"source": self.source, "size": self.size, "status": self.status}
        if self.step is not None:
            value["step"] = self.step
        return value | _time_json(self.timestamp) | {"reason": self.reason}


@dataclass(frozen=True, slots=True)
class StepSpan:
    """The interval of the states from step `first` to step `last`, both included."""

    first: int
    last: int
    interval: Interval

    def __str__(self) -> str:
        steps = f"steps {self.first} to {self.last}" if self.first != self.last else f"step {self.first}"
        return f"{steps}: {self.interval}"

    def to_json(self) -> dict[str, JSON]:
        return {
            "first_step": self.first,
            "last_step": self.last,
            "not_before": _bound_json(self.interval.not_before),
            "not_after": _bound_json(self.interval.not_after),
            "weaker": [_bound_json(bound) for bound in self.interval.weaker],
        }


@dataclass(frozen=True, slots=True)
class BeaconTime:
    """What the seed's beacon was found to be.

    Attributes:
        block: the block that `start` names, and its chain.
        timestamp: when it was made; None where the claim does not show it, or the nodes deny it.
        missing: what the claim lacks, so that nothing can be said of the seed; empty where it lacks nothing.
        doubt: why the seed counts as the prover's own choice; empty where it does not.
    """

    block: BeaconBlock
    timestamp: Timestamp | None
    missing: tuple[str, ...]
    doubt: str

    def to_json(self) -> dict[str, JSON]:
        status = self.timestamp.status if self.timestamp is not None else "missing"
        value: dict[str, JSON] = {
            "network": self.block.network.name,
            "chain": self.block.ref.chain,
            "block": self.block.ref.block,
            "status": status,
        }
        counts = "nothing" if self.missing else "prover" if self.doubt else "beacon"
        return (
            value | _time_json(self.timestamp) | {"counts_as": counts, "reason": "; ".join(self.missing) or self.doubt}
        )


@dataclass(frozen=True, slots=True)
class Times:
    """When a log was written, as far as this verifier knows.

    Attributes:
        anchors: the receipts, by rising size of their heads.
        spans: the intervals of the log's states, by rising step; empty where there is no evidence at all.
        beacon: the seed's beacon; None where the seed is not said to come from one.
        forks: what is known of other heads of this log.
        remarks: what was not checked, and what counts for less.
    """

    anchors: tuple[AnchorTime, ...]
    spans: tuple[StepSpan, ...]
    beacon: BeaconTime | None
    forks: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """What a verdict on the seed lacks."""
        return self.beacon.missing if self.beacon is not None else ()

    def to_json(self) -> dict[str, JSON]:
        """`anchors`, `intervals`, and `beacon` where there is one."""
        value: dict[str, JSON] = {
            "anchors": [one.to_json() for one in self.anchors],
            "intervals": [span.to_json() for span in self.spans],
        }
        if self.beacon is not None:
            value["beacon"] = self.beacon.to_json()
        return value


def plain(text: str) -> str:
    """A sentence that may quote the claim or a node, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _time_json(stamp: Timestamp | None) -> dict[str, JSON]:
    return {} if stamp is None else {"time": stamp.time, "margin": stamp.margin, "weak": list(stamp.weak)}


def _bound_json(bound: Evidence) -> JSON:
    if not isinstance(bound, Bound):
        return {"status": "unknown" if isinstance(bound, Unknown) else "pending"}
    stamp = bound.timestamp
    return {
        "status": stamp.status,
        "time": bound.time,
        "source": stamp.source,
        "margin": stamp.margin,
        "weak": list(stamp.weak),
    }
