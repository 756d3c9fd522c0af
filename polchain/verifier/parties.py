"""The parties of a dispute: each claim as far as it holds, verified up to the states that matter.

intact      integrity holds; else the claim neither worked nor has evidence
one log     two claims of one origin: one extends the other, or they contradict each other (equivocation)
verified    up to the checkpoint after the last state in question, the segments around those states replayed
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from polchain.core.claim import HEAD, Claim
from polchain.core.digest import Digest
from polchain.core.entries import encode_entry, leaf_data
from polchain.core.merkle import leaf_hash
from polchain.errors import (
    AnchorUnavailableError,
    BudgetError,
    EquivocationError,
    EvidenceError,
    KeyMismatchError,
    PolicyError,
    UnavailableError,
    UsageError,
)
from polchain.training.fingerprint import setting_of
from polchain.verifier.coverage import row_ids, rows_of
from polchain.verifier.heads import SignedHead, check_heads
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.lineage import RowId, StateRows
from polchain.verifier.policy import Policy
from polchain.verifier.priority import Moment
from polchain.verifier.replay import Outcome
from polchain.verifier.ruling import ClaimFacts
from polchain.verifier.times import Times
from polchain.verifier.timing import establish
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import Progress, Request, verify_intact

__all__ = ["Party", "exact", "names_of", "read_parties", "regenerated", "up_to"]

NAMES = string.ascii_uppercase


@dataclass(slots=True)
class Party:
    """One claim, and what was found of it so far.

    Attributes:
        name: A, B, ...
        request: how it is to be verified.
        intact: the claim; None where integrity fails.
        failure, proof: what integrity refused, and what of that convinces anybody.
        until: only entries before this number count; -1 for all.
        void: it contradicts another claim of its own log.
    """

    name: str
    request: Request
    intact: IntactClaim | None = None
    failure: str = ""
    proof: str = ""
    until: int = -1
    void: bool = False
    verdicts: dict[tuple[int, ...], Verdict | None] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    _times: Times | None = None
    _rows: tuple[tuple[StateRows, ...], frozenset[RowId]] | None = None

    @property
    def times(self) -> Times | None:
        """When its log was written; None where integrity fails."""
        if self._times is None and self.intact is not None:
            self._times = establish(self.intact, self.request.policy)
        return self._times

    @property
    def rows(self) -> tuple[StateRows, ...]:
        """Its states, as lineage sees them; those after a contradiction left out."""
        return self._read_rows()[0]

    @property
    def varying(self) -> frozenset[RowId]:
        """The rows of its states that are known not to be constant."""
        return self._read_rows()[1]

    def initial_rows(self) -> frozenset[RowId]:
        """The rows of step 0, as far as they are known."""
        if self.intact is None or not self.intact.checkpoints:
            return frozenset()
        manifest = self.intact.claim.manifest(self.intact.checkpoints[0].state)
        return row_ids(manifest) if manifest is not None else frozenset()

    def replay_with(self, threads: int) -> None:
        """Replay its segments with so many threads, not the prover's."""
        start = self.intact.start if self.intact is not None else None
        if start is not None:
            self.request = replace(self.request, setting=setting_of({**start.fingerprint, "threads": threads}))

    def verify(self, steps: Sequence[int], progress: Progress | None) -> Verdict | None:
        """The verdict up to the last of these steps; None where nothing could be verified, which is then said."""
        key = tuple(sorted(set(steps)))
        if self.intact is None or self.void or not key:
            return None
        if key not in self.verdicts:
            self.verdicts[key] = self._verified(up_to(self.intact, key[-1]), key, progress)
        return self.verdicts[key]

    def worked(self, verdict: Verdict | None) -> bool:
        """Whether a verdict counts as work: an accepted one, from a seed that is bound to this party."""
        if verdict is None or self.void or self.intact is None or self.intact.start is None:
            return False
        return verdict.exit_code == 0 and self.intact.start.source != "task"

    def evidence(self, entry: int) -> Moment | None:
        """When an entry is known to have existed: by the earliest final anchor over it."""
        found = [
            Moment(one.timestamp.time - one.timestamp.margin, one.timestamp.time + one.timestamp.margin)
            for one in (self.times.anchors if self.times is not None else ())
            if one.status == "final" and one.timestamp is not None and one.size > entry
        ]
        return min(found, key=lambda moment: (moment.high, moment.low), default=None)

    def beacon(self) -> Moment | None:
        """When the block that the seed comes from was made; None unless the seed counts as a beacon's."""
        beacon = self.times.beacon if self.times is not None else None
        if beacon is None or beacon.missing or beacon.doubt or beacon.timestamp is None:
            return None
        stamp = beacon.timestamp
        return Moment(stamp.time - stamp.margin, stamp.time + stamp.margin) if stamp.status == "final" else None

    def started(self) -> Moment | None:
        """When its `start` is known to have existed."""
        return self.evidence(self.intact.beacon.entry) if self.intact is not None and self.intact.beacon else None

    def entry_of(self, leaf: Digest) -> int | None:
        """The step of the checkpoint entry with this leaf hash; None where the log has none."""
        if self.intact is None:
            return None
        for entry in self.intact.checkpoints:
            if leaf_hash(leaf_data(encode_entry(entry))) == leaf.value:
                return entry.step
        return None

    def facts(self) -> ClaimFacts:
        """What a ruling says of it."""
        intact = self.intact
        # Several models may be one state, or be refuted in one way: that is said once.
        found = {
            (key[-1], one.outcome, one.reasons): one for key, one in sorted(self.verdicts.items()) if one is not None
        }
        verdicts = tuple((step, one) for (step, *_), one in found.items())
        return ClaimFacts(
            self.name,
            str(self.request.claim),
            intact.head.origin if intact is not None else "",
            str(intact.genesis.key) if intact is not None else "",
            self.failure,
            self.proof,
            verdicts,
            tuple(dict.fromkeys(self.remarks)),
            intact,
            self.times,
        )

    def _read_rows(self) -> tuple[tuple[StateRows, ...], frozenset[RowId]]:
        if self._rows is None:
            last = -1
            if self.intact is not None:
                entries = zip(self.intact.numbers, self.intact.checkpoints, strict=True)
                last = max((e.step for n, e in entries if self.until < 0 or n < self.until), default=-1)
            self._rows = rows_of(self.intact, last) if self.intact is not None and last >= 0 else ((), frozenset())
        return self._rows

    def _reproduced(self) -> Mapping[int, float]:
        """What was replayed for another model in dispute, and was exact: the segments, and how long each took."""
        done = [item for one in self.verdicts.values() if one is not None for item in one.reproductions]
        return {
            item.pick.segment.index: item.seconds
            for item in done
            if item.pick is not None and item.outcome is Outcome.EXACT
        }

    def _verified(self, intact: IntactClaim, steps: tuple[int, ...], progress: Progress | None) -> Verdict | None:
        def tell(what: str, done: int, total: int) -> None:
            if progress is not None:
                progress(f"{self.name}: {what}", done, total)

        dataset = intact.genesis.dataset
        salts = dataset.salts if dataset is not None else None
        own = {path: secret for path, secret in self.request.secrets.items() if secret.commitment == salts}
        request = replace(self.request, disputed=steps, secrets=own, replayed=self._reproduced())
        try:
            while True:
                try:
                    return verify_intact(intact, request, tell)
                except PolicyError as error:
                    if request.exact or not request.policy.calibrations:
                        raise
                    # One claim of very many segments must not keep the others from their ruling.
                    self.remarks.append(f"its replays were compared exactly, by no calibration: {error}")
                    request = replace(request, exact=True)  # what a calibration says of the recipe still counts
                except BudgetError as error:
                    # Nor must one short log.
                    self.remarks.append(f"it was replayed without a budget: {error}")
                    request = replace(request, policy=replace(request.policy, budget=None))
                except UsageError as error:
                    if request.recipe is None:
                        raise
                    # Several claims, one copy: it vouches for those that it is the program of.
                    self.remarks.append(f"your copy of the recipe does not vouch for this claim: {error}")
                    request = replace(request, recipe=None)
        except AnchorUnavailableError:
            raise
        except UnavailableError as error:
            self.remarks.append(f"could not be verified: {error}")
            return None


