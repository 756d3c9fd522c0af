"""The survey: sizes stated beside hidden states are bounded, and what crosses steps beside the weights is ranked."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import polchain.verifier.survey as module
from polchain.core.claim import Claim, checkpoint_name, manifest_name, write_listing
from polchain.core.entries import CheckpointEntry, Update
from polchain.core.manifest import Snapshot
from polchain.verifier.bench import state_of
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.survey import survey
from tests.claims import Recorded, checkpoints_of
from tests.forgers.forge import Workshop, edited, tensors_of, with_rows

HIDDEN = 6  # of the 13 states
EVERY = 5


@pytest.fixture(scope="module")
def states(intact: IntactClaim) -> list[Snapshot]:
    found = [state_of(intact, entry) for entry in intact.checkpoints]
    return [state for state in found if state is not None]


def opened(claim: Path) -> IntactClaim:
    return check_integrity(Claim.read(claim), Policy())


def hide(claim: Path, at: int) -> None:
    state = checkpoints_of(claim)[at].state
    (claim / checkpoint_name(state)).unlink()
    (claim / manifest_name(state)).unlink()
    write_listing(claim)


def test_a_jump_across_a_hidden_state_contradicts_the_small_sizes_stated_for_it(
    recorded: Recorded, states: list[Snapshot], tmp_path: Path
) -> None:
    moved = tensors_of(states[HIDDEN + 1])["model/0.weight"] + 1.0
    forged = [*states[: HIDDEN + 1], with_rows(states[HIDDEN + 1], {"model/0.weight": moved}), *states[HIDDEN + 2 :]]
    shop = Workshop(recorded.claim)
    small = edited(CheckpointEntry, (HIDDEN + 1) * EVERY, update=Update(1e-3, 1e-3))
    claim = shop.claim(tmp_path / "claim", forged, [entry.loss for entry in shop.stolen.checkpoints], small)
    hide(claim, HIDDEN)
    false = survey(opened(claim)).false
    assert len(false) == 2
    assert all(f"the entries up to step {(HIDDEN + 1) * EVERY} claim updates of" in said for said in false)
    assert "together since the last state that is shown" in false[0]


def test_an_honest_claim_that_hides_states_contradicts_nothing(
    recorded: Recorded, states: list[Snapshot], tmp_path: Path
) -> None:
    shop = Workshop(recorded.claim)
    claim = shop.claim(tmp_path / "claim", states, [entry.loss for entry in shop.stolen.checkpoints])
    for at in (0, HIDDEN, HIDDEN + 1, len(states) - 1):
        hide(claim, at)
    assert survey(opened(claim)).false == ()


def test_a_planted_momentum_is_among_the_largest_updates_though_no_weight_moves(
    recorded: Recorded, states: list[Snapshot], tmp_path: Path
) -> None:
    planted = {name: tensor * 50 + 1 for name, tensor in tensors_of(states[HIDDEN], "optimizer").items()}
    forged = [*states[:HIDDEN], with_rows(states[HIDDEN], planted), *states[HIDDEN + 1 :]]
    shop = Workshop(recorded.claim)
    intact = opened(shop.claim(tmp_path / "claim", forged, [entry.loss for entry in shop.stolen.checkpoints]))
    seen = survey(intact)
    assert seen.updates[HIDDEN - 1][:2] == survey(opened(recorded.claim)).updates[HIDDEN - 1][:2]
    # Step 0 has no momentum at all, so the first segment's change is beyond measure: the lie comes next.
    ranked = sorted(range(len(seen.updates)), key=lambda i: -seen.updates[i][2])
    assert ranked[:2] == [0, HIDDEN - 1]
    picks = draw_challenge(intact, bytes(32), 0, updates=seen.updates, top_updates=2).picks
    assert "largest updates" in next(pick.reasons for pick in picks if pick.segment.index == HIDDEN - 1)


def test_the_survey_holds_a_few_states_however_many_there_are(
    intact: IntactClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, held = [0], []

    def counted(of: IntactClaim, entry: CheckpointEntry) -> Snapshot | None:
        read[0] += 1
        if read[0] in (1, len(intact.checkpoints)):
            gc.collect()
            held.append(sum(type(one) is Snapshot for one in gc.get_objects()))
        return state_of(of, entry)

    monkeypatch.setattr(module, "state_of", counted)
    survey(intact)
    assert read[0] > 10
    assert held[1] - held[0] <= 2, "more than the first state and the last one was held"
