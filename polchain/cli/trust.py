"""What the verifier trusts, from the command line: the policy's file, then the flags, then the environment.

Whose time is believed: `--network`, `--rpc`, `--block-hash` and `--tsa` add to what the policy lists. A node of the
environment is asked only where neither the flags nor the policy name one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from polchain.errors import MissingFileError, PolchainError, UsageError

if TYPE_CHECKING:
    from polchain.anchors.tsa import Tsa
    from polchain.core.digest import Digest
    from polchain.core.keys import PublicKey
    from polchain.verifier.policy import Policy

__all__ = ["Trust", "public_key", "read_heads", "read_keys"]

T = TypeVar("T")
KEY_LIMIT = 16_384
HEAD_LIMIT = 65_536
SHOWN = 120


@dataclass(frozen=True, slots=True)
class Trust:
    """The flags about what is trusted and demanded, as they were given."""

    policy: Path | None
    keys: Sequence[str]
    recipes: Sequence[str]
    fraction: float | None
    confidence: float | None
    unsafe: bool
    memory: float | None
    network: str | None
    rpc: Sequence[str]
    blocks: Sequence[str]
    tsas: Sequence[str]
    budget: str | None = None
    calibrations: Sequence[Path] = ()
    consistent: bool = False

    def read(self) -> Policy:
        """The policy that they make.

        Raises:
            UsageError: a flag, a variable or the policy cannot be read.
        """
        from polchain.anchors.networks import named
        from polchain.verifier.calibration import Calibration
        from polchain.verifier.policy import Policy
        from polchain.verifier.sources import parse_block_hash

        path = self.policy or (Path(os.environ["POLCHAIN_POLICY"]) if os.environ.get("POLCHAIN_POLICY") else None)
        policy = Policy.read(path) if path is not None else Policy()
        network = self.network or os.environ.get("POLCHAIN_NETWORK")
        here = os.environ.get("POLCHAIN_RPC")
        asked = self.rpc or any(one.rpc for one in policy.sources.networks)
        sources = policy.sources.plus(
            named(network) if network else None,
            self.rpc or ([here] if here and not asked else []),
            [_parsed("--block-hash", text, parse_block_hash) for text in self.blocks],
            [_tsa(text) for text in self.tsas],
        )
        return replace(
            policy,
            keys=policy.keys | read_keys(self.keys),
            recipes=policy.recipes | {_digest(text) for text in self.recipes},
            fraction=policy.fraction if self.fraction is None else self.fraction,
            confidence=policy.confidence if self.confidence is None else self.confidence,
            unsafe_no_sandbox=policy.unsafe_no_sandbox or self.unsafe,
            budget=policy.budget if self.budget is None else _share("--budget", self.budget),
            sandbox=policy.sandbox if self.memory is None else replace(policy.sandbox, memory=self.memory),
            sources=sources,
            calibrations=(*(Calibration.read(path) for path in self.calibrations), *policy.calibrations),
            accept_consistent=policy.accept_consistent or self.consistent,
        )


def read_keys(texts: Sequence[str]) -> frozenset[PublicKey]:
    """Public keys, each as it is or as a file that holds one.

    Raises:
        UsageError: a text, or a file, that is none.
    """
    return frozenset(public_key("--key", text) for text in texts)


def read_heads(paths: Sequence[Path]) -> dict[str, bytes]:
    """Signed heads that the verifier has, by the files' names.

    Raises:
        MissingFileError: a file that cannot be read.
    """
    heads: dict[str, bytes] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                heads[f"--head {path}"] = file.read(HEAD_LIMIT + 1)
        except OSError as error:
            raise MissingFileError(f"--head {path}: cannot be read: {error.strerror}") from error
    return heads


def _tsa(text: str) -> Tsa:
    from polchain.anchors.tsa import Tsa
    from polchain.core.digest import Digest, sha256
    from polchain.verifier.sources import read_certificates

    if text.startswith("sha256:"):
        pin = _parsed("--tsa", text, Digest.parse)
        return Tsa(f"{text[:15]}...", certificates=frozenset({pin}))
    found = _parsed("--tsa", text, lambda _: read_certificates(Path(text)))
    if len(found) != 1:
        raise UsageError(f"--tsa {text}: {len(found)} certificates", hint="the authority's own, which signs its tokens")
    return Tsa(Path(text).stem, certificates=frozenset({sha256(found[0])}))


def public_key(option: str, text: str) -> PublicKey:
    """A public key, or the file with one, as an option names it.

    Raises:
        UsageError: it is none, or a private key.
        MissingFileError: there is no such file.
    """
    from polchain.core.keys import PublicKey

    if text.startswith(("ed25519:", "ssh-ed25519 ")):
        return _parsed(option, text, PublicKey.parse)
    try:
        with Path(text).open("rb") as file:
            data = file.read(KEY_LIMIT)
    except OSError:
        raise MissingFileError(
            f"{option} {text}: neither a public key nor a file with one",
            hint="ed25519:<hex>, or the .pub file that keygen wrote",
        ) from None
    if b"PRIVATE KEY-----" in data:
        raise UsageError(
            f"{option} {text}: that is a private key", hint="pass the .pub file, and never send this one to anybody"
        )
    return _parsed(option, text, lambda _: PublicKey.parse(data.decode("utf-8", "replace").strip()))


def _share(option: str, text: str) -> float:
    """A share, as `5%` or as `0.05`."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100.0 if percent else 1.0)
    except ValueError:
        value = 0.0
    if rest or not 0.0 < value <= 1.0:
        raise UsageError(f"{option} {text[:SHOWN]}: not a share, such as 5% or 0.05")
    return value


def _digest(text: str) -> Digest:
    from polchain.core.digest import Digest

    return _parsed("--trust-recipe", text, Digest.parse)


def _parsed(option: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except PolchainError as error:
        raise UsageError(f"{option} {text[:SHOWN]}: {error}", hint=error.hint) from None