def names_of(count: int) -> str:
    """The claims' names, in the order of the command line.

    Raises:
        UsageError: fewer than two, or more than there are names.
    """
    if not 2 <= count <= len(NAMES):
        raise UsageError(
            f"{count} claims: a ruling takes 2 to {len(NAMES)}", hint="polchain verify --claim A --claim B"
        )
    return NAMES[:count]


def read_parties(requests: Sequence[Request], policy: Policy, heads: Mapping[str, bytes]) -> list[Party]:
    """Check the integrity of each claim, and whether several are of one log.

    Args:
        requests: how each is to be verified.
        policy: what the verifier trusts.
        heads: signed heads from elsewhere, by name: each is compared with the claims of its origin.

    Raises:
        KeyMismatchError: a claim's key is not pinned, where keys are.
        UsageError: one claim twice, or two of one log that agree; or a head of none of the logs.
        UnavailableError: a claim is not there, or not complete.
    """
    paths = [request.claim.resolve() for request in requests]
    if len(set(paths)) != len(paths):
        raise UsageError("one claim is named twice")
    parties = [Party(name, request) for name, request in zip(names_of(len(requests)), requests, strict=True)]
    used: set[str] = set()
    for party in parties:
        try:
            claim = Claim.read(party.request.claim)
            origin = claim.head().partition(b"\n")[0]
            mine = {name: note for name, note in heads.items() if note.partition(b"\n")[0] == origin}
            used |= mine.keys()
            party.intact = check_integrity(claim, policy, mine)
        except KeyMismatchError as error:
            raise KeyMismatchError(
                f"{party.name}: {error}", hint="--key for each party, from outside its claim"
            ) from None
        except EvidenceError as error:
            party.proof = error.proof if isinstance(error, EquivocationError) else ""
            party.failure = str(error).removesuffix(party.proof).strip()
    strange = sorted(heads.keys() - used)
    if strange:
        raise UsageError(f"{strange[0]} is a head of none of these logs")
    for number, party in enumerate(parties):
        for other in parties[:number]:
            _compare_logs(other, party)
    return parties


