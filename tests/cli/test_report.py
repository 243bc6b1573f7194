"""The pages: whole, self-contained, small, escaped; looked at in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sample_case import EVIL, evil_baseline, evil_result, evil_texts

from netopsy.case import Case
from netopsy.charts import bars, curve, heatmap, scatter
from netopsy.charts.parts import roles
from netopsy.report.notebook import chart_svg, result_html
from netopsy.report.pages import script_json, write_report
from netopsy.report.summary import image_summary
from netopsy.result import Image, Result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("case")
    opened = Case(folder)
    opened.add(evil_baseline(worst="warning"))
    opened.add(evil_result("noise"))
    opened.add(evil_result("rounding"))
    opened.write_report()
    return folder


def test_pages_are_small_and_hold_vega_once(case: Path) -> None:
    for page in case.rglob("*.html"):
        text = page.read_text()
        assert text.count("window.vegaEmbed=") == (page.name in ("noise.html", "rounding.html"))
        assert len(text) < 1_500_000


def test_pages_name_no_other_place(case: Path) -> None:
    for page in case.rglob("*.html"):
        outline = Outline()
        outline.feed(page.read_text())
        links = [attrs[key] or "" for _, attrs in outline.tags for key in ("src", "href") if key in attrs]
        places = [link.partition("#")[0] for link in links if not link.startswith(("data:", "#"))]
        assert places and all((page.parent / place).is_file() for place in places)
        assert all((page.parent / place).resolve().is_relative_to(case.resolve()) for place in places)


def test_the_policy_names_each_script_and_allows_no_other(case: Path) -> None:
    for page in case.rglob("*.html"):
        text = page.read_text()
        policy = re.search(r"script-src (.*?); img-src", html.unescape(text))[1]
        allowed = set(re.findall(r"'sha256-([^']+)'", policy))
        scripts = re.findall(r"^<script>(.*?)</script>$", text, re.DOTALL | re.MULTILINE)
        assert {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts} == allowed
        assert "unsafe" not in policy and ("'self'" in policy) == page.name.endswith("-atlas.html")


def test_the_first_page_says_it_all_in_order(case: Path) -> None:
    text = (case / "index.html").read_text()
    marks = [
        "91.7 % ± 0.5 on 10 images of seven-hundred-images",
        'class="alert warning"',
        'class="tiles"',
        'id="strip"',
    ]
    marks += ['class="gallery"', 'id="decisions"', 'id="findings"', "All studies"]
    positions = [text.index(mark) for mark in marks]
    assert positions == sorted(positions)
    assert text.count('class="alert ') == 4 and "1 more" in text and "decisions.csv" in text
    assert "Too little to repeat." not in text and "Too little to repeat." in (case / "baseline.html").read_text()
    for page in set(case.rglob("*.html")) - {case / "index.html"}:
        assert "91.7 % ± 0.5" in page.read_text().split("</header>")[0]
    study = (case / "noise.html").read_text()
    order = ["How much noise can it take?", "The most fragile layer is", "Charts", "Tables", "Settings", "Reference"]
    positions = [study.index(f">{mark}") for mark in order]
    assert positions == sorted(positions)


class Outline(HTMLParser):
    """Elements and attributes in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_headings_are_in_order_and_pictures_have_words(case: Path) -> None:
    for page in case.rglob("*.html"):
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


@pytest.mark.parametrize(("width", "wide"), [(800, False), (1136, True), (2000, False)])
def test_a_picture_little_wider_than_the_page_is_fitted_to_it(width: int, wide: bool) -> None:
    image = Image(np.zeros((4, width, 3), np.uint8), "a title", "a reading", alt="words")
    assert image_summary("name", image)["wide"] is wide


