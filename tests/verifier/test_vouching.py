"""A copy of one's own vouches for the very program, and the claim has no say in what that is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polchain.core.claim import Claim
from polchain.core.keys import PrivateKey
from polchain.errors import UsageError
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.training.fingerprint import Setting
from polchain.training.program import Program
from polchain.verifier.bench import Bench
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.vouching import OwnRecipe, is_vouched

TRAIN = """
import torch
import polchain
{imports}

def points():
    return [(torch.full((2,), float(i)), i % 2) for i in range(8)]

if __name__ == "__main__":
    with polchain.record("run", data=points, batch_size=4, steps=2, every=2) as run:
        model = torch.nn.Linear(2, 2)
        run.attach(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=RATE))
        for _, (inputs, labels) in run.batches():
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            run.state.optimizers[""].step()
"""


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def recorded(folder: Path, *command: str) -> IntactClaim:
    """Record in a folder, as `python COMMAND`, and read the claim."""
    write_key(folder / "key", PrivateKey.generate(), None)
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(folder / "key"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    export(folder / "run", folder / "claim")
    return check_integrity(Claim.read(folder / "claim"), Policy())


def vouched(intact: IntactClaim, own: OwnRecipe) -> bool:
    recipe = intact.genesis.recipe
    assert recipe is not None
    with Bench(Program(recipe, intact.recipe), Setting(1), Path(".")) as bench:
        return is_vouched(intact, Policy(), own, bench)


PACKAGE = TRAIN.format(imports="import pkg.rates\nRATE = pkg.rates.RATE * getattr(pkg, 'FACTOR', 0.0)")


def test_a_file_that_the_claim_leaves_out_is_not_vouched_for(tmp_path: Path) -> None:
    files = {"train.py": PACKAGE, "pkg/rates.py": "RATE = 0.1\n"}
    honest = lay(tmp_path / "honest", {**files, "pkg/__init__.py": "FACTOR = 1.0\n"})
    intact = recorded(lay(tmp_path / "forged", files), "train.py")
    with pytest.raises(UsageError, match=r"your recipe loads pkg/__init__\.py, which the claim leaves out"):
        vouched(intact, OwnRecipe.script(honest / "train.py"))
    assert vouched(recorded(honest, "train.py"), OwnRecipe.script(honest / "train.py"))


def test_the_claim_does_not_choose_how_the_program_is_started(tmp_path: Path) -> None:
    files = {
        "train/main.py": TRAIN.format(imports="import config\nRATE = config.RATE"),
        "train/config.py": "RATE = 0.1\n",
        "config.py": "RATE = 0.0\n",
    }
    folder = lay(tmp_path / "repository", files)
    intact = recorded(folder, "-m", "train.main")
    with pytest.raises(UsageError, match=r"the claim's recipe is the module train\.main, yours is the script main\.py"):
        vouched(intact, OwnRecipe.script(folder / "train" / "main.py"))
    assert vouched(intact, OwnRecipe(folder, "train.main", True))
    with pytest.raises(UsageError, match="the claim's recipe was run with arguments"):
        vouched(intact, OwnRecipe(folder, "train.main", True, ("--more",)))


def test_a_changed_file_is_named_with_its_line(tmp_path: Path) -> None:
    files = {"train.py": PACKAGE, "pkg/rates.py": "RATE = 0.1\n", "pkg/__init__.py": "FACTOR = 1.0\n"}
    intact = recorded(lay(tmp_path / "theirs", files), "train.py")
    own = lay(tmp_path / "own", {**files, "pkg/rates.py": "# slower\nRATE = 0.01\n"})
    with pytest.raises(UsageError, match=r"your pkg/rates\.py is not the claim's pkg/rates\.py: they part at line 1"):
        vouched(intact, OwnRecipe.script(own / "train.py"))
    assert not any(path.name == "__pycache__" for path in own.rglob("*")), "one's own folder is not written to"
