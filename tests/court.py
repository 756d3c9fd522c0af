"""An arbiter whose clock is told what to say, over work that is really verified.

    court.dates[claim] = Dates(evidence=200)      when that claim's states are known to have existed
    court.rule(owner, thief, model=weights)       the ruling; what was verified once is remembered
    court.both_ways(owner, thief)                 the same, once it was found to be its own mirror image

A claim without dates has no evidence of when. Children that replay stay warm from one claim to the next.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, Entry
from polchain.core.genesis import Genesis
from polchain.core.keys import PrivateKey
from polchain.core.manifest import Snapshot
from polchain.storage.checkpoints import CheckpointStore
from polchain.verifier import parties, verify
from polchain.verifier.calibration import Calibration
from polchain.verifier.dispute import Case, rule_between
from polchain.verifier.parties import Party
from polchain.verifier.policy import Policy
from polchain.verifier.priority import Moment
from polchain.verifier.ruling import Ruling
from polchain.verifier.terms import Terms
from tests.claims import DATA, entries_of, genesis_of, write_log
from tests.forgers import warm
from tests.forgers.forge import ZERO

__all__ = ["Court", "Dates", "Memory", "foreign_claim", "is_mirror"]


@dataclass(frozen=True)
class Dates:
    """What the sources of time say of a claim: seconds, exactly; None where they say nothing.

    Attributes:
        evidence: by when its states existed.
        start: by when its start existed.
        beacon: when the block was made that its seed comes from.
    """

    evidence: int | None = None
    start: int | None = None
    beacon: int | None = None


class Memory:
    """Verdicts that are reached once."""

    def __init__(self) -> None:
        self._verdicts: dict[str, Any] = {}
        self._verify = verify.verify_intact

    def verify_once(self, intact: Any, request: Any, progress: Any = None) -> Any:
        """In place of `verify_intact`: whatever of the request differs between tests, but for the other party's key."""
        shown = sorted(name for name in intact.claim.files if name.startswith("checkpoints/"))
        program = intact.genesis.recipe.program() if intact.genesis.recipe is not None else None
        policy = request.policy
        parts = (
            intact.head, len(intact.checkpoints), intact.pinned, shown, request.disputed, request.setting,
            policy.sources, policy.accept_consistent, program in policy.recipes,
            [one.digest for one in policy.calibrations],
        )  # fmt: skip
        key = str(parts)
        if key not in self._verdicts:
            self._verdicts[key] = self._verify(intact, request, progress)
        return self._verdicts[key]


class Court:
    """An arbiter who has every party's key and the honest recipe."""

    def __init__(self) -> None:
        self.dates: dict[Path, Dates] = {}
        self.memory = Memory()

    @contextlib.contextmanager
    def open(self) -> Iterator[Court]:
        """Put the told clock, the warm children and the remembered verdicts in their places."""

        def of(party: Party) -> Dates:
            return self.dates.get(party.request.claim, Dates())

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("polchain.verifier.bench.Worker", warm.KeptWorker)
            patch.setattr(parties, "verify_intact", self.memory.verify_once)
            patch.setattr(Party, "evidence", lambda party, entry: _moment(of(party).evidence))
            patch.setattr(Party, "started", lambda party: _moment(of(party).start))
            patch.setattr(Party, "beacon", lambda party: _moment(of(party).beacon))
            yield self

    def rule(
        self,
        *claims: Path,
        model: Path | None = None,
        bases: Sequence[Path] = (),
        untrusted: Sequence[Path] = (),
        calibrations: Sequence[Calibration] = (),
        accept_consistent: bool = False,
        threads: int | None = None,
        seed: bytes | None = None,
    ) -> Ruling:
        """The ruling; nobody vouches for the recipes of the claims that are `untrusted`."""
        made = [genesis_of(entries_of(claim)) for claim in claims]
        programs = [
            one.recipe.program()
            for one, claim in zip(made, claims, strict=True)
            if one.recipe is not None and claim not in untrusted
        ]
        policy = Policy(
            recipes=frozenset(programs),
            keys=frozenset(one.key for one in made),
            unsafe_no_sandbox=True,
            calibrations=tuple(calibrations),
            accept_consistent=accept_consistent,
            dispute=Terms(bases=tuple(bases)),
        )
        return rule_between(Case(claims, policy, DATA, model, seed=seed, jobs=1, threads=threads))

    def both_ways(self, one: Path, other: Path, **options: Any) -> Ruling:
        """The ruling between two, once it was found to be the same the other way round."""
        ruling = self.rule(one, other, **options)
        assert is_mirror(ruling, self.rule(other, one, **options)), "A, B and B, A mirror each other"
        return ruling


def is_mirror(ruling: Ruling, other: Ruling) -> bool:
    """Whether two rulings between the same two claims, named in either order, say the same."""
    swap = {"A": "B", "B": "A"}
    decisions = sorted(str(model.pairs[0].decision) for model in ruling.models)
    mirrored = sorted(str(model.pairs[0].decision.mirrored) for model in other.models)
    same = (other.word, other.exit_code) == (ruling.word, ruling.exit_code)
    return same and {swap[name] for name in other.named} == set(ruling.named) and decisions == mirrored


def foreign_claim(
    folder: Path,
    states: Sequence[Snapshot],
    *,
    key: PrivateKey | None = None,
    parent: Digest | None = None,
    first: int = 0,
    shown: bool = True,
) -> Path:
    """A log of checkpoints that polchain did not train; their tensors `shown`, or their manifests alone."""
    key = key or PrivateKey.generate()
    store = CheckpointStore(folder)
    entries: list[Entry] = [Genesis(secrets.token_bytes(16), key.public, parent=parent)]
    for number, state in enumerate(states):
        store.put(state) if shown else store.put_manifest(state.manifest)
        entries.append(CheckpointEntry(ZERO, first + 10 * number, state.manifest.roots(), ZERO))
    write_log(folder, entries, key)
    return folder


def _moment(time: int | None) -> Moment | None:
    return None if time is None else Moment(time, time)
