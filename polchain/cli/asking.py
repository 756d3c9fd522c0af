"""The options of `verify`, read and put together; `report` takes the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polchain.cli.trust import Trust
from polchain.errors import MissingFileError, UsageError

if TYPE_CHECKING:
    from polchain.verifier.vouching import OwnRecipe

__all__ = ["Options", "check_kind", "check_together", "own_recipe", "parse_seed"]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `verify`, as they were given."""

    targets: tuple[Path, ...]
    trust: Trust
    recipe: Path | None
    module: bool
    recipe_args: str
    data: Path | None
    full: bool
    seed: str | None
    timeout: float
    jobs: int | None
    resume: Path | None
    threads: int | None
    head: tuple[Path, ...]
    model: Path | None
    task: Path | None
    opening: Path | None
    challenge: Path | None
    data_secret: tuple[Path, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """From the parameters of `verify`, by name.

        Raises:
            UsageError: no claim, or what is plainly none.
        """
        values = dict(given)
        claim, claims = values["claim"], values["claims"]
        named = [*([claim] if isinstance(claim, Path) else []), *(claims if isinstance(claims, list) else [])]
        if not named:
            raise UsageError("which claim?", hint="polchain verify CLAIM")
        for path in named:
            check_kind(path)
        lists = {
            name: values[name] or [] for name in ("key", "trust_recipe", "rpc", "block_hash", "tsa", "calibration")
        }
        trust = Trust(
            policy=values["policy"], keys=lists["key"], recipes=lists["trust_recipe"], fraction=values["fraction"],
            confidence=values["confidence"], unsafe=values["unsafe_no_sandbox"], memory=values["memory"],
            network=values["network"], rpc=lists["rpc"], blocks=lists["block_hash"], tsas=lists["tsa"],
            budget=values["budget"], calibrations=lists["calibration"], consistent=values["accept_consistent"],
        )  # fmt: skip
        copies = values["recipe"] or []
        if len(copies) > 1:
            raise UsageError(
                "--recipe names one copy",
                hint="vouch for the other recipes by --trust-recipe DIGEST, once you have read them",
            )
        same = {
            name: values[name]
            for name in (
                "module", "recipe_args", "data", "full", "seed", "timeout", "jobs", "resume",
                "threads", "model", "task", "opening", "challenge",
            )
        }  # fmt: skip
        head, owned = tuple(values["head"] or ()), tuple(values["data_secret"] or ())
        return cls(
            targets=tuple(named), trust=trust, head=head, data_secret=owned, recipe=next(iter(copies), None), **same
        )

    @property
    def several(self) -> bool:
        """Whether a ruling is asked for, and not a verdict."""
        return len(self.targets) > 1 or self.model is not None or self.task is not None


def check_together(options: Options, *, drawn: bool) -> None:
    """Refuse a challenge without its answer, and an answer where something is `drawn` here, or nothing is replayed.

    Raises:
        UsageError: that is asked for.
    """
    if options.challenge is not None and options.opening is None:
        raise UsageError("--challenge goes with --opening", hint="`polchain respond` makes the opening")
    if options.opening is not None and drawn:
        raise UsageError("--opening answers a draw that was made: --seed, --full and --budget belong to `challenge`")


def own_recipe(options: Options) -> OwnRecipe | None:
    """The verifier's own copy of the recipe, where one is named.

    Raises:
        UsageError: words for a copy that is not named, or no words.
    """
    recipe, module, arguments = options.recipe, options.module, _words(options.recipe_args)
    from polchain.verifier.vouching import OwnRecipe

    if recipe is None:
        if module or arguments:
            raise UsageError("--module and --recipe-args go with --recipe")
        return None
    return OwnRecipe(Path.cwd(), str(recipe), True, arguments) if module else OwnRecipe.script(recipe, arguments)


def check_kind(path: Path) -> None:
    """Refuse what is plainly something else than a claim; what a claim must hold, `Claim.read` says."""
    from polchain.core.archive import is_archive
    from polchain.core.claim import LISTING
    from polchain.storage.database import DATABASE

    if path.is_file() and not is_archive(path):
        raise MissingFileError(
            f"{path} is a file, not a claim", hint="a claim is the folder, or the zip, that `polchain export` writes"
        )
    if (path / DATABASE).is_file() and not (path / LISTING).exists():
        raise MissingFileError(f"{path} is a run, not a claim", hint="`polchain export RUN OUT` writes a run's claim")


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--recipe-args: {str(error).lower()}") from None


def parse_seed(text: str | None) -> bytes | None:
    """The 32 bytes of `--seed`; None where it was not given.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        raise UsageError("--seed is not hexadecimal", hint="it is the 64 digits that a verdict prints") from None
    if len(seed) != 32:
        raise UsageError(f"--seed is {len(seed)} bytes, not 32")
    return seed
