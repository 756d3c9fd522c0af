"""Verification in the sandbox: what is run where, what is said of it, and what becomes of a hostile recipe."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from polchain.cli.app import main
from polchain.errors import UsageError
from polchain.verifier.allowance import Allowance
from polchain.verifier.policy import Policy
from polchain.verifier.sandbox import HINT
from polchain.verifier.verdict import MEANING, Ruled, Verdict
from polchain.verifier.verify import verify
from tests.claims import DATA, Recorded, record_once

# Does as it is told by a file beside the data, where it is replayed.
OBEDIENT = """
import torch
from torch import nn

import polchain
from polchain.training.child import current_host

host = current_host()
order = polchain.data_dir() / "order"
mode, _, code = order.read_text().partition(":") if host is not None and order.exists() else ("", "", "")


def data():
    return [(torch.full((4,), i / 32), i % 2) for i in range(32)]


if host is not None and mode == host.mode:
    exec(code)
with polchain.record("run", data=data, batch_size=8, steps=4, every=2) as run:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model=model, optimizer=optimizer)
    for step, (x, y) in run.batches():
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
"""
SMALL = Allowance(memory=1.5, processes=60, scratch=0.125)


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder; the same one for all tests, since a child that stays warm was told its place."""
    folder = tmp_path_factory.getbasetemp() / "obedient-data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.fixture
