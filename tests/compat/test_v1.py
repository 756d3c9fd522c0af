"""A claim that the first version wrote: it must verify for ever. Nothing in tests/compat/v1 is ever made again."""

from pathlib import Path

from polchain.core.claim import Claim
from polchain.core.keys import PublicKey
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy

V1 = Path(__file__).parent / "v1"
ROOT = "xRKQgsm1AYKBVeGf7z/t/IWEL9Fp5q4cnqsgS+ziL2o="
DRAWS = (0, 1, 0, 1, 4, 0, 1, 3)


def test_a_claim_of_version_1_is_intact_and_draws_the_same_challenge() -> None:
    policy = Policy(keys=frozenset([PublicKey.parse((V1 / "key.pub").read_text())]))
    intact = check_integrity(Claim.read(V1 / "claim"), policy)
    assert intact.head.text().splitlines()[2] == ROOT
    assert [entry.step for entry in intact.checkpoints] == [0, 3, 6]
    assert all(intact.claim.manifest(entry.state) for entry in intact.checkpoints)
    assert draw_challenge(intact, bytes(32), 8).draws == DRAWS
