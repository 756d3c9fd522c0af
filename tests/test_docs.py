"""The pages say what there is: commands, options, errors, tags, fields; links lead somewhere, and examples run."""

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

import polchain
from benchmarks import ruling
from polchain import errors
from polchain.cli.app import application, main
from polchain.core.digest import TAGS, Digest
from polchain.core.keys import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from tests.claims import DATA
from tests.recording import recorder
from tests.runs import make_key, make_run

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    page for folder in (".", "docs", "docs/decisions", "examples/data") for page in (ROOT / folder).glob("*.md")
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(page: str) -> list[str]:
    return BLOCK.findall(read(page))


def runnable(page: str) -> list[str]:
    return [block for block in blocks(page) if block.startswith("# run\n")]


def table_after(page: str, marker: str) -> list[list[str]]:
    """The rows of the table that follows a marker, without its heading."""
    lines = read(page).partition(marker)[2].strip().splitlines()
    rows = lines[: lines.index("")] if "" in lines else lines
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def quoted(cells: list[list[str]]) -> list[str]:
    """What stands in backticks in the first column."""
    return [name for row in cells for name in re.findall(r"`([^`]+)`", row[0])]


def section(command: str) -> str:
    return read("docs/commands.md").partition(f"\n## polchain {command}\n")[2].partition("\n## ")[0]


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(application())
    return dict(group.commands)


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_and_option_is_documented(name: str) -> None:
    text = section(name)
    assert text, f"docs/commands.md has no section on polchain {name}"
    assert f"\npolchain {name}" in text, f"the section on {name} has no example"
    # What follows a lone `--` is the script's own.
    documented = set(re.findall(r"(?<!-)--[a-z][a-z-]*", re.sub(r" -- .*", "", text)))
    options = {flag for p in commands()[name].params for flag in p.opts if flag.startswith("--")} - {"--help"}
    assert options <= documented, f"not documented: {options - documented}"
    known = {flag for command in commands().values() for p in command.params for flag in p.opts}
    assert documented <= known, f"documented, but not there: {documented - known}"


def test_no_command_is_documented_that_is_not_there() -> None:
    headings = re.findall(r"^## polchain (\S+)$", read("docs/commands.md"), re.MULTILINE)
    assert sorted(headings) == sorted(commands())
    for page in PAGES:
        code = "".join(FENCED.findall(page.read_text()))
        shown = set(re.findall(r"^(?:\$ )?polchain ([a-z]+)\b", code, re.MULTILINE))
        assert shown <= set(commands()), f"{page.name} shows commands that are not there"


def test_every_error_is_documented_with_its_exit_code() -> None:
    documented = {row[0].strip("`"): int(row[1]) for row in table_after("docs/commands.md", "<!-- errors -->")}
    there = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.PolchainError)
    }
    assert documented == there


def test_every_environment_variable_is_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "polchain").rglob("*.py"))
    used = set(re.findall(r"\bPOLCHAIN_[A-Z]+(?:_[A-Z]+)*\b", source))
    table = read("docs/commands.md").partition("\n## Environment\n")[2]
    assert used == set(re.findall(r"^\| `(POLCHAIN_[A-Z_]+)`", table, re.MULTILINE))


def test_every_public_name_is_mentioned() -> None:
    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    missing = [name for name in polchain.__all__ if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    assert not missing


def test_every_tag_is_specified() -> None:
    table = read("docs/formats.md").partition("| tag | begins |")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| `([a-z-]+)` \| [a-z]", table, re.MULTILINE)
    assert sorted(documented) == sorted(TAGS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert target.is_relative_to(ROOT), f"{page.name} links out of the project: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}: no such heading"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_leads_to_the_pages() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall(read("README.md"))}
    wanted = {"recording", "verifying", "formats", "commands", "threats", "limits", "index"}
    assert {f"docs/{name}.md" for name in wanted} <= linked
    index = {link.partition("#")[0] for link in LINK.findall(read("docs/index.md"))}
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"index.md"}
    assert pages == index, "docs/index.md is the map of all pages"


def test_the_quickstart_of_the_readme_is_the_example() -> None:
    (block,) = [block for block in blocks("README.md") if "polchain.record(" in block]
    example = iter(line.rstrip() for line in read("examples/quickstart.py").splitlines())
    for line in block.splitlines():
        if line.strip():
            assert line.rstrip() in example, f"examples/quickstart.py does not have, at its place: {line}"


def test_the_changelog_has_what_is_not_released() -> None:
    assert re.search(r"^## \[Unreleased\]$", read("CHANGELOG.md"), re.MULTILINE)


def test_verdicts_json_is_documented() -> None:
    from polchain.verifier.behaviour import Behaviour, Finding
    from polchain.verifier.challenge import Challenge
    from polchain.verifier.replay import Outcome, Reproduction
    from polchain.verifier.soundness import Bound
    from polchain.verifier.tau import Road
    from polchain.verifier.verdict import MEANING, Ruled, Verdict

    verdict = Verdict(
        outcome=Ruled.VERIFIED,
        reasons=("",),
        bound=Bound(90, 0.05, 0.99, 0.0, 1, 1),
        reproductions=(Reproduction(None, Outcome.EXACT, 0.0, 0.0),),
        challenge=Challenge(bytes(32), (), (), 0.05),
        vouched=True,
        program=Digest("sha256", bytes(32)),
        origin="",
        entries=1,
        steps=1,
        last_state="",
        key="",
        pinned=True,
        remarks=("",),
        times=some_times(),
        flags=(("", ""),),
        behaviour=(Behaviour("", Finding.PASSED),),
        road=Road(Digest("blake3", bytes(32)), 0.0, 0.0, 0.0),
    )
    documented = quoted(table_after("docs/verifying.md", "<!-- json: verify -->"))
    assert sorted(documented) == sorted(flat(verdict.to_json()))
    text = read("docs/verifying.md")
    assert f"\n{MEANING}\n" in text.partition("## The verdict")[2]
    table = text.partition("## The verdict")[2].partition("## Bounds")[0]
    for ruled, exit_code in re.findall(r"^\| ([A-Z]+) \|.*\| (\d) \|$", table, re.MULTILINE):
        assert Ruled(ruled).exit_code == int(exit_code)