def test_numbers_of_bars_below_zero_stand_beyond_zero() -> None:
    frame = pl.DataFrame({"rule": ["a", "b"], "value": [-0.5, 0.25]})
    svg = chart_svg(bars(frame, "rule", "value", title="t", reading="r").spec)
    marks = re.findall(r'<text [^>]*?transform="translate\(([-.0-9]+),[^>]*>(−0.5|0.25)</text>', svg)
    below, above = (next(float(x) for x, text in marks if text == expected) for expected in ("−0.5", "0.25"))
    zero = below - 4
    # the scale runs from -0.5 at 0 to 0.25 at the right end
    assert above - 4 > zero > 0 and (above - 4 - zero) / zero == pytest.approx(0.5, rel=0.1)


def marks_of(spec: dict) -> list[dict]:
    """The layers of a chart, of a small one in a row too."""
    return spec.get("spec", spec)["layer"]


def test_layers_that_take_turns_have_a_line_for_each_kind() -> None:
    names = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2", "fc"]
    assert roles(names) == ["conv1", "conv1", "conv2", "conv1", "conv2", "other"]
    assert roles(["conv1", "conv2", "fc6"]) == [] and roles([f"features.{k}" for k in range(9)]) == []
    frame = pl.DataFrame({"layer": names, "std": [1.0, 2, 1, 2, 1, 0]})
    assert "kind of layer" in json.dumps(marks_of(curve(frame, "layer", "std", title="t", reading="r").spec))
    steady = frame.with_columns(std=pl.Series([6.0, 5, 4, 3, 2, 9]))
    assert "kind of layer" not in json.dumps(marks_of(curve(steady, "layer", "std", title="t", reading="r").spec))


def test_more_series_than_colours_are_small_charts_and_controls_are_gray() -> None:
    rows = [(f"l{k}", x, x * k) for k in range(30) for x in range(3)]
    frame = pl.DataFrame(rows, schema=["layer", "x", "y"], orient="row")
    many = curve(frame, "x", "y", color="layer", title="t", reading="r.")
    assert many.spec["facet"]["field"] == "layer" and many.reading == "r. 24 of 30 are shown."
    few = curve(
        frame.filter(pl.col("layer").is_in(["l1", "l2"])),
        "x",
        "y",
        color="layer",
        controls=("l2",),
        title="t",
        reading="r",
    )
    layers = marks_of(few.spec)
    (control,) = [layer for layer in layers if "strokeDash" in layer["encoding"]]
    assert control["mark"]["color"].startswith("#") and "color" not in control["encoding"]
    colours = [layer["encoding"]["color"]["scale"]["domain"] for layer in layers if "color" in layer["encoding"]]
    assert colours and all(domain == ["l1"] for domain in colours)
    assert few.spec["layer"][0]["encoding"]["x"]["axis"]["values"] == [0, 1, 2], "no half epochs"
    for figure in (many, few):
        assert chart_svg(figure.spec).startswith("<svg")


def test_losses_diverge_from_zero_and_what_says_nothing_is_gray() -> None:
    frame = pl.DataFrame({"x": ["a", "b"], "y": ["c", "c"], "lost": [3.0, -0.1], "within": [False, True]})
    figure = heatmap(frame, "x", "y", "lost", middle=0.0, muted="within", title="t", reading="r")
    color = marks_of(figure.spec)[0]["encoding"]["color"]
    assert color["condition"]["value"] == "#b4b4b4" and color["scale"]["domain"] == [-3, 0, 3]
    assert "#b4b4b4" in chart_svg(figure.spec).lower() or "rgb(180, 180, 180)" in chart_svg(figure.spec)


