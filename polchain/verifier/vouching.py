"""Vouching: whether the verifier has accepted a claim's program.

By its digest, once somebody has read it; or by a copy of one's own. The copy is run up to `record`, in its own folder
and as the verifier names it, and what it turns out to be (entry point, form, arguments, every file that it loads) must
be what the claim says. So the claim has no say in which of the verifier's files count, or how they are started.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from polchain.core.genesis import RecipeRef
from polchain.errors import RecipeError, UsageError
from polchain.verifier.bench import Bench
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.policy import Policy

__all__ = ["OwnRecipe", "is_vouched"]

HINT = "read the claim's recipe, or vouch for its digest with --trust-recipe once you have"


@dataclass(frozen=True, slots=True)
class OwnRecipe:
    """The verifier's own copy of a recipe, and how it is started.

    Attributes:
        folder: where the entry point is named from.
        entry: the script's name in that folder, or a module's name.
        module: whether it is started as a module.
        arguments: its arguments.
    """

    folder: Path
    entry: str
    module: bool = False
    arguments: tuple[str, ...] = ()

    @classmethod
    def script(cls, path: Path, arguments: tuple[str, ...] = ()) -> OwnRecipe:
        """A script, as `python PATH ARGUMENTS` starts it.

        Raises:
            UsageError: there is no such file.
        """
        if not path.is_file():
            raise UsageError(f"no script at {path}", hint="--recipe names your own copy of the recipe's script")
        return cls(path.resolve().parent, path.resolve().name, False, arguments)


def is_vouched(intact: IntactClaim, policy: Policy, own: OwnRecipe | None, bench: Bench) -> bool:
    """Whether the claim's program is accepted. Runs the verifier's own copy, never the claim's.

    Raises:
        UsageError: the verifier's copy is another program; where they part is said.
        WorkerError: the copy could not be run.
    """
    recipe = intact.genesis.recipe
    assert recipe is not None
    if own is None:
        return recipe.program() in policy.recipes
    try:
        found = bench.worker().describe(own.folder, own.entry, own.module, own.arguments)
    except RecipeError as error:
        raise UsageError(f"your copy of the recipe does not come to record: {error}", hint=error.hint) from error
    if found.program() != recipe.program():
        _say_what_differs(intact, recipe, found, own)
    return True


def _say_what_differs(intact: IntactClaim, claimed: RecipeRef, found: RecipeRef, own: OwnRecipe) -> None:
    if (claimed.entry, claimed.module) != (found.entry, found.module):
        raise UsageError(
            f"the claim's recipe is the {_form(claimed)} {claimed.entry}, yours is the {_form(found)} {found.entry}",
            hint=HINT,
        )
    theirs = {ref.path: ref.digest for ref in claimed.files}
    ours = {ref.path: ref.digest for ref in found.files}
    for path in sorted(theirs.keys() | ours.keys()):
        if path not in theirs:
            raise UsageError(f"your recipe loads {path}, which the claim leaves out", hint=HINT)
        if path not in ours:
            raise UsageError(f"the claim's recipe has {path}, which yours does not load", hint=HINT)
        if theirs[path] != ours[path]:
            line = _first_difference(intact.recipe[path], own.folder / path)
            raise UsageError(f"your {path} is not the claim's {path}: they part at line {line}", hint=HINT)
    words = shlex.join(claimed.arguments)
    raise UsageError(
        f"the claim's recipe was run with arguments {words or '(none)'}, "
        f"yours has {shlex.join(found.arguments) or '(none)'}",
        hint=f"arguments are part of the program; to accept these: --recipe-args {shlex.quote(words)}",
    )


def _form(recipe: RecipeRef) -> str:
    return "module" if recipe.module else "script"


def _first_difference(theirs: bytes, own: Path) -> int:
    try:
        ours = own.read_bytes()
    except OSError:
        return 1
    pairs = zip(theirs.splitlines(), ours.splitlines(), strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    return 1 + (min(theirs.count(b"\n"), ours.count(b"\n")) if same is None else same)
