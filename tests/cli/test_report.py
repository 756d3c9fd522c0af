"""`polchain report`: makes a certificate, and compares one with a fresh verification; `verify --report`."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from polchain.cli import report
from polchain.prover.export import export
from polchain.verifier.embedded import extract
from polchain.verifier.report import page_of
from tests.certificates import Filed, file_certificates, warm
from tests.cli.conftest import Done
from tests.runs import make_key, make_run

Call = Callable[..., Done]


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Filed, Filed]:
    return file_certificates(tmp_path_factory)


@dataclass(frozen=True)
class Found:
    """What a verification finds, without making one."""

    word: str
    found: dict[str, Any]
    complete: bool = True
    exit_code: int = 0
    named: tuple[str, ...] = ()
    ruling: None = None

    def facts(self) -> dict[str, Any]:
        return self.found


@pytest.fixture
def finding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Let verifications find this, one after the other; returns the options that they were made with."""

    def find(*found: Found) -> list[Any]:
        asked: list[Any] = []
        left = list(found)

        def settle(options: Any, **_: object) -> Found:
            asked.append(options)
            return left.pop(0)

        monkeypatch.setattr(report, "settle", settle)
        return asked

    return find


def test_a_certificate_is_the_same_in_a_fresh_verification(filed: tuple[Filed, Filed], call: Call) -> None:
    with warm():
        checked = call("report", "--check", filed[0].page, *filed[0].words)
    assert checked.code == 0, checked.out + checked.err
    assert checked.out.startswith("SAME\n")
    assert "not compared" in checked.out
    assert "names of the claims' files" in checked.out
    assert "OTHER, and which of them are there, is its maker's word" in " ".join(checked.out.split())


def test_a_certificate_is_written_and_named(
    filed: tuple[Filed, Filed], call: Call, tmp_path: Path, finding: Callable[..., list[Any]]
) -> None:
    page = tmp_path / "new.html"
    finding(Found("REFUTED", extract(filed[0].text), exit_code=1))
    made = call("report", "--out", page, *filed[0].words, "--json")
    assert made.code == 1, "the exit code is the verdict's"
    assert json.loads(made.out) == {"certificate": str(page), "outcome": "REFUTED"}
    assert page.read_text() == filed[0].text


def test_what_was_not_replayed_is_certified_as_that(call: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_key(tmp_path / "key"), foreign=True)
    export(run, tmp_path / "claim\u202e\n.zip")
    (claim,) = tmp_path.glob("*.zip")
    page = tmp_path / "foreign.html"
    assert call("verify", claim, "--report", page).code == 3
    facts = extract(page.read_text())
    assert facts["result"]["verdict"] == "INCONCLUSIVE"
    assert facts["made"]["claims"] == ["claim??.zip"]
    assert "Nothing was replayed." in page.read_text()
    assert call("report", "--check", page, claim).code == 0
    other = make_run(tmp_path / "other", make_key(tmp_path / "other-key"), foreign=True)
    done = call("report", "--check", page, export(other, tmp_path / "theirs").path)
    assert done.code == 1
    assert "result.key: the certificate says" in done.out


def test_an_altered_page_differs_without_a_replay(
    filed: tuple[Filed, Filed], call: Call, tmp_path: Path, finding: Callable[..., list[Any]]
) -> None:
    asked = finding()
    forged = tmp_path / "forged.html"
    forged.write_text(filed[1].text.replace("DESCENDS</p>", "PROVEN</p>"))
    done = call("report", "--check", forged, *filed[1].words, "--json")
    answer = json.loads(done.out)
    assert (done.code, answer["same"], asked) == (1, False, [])
    assert answer["differences"] == ["what the page shows is not what the facts that it holds give"]


def test_a_page_made_again_from_forged_facts_differs_from_what_is_found(
    filed: tuple[Filed, Filed], call: Call, tmp_path: Path, finding: Callable[..., list[Any]]
) -> None:
    true = extract(filed[0].text)
    lie = deepcopy(true)
    lie["result"] |= {"verdict": "VERIFIED", "reasons": ["900 replays, all exact"]}
    lie["result"]["remarks"].append("verdict: recorded with the court's own seal, here sworn by two experts")
    forged = tmp_path / "forged.html"
    forged.write_text(page_of(lie))
    asked = finding(Found("VERIFIED", true))
    done = call("report", "--check", forged, *filed[0].words)
    assert done.code == 1
    assert done.out.startswith("DIFFERS\n")
    assert "result.reasons[0]: the certificate says '900 replays, all exact', found: " in done.out
    assert "result.remarks: the certificate says" in done.out
    assert asked[0].seed == true["asked"]["seed"]


def test_a_lucky_draw_is_not_enough(
    filed: tuple[Filed, Filed], call: Call, finding: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, words = filed[0].page, filed[0].words
    true = extract(filed[0].text)
    asked = finding(Found("VERIFIED", true, complete=False), Found("VERIFIED", true, complete=False))
    assert call("report", "--check", page, *words).code == 0
    assert [one.seed for one in asked] == [true["asked"]["seed"], None], "drawn again, from fresh randomness"
    finding(Found("VERIFIED", true, complete=False), Found("REFUTED", true, complete=False, exit_code=1))
    done = call("report", "--check", page, *words)
    assert done.code == 1
    assert "the certificate's own draw gives VERIFIED, a fresh one REFUTED" in done.out
    finding(Found("PROVEN", true, False, named=("A",)), Found("PROVEN", true, False, named=("B",)))
    monkeypatch.setattr(report, "POSITIVE", ("PROVEN",))
    done = call("report", "--check", page, *words)
    assert "gives PROVEN (A), a fresh one PROVEN (B)" in done.out
    # A conviction is none the less one because its draw was chosen.
    asked = finding(Found("REFUTED", true, complete=False, exit_code=1))
    assert call("report", "--check", page, *words).code == 0
    assert len(asked) == 1


def test_a_page_of_other_versions_is_neither_the_same_nor_false(
    filed: tuple[Filed, Filed], call: Call, tmp_path: Path
) -> None:
    other = tmp_path / "other.html"
    version = extract(filed[0].text)["made"]["versions"]["matplotlib"]
    other.write_text(filed[0].text.replace(version, "1.0").replace("stroke-width=", "stroke-width ="))
    done = call("report", "--check", other, *filed[0].words)
    assert done.code == 4
    assert "matplotlib 1.0 (here" in done.err


def test_options_that_do_not_go_together(filed: tuple[Filed, Filed], call: Call, tmp_path: Path) -> None:
    one, two = filed
    new = tmp_path / "new.html"
    assert call("report", *one.words).code == 2
    assert call("report", "--check", one.page, "--out", new, *one.words).code == 2
    assert call("report", "--check", one.page, "--seed", "00" * 32, *one.words).code == 2
    assert call("report", "--check", two.page, *one.words).code == 2
    assert call("report", "--check", one.page, *two.words).code == 2
    assert call("report", "--check", tmp_path / "none.html", *one.words).code == 4
    assert call("report", "--check", one.words[0] + "/claim.json", *one.words).code == 1
    assert call("verify", "--integrity-only", "--report", new, one.words[0]).code == 2
    done = call("verify", "--report", one.page, *one.words)
    assert done.code == 2
    assert "already" in done.err, "a certificate that was filed is not written over"
    assert not new.exists()


def test_a_certificate_names_no_folder(filed: tuple[Filed, Filed]) -> None:
    for one in filed:
        assert str(one.page.parent) not in one.text
        assert str(Path.home()) not in one.text