def obedient(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record_once(tmp_path_factory, "obedient", OBEDIENT)


def verdict_on(found: Recorded, data: Path, *, vouched: bool = False, timeout: float = 120) -> Verdict:
    policy = Policy(keys=frozenset({found.key.public}), sandbox=SMALL)
    return verify(found.claim, policy, data=data, recipe=found.script if vouched else None, timeout=timeout)


def test_a_strangers_recipe_runs_in_the_sandbox_and_is_computed_at_most(
    obedient: Recorded, data: Path, require_sandbox: None
) -> None:
    verdict = verdict_on(obedient, data)
    assert verdict.outcome is Ruled.COMPUTED, verdict.reasons
    assert verdict.sandbox.startswith("bubblewrap")
    assert not verdict.vouched


def test_a_vouched_recipe_runs_in_the_sandbox_too(
    recorded: Recorded, obedient: Recorded, data: Path, require_sandbox: None
) -> None:
    (data / "order").write_text("replay:import os; assert os.environ['USER'] == 'recipe'; os.stat('/etc/passwd')")
    verdict = verdict_on(obedient, data, vouched=True)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert "the recipe says: the script raised FileNotFoundError" in verdict.reasons[0]
    (data / "order").unlink()
    assert verdict_on(obedient, data, vouched=True).outcome is Ruled.VERIFIED
    policy = Policy(keys=frozenset({recorded.key.public}))
    verdict = verify(
        recorded.claim, policy, data=DATA, recipe=recorded.script, recipe_arguments=recorded.arguments, full=True
    )
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert verdict.sandbox.startswith("bubblewrap")


WITHOUT = {
    "no bwrap": (None, "bwrap is not installed"),
    "a bwrap that may not": (
        "#!/bin/sh\n[ $1 = --version ] && { echo bubblewrap 0.8.0; exit; }\n"
        "echo 'bwrap: No permissions to create new namespace' >&2; exit 1\n",
        "bubblewrap 0.8.0 makes no sandbox here: the sandbox could not be made: bwrap: No permissions to create",
    ),
    "a bwrap that is none": ("#!/bin/sh\necho '{}'\n", "makes no sandbox here"),
    "a bwrap that fences nothing": (
        "#!/bin/sh\n[ $1 = --version ] && { echo bubblewrap 0.8.0; exit; }\n"
        'while [ "$1" != -- ]; do [ "$1" = --info-fd ] && fd=$2; shift; done; shift\n'
        'eval "echo \'{\\"child-pid\\": $$}\' >&$fd; exec $fd>&-"; exec "$@"\n',
        "makes no sandbox here",
    ),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_without_a_sandbox_only_a_vouched_recipe_runs(
    obedient: Recorded, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    text, said = WITHOUT[what]
    tools = tmp_path / "tools"
    tools.mkdir()
    if text is not None:
        (tools / "bwrap").write_text(text)
        (tools / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    verdict = verdict_on(obedient, data)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert "nobody vouched for the recipe, and without a sandbox" in verdict.reasons[0]
    assert said in verdict.reasons[0]
    assert (HINT in verdict.reasons[0]) is (text is None)
    assert not verdict.reproductions
    verdict = verdict_on(obedient, data, vouched=True)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert verdict.sandbox.startswith("none: ")
    assert said in verdict.sandbox


def test_the_unsafe_flag_runs_a_strangers_recipe_outside(obedient: Recorded, tmp_path: Path, data: Path) -> None:
    mark = tmp_path / "mark"
    (data / "order").write_text(f"dataset:open({str(mark)!r}, 'w')")
    policy = Policy(keys=frozenset({obedient.key.public}), unsafe_no_sandbox=True)
    verdict = verify(obedient.claim, policy, data=data)
    assert verdict.outcome is Ruled.COMPUTED
    assert verdict.sandbox.startswith("none, as --unsafe-no-sandbox asks")
    assert mark.exists()


def test_a_home_folder_is_not_shown_as_the_data(
    obedient: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require_sandbox: None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    for data in (tmp_path / "user", tmp_path):
        for vouched in (False, True):  # a recipe that was read is no reason either to run it as oneself
            with pytest.raises(UsageError, match=f"the data folder {data} holds your home folder") as caught:
                verdict_on(obedient, data, vouched=vouched)
            assert "--data" in caught.value.hint


@pytest.mark.parametrize("where", ["in", "beside", "of"])
def test_a_claim_that_lies_with_the_data_is_not_shown(
    obedient: Recorded, tmp_path: Path, data: Path, where: str, require_sandbox: None
) -> None:
    """A claim often lies in the working directory, which is the data folder where no other is named."""
    claim = data / "deep" / "claim" if where == "in" else tmp_path / "claim"
    shutil.copytree(obedient.claim, claim)
    names = [str(path) for path in claim.rglob("*") if path.is_file()]
    look = f"initial:import os; seen = [name for name in {names} if os.path.exists(name)]; assert not seen, seen"
    (data / "order").write_text(look)
    policy = Policy(keys=frozenset({obedient.key.public}), sandbox=SMALL)
    verdict = verify(claim, policy, data=claim if where == "of" else data)
    assert verdict.outcome is Ruled.COMPUTED, verdict.reasons


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_where_the_recipe_ran(
    obedient: Recorded, data: Path, capsys: pytest.CaptureFixture[str], require_sandbox: None, as_json: bool
) -> None:
    words = ["verify", str(obedient.claim), "--key", str(obedient.key.public), "--data", str(data)]
    assert main([*words, "--memory", "1.5", *(["--json"] if as_json else [])]) == 3
    said = capsys.readouterr().out
    assert "COMPUTED" in said
    assert MEANING in said
    assert '"sandbox":"bubblewrap' in said.replace(" ", "") if as_json else "\nsandbox      bubblewrap" in said


TAKE = """
import polchain.training.child as child
from polchain.core.digest import blake3
from polchain.core.manifest import Manifest, Snapshot, TensorRow
borrow = child.borrow
def honest(state):
    return borrow(state).unhashed()
def take(state):
    snapshot = honest(state)
    TAKEN
class Lying:
    def __init__(self, state):
        self.unhashed, self.honest = lambda: take(state), borrow(state)
    def __getattr__(self, name):
        return getattr(self.honest, name)
child.borrow = Lying
"""
NAN = """with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.fill_(float("nan"))
    return honest(state)"""
SHAPES = """rows = [TensorRow("model/weight", "parameter", "F32", (2, 2, 2), blake3(b""))]
    return Snapshot(Manifest.of(rows), {"model/weight": memoryview(bytes(32))})"""
NOTHING = "return Snapshot(Manifest(()), {})"
HUGE = """rows = [TensorRow("model/weight", "parameter", "U8", (1 << 28,), blake3(b""))]
    return Snapshot(Manifest.of(rows), {"model/weight": memoryview(bytes(1 << 28))})"""
HOSTILE = {
    "numbers that are none": (TAKE.replace("TAKEN", NAN), "differs"),
    "other shapes": (TAKE.replace("TAKEN", SHAPES), "state is off by rho inf|differs"),
    "no state at all": (TAKE.replace("TAKEN", NOTHING), "state is off by rho inf|differs"),
    "a huge state": (TAKE.replace("TAKEN", HUGE), "over the limit of"),
    "the wrong samples": ("host.sample = lambda index, encoding: host.encodings.append(b'x')", "another sample"),
    "no samples": ("host.sample = lambda index, encoding: None", "used 0 samples where the order has 16"),
    "processes": ("import os\nwhile True: os.fork()", "more processes and threads than it may|BlockingIOError"),
    "memory": ("x = bytearray(1 << 40)", "MemoryError"),
    "its own death": ("import os; os.kill(-1, 9); os._exit(0)", "ended in the middle of an answer"),
    "a peek": (f"open({os.path.abspath(__file__)!r})", "FileNotFoundError"),
    "a verdict": ("import polchain.verifier.verdict as v; v.judge = None; print('VERIFIED'); 1 / 0", "ZeroDivision"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_recipe_gives(obedient: Recorded, data: Path, what: str, require_sandbox: None) -> None:
    """Whatever it answers in a replay, it ends in a reason by name, and never in COMPUTED, let alone VERIFIED."""
    code, said = HOSTILE[what]
    (data / "order").write_text("replay:" + textwrap.dedent(code))
    verdict = verdict_on(obedient, data)
    assert verdict.outcome in (Ruled.INCONCLUSIVE, Ruled.REFUTED)
    assert any(re.search(said, reason) for reason in verdict.reasons), verdict.reasons
    assert all(reason.isprintable() for reason in verdict.reasons)


@pytest.mark.parametrize("mode", ["dataset", "initial", "replay"])
def test_a_recipe_that_runs_for_ever_is_stopped_in_every_stage(
    obedient: Recorded, data: Path, mode: str, require_sandbox: None
) -> None:
    (data / "order").write_text(f"{mode}:import time; time.sleep(600)")
    verdict = verdict_on(obedient, data, timeout=2)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert "took too long" in verdict.reasons[0]


def test_the_policy_is_given_to_the_sandbox(
    obedient: Recorded, tmp_path: Path, data: Path, require_sandbox: None
) -> None:
    extra = tmp_path / "library"
    extra.mkdir()
    (extra / "there").touch()
    (data / "order").write_text(f"initial:open({str(extra / 'there')!r}); open('/tmp/x', 'wb').write(bytes(2 << 20))")
    policy = Policy(keys=frozenset({obedient.key.public}), sandbox=replace(SMALL, show=(extra,)))
    assert verify(obedient.claim, policy, data=data).outcome is Ruled.COMPUTED
    policy = replace(policy, sandbox=replace(SMALL, scratch=0.001, show=(extra,)))
    verdict = verify(obedient.claim, policy, data=data)
    assert "OSError" in verdict.reasons[0], verdict.reasons
