"""A visit: an honest log that holds the stolen weights at one checkpoint, and goes on as if nothing was.

Its two updates are the largest of the run by far, and the largest are always replayed. (A dispute about these weights
would add the two segments around the state that covers them to the challenge, whatever their size.)
"""

from __future__ import annotations

from pathlib import Path

from polchain.core.claim import Claim
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.survey import survey
from polchain.verifier.verdict import Ruled
from tests.claims import Recorded
from tests.forgers.attacks import visit
from tests.forgers.conftest import Judged, Published, Verify
from tests.forgers.victims import LONG, forger

AT = 80


def test_a_visit_in_the_middle_is_among_the_largest_updates(
    long_victim: Recorded, polchain_says: Verify, tmp_path: Path
) -> None:
    forgery = visit.forge(forger(long_victim.claim, "visitor"), AT, plain=True)
    key = forgery.shop.key.public
    claim = forgery.claim(tmp_path / "claim")
    intact = check_integrity(Claim.read(claim), Policy(keys=frozenset({key})))
    updates = survey(intact).updates
    there, back = updates[AT - 1], updates[AT]
    rest = [size for i, size in enumerate(updates) if i not in (AT - 1, AT)]
    for measure in (0, 1):
        assert min(there[measure], back[measure]) > 5 * max(size[measure] for size in rest)
    # No draw is needed.
    picks = draw_challenge(intact, bytes(32), 0, updates=updates).picks
    assert {AT - 1, AT} <= {pick.segment.index for pick in picks}

    verdict = polchain_says(claim, key, LONG)
    assert verdict.outcome is Ruled.REFUTED
    assert verdict.reasons[0].startswith((f"steps {AT - 1} to {AT}: the claimed", f"steps {AT} to {AT + 1}: "))


def test_a_visit_with_planted_ways_there_and_back_passes_the_published_check(
    long_victim: Recorded, published: Published, delta: float, judged: Judged
) -> None:
    forgery = visit.forge(forger(long_victim.claim, "planting visitor"), AT, plain=False)
    check = published("sgd")
    assert {AT - 1, AT} <= set(check.largest(forgery.states, forgery.batches))
    assert check.accepts(forgery.states, forgery.batches, delta=1e-3 * delta)

    verdict = judged(forgery)
    assert verdict.outcome is Ruled.REFUTED
    assert "the optimizer's 0/lr is 1e-09, the recipe makes it 0.05" in verdict.reasons[0]
