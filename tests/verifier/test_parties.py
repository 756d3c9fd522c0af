"""A ruling goes on where one party's claim alone gives trouble; it says so, and gives that party nothing for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from polchain.cli.dispute import show_ruling
from polchain.errors import BudgetError, PolicyError, UsageError
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.parties import Party
from polchain.verifier.policy import Policy
from polchain.verifier.ruling import Ruling
from polchain.verifier.sitting import Request
from polchain.verifier.verdict import Verdict

CLAIM = cast(IntactClaim, SimpleNamespace(genesis=SimpleNamespace(dataset=None)))


def verify(monkeypatch: pytest.MonkeyPatch, refuses: Any, **changes: Any) -> tuple[Request, list[str]]:
    """The request that a party's claim is verified with at last, and what was remarked."""
    found: list[Request] = []

    def attempt(intact: IntactClaim, request: Request, progress: Any) -> Verdict | None:
        refuses(request)
        found.append(request)
        return None

    monkeypatch.setattr("polchain.verifier.parties.verify_intact", attempt)
    party = Party("A", replace(Request(Path("a"), Policy(), Path("data")), **changes))
    party._verified(CLAIM, (0,), None)
    return found[0], party.remarks


def test_a_short_log_is_replayed_without_a_budget_and_keeps_its_vouching(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(request: Request) -> None:
        if request.policy.budget is not None:
            raise BudgetError("the budget is too small")

    own = cast(Any, object())
    request, remarks = verify(monkeypatch, refuses, policy=Policy(budget=0.5), recipe=own)
    assert request.policy.budget is None
    assert request.recipe is own, "what vouches for a recipe has nothing to do with a budget"
    assert remarks == ["it was replayed without a budget: the budget is too small"]


def test_a_claim_that_drifts_is_compared_exactly_and_its_recipe_stays_calibrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(request: Request) -> None:
        if not request.exact:
            raise PolicyError("the drift is too large")

    policy = Policy(calibrations=(cast(Any, object()),))
    request, remarks = verify(monkeypatch, refuses, policy=policy)
    assert request.exact
    assert request.policy.calibrations == policy.calibrations, "d_ref is the recipe's, and bounds a swap still"
    assert remarks == ["its replays were compared exactly, by no calibration: the drift is too large"]


def test_what_is_wrong_for_every_claim_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(request: Request) -> None:
        raise UsageError("no")

    with pytest.raises(UsageError):
        verify(monkeypatch, refuses)
    with pytest.raises(UsageError):
        verify(monkeypatch, refuses, recipe=cast(Any, object()))


def test_the_word_of_a_ruling_is_coloured_and_nothing_else_steers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("polchain.cli.output.styled", lambda text, *_, **__: f"\x1b[1m{text}\x1b[0m")
    show_ruling(Ruling((), (), (), ("a name with \x1b[2J",)), as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith("\x1b[1mUNDECIDED\x1b[0m\n")
    assert r"a name with \x1b[2J" in shown
    assert shown.count("\x1b") == 2, "only polchain's own escapes"
