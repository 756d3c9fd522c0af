"""Glue: an honest prefix of one's own, the victim's honest end, and planted optimizer state at the joint.

The last jump, without any glue, is in `test_small_lies.py`.
"""

from __future__ import annotations

from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import glue
from tests.forgers.conftest import Judged, Published
from tests.forgers.victims import forger


def test_a_run_glued_from_two_passes_the_published_check_and_its_end_is_not_of_its_seed(
    sgd_victim: Recorded, published: Published, delta: float, judged: Judged
) -> None:
    forgery = glue.forge(forger(sgd_victim.claim, "glue"), 6)
    assert published("sgd").accepts(forgery.states, forgery.batches, delta=1e-3 * delta)
    assert forgery.arrived() == 0.0

    verdict = judged(forgery)
    assert verdict.outcome is Ruled.REFUTED
    # The victim's states were trained, but on the batches of the victim's seed.
    assert verdict.reasons[0].startswith("steps 55 to 60: the claimed ")
    assert verdict.reproductions[-1].pick is not None
    assert "last" in verdict.reproductions[-1].pick.reasons
