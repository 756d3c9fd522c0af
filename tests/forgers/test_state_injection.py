"""State injection: planted optimizer state carries honest initial weights to the stolen ones.

    SGD     learning rate 1e-9, momentum buffer -d / (lr * sum mu^j): the gradients no longer matter
    Adam    v = 1e24, step = 1e6, m = -d / sum(lr * b1^j / sqrt(v * b2^j)): true gradients fall below float rounding

d is the way from here to the stolen weights, divided by the segments that are left. It costs the forger less than the
honest training, and the published check accepts it, for it believes what the checkpoint says of the optimizer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polchain.core.claim import Claim
from polchain.core.manifest import Scalar, Snapshot
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from tests.claims import DATA, Recorded
from tests.forgers.conftest import Verify
from tests.forgers.forge import Workshop, settings_of, tensors_of, with_rows
from tests.forgers.published import PublishedVerifier, gap
from tests.scripts import digits

K = 5
SEGMENTS = 12
TINY_RATE = 1e-9


class Injector:
    """A forger who leads honest initial weights to the stolen ones by planted optimizer state alone."""

    def __init__(self, victim: Recorded, optimizer: str, checker: PublishedVerifier) -> None:
        self.optimizer = optimizer
        self.checker = checker
        self.shop = Workshop(victim.claim)
        self.template = self.shop.states()[-1]
        self.target = tensors_of(self.template)
        self.batches = [list(self.shop.order.batches(i * K, (i + 1) * K)) for i in range(SEGMENTS)]

    def lead(self, states: list[Snapshot], settings: dict[str, Scalar]) -> list[Snapshot]:
        """Go on from the last of these states, in the segments that are left, to the stolen weights.

        Every segment is truly run from its planted opening state, so that whoever runs it again gets the same weights.
        """
        states = [*states[:-1], self.plant(states[-1], settings, SEGMENTS - len(states) + 1)]
        for segment in range(len(states) - 1, SEGMENTS):
            weights = self.checker.train(states[-1], self.batches[segment])
            left = max(1, SEGMENTS - segment - 1)
            states.append(self.plant(with_rows(self.template, weights), settings, left))
        return states

    def plant(self, state: Snapshot, settings: dict[str, Scalar], segments: int) -> Snapshot:
        """The optimizer state that moves these weights by 1/segments of what is left in one segment."""
        here = tensors_of(state)
        planted: dict[str, torch.Tensor] = {}
        honest = settings_of(self.template)
        for name, value in here.items():
            d = (self.target[name].double() - value.double()) / segments
            row = name.replace("model/", "optimizer/")
            if self.optimizer == "sgd":
                rate, mu = float(settings.get("lr", honest["lr"])), float(honest["momentum"])
                planted[f"{row}/momentum_buffer"] = (-d / (rate * sum(mu**j for j in range(1, K + 1)))).float()
            else:
                rate, b1, b2, v = float(settings.get("lr", honest["lr"])), 0.9, 0.999, 1e24
                reach = sum(rate * b1**j / (v * b2**j) ** 0.5 for j in range(1, K + 1))
                planted[f"{row}/exp_avg"] = (-d / reach).float()
                planted[f"{row}/exp_avg_sq"] = torch.full_like(value, v)
                planted[f"{row}/step"] = torch.tensor(1e6)
        return with_rows(state, planted, {f"schedule/settings/0/{key}": value for key, value in settings.items()})


@pytest.fixture(scope="module")
def samples() -> list[tuple[torch.Tensor, int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLCHAIN_DATA", str(DATA))
        return digits.read()


@pytest.fixture
def injector(request: pytest.FixtureRequest, samples: list[tuple[torch.Tensor, int]]) -> Injector:
    victim = request.getfixturevalue(f"{request.param}_victim")
    return Injector(victim, request.param, PublishedVerifier(request.param, samples))


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
    states = injector.lead([injector.shop.initial()], {"lr": TINY_RATE})
    assert arrived(injector, states)
    assert injector.checker.accepts(states, injector.batches, delta=1e-6)
    assert injector.checker.exact_parameters(states, injector.batches)

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
    states = injector.lead([injector.shop.initial()], {})
    assert arrived(injector, states)
    assert injector.checker.accepts(states, injector.batches, delta=1e-6)
    assert injector.checker.exact_parameters(states, injector.batches)

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
    states = injector.lead(honest, {})
    assert arrived(injector, states)
    assert injector.checker.exact_parameters(states[4:], injector.batches[4:])

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
    states = injector.lead(honest, {"lr": TINY_RATE})
    assert arrived(injector, states)
    assert injector.checker.accepts(states[4:], injector.batches[4:], delta=1e-6)

    claim = injector.shop.claim(tmp_path / "claim", states)
    integrity_holds(claim, injector)
    verdict = polchain_says(claim, injector.shop.key.public, ("--optimizer", "sgd"))
    assert verdict.outcome is Ruled.REFUTED
    assert "the optimizer's 0/lr is 1e-09, the recipe makes it 0.05" in verdict.reasons[0]
