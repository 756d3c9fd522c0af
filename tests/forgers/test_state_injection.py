"""State injection: planted optimizer state carries honest initial weights to the stolen ones.

    SGD     learning rate 1e-9, momentum buffer -d / (lr * sum mu^j): the gradients no longer matter
    Adam    v = 1e24, step = 1e6, m = -d / sum(lr * b1^j / sqrt(v * b2^j)): true gradients fall below float rounding

d is the way from here to the stolen weights, divided by the segments that are left. It costs the forger less than the
honest training, and the published check accepts it, for it believes what the checkpoint says of the optimizer.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.published_check import gap, tensors_of
from polchain.core.claim import Claim
from polchain.core.manifest import Snapshot
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from tests.forgers.attacks.state_injection import TINY_RATE, Injector
from tests.forgers.conftest import Published, Verify
from tests.forgers.forge import Workshop

K = 5


@pytest.fixture
def injector(request: pytest.FixtureRequest, published: Published) -> Injector:
    victim = request.getfixturevalue(f"{request.param}_victim")
    return Injector(Workshop(victim.claim), published(request.param))


def arrived(injector: Injector, states: list[Snapshot]) -> bool:
    """Whether the forger's last weights are the stolen ones, to a thousandth of the way."""
    start, end = tensors_of(states[0]), tensors_of(states[-1])
    return gap(end, injector.target) < 1e-3 * gap(start, injector.target)


def integrity_holds(claim: Path, injector: Injector) -> None:
    check_integrity(Claim.read(claim), Policy(keys=frozenset({injector.shop.key.public})))


@pytest.mark.parametrize("injector", ["sgd"], indirect=True)
def test_a_planted_momentum_buffer_passes_the_published_check_and_is_refused_here(
    injector: Injector, polchain_says: Verify, tmp_path: Path
) -> None:
    states = injector.lead([injector.shop.initial()], TINY_RATE)
    assert arrived(injector, states)
    assert injector.check.accepts(states, injector.batches, delta=1e-6)
    assert injector.check.exact_parameters(states, injector.batches)

    claim = injector.shop.claim(tmp_path / "claim", states)
    integrity_holds(claim, injector)
    verdict = polchain_says(claim, injector.shop.key.public, ("--optimizer", "sgd"))
    assert verdict.outcome is Ruled.REFUTED
    reasons = "; ".join(verdict.reasons)
    assert "optimizer state at step 0 is not empty: optimizer/0.bias/momentum_buffer" in reasons
    assert "step 0: the optimizer's 0/lr is 1e-09, the recipe makes it 0.05" in reasons


@pytest.mark.parametrize("injector", ["adam"], indirect=True)
def test_planted_adam_moments_pass_a_bit_exact_check_of_parameters_and_are_refused_here(
    injector: Injector, polchain_says: Verify, tmp_path: Path
) -> None:
    states = injector.lead([injector.shop.initial()])
    assert arrived(injector, states)
    assert injector.check.accepts(states, injector.batches, delta=1e-6)
    assert injector.check.exact_parameters(states, injector.batches)

    claim = injector.shop.claim(tmp_path / "claim", states)
    integrity_holds(claim, injector)
    verdict = polchain_says(claim, injector.shop.key.public, ("--optimizer", "adam"))
    assert verdict.outcome is Ruled.REFUTED
    assert "optimizer state at step 0 is not empty: optimizer/0.bias/exp_avg" in "; ".join(verdict.reasons)


@pytest.mark.parametrize("injector", ["adam"], indirect=True)
def test_moments_planted_only_later_under_honest_settings_are_refused(
    injector: Injector, polchain_says: Verify, tmp_path: Path
) -> None:
    honest, _ = injector.shop.train(4 * K)
    states = injector.lead(honest)
    assert arrived(injector, states)
    assert injector.check.exact_parameters(states[4:], injector.batches[4:])

    claim = injector.shop.claim(tmp_path / "claim", states)
    integrity_holds(claim, injector)
    verdict = polchain_says(claim, injector.shop.key.public, ("--optimizer", "adam"))
    assert verdict.outcome is Ruled.REFUTED
    # Either the joint (steps 15 to 20) or the last segment: both claim an optimizer state that nothing computed.
    assert "the claimed optimizer state is off by rho" in verdict.reasons[0]


@pytest.mark.parametrize("injector", ["sgd"], indirect=True)
def test_settings_that_are_honest_at_first_and_false_later_are_refused(
    injector: Injector, polchain_says: Verify, tmp_path: Path
) -> None:
    honest, _ = injector.shop.train(4 * K)
    states = injector.lead(honest, TINY_RATE)
    assert arrived(injector, states)
    assert injector.check.accepts(states[4:], injector.batches[4:], delta=1e-6)

    claim = injector.shop.claim(tmp_path / "claim", states)
    integrity_holds(claim, injector)
    verdict = polchain_says(claim, injector.shop.key.public, ("--optimizer", "sgd"))
    assert verdict.outcome is Ruled.REFUTED
    assert "the optimizer's 0/lr is 1e-09, the recipe makes it 0.05" in verdict.reasons[0]
