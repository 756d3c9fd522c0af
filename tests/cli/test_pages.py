"""Certificates in a real browser: what is seen, light, dark, on a phone and on paper; and that nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from polchain.verifier.embedded import extract
from polchain.verifier.report import page_of
from tests.certificates import Filed, file_certificates, hostile

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
LOOKS = {
    "light": {"width": 1100, "scheme": "light", "media": "screen"},
    "dark": {"width": 1100, "scheme": "dark", "media": "screen"},
    "phone": {"width": 360, "scheme": "light", "media": "screen"},
    "phone at night": {"width": 360, "scheme": "dark", "media": "screen"},
    "paper": {"width": 794, "scheme": "dark", "media": "print"},
}


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Filed, Filed]:
    return file_certificates(tmp_path_factory)


@pytest.fixture(scope="module")
def browser(require: Callable[[str], str]) -> Iterator[Browser]:
    chromium = require("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()


class Looked:
    """A page that was opened, and what it said and asked for meanwhile."""

    def __init__(self, browser: Browser, path: Path, look: str) -> None:
        how: Any = LOOKS[look]
        self.said: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": how["width"], "height": 900})
        self.page.emulate_media(media=how["media"], color_scheme=how["scheme"])
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda asked: None if asked.url == path.as_uri() else self.said.append(asked.url))
        self.page.goto(path.as_uri())


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[[Path, str], Looked]]:
    opened: list[Looked] = []

    def at(path: Path, name: str) -> Looked:
        opened.append(Looked(browser, path, name))
        return opened[-1]

    yield at
    for one in opened:
        one.page.close()


@pytest.mark.parametrize("name", LOOKS)
def test_a_certificate_is_read_by_everybody_and_asks_for_nothing(
    name: str, filed: tuple[Filed, Filed], look: Callable[[Path, str], Looked]
) -> None:
    seen = look(filed[1].page, name)
    page = seen.page
    assert seen.said == []
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0, f"{width} pixels are cut off or need scrolling"
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    first = page.locator("h1").bounding_box()
    assert first is not None
    assert first["y"] < 200, "the sentence comes first"
    # Evaluated by the debugger: the page's own policy would run no script.
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
    problems = [f"{one['id']}: {node['target']}" for one in found["violations"] for node in one["nodes"]]
    # Of a plot's text it cannot tell what lies behind: that is the paper, and the text is a caption's.
    unsure = [node for one in found["incomplete"] if one["id"] == "color-contrast" for node in one["nodes"]]
    problems += [f"unsure of {node['target']}" for node in unsure if not node["html"].startswith("<text ")]
    assert problems == []
    colours = "[...new Set([...document.querySelectorAll('svg.plot text')].map(e => getComputedStyle(e).fill))]"
    caption = page.evaluate("getComputedStyle(document.querySelector('figcaption')).color")
    assert page.evaluate(colours) == [caption]
    assert {"color-contrast", "region", "landmark-one-main", "heading-order"} <= {one["id"] for one in found["passes"]}


def test_plots_are_drawn_in_the_colours_of_the_page(
    filed: tuple[Filed, Filed], look: Callable[[Path, str], Looked]
) -> None:
    ink = {}
    for name in ("light", "dark"):
        page = look(filed[0].page, name).page
        assert page.locator("svg.plot").count() == 4
        boxes = [page.locator("svg.plot").nth(n).bounding_box() for n in range(4)]
        assert all(box is not None and box["height"] > 40 for box in boxes)
        colours = page.evaluate(
            "['.s-ink', 'text', 'body'].map(s => getComputedStyle(document.querySelector(s)))"
            ".map((s, n) => [s.stroke, s.fill, s.backgroundColor][n])"
        )
        ink[name] = colours
        assert len(set(colours)) == 3
    assert all(light != dark for light, dark in zip(ink["light"], ink["dark"], strict=True))


def test_hostile_texts_do_nothing_in_a_browser(
    filed: tuple[Filed, Filed], look: Callable[[Path, str], Looked], tmp_path: Path
) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(page_of(hostile(extract(filed[1].text))))
    seen = look(path, "phone")
    assert seen.said == []
    assert seen.page.locator("img").count() == 0
    assert seen.page.locator("script").count() == 1
    assert seen.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    # The policy holds by itself, whatever the template lets through.
    seen.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=https://example.invalid/x>')")
    seen.page.wait_for_timeout(50)
    assert any("Content Security Policy" in line for line in seen.said)
