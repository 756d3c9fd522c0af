"""Priority: two sides' verified facts -> whose the model is. Pure, and blind to who was named first.

The first that applies; A and B may change places in each:

    NOT COVERED    neither covers
    PROVEN         (b) both cover; only B worked, exactly, from a beacon's seed whose start is dated before A's state
    PROVEN         (a) both cover; A's state, of the same trained rows, is dated before B's beacon: B copied
    NOT PROVEN     the same, but A did not work
    DESCENDS       B covers, and is made of states that A worked for: A's
    CONTINUES      the same, declared: both
    PROVEN         only A covers, and worked
    NOT PROVEN     only A covers, and did not work; or both cover, and neither worked
    EARLIER        (c) both cover and worked: whose evidence is earlier
    PROVEN         (d) both cover, only A worked, and A's evidence is earlier
    CONTESTED      the same, but later
    UNDECIDED      what has to be compared lies within the sources' error, or there is nothing to compare

A time is earlier than another if it is so with the error of both sources; any time is earlier than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Basis", "Between", "Decision", "Moment", "Outcome", "Side", "Sides", "decide", "lineage"]


class Outcome(Enum):
    """What a ruling comes to, for one model in dispute."""

    PROVEN = "PROVEN"
    EARLIER = "EARLIER"
    DESCENDS = "DESCENDS"
    CONTINUES = "CONTINUES"
    NOT_COVERED = "NOT COVERED"
    NOT_PROVEN = "NOT PROVEN"
    UNDECIDED = "UNDECIDED"
    CONTESTED = "CONTESTED"
    EQUIVOCATION = "EQUIVOCATION"


class Basis(Enum):
    """Which row of the table applied."""

    NOBODY_COVERS = "neither covers"
    DESCENT = "descent"
    PARENT = "declared descent"
    ALONE = "only one covers"
    COPIED = "(a) bit-equal trained rows, dated before the other's seed was known"
    SEED = "(b) computed from a seed that was published before the other's evidence"
    BOTH_WORKED = "(c) both worked"
    ONE_WORKED = "(d) only one worked"
    NOBODY_WORKED = "neither worked"
    EQUIVOCATION = "two heads of one log that contradict each other"


class Sides(Enum):
    """Which of the two."""

    NONE = "none"
    LEFT = "left"
    RIGHT = "right"
    BOTH = "both"

    @property
    def mirrored(self) -> Sides:
        return {Sides.LEFT: Sides.RIGHT, Sides.RIGHT: Sides.LEFT}.get(self, self)


@dataclass(frozen=True, slots=True)
class Moment:
    """A final time with its source's error: not before `low`, not after `high`; seconds since 1970, UTC."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Side:
    """What is verified of one claim, for one model in dispute.

    Attributes:
        covers: one of its states has every parameter tensor of the model.
        worked: its verdict up to that state, or up to the states that the other descends from, is accepted.
        exact: every replay of that verdict was exact.
        evidence: when the earliest covering state is known to have existed; None without final evidence.
        not_before: before which it cannot have existed; None where nothing says so.
        start: when its `start` is known to have existed.
        beacon: when the block that the seed comes from was made; None unless the seed counts as a beacon's.
    """

    covers: bool = False
    worked: bool = False
    exact: bool = False
    evidence: Moment | None = None
    not_before: int | None = None
    start: Moment | None = None
    beacon: Moment | None = None


