"""Exact replay on CUDA. These have not been run where this project is developed: `make gpu` says so where it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polchain.core.note import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.verifier.policy import Policy
from polchain.verifier.verdict import Ruled
from polchain.verifier.verify import verify

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.gpu
def test_a_resnet_recorded_on_cuda_replays_exactly_on_cuda(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    write_key(tmp_path / "key", key, None)
    arguments = ("--steps", "40", "--every", "10")
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(tmp_path / "key"), "POLCHAIN_DATA": str(EXAMPLES / "data")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "resnet_digits.py"), *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    export(run, tmp_path / "claim")
    verdict = verify(
        tmp_path / "claim",
        Policy(keys=frozenset([key.public])),
        data=EXAMPLES / "data",
        recipe=EXAMPLES / "resnet_digits.py",
        recipe_arguments=arguments,
    )
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
