"""polchain: prove that you trained a model, and check such a proof.

The tour, in the order of the data:

    record, train, Recipe    a prover's training loop, recorded: seeded batches in, signed checkpoints out
    Claim                    the portable evidence of one run, read from a folder
    check_integrity          hashes, signatures, order: Claim + Policy -> IntactClaim, or raises
    draw_challenge           which steps to replay: IntactClaim + seed -> Challenge
    replay                   trains those steps again: Challenge -> Reproductions
    judge                    says what follows: Verdict
    verify                   all of it in one call

Replay proves that a program ran; only the program's text makes it learning.

Names are loaded when they are first used: importing polchain loads neither torch nor anything else that is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "Claim": "polchain.core.claim",
    "Policy": "polchain.verifier.policy",
    "Recipe": "polchain.training.recipe",
    "Verdict": "polchain.verifier.verdict",
    "check_integrity": "polchain.verifier.integrity",
    "data_dir": "polchain.training.dataset",
    "draw_challenge": "polchain.verifier.challenge",
    "judge": "polchain.verifier.verdict",
    "record": "polchain.prover.record",
    "replay": "polchain.verifier.replay",
    "train": "polchain.prover.record",
    "verify": "polchain.verifier.verify",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from polchain.core.claim import Claim as Claim
    from polchain.prover.record import record as record
    from polchain.prover.record import train as train
    from polchain.training.dataset import data_dir as data_dir
    from polchain.training.recipe import Recipe as Recipe
    from polchain.verifier.challenge import draw_challenge as draw_challenge
    from polchain.verifier.integrity import check_integrity as check_integrity
    from polchain.verifier.policy import Policy as Policy
    from polchain.verifier.replay import replay as replay
    from polchain.verifier.verdict import Verdict as Verdict
    from polchain.verifier.verdict import judge as judge
    from polchain.verifier.verify import verify as verify


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'polchain' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
