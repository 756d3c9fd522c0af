"""Interpolation and infinitesimal updates: a straight line to the stolen weights, in steps below any delta."""

from __future__ import annotations

from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import interpolation
from tests.forgers.conftest import Judged, Published
from tests.forgers.victims import forger


def test_infinitesimal_updates_pass_the_published_check_and_contradict_the_recipe(
    long_victim: Recorded, published: Published, delta: float, judged: Judged
) -> None:
    forgery = interpolation.forge(forger(long_victim.claim, "infinitesimal"), infinitesimal=True)
    check = published("sgd")
    assert check.starts_well(forgery.states[0])
    assert check.accepts(forgery.states, forgery.batches, delta=delta)
    assert forgery.arrived() < 1e-6

    verdict = judged(forgery)
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reasons == ("steps 0 to 1: step 0: the optimizer's 0/lr is 1e-09, the recipe makes it 0.05",)


def test_the_line_under_honest_settings_passes_the_published_check_and_is_far_off_in_rho(
    long_victim: Recorded, published: Published, delta: float, judged: Judged
) -> None:
    forgery = interpolation.forge(forger(long_victim.claim, "interpolator"), infinitesimal=False)
    check = published("sgd")
    # A single step is shorter than delta, whatever is claimed for it: an absolute distance excuses everything.
    assert check.accepts(forgery.states, forgery.batches, delta=delta)
    assert forgery.arrived() < 1e-6

    verdict = judged(forgery)
    assert verdict.outcome is Ruled.REFUTED
    [*_, found] = verdict.reproductions
    assert found.rho > 0.5
    assert "state is off by rho" in verdict.reasons[0]
