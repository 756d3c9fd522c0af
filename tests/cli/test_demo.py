"""The demo, as README's first command runs it, and README's excerpt of what it prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from polchain.cli import demo

ROOT = Path(__file__).parent.parent.parent


def normalised(line: str) -> str:
    """A line without what differs from run to run: digests, figures, paths of this machine."""
    line = re.sub(r"STOLEN = .*", "STOLEN", line)
    line = re.sub(r"\S*/examples/", "examples/", line)
    line = re.sub(r"[0-9a-f]{32,}", "#", line)
    line = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "0", line)
    return re.sub(r"\(first [^)]*\)", "(first)", line).strip()


@pytest.mark.slow
def test_the_demo_ends_well_and_prints_what_the_readme_shows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "polchain.cli.app", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = {normalised(line) for line in (done.stdout + done.stderr).splitlines()}
    verdicts = [line for line in done.stdout.splitlines() if line in ("VERIFIED", "REFUTED", "COMPUTED")]
    assert verdicts == ["VERIFIED", "REFUTED", "COMPUTED"]
    assert (tmp_path / "polchain-demo" / "alice" / "claim" / "claim.json").is_file()

    readme = (ROOT / "README.md").read_text()
    excerpt = re.search(r"<!-- demo-output -->\n```\n(.*?)```", readme, re.DOTALL)
    assert excerpt is not None, "README.md shows no output of the demo"
    missing = [line for line in excerpt[1].splitlines() if normalised(line) not in printed]
    assert not missing, f"README.md shows lines that the demo does not print: {missing}"


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
