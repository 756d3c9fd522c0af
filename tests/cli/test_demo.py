"""The demo, as README's first command runs it, and README's excerpt of what it prints."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from polchain.cli import demo, lies, stage
from polchain.core.claim import Claim
from polchain.prover.export import export
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from tests.runs import make_key, make_run

ROOT = Path(__file__).parent.parent.parent


def logical(text: str) -> list[str]:
    """Lines, with those that go on below put together: where they break depends on paths and figures."""
    return re.sub(r"(?<=\S) {2,}", " ", re.sub(r" ?\\?\n {3,}(?=\S)", " ", text)).splitlines()


def normalised(line: str) -> str:
    """A line without what differs from run to run: digests, figures, paths of this machine."""
    line = re.sub(r"STOLEN = .*", "STOLEN", line)
    line = re.sub(r"\S*/examples/", "examples/", line)
    line = re.sub(r"\|[-# ]+\|", "|", line)
    line = re.sub(r"[0-9a-f]{32,}", "#", line)
    line = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "0", line)
    line = re.sub(r"model/\S+ differs", "model/ differs", line)
    return re.sub(r"\(first [^)]*\)", "(first)", line).strip()


@pytest.mark.slow
def test_the_demo_ends_well_and_prints_what_the_readme_shows(tmp_path: Path) -> None:
    # One thread: test workers share the cores, and so small a network has nothing for a second.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "polchain.cli.app", "demo"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    printed = {normalised(line) for line in logical(done.stdout + done.stderr)}
    outcomes = [line for line in done.stdout.splitlines() if re.fullmatch("[A-Z]{5,}", line)]
    assert outcomes == ["VERIFIED", "REFUTED", "COMPUTED", "DESCENDS"]
    assert (tmp_path / "polchain-demo" / "alice" / "claim" / "claim.json").is_file()
    last = done.stdout.splitlines()[-1]
    assert last == "The certificate of the ruling, for a browser: polchain-demo/ruling.html"
    assert "Replay proves that a program ran" in (tmp_path / "polchain-demo" / "ruling.html").read_text()
    # A recipe's text is shown as it is; nothing breaks a path of this machine.
    wide = [line for line in (done.stdout + done.stderr).splitlines() if len(line) > 80 and not line.startswith("|")]
    assert all(re.search(r"(^| )\S{60,}", line) for line in wide), wide

    readme = (ROOT / "README.md").read_text()
    for mark in ("demo-output", "demo-ruling"):
        excerpt = re.search(rf"<!-- {mark} -->\n```\n(.*?)```", readme, re.DOTALL)
        assert excerpt is not None, f"README.md shows no output of the demo at {mark}"
        missing = [line for line in logical(excerpt[1]) if normalised(line) not in printed]
        assert not missing, f"README.md shows lines that the demo does not print: {missing}"


def test_a_command_is_shown_in_lines_that_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = ["$", "polchain", "verify", "--claim", "alice/claim", "--key", "alice/key.pub", "--wait", "--network", "n"]
    shown = stage._shown(words)
    assert [line for line in shown.split("\n") if len(line) > 40] == []
    assert shlex.split(shown.replace("\\\n", " ")) == words
    assert "--key alice/key.pub" in shown, "an option stays with what it names"


def test_what_the_thief_signs_looks_whole(tmp_path: Path) -> None:
    """Every hash, signature, link and batch of the copied log holds: only its replay tells it from an honest one."""
    owner, thief = (make_key(tmp_path / name) for name in ("owner", "thief"))
    export(make_run(tmp_path / "run", owner), tmp_path / "claim")
    own = make_run(tmp_path / "own", thief)
    lies.copy_log(own, tmp_path / "claim", thief, tmp_path / "copy")
    export(tmp_path / "copy", tmp_path / "copy-claim")
    intact = check_integrity(Claim.read(tmp_path / "copy-claim"), Policy(keys=frozenset({thief.public})))
    assert [entry.roots for entry in intact.checkpoints] == [entry.roots for entry in lies._states(tmp_path / "claim")]
    assert intact.genesis.key == thief.public


def test_a_folder_that_is_taken_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo._Demo, "run", lambda self: None)
    Path("polchain-demo").mkdir()
    Path("polchain-demo", "mine").touch()
    demo.demo(Path("polchain-demo"))
    said = capsys.readouterr().out
    assert said.startswith("There is something in polchain-demo/ already: this goes to polchain-demo-2/.\n")
    assert "Everything is in polchain-demo-2/" in said
