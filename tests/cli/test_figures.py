"""Charts and pictures for print: their width, the size of their text, whole names, whole pixels, colours."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image as Picture
from sample_case import EVIL, evil_atlas

from netopsy import Case
from netopsy.charts import bars, curve, dots, heatmap, histogram, scatter
from netopsy.cli import main
from netopsy.errors import CaseError, SettingsError
from netopsy.report.paper import points
from netopsy.result import Figure, Image, Panel, Result

LAYERS = [f"features.denseblock{k}.denselayer{k}.norm1.a_layer_with_a_long_name" for k in range(3)]
WORDS = {"title": "t", "reading": "r"}


def frame() -> pl.DataFrame:
    rows = [(layer, k, 0.9 - 0.1 * k, 0.85 - 0.1 * k, 0.95 - 0.1 * k) for layer in LAYERS for k in range(4)]
    return pl.DataFrame(rows, schema=["layer", "k", "top1", "low", "high"], orient="row")


def kinds() -> dict[str, Figure]:
    data = frame()
    first = data.filter(k=0)
    bins = data.select("layer", left=pl.col("k"), right=pl.col("k") + 1, count=pl.col("k") + 3)
    value = {"percent": True, **WORDS}
    return {
        "bars": bars(first, "layer", "top1", reference=0.5, **value),
        "upright": bars(first, "layer", "top1", horizontal=False, low="low", high="high", **value),
        "groups": bars(data, "layer", "top1", color="k", **value),
        "curve": curve(data, "k", "top1", color="layer", low="low", high="high", reference=0.9, **value),
        "names": curve(first, "layer", "top1", y_title="a title that is longer than the axis is high at all", **value),
        "facets": curve(data, "k", "top1", facet="layer", **value),
        "histogram": histogram(bins, "left", "right", "count", facet="layer", **WORDS),
        "heatmap": heatmap(data, "k", "layer", "top1", middle=0.5, **value),
        "dots": dots(data, "k", "top1", color="layer", low="low", high="high", **value),
        "scatter": scatter(data, "k", "top1", color="layer", **value),
    }


KINDS = kinds()


def texts(svg: str) -> list[tuple[str, float]]:
    """The texts of a drawing with the sizes of their fonts."""
    found = re.findall(r"<text([^>]*)>(.*?)</text>", svg, re.S)
    return [
        (html.unescape(re.sub("<[^>]*>", " ", body)).strip(), float(re.search(r'font-size="([0-9.]+)', head)[1]))
        for head, body in found
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_chart_is_laid_out_for_its_width(kind: str, tmp_path: Path) -> None:
    """The width is that asked for to 0.01 mm, text has 7 to 9 points at either, and no name is cut."""
    for width in (85, 170):
        svg = KINDS[kind].save(tmp_path / "chart.svg", width=f"{width}mm").read_text()
        head = svg[: svg.index(">")]
        assert float(re.search(r' width="([0-9.]+)mm"', head)[1]) == pytest.approx(width, abs=0.01)
        box = [float(side) for side in re.search(r'viewBox="([^"]+)"', head)[1].split()]
        shrunk = width / 25.4 * 72 / box[2]  # what a long legend leaves over is shrunk away
        written = texts(svg)
        assert all(6.9 <= size * shrunk <= 9 for _, size in written), {size for _, size in written}
        for layer in LAYERS:
            whole = any(layer in text.replace(" ", "") for text, _ in written)
            assert whole, f"{layer} is cut at {width} mm"


def test_files_have_the_size_asked_for(tmp_path: Path) -> None:
    chart = KINDS["curve"]
    with Picture.open(chart.save(tmp_path / "a.png", width="85mm")) as png:
        assert png.width == round(85 / 25.4 * 300) and png.info["dpi"][0] == pytest.approx(300, abs=0.1)
    with Picture.open(chart.save(tmp_path / "b.png", width="1000px", dpi=150)) as png:
        assert png.width == 1000
    pdf = chart.save(tmp_path / "chart", format="pdf", width="3.3in").read_bytes()
    box = [float(side) for side in re.search(rb"MediaBox ?\[([^\]]*)\]", pdf)[1].split()]
    assert pdf.startswith(b"%PDF") and box[2] == pytest.approx(3.3 * 72, abs=0.6)
    with Picture.open(chart.save(tmp_path / "c.png", width="85mm", theme="dark")) as png:
        assert sum(png.convert("RGB").getpixel((0, 0))) < 100


@pytest.mark.parametrize(
    ("width", "expected"), [("85mm", 85 / 25.4 * 72), ("8.5 cm", 85 / 25.4 * 72), ("3in", 216), ("300px", 72)]
)
def test_widths_in_any_unit(width: str, expected: float) -> None:
    assert points(width) == pytest.approx(expected)


@pytest.mark.parametrize("width", ["85", "mm", "wide", "-3in", "0mm", "9000mm", "nan mm", "1e9px"])
def test_widths_that_no_page_has(width: str) -> None:
    with pytest.raises(SettingsError, match="width"):
        points(width)


@pytest.mark.parametrize("how", [{"format": "gif"}, {"theme": "blue"}, {"dpi": 0}, {"format": "npz"}, {}])
def test_what_no_figure_can_be_is_refused(how: dict, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        KINDS["bars"].save(tmp_path / ("chart.bmp" if not how else "chart.png"), **how)
    assert not list(tmp_path.iterdir())


def sample_image() -> Image:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (3, 17, 17, 3), np.uint8)
    gray = [rng.integers(0, 256, size, np.uint8) for size in ((5, 7), (9, 4))]
    panels = (
        Panel("conv1", colour, "a caption", ("one", "two", "three"), ((2, 3, 5, 7), None, (0, 0, 17, 17))),
        Panel("layer1/conv2:3", gray),
    )
    return Image(np.zeros((40, 60, 3), np.uint8), "title", "reading", panels=panels)


@pytest.mark.parametrize(("width", "dpi"), [("85mm", 300), ("60mm", 150), ("40mm", 200)])
def test_a_picture_has_whole_dots_for_its_pixels(width: str, dpi: float, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (17, 17, 3), np.uint8)
    path = Image(pixels, "title", "reading").save(tmp_path / "picture.png", width=width, dpi=dpi)
    with Picture.open(path) as png:
        drawn = np.asarray(png.convert("RGB"))
    dots = int(points(width) / 72 * dpi / 17 + 1e-6)
    large = pixels.repeat(dots, 0).repeat(dots, 1)
    assert dots > 15 and np.array_equal(drawn[: len(large), : len(large)], large)
    assert (drawn[:, len(large) :] == 255).all(), "what is left of the width is paper"


def test_each_picture_of_several_has_whole_dots_too(tmp_path: Path) -> None:
    image = sample_image()
    svg = image.save(tmp_path / "picture.svg", width="85mm").read_text()
    assert {"a caption", "one", "two", "three"} <= {text for text, _ in texts(svg)}
    assert svg.count("<image") == 5 and svg.count('fill="none"') == 1, "a frame about all of a picture says nothing"
    with Picture.open(image.save(tmp_path / "picture.png", width="85mm")) as png:
        drawn = np.asarray(png.convert("RGB")).astype(int)
    for place, x, y, width in re.findall(r"<image x=\"()([0-9.]+)\" y=\"([0-9.]+)\" width=\"([0-9.]+)\"", svg)[1:3]:
        left, top, side = (round(float(v) / 72 * 300) for v in (x, y, width))
        assert side % 17 == 0 and place == ""
        block = drawn[top : top + side, left : left + side].reshape(17, side // 17, 17, side // 17, 3)
        assert (block.max((1, 3)) == block.min((1, 3))).all()


def test_pictures_are_arrays_and_come_back_from_a_case(tmp_path: Path) -> None:
    image = sample_image()
    case = Case(tmp_path / "case")
    plain = Image(np.arange(12, dtype=np.uint8).reshape(3, 4), "title", "reading")
    chart = KINDS["bars"]
    case.add(Result("filters", figures={"same": chart, "chart": chart}, images={"same": image, "plain": plain}))
    case.add(Result("noise", figures={"chart": chart}))
    back = Case(tmp_path / "case").load("filters").pictures
    assert {name: list(arrays) for name, arrays in back.items()} == {
        "same": ["conv1", "layer1/conv2:3 0", "layer1/conv2:3 1"],
        "plain": ["picture"],
    }
    for name, array in image.arrays.items():
        assert np.array_equal(back["same"][name], array)
    assert back["same"]["conv1"].shape == (3, 17, 17, 3) and np.array_equal(back["plain"]["picture"][0], plain.pixels)
    assert case.list_figures().rows() == [
        ("filters/same", "chart", "t"),
        ("filters/chart", "chart", "t"),
        ("filters/same_picture", "picture", "title"),
        ("filters/plain", "picture", "title"),
        ("noise/chart", "chart", "t"),
    ]
    drawn = case.figure("same_picture")
    assert isinstance(drawn, Image) and drawn.panels[0].frames == image.panels[0].frames
    with np.load(drawn.save(tmp_path / "same.npz"), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["conv1"], image.arrays["conv1"])
    with pytest.raises(CaseError, match="filters/chart, noise/chart"):
        case.figure("chart")
    with pytest.raises(CaseError, match="nearest: filters/plain"):
        case.figure("filters/plane")
    with pytest.raises(SettingsError, match="nearest: plain"):
        case.load("filters").figure("plian")
    (tmp_path / "case" / "filters" / "images" / "same.npz").write_bytes(b"no archive")
    with pytest.raises(CaseError, match="damaged"):
        case.load("filters")


def test_an_atlas_gives_its_pictures_as_arrays() -> None:
    atlas = evil_atlas()
    small = atlas.pictures("conv1")
    assert small.shape == (30, 2, 4, 6, 3)
    expected = np.stack(np.broadcast_arrays(8 * np.arange(30)[:, None], 0, [1, 2]), -1)[:, :, None, None]
    assert (small == expected).all()
    assert atlas.pictures(EVIL).shape == (3, 4, 20, 20, 3)
    with pytest.raises(SettingsError, match="nearest: conv1"):
        atlas.pictures("conv2")


def test_the_command_lists_and_writes_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(tmp_path / "case")
    case.add(Result("noise", figures={"layers": KINDS["heatmap"]}, images={"maps": sample_image()}))
    where = str(tmp_path / "case")
    main(["figure", where])
    assert re.search(r"noise/layers +chart\s+noise/maps +picture", capsys.readouterr().out)
    out = tmp_path / "a.svg"
    main(["figure", where, "layers", "--out", str(out), "--width", "85mm"])
    assert capsys.readouterr().out.strip() == str(out) and 'width="85.0' in out.read_text()[:400]
    main(["figure", where, "noise/*", "--format", "png", "--out", str(tmp_path / "all"), "--dpi", "72"])
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["noise-layers.png", "noise-maps.png"]
    main(["figure", where, "*", "--format", "npz", "--out", str(tmp_path / "arrays")])
    assert [path.name for path in (tmp_path / "arrays").iterdir()] == ["noise-maps.npz"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["layer"], "nearest: noise/layers"),
        (["x*"], "no figure matches 'x*'"),
        (["layers", "--width", "85"], "85mm"),
        (["layers", "--format", "npz"], "svg, pdf, png"),
        (["layers", "--out", "chart.gif"], "svg, pdf, png"),
        (["layers", "--out", "missing/chart.pdf"], "give another file"),
    ],
)
def test_mistakes_of_the_command(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Case("case").add(Result("noise", figures={"layers": KINDS["bars"]}))
    with pytest.raises(SystemExit) as stop:
        main(["figure", "case", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_figures_need_no_torch(tmp_path: Path) -> None:
    Case(tmp_path / "case").add(Result("noise", figures={"layers": KINDS["bars"]}, images={"maps": sample_image()}))
    call = f"main(['figure', {str(tmp_path / 'case')!r}, '*', '--out', {str(tmp_path / 'out')!r}])"
    check = f"import sys; from netopsy.cli import main; {call}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
    assert len(list((tmp_path / "out").glob("*.pdf"))) == 2


# Of colours: sRGB to CIELAB by the standard (D65), and what the colour-blind see (Machado et al., 2009, severity 1).
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colours: np.ndarray) -> np.ndarray:
    shares = np.asarray(colours, float) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    xyz = light.clip(0, 1) @ _TO_XYZ.T / _TO_XYZ.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def cells(tmp_path: Path, **how: object) -> tuple[np.ndarray, list[str]]:
    """The colours of 21 cells from -1 to 1, as drawn, and those of the numbers in them."""
    data = pl.DataFrame({"x": ["a"] * 21, "y": [f"{k}" for k in range(21)], "v": np.linspace(-1, 1, 21)})
    svg = heatmap(data, "x", "y", "v", labels=True, **WORDS, **how).save(tmp_path / "map.svg").read_text()
    rects = re.findall(r'<path aria-label="[^"]*"[^>]*?fill="rgb\((\d+), ?(\d+), ?(\d+)\)"', svg)
    rects = rects or re.findall(r'fill="#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})"', svg)
    base = 10 if "rgb(" in svg else 16
    numbers = re.findall(r'<text[^>]*fill="(black|white)"', svg)
    return np.array([[int(part, base) for part in rect] for rect in rects][:21]), numbers


@pytest.mark.parametrize("how", [{}, {"reverse": True}, {"middle": 0.0}, {"middle": 0.0, "reverse": True}])
def test_colours_of_maps_survive_gray_print_and_colour_blindness(how: dict, tmp_path: Path) -> None:
    colours, numbers = cells(tmp_path, **how)
    assert len(colours) == len(numbers) == 21
    seen = {"all": lab(linear(colours))}
    seen |= {name: lab(linear(colours) @ np.array(matrix).T) for name, matrix in _BLIND.items()}
    lightness = seen["all"][:, 0]
    steps = np.diff(lightness)
    if "middle" in how:
        assert (steps[:10] > 1).all() and (steps[10:] < -1).all(), "lightest in the middle, darker on either side"
        assert lightness[0] == pytest.approx(lightness[-1], abs=1), "either end weighs as much"
    else:
        assert (steps > 1).all() or (steps < -1).all()
    assert np.abs(steps).max() < 1.6 * np.abs(steps).min(), "a step is about as large anywhere"
    for name, values in seen.items():
        assert np.linalg.norm(values[0] - values[-1]) > 40, f"{name}: the two ends can be told apart"
    luminance = linear(colours) @ _TO_XYZ[1]
    ink = np.array([1.0 if number == "white" else 0.0 for number in numbers])
    contrast = (np.maximum(luminance, ink) + 0.05) / (np.minimum(luminance, ink) + 0.05)
    assert contrast.min() >= 4.4, "numbers can be read on their cells (WCAG AA: 4.5)"