def test_points_have_their_intervals() -> None:
    frame = pl.DataFrame({"bits": [4.0, 8.0], "top1": [0.5, 0.9], "low": [0.4, 0.8], "high": [0.6, 1.0]})
    figure = scatter(frame, "bits", "top1", low="low", high="high", title="t", reading="r")
    kinds = [layer["mark"]["type"] for layer in marks_of(figure.spec)]
    assert "rule" in kinds and "line" not in kinds


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
@pytest.mark.parametrize("name", ["noise"])
def test_every_chart_is_drawn_and_nothing_leaves_the_page(case: Path, browser, name: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1100, "height": 800})
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((case / f"{name}.html").as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    charts = page.locator(".vega").count()
    assert charts == 4
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


@pytest.fixture
def atlas(case: Path, browser) -> Iterator[object]:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.errors, page.requests = [], []
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto((case / "noise-atlas.html").as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    yield page
    assert not page.errors
    first, *others = [url for url in page.requests if not url.startswith("data:")]
    assert first == (case / "noise-atlas.html").as_uri()
    assert others and all(url.startswith((case / "parts").as_uri()) for url in others)
    assert page.evaluate("window.pwned") is None and page.locator("b").count() == 0
    page.close()


def names(page) -> list[str]:
    return page.locator(".unit h2").all_inner_texts()


def settled(page, count: str) -> None:
    page.wait_for_function("text => document.getElementById('count').textContent.startsWith(text)", arg=count)
    expected = min(24, int(count.split()[0]))
    page.wait_for_function("n => document.querySelectorAll('.unit').length === n", arg=expected)


@pytest.mark.browser
def test_the_atlas_finds_units_by_layer_class_and_activation(atlas) -> None:
    assert atlas.evaluate("document.documentElement.scrollWidth") <= 390, "the page scrolls sideways"
    settled(atlas, "30 of 33 units")
    assert names(atlas)[:2] == ["conv1 : 29", "conv1 : 28"], "the deepest layer with selective units, the purest first"
    atlas.locator("button[type=reset]").click()
    settled(atlas, "33 of 33 units")
    atlas.locator("#more").click()
    atlas.wait_for_function("() => document.querySelectorAll('.unit').length === 33")
    atlas.select_option("#layer", label=f"{EVIL} (3)")
    settled(atlas, "3 of 33 units")
    assert names(atlas) == [f"{EVIL} : {c}" for c in range(3)]
    atlas.fill("#class", "CAT")
    settled(atlas, "1 of 33 units")
    assert names(atlas) == [f"{EVIL} : 1"]
    atlas.fill("#class", "dog")
    settled(atlas, "2 of 33 units")
    atlas.check("#main-class")
    settled(atlas, "0 of 33 units")
    atlas.locator("button[type=reset]").click()
    settled(atlas, "33 of 33 units")
    atlas.fill("#low", "29")
    settled(atlas, "2 of 33 units")
    atlas.fill("#high", "29.5")
    settled(atlas, "1 of 33 units")
    assert names(atlas) == ["conv1 : 28"]


@pytest.mark.browser
def test_the_atlas_sorts_with_missing_figures_last(atlas) -> None:
    atlas.select_option("#layer", label="conv1 (30)")
    settled(atlas, "30 of 33 units")
    atlas.select_option("#sort", label="share")
    atlas.wait_for_function("() => document.querySelector('.unit h2').textContent === 'conv1 : 29'")
    atlas.locator("#more").click()
    atlas.wait_for_function("() => document.querySelectorAll('.unit').length === 30")
    assert names(atlas) == [f"conv1 : {c}" for c in [*range(29, 1, -1), 0, 1]]
    atlas.select_option("#order", "1")
    atlas.wait_for_function("() => document.querySelector('.unit h2').textContent === 'conv1 : 0'")
    atlas.locator("#more").click()
    atlas.wait_for_function("() => document.querySelectorAll('.unit').length === 30")
    assert names(atlas) == [f"conv1 : {c}" for c in [0, *range(2, 30), 1]]


@pytest.mark.browser
def test_the_atlas_draws_each_unit_its_own_pictures(atlas) -> None:
    atlas.locator("button[type=reset]").click()
    settled(atlas, "33 of 33 units")
    colour = (
        "([i, x]) => [...document.querySelectorAll('.unit canvas')[i].getContext('2d').getImageData(x, 10, 1, 1).data]"
    )
    for i in (0, 7, 23):
        assert atlas.evaluate(colour, [i, 10]) == [8 * i, 0, 1, 255]
        assert atlas.evaluate(colour, [i, 90]) == [8 * i, 0, 2, 255]
    atlas.fill("#unit", "7")
    settled(atlas, "1 of 33 units")
    atlas.locator(".unit button").click()
    atlas.locator("#view figcaption").nth(1).wait_for()
    assert atlas.locator("#view figcaption").all_inner_texts() == ["1. cat · 8 · image 0", "2. dog · 7 · image 1"]
    assert atlas.locator("#previous").is_disabled() and atlas.locator("#next").is_disabled()
    atlas.keyboard.press("Escape")
    assert not atlas.locator("#unit-view").is_visible()


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


@pytest.mark.browser
@pytest.mark.parametrize("width", [420, 1400])
def test_the_first_page_is_chosen_sorted_and_walked_by_keyboard(case: Path, browser, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((case / "index.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    if width == 1400:
        assert page.evaluate("document.querySelector('details.all').getBoundingClientRect().top") < 2700
    blocks = page.locator("#strip svg a")
    assert blocks.count() == 4 and page.locator("#strip svg a[tabindex='0']").count() == 1
    widths = "[...document.querySelectorAll('#strip rect[rx]')].map(r => Number(r.getAttribute('width')))"
    by_parameters = page.evaluate(widths)
    assert min(by_parameters) >= 3.9 and by_parameters[0] < by_parameters[3]
    page.select_option("#strip-width", "macs")
    by_macs = page.evaluate(widths)
    assert by_macs[0] > by_macs[3] >= 3.9
    shades = "[...document.querySelectorAll('#strip rect[rx]')].map(r => r.style.getPropertyValue('--t'))"
    page.select_option("#strip-colour", "fragility")
    assert page.evaluate(shades) == ["0%", "33%", "67%", "100%"]
    page.select_option("#strip-colour", "bits")
    assert page.locator("#strip rect.unknown").count() == 3
    blocks.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("aux: conv")
    assert page.locator("#strip-words").inner_text().startswith("aux: conv")
    first = "document.querySelector('.decisions tbody th').innerText"
    head = page.locator(".decisions thead th", has_text="parameters")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending" and page.evaluate(first) == "fc"
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending" and page.evaluate(first) == "conv1"
    blocks.nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-ready]")
    assert page.locator("h1").inner_text() == "aux" and not errors
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    page.close()


@pytest.mark.browser
def test_a_unit_is_reached_from_its_layer_and_leads_to_its_view_in_the_atlas(case: Path, browser) -> None:
    page = browser.new_page(viewport={"width": 420, "height": 900})
    page.goto((case / "layers" / "conv1.html").as_uri())
    page.locator(".units a").first.click()
    page.wait_for_selector(".stimuli img")
    assert page.locator("h1").inner_text() == "conv1:29"
    page.get_by_role("link", name="in the atlas").click()
    page.locator("#view figcaption").nth(1).wait_for()
    assert page.locator("#view-title").inner_text() == "conv1 : 29"
    page.evaluate(f"location.hash = encodeURIComponent({json.dumps(EVIL)} + ':2')")  # a unit without a page
    page.wait_for_function("() => document.querySelectorAll('#view figcaption').length === 1")
    assert page.locator("#view-title").inner_text() == f"{EVIL} : 2"
    page.close()


@pytest.mark.browser
def test_an_atlas_of_texts_is_searched_through_all_its_files(browser, tmp_path: Path) -> None:
    write_report([Result("stimuli", atlases={"atlas": evil_texts()})], tmp_path)
    index = (tmp_path / "index.html").read_text()
    assert "mlp:129" in index and "&lt;b&gt; " in index and index.count('class="passage"') == 16
    page = browser.new_page(viewport={"width": 420, "height": 900})
    page.goto((tmp_path / "stimuli-atlas.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    settled(page, "130 of 130 units")
    page.fill("#class", "9.1")
    settled(page, "13 of 130 units")  # 9, 19, ..., 129
    page.fill("#class", "129.1")
    settled(page, "1 of 130 units")
    page.locator(".unit button").click()
    page.locator("#view figcaption").nth(1).wait_for()
    assert page.locator("#view .passage").all_inner_texts() == ["<b> 129.0", "<b> 129.1"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 420, "the page scrolls sideways"
    page.close()