def some_times() -> Any:
    """Times with a value for every field."""
    from polchain.anchors.base import Timestamp
    from polchain.anchors.interval import Bound, Interval
    from polchain.anchors.networks import named
    from polchain.core.entries import BeaconRef
    from polchain.verifier.receipts import BeaconBlock
    from polchain.verifier.times import AnchorTime, BeaconTime, StepSpan, Times

    stamp = Timestamp("sepolia block 7", 0, 15, "final", ("a testnet",))
    bound = Bound(0, stamp)
    block = BeaconBlock(1, BeaconRef(1, "sepolia", 7), named("sepolia"), None, None)
    return Times(
        (AnchorTime("ethereum-1", 1, 0, "final", stamp, ""),),
        (StepSpan(0, 1, Interval(bound, bound)),),
        BeaconTime(block, stamp, (), ""),
        (),
        (),
    )


def flat(value: dict[str, Any], prefix: str = "") -> list[str]:
    """The names of an object's fields, those of objects inside it after a dot."""
    names: list[str] = []
    for name, item in value.items():
        names.append(prefix + name)
        inner = item[0] if isinstance(item, list) and item else item
        if isinstance(inner, dict):
            names += flat(inner, f"{prefix}{name}.")
    return names


def test_the_json_of_other_commands_is_documented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fields(*words: object) -> list[str]:
        assert main([*map(str, words), "--json"]) == 0
        return sorted(json.loads(capsys.readouterr().out))

    def documented(command: str) -> list[str]:
        (row,) = re.findall(r"^\| `--json` \| (.*) \|$", section(command), re.MULTILINE)
        return sorted(re.findall(r"`([a-z_]+)`", row.partition(": each")[0].partition("; and")[0]))

    run = make_run(tmp_path / "run", make_key(tmp_path / "key"), foreign=True)
    assert fields("keygen", "--no-passphrase", "--key-file", tmp_path / "other") == documented("keygen")
    assert fields("status", run) == documented("status")
    assert fields("log", run) == documented("log")
    assert fields("show", run, 1) == documented("show")
    assert fields("fsck", run) == documented("fsck")
    assert fields("export", run, tmp_path / "claim") == documented("export")
    intact = fields("verify", tmp_path / "claim", "--integrity-only")
    assert intact == sorted(quoted(table_after("docs/verifying.md", "<!-- json: integrity -->")))


def test_measured_figures_are_those_of_the_results() -> None:
    sealed = json.loads(read("benchmarks/results/sealed.json"))
    share = {name: f"{percent:.1f} %" for name, percent in sealed["percent"].items()}
    said = f"was {share['sealed']} of the full claim's bytes, challenge and opening {share['moved']},"
    assert f"a run of {sealed['segments']:,} segments" in read("docs/verifying.md")
    assert said in read("docs/verifying.md"), "docs/verifying.md has other figures than sealed.json"
    begin, end = ruling.MARKS
    figures = read("docs/disputes.md").partition(begin)[2].partition(end)[0]
    measured = ruling.said(json.loads(ruling.RESULTS.read_text())) if ruling.RESULTS.exists() else ""
    assert figures == measured, "docs/disputes.md has other figures than ruling.json"


def test_python_in_the_pages_is_python() -> None:
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            compile(block, str(page), "exec")


def execute(script: Path, block: str) -> str:
    """Run a block as a script, in its folder and with the key in it; returns what it printed."""
    script.write_text(block)
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(script.parent / "key"), "POLCHAIN_DATA": str(DATA)}
    done = recorder().run(script, (), script.parent, environment)
    assert done.status == 0, f"{script.name}:\n{done.output}"
    return done.output


def test_the_worked_example_of_formats_runs(tmp_path: Path) -> None:
    (block,) = runnable("docs/formats.md")
    execute(tmp_path / "formats.py", block)


def test_the_script_form_is_recorded_and_verified_as_the_pages_say(tmp_path: Path) -> None:
    write_key(tmp_path / "key", PrivateKey.generate(), None)
    for _ in range(2):  # the second time there is no step left to train
        execute(tmp_path / "train.py", runnable("docs/recording.md")[0])
    export(tmp_path / "runs" / "points", tmp_path / "claim")
    (block,) = runnable("docs/verifying.md")
    assert "all 12 steps were replayed" in execute(tmp_path / "verify.py", block)


@pytest.mark.parametrize("number", range(1, len(runnable("docs/recording.md"))))
def test_the_examples_of_recording_run(number: int, tmp_path: Path) -> None:
    write_key(tmp_path / "key", PrivateKey.generate(), None)
    for _ in range(2):  # the second time there is no step left to train
        execute(tmp_path / "train.py", runnable("docs/recording.md")[number])
    (run,) = (tmp_path / "runs").iterdir()
    assert export(run, tmp_path / "claim").states > 3
