"""A verification as the command line asks for it, and what came of it: for `verify` and `report`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.cli import output
from polchain.cli.asking import Options, check_together, own_recipe, parse_seed
from polchain.cli.options import check_seconds, data_folder
from polchain.cli.trust import read_heads
from polchain.errors import UsageError

if TYPE_CHECKING:
    from polchain.core.encoding import JSON
    from polchain.core.salts import DataSecret
    from polchain.training.fingerprint import Setting
    from polchain.verifier.certificate import Asked
    from polchain.verifier.integrity import IntactClaim
    from polchain.verifier.policy import Policy
    from polchain.verifier.ruling import Ruling
    from polchain.verifier.verdict import Verdict
    from polchain.verifier.vouching import OwnRecipe

__all__ = ["Settled", "read_intact", "settle"]


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of it: a verdict on one claim, or a ruling between several."""

    options: Options
    policy: Policy
    seed: bytes | None
    verdict: Verdict | None = None
    intact: IntactClaim | None = None
    ruling: Ruling | None = None

    @property
    def word(self) -> str:
        """The outcome."""
        if self.ruling is not None:
            return self.ruling.word
        assert self.verdict is not None
        return self.verdict.outcome.value

    @property
    def exit_code(self) -> int:
        """What `verify` exits with."""
        if self.ruling is not None:
            return self.ruling.exit_code
        assert self.verdict is not None
        return self.verdict.exit_code

    @property
    def named(self) -> tuple[str, ...]:
        """Whom a ruling names."""
        return self.ruling.named if self.ruling is not None else ()

    @property
    def complete(self) -> bool:
        """Whether every step that a verdict is about was replayed, so that another draw finds nothing else."""
        verdicts = [self.verdict] if self.ruling is None else [v for c in self.ruling.claims for _, v in c.verdicts]
        return all(one is not None and one.bound.complete for one in verdicts)

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        if self.ruling is not None:
            from polchain.cli.dispute import show_ruling

            show_ruling(self.ruling, as_json=as_json)
            return
        from polchain.cli.verdicts import show_verdict

        assert self.verdict is not None
        assert self.intact is not None
        show_verdict(self.verdict, self.intact, self.options.targets[0], as_json=as_json)

    def facts(self) -> dict[str, JSON]:
        """The facts of its certificate."""
        from polchain.verifier.certificate import certify_ruling, certify_verdict

        if self.ruling is not None:
            return certify_ruling(self.ruling, self.policy, self._asked(self.seed))
        assert self.verdict is not None
        assert self.intact is not None
        challenge = self.verdict.challenge
        drawn = challenge.seed if challenge is not None and self.options.opening is None else None
        return certify_verdict(self.verdict, self.intact, self.policy, self._asked(drawn))

    def _asked(self, seed: bytes | None) -> Asked:
        from polchain.core.place import hash_file
        from polchain.verifier.certificate import Asked
        from polchain.verifier.report import versions

        model, task = self.options.model, ""
        if self.options.task is not None:
            from polchain.cli.options import read_task

            task = str(read_task(self.options.task).digest)
        return Asked(
            claims=tuple(path.resolve().name for path in self.options.targets),
            versions=versions(),
            seed=seed.hex() if seed is not None else "",
            full=self.options.full,
            threads=self.options.threads or 0,
            model=model.name if model is not None else "",
            model_digest=str(hash_file(model)) if model is not None and model.is_file() else "",
            task=task,
            opening=self.options.opening is not None,
        )


def settle(options: Options, *, certified: bool = False) -> Settled:
    """Verify a claim, or rule between several.

    Args:
        options: what was asked for.
        certified: whether a certificate is to come of it: then all claims are drawn on from one seed, which it names.

    Raises:
        PolchainError: as `verify` and `rule_between` say; UsageError also for options that do not go together.
    """
    policy, drawn = options.trust.read(), parse_seed(options.seed)
    if options.full and policy.budget is not None:
        raise UsageError("--full replays everything, and a budget caps the replays: one of them")
    drawn_here = drawn is not None or options.full or options.trust.budget is not None
    check_together(options, drawn=drawn_here)
    heads = read_heads(options.head)
    owned = _secrets(options.data_secret)
    own = own_recipe(options)
    check_seconds("--timeout", options.timeout)
    folder = data_folder(options.data)
    if options.several:
        if options.resume is not None or options.opening is not None or len(options.targets) == 1:
            raise UsageError(
                "a ruling takes several claims, more than their integrity, and one sitting",
                hint="polchain verify --claim A --claim B",
            )
        from polchain.cli.dispute import Settling, rule

        if certified and drawn is None:
            drawn = secrets.token_bytes(32)
        asked = Settling(
            options.targets, options.model, options.task, folder, own, drawn, options.full, options.timeout,
            options.jobs, options.threads, heads, owned,
        )  # fmt: skip
        return Settled(options, policy, drawn, ruling=rule(asked, policy))
    return _settle_one(options, policy, drawn, own, folder, heads, owned)


def _settle_one(
    options: Options,
    policy: Policy,
    drawn: bytes | None,
    own: OwnRecipe | None,
    folder: Path,
    heads: Mapping[str, bytes],
    owned: Mapping[Path, DataSecret],
) -> Settled:
    from polchain.verifier.sealed import read_answer
    from polchain.verifier.verify import Request, verify_intact

    target, resume, opening = options.targets[0], options.resume, options.opening
    intact = read_intact(options, policy, heads)
    request = Request(
        claim=target,
        policy=policy,
        data=folder,
        recipe=own,
        seed=drawn,
        full=options.full,
        timeout=options.timeout,
        jobs=options.jobs,
        resume=resume,
        setting=_setting(intact, options.threads),
        answer=read_answer(intact, opening, options.challenge, policy) if opening is not None else None,
        secrets=owned,
    )
    with output.Progress("reading the data", 1) as progress:

        def show(what: str, done: int, total: int) -> None:
            if what != progress.what:
                progress.begin(what)
            progress.update(done, total)

        kept = "with `--resume FILE`, what was replayed is kept for another time"
        if resume is not None:
            kept = f"what was replayed is in {resume}: the same command goes on from there"
        with output.on_interrupt(kept):
            verdict = verify_intact(intact, request, show)
    shown = request.answer.intact if request.answer is not None else intact
    return Settled(options, policy, drawn, verdict, shown)


def read_intact(options: Options, policy: Policy, heads: Mapping[str, bytes]) -> IntactClaim:
    """The one claim, its integrity checked."""
    from polchain.core.claim import Claim
    from polchain.verifier.integrity import check_integrity

    return check_integrity(Claim.read(options.targets[0]), policy, heads)


def _secrets(files: tuple[Path, ...]) -> dict[Path, DataSecret]:
    from polchain.storage.secretfile import read_secret

    return {path: read_secret(path) for path in files}


def _setting(intact: IntactClaim, threads: int | None) -> Setting | None:
    """The prover's setting with another number of threads; None to keep his."""
    from polchain.training.fingerprint import setting_of

    if threads is None or intact.start is None:
        return None
    return setting_of({**intact.start.fingerprint, "threads": threads})