@dataclass(frozen=True, slots=True)
class Between:
    """What is known of the two together.

    Attributes:
        same_rows: half of the elements of their covering states are bit-equal trained rows.
        left_descends, right_descends: from the other's states.
        left_declared, right_declared: the other's state as its parent.
        equivocation: both are of one log, and contradict each other.
    """

    same_rows: bool = False
    left_descends: bool = False
    right_descends: bool = False
    left_declared: bool = False
    right_declared: bool = False
    equivocation: bool = False

    @property
    def mirrored(self) -> Between:
        return Between(
            self.same_rows,
            self.right_descends,
            self.left_descends,
            self.right_declared,
            self.left_declared,
            self.equivocation,
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome, whom it names, and on what ground.

    Attributes:
        first: with EARLIER, that the named side's state existed before the other's can have.
        copied: the side whose state the other's dated before; none unless the ground is (a).
    """

    outcome: Outcome
    named: Sides
    basis: Basis
    first: bool = False
    copied: Sides = Sides.NONE

    @property
    def mirrored(self) -> Decision:
        return Decision(self.outcome, self.named.mirrored, self.basis, self.first, self.copied.mirrored)


def decide(left: Side, right: Side, between: Between) -> Decision:
    """Whose the model is. `decide(right, left, between.mirrored)` is the mirror image."""
    if between.equivocation:
        return Decision(Outcome.EQUIVOCATION, Sides.NONE, Basis.EQUIVOCATION)
    if not left.covers and not right.covers:
        return Decision(Outcome.NOT_COVERED, Sides.NONE, Basis.NOBODY_COVERS)
    both = left.covers and right.covers
    found = (_computed(left, right) or _copied(left, right, between)) if both else None
    found = found or _descent(left, right, between)
    if found is not None:
        return found
    if both:
        return _by_evidence(left, right)
    only, side = (left, Sides.LEFT) if left.covers else (right, Sides.RIGHT)
    return _alone(only, side, Basis.ALONE)


def _computed(left: Side, right: Side) -> Decision | None:
    if _from_a_seed_before(left, right):
        return Decision(Outcome.PROVEN, Sides.LEFT, Basis.SEED)
    if _from_a_seed_before(right, left):
        return Decision(Outcome.PROVEN, Sides.RIGHT, Basis.SEED)
    return None


def lineage(left: Side, right: Side, between: Between) -> Sides:
    """Which of the two counts as made of the other's states: one of them, or none."""
    from_right = _descends(left, right, between.left_descends)
    from_left = _descends(right, left, between.right_descends)
    if from_right == from_left:
        return Sides.NONE
    return Sides.LEFT if from_right else Sides.RIGHT


def _descent(left: Side, right: Side, between: Between) -> Decision | None:
    younger = lineage(left, right, between)
    if younger is Sides.NONE:
        return None
    from_right = younger is Sides.LEFT
    declared = between.left_declared if from_right else between.right_declared
    if declared:
        return Decision(Outcome.CONTINUES, Sides.BOTH, Basis.PARENT)
    return Decision(Outcome.DESCENDS, Sides.RIGHT if from_right else Sides.LEFT, Basis.DESCENT)


def _descends(younger: Side, elder: Side, made_of: bool) -> bool:
    if not (made_of and younger.covers and elder.worked):
        return False
    if younger.worked and younger.beacon is not None:
        return False  # regenerated from a beacon's seed
    # What existed before the elder's seed was known is not made of what was computed from it.
    return not _before(younger.evidence, elder.beacon)


def _alone(only: Side, side: Sides, basis: Basis, copied: Sides = Sides.NONE) -> Decision:
    if only.worked:
        return Decision(Outcome.PROVEN, side, basis, copied=copied)
    return Decision(Outcome.NOT_PROVEN, Sides.NONE, basis, copied=copied)


def _from_a_seed_before(one: Side, other: Side) -> bool:
    if not (one.worked and one.exact and not other.worked) or one.beacon is None or one.start is None:
        return False
    return other.evidence is None or _before(one.start, other.evidence)


def _copied(left: Side, right: Side, between: Between) -> Decision | None:
    if not between.same_rows:
        return None
    right_copied, left_copied = _before(left.evidence, right.beacon), _before(right.evidence, left.beacon)
    if right_copied == left_copied:
        return None
    if right_copied:
        return _alone(left, Sides.LEFT, Basis.COPIED, Sides.RIGHT)
    return _alone(right, Sides.RIGHT, Basis.COPIED, Sides.LEFT)


def _by_evidence(left: Side, right: Side) -> Decision:
    if not left.worked and not right.worked:
        return Decision(Outcome.NOT_PROVEN, Sides.NONE, Basis.NOBODY_WORKED)
    basis = Basis.BOTH_WORKED if left.worked and right.worked else Basis.ONE_WORKED
    earlier = _earlier(left.evidence, right.evidence)
    if earlier is Sides.NONE:
        return Decision(Outcome.UNDECIDED, Sides.NONE, basis)
    if basis is Basis.BOTH_WORKED:
        one, other = (left, right) if earlier is Sides.LEFT else (right, left)
        first = one.evidence is not None and other.not_before is not None and one.evidence.high < other.not_before
        return Decision(Outcome.EARLIER, earlier, basis, first)
    worker = Sides.LEFT if left.worked else Sides.RIGHT
    if worker is earlier:
        return Decision(Outcome.PROVEN, worker, basis)
    return Decision(Outcome.CONTESTED, Sides.NONE, basis)


def _before(one: Moment | None, other: Moment | None) -> bool:
    """Whether both are known, and one is earlier with the error of both."""
    return one is not None and other is not None and one.high < other.low


def _earlier(left: Moment | None, right: Moment | None) -> Sides:
    if _before(left, right) or (left is not None and right is None):
        return Sides.LEFT
    if _before(right, left) or (right is not None and left is None):
        return Sides.RIGHT
    return Sides.NONE
