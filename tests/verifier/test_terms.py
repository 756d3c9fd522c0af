"""What a policy says of disputes."""

from __future__ import annotations

from pathlib import Path

import pytest

from polchain.errors import PolicyError
from polchain.verifier.policy import Policy
from polchain.verifier.terms import Terms


def test_a_policy_says_when_two_models_are_the_same_and_which_are_public(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[dispute]\ndistance = 0.01\nbases = ["base.safetensors"]\n')
    assert Policy.read(path).dispute == Terms(0.01, (tmp_path / "base.safetensors",))
    path.write_text("")
    assert Policy.read(path).dispute == Terms(1e-3, ())


@pytest.mark.parametrize(
    "text",
    [
        "dispute = 3",
        "[dispute]\ndistance = -0.1",
        "[dispute]\ndistance = 1.0",
        "[dispute]\ndistance = nan",
        "[dispute]\ndistance = true",
        '[dispute]\ndistance = "near"',
        "[dispute]\nbases = [3]",
        '[dispute]\nbases = "base.safetensors"',
        "[dispute]\nnearness = 1",
    ],
)
def test_anything_else_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError):
        Policy.read(path)
