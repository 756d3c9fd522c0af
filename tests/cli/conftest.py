"""The command line for tests: in this process (`call`), or as a user starts it (`start`)."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from polchain.cli.app import main
from polchain.prover.export import export
from tests.runs import make_key, make_run

SCRIPT = """\
import os
import sys
import time
import torch
from torch import nn
import polchain

STEPS, FAULT = int(sys.argv[1]), sys.argv[2]
print("a line on stdout", __name__, sys.argv, sys.path[0])
print("a line on stderr", file=sys.stderr)

def data():
    return [(torch.full((4,), i / 32), i % 2) for i in range(32)]

if FAULT == "early":
    raise ValueError("the script's own fault")
if FAULT == "nothing":
    raise SystemExit
with polchain.record("must not be used", data=data, batch_size=8, steps=STEPS, every=2) as run:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run.attach(model=model, optimizer=optimizer)
    for step, (x, y) in run.batches():
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
        if step == int(os.environ.get("WAIT", "-1")):
            print("waiting", flush=True)
            time.sleep(60)
print("after the loop")
if FAULT == "late":
    sys.exit(3)
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process."""

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def command(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-P", "-m", "polchain.cli.app", *map(str, words)]


@pytest.fixture(scope="session")
def start() -> Callable[..., Done]:
    """Run a command line in a process of its own, without a terminal."""

    def run(*words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, text: str = "") -> Done:
        done = subprocess.run(
            command(words),
            env={**os.environ, **(env or {})},
            cwd=cwd,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unencrypted key that the environment names."""
    make_key(tmp_path / "key")
    monkeypatch.setenv("POLCHAIN_KEY_FILE", str(tmp_path / "key"))
    return tmp_path / "key"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run that looks recorded."""
    return make_run(tmp_path / "run", make_key(tmp_path / "run-key"))


@pytest.fixture
def claim(run: Path) -> Path:
    """Its claim."""
    return export(run, run.parent / "claim").path


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training script of a second: arguments are its steps, and what goes wrong with it."""
    path = tmp_path_factory.mktemp("script") / "tiny.py"
    path.write_text(SCRIPT)
    return path
