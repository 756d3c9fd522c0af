"""The certificate's page: a function of its facts, in which no text of a claim, a recipe or a node is markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polchain.errors import FormatError, MissingFileError
from polchain.verifier import figures
from polchain.verifier.certificate import compared, differences
from polchain.verifier.checks import FAIL, PASS, UNCHECKED, checks_of
from polchain.verifier.embedded import PAGE_LIMIT, embed, extract, read_page
from polchain.verifier.report import page_again, page_of, visible
from polchain.verifier.shapes import check_facts
from polchain.verifier.verdict import MEANING
from tests.certificates import HOSTILE, Filed, file_certificates, hostile

Facts = dict[str, Any]


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Filed, Filed]:
    return file_certificates(tmp_path_factory)


@pytest.fixture(scope="module")
def one(filed: tuple[Filed, Filed]) -> Facts:
    return extract(filed[0].text)


@pytest.fixture(scope="module")
def two(filed: tuple[Filed, Filed]) -> Facts:
    return extract(filed[1].text)


class Skeleton(HTMLParser):
    """The elements of a page and the names of their attributes, and what it shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.shown: list[str] = []
        self.values: list[tuple[str, str]] = []
        self._silent = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(name, value or "") for name, value in attrs]
        self._silent = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._silent = ""

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.shown).split())


def test_the_page_says_the_verdict_first_and_holds_it_as_json(filed: tuple[Filed, Filed], one: Facts) -> None:
    page = Skeleton(filed[0].text)
    main = page.text.partition("as its maker says ")[2]
    assert main.startswith("VERIFIED 13 replays, all exact; all 60 steps were replayed")
    assert MEANING in page.text
    assert one["result"]["verdict"] == "VERIFIED"
    assert one["result"]["key"] == one["claims"][0]["key"]
    recipe = one["claims"][0]["recipe"]["files"][0]["text"]
    assert " ".join(recipe.split()) in page.text, "the whole text of the recipe is to be read"
    assert f"--seed {one['result']['challenge_seed']}" in page.text


def test_the_page_of_a_ruling_says_its_sentence_first_and_shows_both(filed: tuple[Filed, Filed], two: Facts) -> None:
    page = Skeleton(filed[1].text)
    assert filed[1].code == 0
    sentence = two["result"]["sentence"]
    assert page.text.partition("as its maker says ")[2].startswith(f"{two['result']['ruling']} {sentence}")
    for claim in two["claims"]:
        assert page.text.count(claim["key"]) >= 2
        assert all(anchor["status"] == "final" for anchor in claim["times"]["anchors"])
    assert "Claim B, up to step 60: REFUTED" in page.text
    assert all(text in page.text for text in two["result"]["not_checked"])