def up_to(intact: IntactClaim, step: int) -> IntactClaim:
    """The claim as far as the checkpoint after a step: what a verdict on that state is about."""
    last = next(i for i, entry in enumerate(intact.checkpoints) if entry.step == step)
    end = last + 2
    if end >= len(intact.checkpoints):
        return intact
    return replace(intact, checkpoints=intact.checkpoints[:end], numbers=intact.numbers[:end], final=None, cut=True)


def regenerated(verdict: Verdict | None) -> bool:
    """Whether the initial state was built from the seed, and equal."""
    first = verdict.reproductions[0] if verdict is not None and verdict.reproductions else None
    return first is not None and first.pick is None and first.outcome is Outcome.EXACT


def exact(verdict: Verdict | None) -> bool:
    """Whether every replay was exact."""
    return verdict is not None and verdict.outcome is Ruled.VERIFIED


def _compare_logs(one: Party, other: Party) -> None:
    """Two claims of one origin: refuse those that agree, and void those that contradict each other."""
    if one.intact is None or other.intact is None or one.intact.head.origin != other.intact.head.origin:
        return
    small, large = sorted((one, other), key=lambda party: party.intact.head.size if party.intact is not None else 0)
    assert small.intact is not None
    assert large.intact is not None
    size = small.intact.head.size
    if large.intact.roots[size] == small.intact.head.root:
        raise UsageError(
            f"{one.name} and {other.name} are claims of one log, and agree: there is nothing to rule between them",
            hint=f"leave out {small.name}, the shorter" if size < large.intact.head.size else "leave out one of them",
        )
    common = max(n for n in range(size + 1) if large.intact.roots[n] == small.intact.roots[n])
    for party, against in ((one, other), (other, one)):
        if _revokes(party, against, common):
            against.failure = f"its key was revoked by the recovery key, in the log that {party.name} shows"
            against.intact = None
            return
    proof = _proof(small, large)
    for party in (one, other):
        party.void = True
        party.until = common if party.until < 0 else min(party.until, common)
        party.proof = proof
        party._rows = None


def _revokes(party: Party, against: Party, common: int) -> bool:
    """Whether one claim revokes the key that signed the other, which has no evidence from before: whoever stole a key
    can sign with it. The recovery key alone can say so, and not on both sides."""
    if party.intact is None or against.intact is None or against.intact.keys.recovered:
        return False
    if not party.intact.keys.recovered:
        return False
    number = next((at for at, _ in party.intact.keys.revoked if at >= common), None)
    revoked = party.evidence(number) if number is not None else None
    if revoked is None:
        return False
    theirs = against.evidence(common)
    return theirs is None or not theirs.low < revoked.high


def _proof(small: Party, large: Party) -> str:
    assert small.intact is not None
    assert large.intact is not None
    claim = large.intact.claim
    last = SignedHead(HEAD, large.intact.head, claim.head())
    elsewhere = {f"the head of {small.name}": small.intact.claim.head()}
    try:
        check_heads(
            claim,
            last,
            large.intact.roots,
            claim.entries,
            replace(large.intact.keys, recovered=False),
            elsewhere,
        )
    except EquivocationError as error:
        return error.proof
    return ""
