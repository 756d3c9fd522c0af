"""What a verifier trusts and demands, as TOML:

    keys = ["ed25519:<hex>", "ssh-ed25519 AAAA..."]     provers' public keys, from outside any claim
    recipes = ["sha256:<hex>"]                          programs that this verifier has read and vouches for
    fraction = 0.05                                     f: the forged share of steps that must be caught
    confidence = 0.99                                   c: with at least this probability
    top_updates = 5                                     Q: that many largest updates are always replayed
    budget = 0.05                                       the most that replays may cost, as a share of the run's steps
    max_swap_escape = 0.01                              weights swapped in must not be missed with more probability
    calibration = ["lab.json"]                          calibrations that this verifier believes, beside this file
    accept_consistent = false                           CONSISTENT will do: exit 0
    unsafe_no_sandbox = false                           run any recipe without the sandbox, on this machine, as you
    [sandbox] ...                                       what a recipe may use in the sandbox; see `allowance`
    [[network]] ...  [[tsa]] ...                        whose time is believed; see `sources`
    [dispute] ...                                       when two models are the same, and public ones; see `terms`

Whatever the file does not say has the value above (no keys, no recipes, no sources of time), but for `budget` and
`max_swap_escape`: without them nothing caps the replays, and no verdict depends on the swap bound.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from polchain.core.digest import Digest
from polchain.core.keys import PublicKey
from polchain.errors import PolchainError, PolicyError
from polchain.verifier.allowance import Allowance
from polchain.verifier.calibration import Calibration
from polchain.verifier.soundness import check_fraction, draws_needed
from polchain.verifier.sources import Sources
from polchain.verifier.terms import Terms

__all__ = ["Policy"]

POLICY_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Policy:
    """What this verifier trusts and demands.

    Attributes:
        keys: pinned public keys of provers; empty means that the key is not pinned, and nothing can be VERIFIED.
        recipes: digests of vouched programs (`RecipeRef.program()`).
        fraction: f, the forged share of the steps that must be caught.
        confidence: c, the least probability of catching it.
        top_updates: Q, how many of the largest updates are always replayed.
        unsafe_no_sandbox: run recipes without the sandbox, unvouched ones too.
        sandbox: what a recipe may use in the sandbox.
        budget: the most that all replays may cost, as a share of the run's steps; None where nothing caps them.
        max_swap_escape: the largest escape of the swap bound that is accepted; None for any, and for none at all.
        sources: whose time is believed; empty means that no time is final.
        dispute: when two models are the same, and which are public.
        calibrations: what is tolerated between machines; empty means that only exact replay counts.
        accept_consistent: whether CONSISTENT will do.
    """

    keys: frozenset[PublicKey] = field(default_factory=frozenset)
    recipes: frozenset[Digest] = field(default_factory=frozenset)
    fraction: float = 0.05
    confidence: float = 0.99
    top_updates: int = 5
    unsafe_no_sandbox: bool = False
    sandbox: Allowance = field(default_factory=Allowance)
    sources: Sources = field(default_factory=Sources)
    budget: float | None = None
    max_swap_escape: float | None = None
    dispute: Terms = field(default_factory=Terms)
    calibrations: tuple[Calibration, ...] = ()
    accept_consistent: bool = False

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        check_fraction(self.confidence, "confidence")
        if not 0 <= self.top_updates <= 10_000:
            raise PolicyError(f"top_updates is {self.top_updates}: not between 0 and 10,000")
        if self.budget is not None and not 0.0 < self.budget <= 1.0:
            raise PolicyError(f"budget is {self.budget!r}: not a share of the run's steps, such as 0.05")
        if self.max_swap_escape is not None and not 0.0 <= self.max_swap_escape <= 1.0:
            raise PolicyError(f"max_swap_escape is {self.max_swap_escape!r}: not a probability")
        draws_needed(self.fraction, self.confidence)  # refuses what would need too many

    @property
    def draws(self) -> int:
        """r, the steps to draw."""
        return draws_needed(self.fraction, self.confidence)

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Read a policy file.

        Raises:
            PolicyError: unreadable, too large, an unknown name, or a value of the wrong kind.
        """
        try:
            with path.open("rb") as file:
                text = file.read(POLICY_LIMIT + 1)
            if len(text) > POLICY_LIMIT:
                raise PolicyError(f"{path} is over {POLICY_LIMIT} bytes")
            values = tomllib.loads(text.decode("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise PolicyError(f"cannot read the policy {path}: {error}") from error
        known = {
            "keys", "recipes", "fraction", "confidence", "top_updates", "unsafe_no_sandbox", "budget",
            "max_swap_escape", "calibration", "accept_consistent", "sandbox", "network", "tsa", "dispute",
        }  # fmt: skip
        for name in values:
            if name not in known:
                raise PolicyError(f"{path}: unknown name {name!r}", hint=f"known: {', '.join(sorted(known))}")
        default = cls()
        try:
            return cls(
                keys=frozenset(PublicKey.parse(text) for text in _texts(values, "keys")),
                recipes=frozenset(Digest.parse(text) for text in _texts(values, "recipes")),
                fraction=_number(values, "fraction", default.fraction),
                confidence=_number(values, "confidence", default.confidence),
                top_updates=_whole(values, "top_updates", default.top_updates),
                unsafe_no_sandbox=_switch(values, "unsafe_no_sandbox"),
                sandbox=Allowance.parse(values.get("sandbox", {}), path.parent),
                sources=Sources.parse(values, path.parent),
                budget=_number(values, "budget", 0.0) if "budget" in values else None,
                max_swap_escape=_number(values, "max_swap_escape", 0.0) if "max_swap_escape" in values else None,
                dispute=Terms.parse(values.get("dispute", {}), path.parent),
                calibrations=tuple(Calibration.read(path.parent / name) for name in _texts(values, "calibration")),
                accept_consistent=_switch(values, "accept_consistent"),
            )
        except PolicyError:
            raise
        except PolchainError as error:
            raise PolicyError(f"{path}: {error}", hint=error.hint) from error


def _texts(values: dict[str, object], name: str) -> list[str]:
    items = values.get(name, [])
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise PolicyError(f"{name} is a list of strings")
    return items


def _number(values: dict[str, object], name: str, default: float) -> float:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PolicyError(f"{name} is a number")
    try:
        return float(value)
    except OverflowError:
        raise PolicyError(f"{name} is no number that could be meant") from None


def _whole(values: dict[str, object], name: str, default: int) -> int:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PolicyError(f"{name} is a whole number")
    return value


def _switch(values: dict[str, object], name: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise PolicyError(f"{name} is true or false")
    return value