def test_a_page_is_one_file_that_can_fetch_and_run_nothing(filed: tuple[Filed, Filed]) -> None:
    for certificate in filed:
        text, page = certificate.text, Skeleton(certificate.text)
        style = text.partition("<style>")[2].partition("</style>")[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = (
            dict(page.values)["content"] if False else next(v for n, v in page.values if v.startswith("default-src"))
        )
        assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        names = {name for name, _ in page.values}
        assert not names & {"src", "style", "srcset", "action"}
        assert not {name for name in names if name.startswith("on")}
        links = [value for name, value in page.values if name in ("href", "xlink:href")]
        assert all(link.startswith("#") for link in links)
        assert not re.search(r"url\((?!#)|@import|expression\(", text)
        assert [tag for tag, _ in page.tags].count("script") == 1


def test_the_same_facts_give_the_same_page(filed: tuple[Filed, Filed]) -> None:
    for certificate in filed:
        text = certificate.text
        assert page_again(extract(text)) == text


def test_no_text_in_the_facts_is_markup(two: Facts) -> None:
    facts = hostile(two)
    assert json.dumps(facts).count("onerror") > 100
    page = page_of(facts)
    assert Skeleton(page).tags == Skeleton(page_of(two)).tags
    assert extract(page) == facts, "what is embedded ends nothing, and is read back as it was"
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "\\u202e" in Skeleton(page).text, "what turns text around is visible"


def test_what_is_invisible_is_made_visible() -> None:
    assert visible("a\u202eb\x00\u200b\ud800") == "a\\u202eb\\x00\\u200b\\ud800"
    assert visible("one\ntwo\tthree") == "one\\ntwo\\tthree"
    assert visible("one\n\ttwo", lines=True) == "one\n    two"
    assert visible("é e\u0301 日本") == "é e\u0301 日本"
    assert visible("e" + "\u0301" * 9).count("\\u0301") == 7
    assert visible("\u3164\u2800") == "\\u3164\\u2800"
    for blank in "\ufe0f\ufe00\u180b\u180f\u17b4\U000e0100\U000e01ef\U0001d159\u115f\u1160\uffa0\u034f\ufffc\u2d7f":
        assert visible(f"a{blank}b") == f"a{ascii(blank)[1:-1]}b", f"{blank!a} is not to be seen"
    assert HOSTILE not in visible(HOSTILE)


def test_a_forged_sentence_is_another_page_than_its_facts_give(filed: tuple[Filed, Filed], one: Facts) -> None:
    text = filed[0].text
    shown = "<h1>13 replays, all exact; all 60 steps were replayed</h1>"
    assert shown in text
    forged = text.replace(shown, "<h1>all 6,000 steps were replayed</h1>")
    assert extract(forged) == one
    assert page_again(extract(forged)) != forged
    hidden = text.replace("</body>", "<style>h1{display:none}</style></body>")
    assert page_again(extract(hidden)) != hidden
    # Another way to write the same JSON, or a key twice: whoever reads it with another parser may see other facts.
    spaced = text.replace('"facts">{', '"facts">{"kind":"ruling", ', 1)
    assert page_again(extract(spaced)) != spaced


def test_facts_that_were_changed_together_with_the_page_differ_from_what_is_found(one: Facts, two: Facts) -> None:
    def changed(facts: Facts, change: Callable[[Facts], object]) -> list[str]:
        forged = deepcopy(facts)
        change(forged)
        check_facts(forged)
        return differences(compared(forged), compared(facts))

    assert changed(one, lambda f: f["result"].update(reasons=["all is well"]))
    assert changed(one, lambda f: f["result"]["bound"].update(draws=900))
    assert changed(one, lambda f: f["claims"][0].update(key="ed25519:" + 64 * "0"))
    assert changed(one, lambda f: f["claims"][0]["recipe"]["files"][0].update(text="print('harmless')"))
    assert changed(one, lambda f: f["result"]["remarks"].clear())
    assert changed(one, lambda f: f["result"]["remarks"].append("certified by everybody"))
    assert changed(one, lambda f: f["result"]["replays"][3].update(outcome="WITHIN"))
    assert changed(two, lambda f: f["result"].update(named=["B"]))
    assert changed(two, lambda f: f["claims"][1]["times"]["anchors"][0].update(time=0))
    assert changed(two, lambda f: f["policy"].update(fraction="0.5"))
    where = changed(two, lambda f: f["result"].update(sentence="B's"))
    assert (
        where == [f'result.sentence: the certificate says "B\'s", found: {two["result"]["sentence"]!r}'[:200]] or where
    )
    # What no second verification can find again is told apart, and no more than that.
    assert not changed(one, lambda f: f["made"].update(at=1))
    assert not changed(one, lambda f: f["result"]["replays"][0].update(seconds="9.9"))


def test_of_the_machine_that_replayed_only_its_own_side_is_left_out(one: Facts, two: Facts) -> None:
    true = one["claims"][0]["fingerprint"]
    cpu = f"cpu: recorded with {true['cpu']}, here Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"

    def changed(facts: Facts, *remarks: str) -> list[str]:
        forged = deepcopy(facts)
        forged["result"]["remarks" if facts is one else "not_checked"] += remarks
        check_facts(forged)
        return differences(compared(forged), compared(facts))

    assert not changed(one, cpu, f"threads: recorded with {true['threads']}, here 64")
    assert not changed(two, f"A: {cpu}", f"B: {cpu}")
    for forged in (
        (cpu, cpu.replace("8481C", "8480C")),
        ("cpu: recorded with another one, here AMD EPYC",),
        (f"cpu: recorded with {true['cpu']}, here <b>sworn</b> by two experts; nothing is left unchecked",),
        (f"threads: recorded with {true['threads']}, here the court's own",),
        (f"threads: recorded with {true['threads']}, here {true['threads']}",),
        (f"python: recorded with {true['python']}, here 3.0.0",),
        ("gpu: recorded with None, here sworn by two experts",),
        ("verdict: recorded with the court's own seal, here confirmed",),
        ("and_more: recorded with nothing left unchecked, here True",),
        (f"A: {cpu}",),
    ):
        assert changed(one, *forged), forged
    for text in (cpu, f"C: {cpu}", f"A: B: {cpu}"):
        assert changed(two, text), text


def test_a_strangers_page_is_refused_before_anything_is_drawn(
    one: Facts, two: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(facts: Facts) -> str:
        begun = time.process_time()
        with pytest.raises(FormatError) as caught:
            page_again(facts)
        assert time.process_time() - begun < 1
        return str(caught.value)

    many = deepcopy(two)
    verdicts = many["result"]["claims"][1]["verdicts"]
    few = [{**verdicts[0], "replays": [], "screens": []}]
    verdicts[:] = few * 129
    assert refused(many) == "facts.result.claims[1].verdicts: more than 128 items"
    many["result"]["claims"][0]["verdicts"] = few * 65
    verdicts[:] = few * 64
    assert refused(many) == "facts.result.claims: more than 128 verdicts"
    long = deepcopy(one)
    for key, value in (("steps", 1), ("updates", "1.0"), ("losses", "1.0")):
        long["claims"][0]["checkpoints"][key] = [value] * 1002
    assert "more than 1001 items" in refused(long)
    crowd = deepcopy(one)
    crowd["claims"] *= 65
    assert refused(crowd) == "facts.claims: more than 64 items"
    said = deepcopy(one)
    said["result"]["remarks"] = [""] * 10_001
    assert "more than 10000 items" in refused(said)
    # What no list's length forbids ends as soon as the page is full.
    drawn: list[str] = []
    monkeypatch.setattr(figures, "curve", lambda *given, **_: drawn.append(given[3]) or "x" * (PAGE_LIMIT // 4))
    verdicts[:] = few * 32
    many["result"]["claims"][0]["verdicts"] = few * 32
    assert refused(many) == f"the certificate would be over {PAGE_LIMIT} bytes"
    assert len(drawn) == 5, "nothing is drawn for which there is no room"


def test_a_check_passes_only_where_the_facts_say_that_it_held(one: Facts, two: Facts) -> None:
    claim, verdict = one["claims"][0], one["result"]
    checks = {check.name: check for check in checks_of(claim, verdict)}
    assert checks["replayed segments"].text == "12 exactly"
    assert checks["the seed comes from a block that nobody knew before"].status == UNCHECKED
    assert FAIL not in {check.status for check in checks.values()}
    forgot = {**verdict, "recipe_vouched": False, "bound": {**verdict["bound"], "met": False}, "replays": []}
    now = {check.name: check.status for check in checks_of({**claim, "pinned": False}, forgot)}
    names = (
        "the recipe's text", "the bound that the verifier asked for", "replayed segments",
        "the initial state is the one that the seed gives", "the key is the one that the verifier had from elsewhere",
    )  # fmt: skip
    assert {now[name] for name in names} == {UNCHECKED}
    thief = {check.name: check for check in checks_of(two["claims"][1], two["result"]["claims"][1]["verdicts"][0])}
    assert thief["the initial state is the one that the seed gives"].status == FAIL
    assert thief["replayed segments"].status == UNCHECKED
    lost = checks_of({"name": "A", "intact": False}, None, "the head is signed by nobody")
    assert [check.status for check in lost] == [FAIL, UNCHECKED]
    assert PASS not in {check.status for check in lost}
    forked = {check.name: check.status for check in checks_of(claim, None, forked=True)}
    assert forked["all heads that were shown extend one log"] == FAIL
    assert forked["replay"] == UNCHECKED


def test_a_time_that_no_clock_shows_is_printed_and_not_drawn(two: Facts) -> None:
    for when, said in ((-1, "1970-01-01 00:00 UTC"), (2**53 - 1, "s after 1970 UTC")):
        facts = deepcopy(two)
        for span in facts["claims"][0]["times"]["intervals"]:
            span["not_after"]["time"] = when
        assert said in page_of(facts)


def test_facts_of_another_shape_are_refused_by_name(one: Facts, two: Facts) -> None:
    def refused(facts: Facts, change: Callable[[Facts], object]) -> str:
        forged = deepcopy(facts)
        change(forged)
        with pytest.raises(FormatError) as caught:
            check_facts(forged)
        return str(caught.value)

    assert refused(one, lambda f: f.update(format="polchain-certificate/v2")).startswith("facts.format: one of")
    assert refused(one, lambda f: f.update(extra=1)) == "facts: unknown field 'extra'"
    assert "unknown field" in refused(one, lambda f: f["result"].update(sealed=True))
    assert "is missing" in refused(one, lambda f: f["result"].pop("bound"))
    assert "decimal" in refused(one, lambda f: f["result"]["bound"].update(escape="a lot"))
    assert "number from" in refused(one, lambda f: f["made"].update(at=2**60))
    assert "form" in refused(one, lambda f: f["made"]["versions"].update(polchain="certified by everybody"))
    assert "form" in refused(one, lambda f: f["result"].update(sandbox="\n" * 9))
    assert "other claims" in refused(two, lambda f: f["claims"].pop())
    assert "form" in refused(two, lambda f: f["claims"][1].update(name="C is right"))
    assert "unequal" in refused(one, lambda f: f["claims"][0]["checkpoints"]["steps"].append(9))
    assert "missing" in refused(one, lambda f: f["claims"][0].clear())


def test_what_is_no_certificate_is_refused(filed: tuple[Filed, Filed], tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_page(tmp_path / "none.html")
    large = tmp_path / "large.html"
    with large.open("wb") as file:
        file.truncate(PAGE_LIMIT + 1)
    with pytest.raises(FormatError, match="over"):
        read_page(large)
    (tmp_path / "binary.html").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        read_page(tmp_path / "binary.html")
    text = filed[0].text
    facts = text.partition('id="facts">')[2].partition("</script>")[0]
    for page in ("", "<html></html>", text + text, text.replace("</script>", ""), text.replace(facts, "")):
        with pytest.raises(FormatError):
            extract(page)
    for other in ("[" * 100_000, "{}", "null", "1e999", '{"a":' * 40 + "1" + "}" * 40, "9" * 10_000, '"\\ud800"'):
        with pytest.raises(FormatError):
            extract(text.replace(facts, other))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_to_the_embedded_facts_is_read_or_refused_by_name(
    filed: tuple[Filed, Filed], data: st.DataObject
) -> None:
    text = filed[1].text
    start = text.index('id="facts">') + 11
    at = data.draw(st.integers(start, text.index("</script>") - 1))
    cut = data.draw(st.integers(0, 60))
    new = data.draw(st.text('{}[]",:\\u0019abcdef-.eE<>/ntrueflsé', max_size=12))
    try:
        found = extract(text[:at] + new + text[at + cut :])
    except FormatError:
        return
    check_facts(found)


@settings(max_examples=3, deadline=None)
@given(st.data())
def test_a_page_of_senseless_facts_is_made_or_refused_by_name(two: Facts, data: st.DataObject) -> None:
    facts = deepcopy(two)
    for _ in range(data.draw(st.integers(1, 6))):
        leaves = list(_leaves(facts))
        holder, key = data.draw(st.sampled_from(leaves))
        old = holder[key]
        numbers = st.sampled_from(
            ["", "nan", "inf", "-inf", "1e308", "-1e308", "5e-324", "steps 9 to 1", "steps 0 to 0"]
        )
        changes = {str: numbers, int: st.sampled_from([0, 1, 2**53 - 1, 253_402_300_799]), bool: st.booleans()}
        holder[key] = data.draw(changes[type(old)])  # type: ignore[index]
        try:
            check_facts(facts)
        except FormatError:
            holder[key] = old
    try:
        page = page_again(facts)
    except FormatError:
        return
    assert extract(page) == facts


def _leaves(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        if isinstance(item, dict | list):
            yield from _leaves(item)
        else:
            yield value, key


def test_embedded_text_is_ascii_without_markup() -> None:
    text = embed({"a": "</script><!--&\u2028é\U0001f600\x7f"})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028é\U0001f600\x7f"}
