"""The pages: whole, self-contained, small, escaped; looked at in a real browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from netopsy.case import Case
from netopsy.report.notebook import result_html
from netopsy.report.pages import script_json
from sample_case import EVIL, evil_result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("case")
    opened = Case(folder)
    opened.add(evil_result("noise"))
    opened.add(evil_result("rounding"))
    opened.write_report()
    return folder


def test_pages_are_small_and_hold_vega_once(case: Path) -> None:
    for page in case.glob("*.html"):
        text = page.read_text()
        assert text.count("window.vegaEmbed=") == 1
        assert len(text) < (1_500_000 if page.name == "index.html" else 5_000_000)


def test_pages_name_no_other_place(case: Path) -> None:
    for page in case.glob("*.html"):
        outline = Outline()
        outline.feed(page.read_text())
        links = [attrs[key] or "" for _, attrs in outline.tags for key in ("src", "href") if key in attrs]
        assert links and all(re.match(r"data:|#|[a-z_]+\.html$", link) for link in links)


class Outline(HTMLParser):
    """Elements and attributes in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_headings_are_in_order_and_pictures_have_words(case: Path) -> None:
    for page in case.glob("*.html"):
        outline = Outline()
        outline.feed(page.read_text())
        levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert all(attrs.get("alt") for tag, attrs in outline.tags if tag == "img")
        assert {"main", "header", "footer", "nav"} <= {tag for tag, _ in outline.tags}
        assert all(attrs.get("scope") for tag, attrs in outline.tags if tag == "th")
        assert not any(tag == "b" for tag, _ in outline.tags), "a hostile name became an element"


def test_json_in_a_script_cannot_close_it() -> None:
    text = script_json({"name": EVIL + "\u2028<!--"})
    assert not set("<>&\u2028") & set(text) and json.loads(text) == {"name": EVIL + "\u2028<!--"}


def test_the_notebook_fragment_is_escaped_and_without_scripts() -> None:
    html = result_html(evil_result())
    assert "<script" not in html and html.count("<svg") == 4 and "data:image/png" in html


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-sync", *quiet]
        )
        yield launched
        launched.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "noise"])
def test_every_chart_is_drawn_and_nothing_leaves_the_page(case: Path, browser, name: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1100, "height": 800})
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((case / f"{name}.html").as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    charts = page.locator(".vega").count()
    assert charts == 4  # on the index two of each of the two studies
    for i in range(charts):
        drawing = page.locator(".vega").nth(i).locator("svg")
        assert drawing.locator("path, rect, text").count() > 5
        assert drawing.get_attribute("role") == "img" and drawing.get_attribute("aria-label")
    assert not errors
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [(case / f"{name}.html").as_uri()]
    assert page.evaluate("window.pwned") is None
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 200 if scheme == "dark" else ground != "rgb(0, 0, 0)"
    page.close()


@pytest.mark.browser
def test_the_page_works_by_keyboard_and_on_a_phone(case: Path, browser) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto((case / "noise.html").as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("details.data summary").first.click()
    page.locator("details.data table").first.wait_for()  # the toggle event comes after the click
    assert page.locator("details.data table").first.locator("tr").count() == 13
    assert page.evaluate("document.documentElement.scrollWidth") <= 400, "the page scrolls sideways"
    page.close()
