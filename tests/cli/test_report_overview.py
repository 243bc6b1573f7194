"""The first page and the pages behind it: what they say, and what they leave out."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sample_case import EVIL, PROVENANCE, evil_atlas, evil_baseline

from netopsy.report.atlas import AtlasPictures, atlas_data, opening_layer
from netopsy.report.decisions import (
    GAP,
    LEAST,
    WIDTH,
    LayerFigure,
    PageLayer,
    advice,
    assign_lanes,
    collect_layers,
    decision_table,
    place_blocks,
    strip,
)
from netopsy.report.layer_pages import LayerRows, link_names, unit_pages
from netopsy.report.overview import (
    alerts,
    amount_text,
    groups,
    head,
    is_trusted,
    pictures,
    score_text,
    size_text,
    tiles,
)
from netopsy.report.pages import script_json, write_report
from netopsy.report.summary import csv_text, file_stem, number, table_summary
from netopsy.result import MEASURE_SCHEMA, Alert, Atlas, Finding, Image, Result, Sheet


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (0.12345, "0.123"),
        (99.96, "100"),
        (12345.6, "12,300"),
        (-1234.0, "−1,230"),
        (0.00012345, "0.000123"),
        (1.2e-9, "1.2e-09"),
        (3e15, "3e+15"),
        (math.nan, "–"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_have_three_digits_and_separated_thousands(value: float, text: str) -> None:
    assert number(value) == text


def test_shares_are_in_per_cent_and_the_head_says_so() -> None:
    frame = pl.DataFrame({"top1": [0.917, None], "drop": [0.012, -0.5], "share": [2.5, 1.0], "loss": [0.5, 0.25]})
    table = table_summary("noise", "scores", frame)
    assert [column["name"] for column in table["columns"]] == ["top1, %", "drop, points", "share", "loss"]
    assert table["rows"] == [["91.7", "1.2", "2.5", "0.5"], ["", "−50", "1", "0.25"]]
    plain = table_summary("noise", "scores", frame.drop("top1"))  # a drop of another score is no share
    assert plain["columns"][0]["name"] == "drop"


def test_lists_are_words_in_csv() -> None:
    assert csv_text(pl.DataFrame({"a": [[1, 2], []], "b": ["x,y", 'z"']})) == 'a,b\n1 2,"x,y"\n"","z"""\n'


def test_names_of_files_are_safe_and_differ_where_case_does_not_count() -> None:
    names = ["conv1", "Conv1", "a/b", "a_b", "..", "", "aux", "con.1", "é", EVIL, "x" * 300, "x" * 301, ".a", "a"]
    stems = [file_stem(name) for name in names]
    assert len({stem.lower() for stem in stems}) == len(names) and stems[0] == "conv1" and stems[-1] == "a"
    assert all(stem.isascii() and len(stem) < 100 and not stem.startswith(".") and "/" not in stem for stem in stems)
    assert "aux" not in stems and not stems[7].startswith("con.1.")


def test_the_sentence_and_the_score() -> None:
    said = head([evil_baseline()])
    assert said["network"] == EVIL
    assert said["sentence"] == [
        "91.7 % ± 0.5 on 10 images of seven-hundred-images-of-a-thousand-classes",
        "269,722 parameters",
        "1.08 MB",
        "41 M MACs",
    ]
    assert head([Result("noise", provenance=PROVENANCE)])["sentence"] == [
        "10 images of seven-hundred-images-of-a-thousand-classes",
        "1,234 parameters",
    ]
    assert score_text({"unit": "R²", "score": 0.91234, "score_low": 0.9, "score_high": 0.92}) == "R² 0.912 ± 0.010"
    assert [size_text(n) for n in (12, 1234, 4.94e6, 2e9)] == ["12 bytes", "1.23 kB", "4.94 MB", "2 GB"]
    assert [amount_text(n) for n in (12, 1234, 41e6, 4.1e9)] == ["12", "1.2 k", "41 M", "4.1 G"]


def test_alerts_come_worst_first_with_the_page_of_their_layer() -> None:
    layers = collect_layers([evil_baseline()])
    shown = alerts([evil_baseline()], layers)
    assert [entry["alert"].level for entry in shown] == ["error", "warning", "warning", "note"]
    assert all(entry["page"] == layers[1].page for entry in shown)
    assert alerts([Result("x", alerts=[Alert("a", "note", "m", layer="gone")])], layers)[0]["page"] == ""


def test_findings_are_ranked_and_the_weak_stay_on_their_pages() -> None:
    weights = [1.0, 5.0, 0.99, 2.0, 3.0]
    one = Result("noise", findings=[Finding(f"w{w}", w) for w in weights], group="losses")
    two = Result("stimuli", findings=["plain"], group="vision")
    assert groups([one, two], trusted=True) == [
        ("What does it see", [("plain", "stimuli")]),
        ("What can it lose", [("w5.0", "noise"), ("w3.0", "noise"), ("w2.0", "noise")]),
    ]
    assert [question for question, _ in groups([one, two], trusted=False)] == ["What does it see"]


def test_without_a_score_that_counts_nothing_is_said_of_losses() -> None:
    base, calm = evil_baseline(), replace(evil_baseline(), alerts=[])
    assert not is_trusted([base]) and is_trusted([calm])
    layers = collect_layers([base])
    assert [tile["title"] for tile in tiles([base], layers, trusted=False)] == ["top-1 accuracy", "Dead units"]
    shown = tiles([calm], layers, trusted=True)
    assert [tile["title"] for tile in shown] == ["top-1 accuracy", "Dead units", "Most fragile layer"]
    assert [tile["value"] for tile in shown] == ["91.7 %", "2", "fc"]
    table = decision_table(layers, trusted=False)
    assert not table["advised"] and [c["name"] for c in table["columns"]] == [
        "layer",
        "parameters",
        "MACs",
        "dead units",
    ]
    assert "fragility" not in [name for name, *_ in strip(layers, trusted=False)["colours"]]
    plain = Result("noise", tables={"scores": pl.DataFrame({"layer": ["a"]})})
    assert tiles([plain], collect_layers([plain]), trusted=True) == []


def test_a_loss_within_the_noise_has_no_colour() -> None:
    figures = {"a": LayerFigure(0.02, -0.01, 0.05), "b": LayerFigure(0.01, 0.005, 0.015), "c": LayerFigure(0.0)}
    layers = [PageLayer(name, measures={"fragility": figure}) for name, figure in figures.items()]
    drawn = strip(layers, trusted=True)
    assert [block["shades"]["fragility"] for block in drawn["blocks"]] == [0, 100, 0]
    assert drawn["colours"][0][4].startswith("1 ")  # the scale ends at what is measurable, in points


def _formats(rows: list[tuple[str, float, float]]) -> Result:
    frame = pl.DataFrame(rows, schema=["format", "stored_bits", "drop_high"], orient="row")
    return Result("rounding", tables={"formats": frame.with_columns(layer=pl.lit("all"), drop=0.0, top1=0.9)})


def test_the_safest_format_is_the_smallest_whose_interval_is_within_a_point() -> None:
    found = _formats([("fp16", 16, 0.001), ("int8_channel", 8.1, 0.004), ("int6_tensor", 6, 0.02)])
    (tile,) = tiles([found], [], trusted=True)
    assert (tile["value"], tile["note"]) == ("int8 per channel", "loses at most 0.4 points")
    (tile,) = tiles([_formats([("fp8_e5m2", 8, 0.03), ("int2_tensor", 2, 0.9)])], [], trusted=True)
    assert tile["value"] == "fp8 e5m2" and "more samples" in tile["note"]


def test_a_tie_for_the_most_fragile_layer_is_called_one() -> None:
    def fragile(*values: tuple[float, float, float]) -> str:
        made = [PageLayer(f"l{k}", measures={"fragility": LayerFigure(*v, "noise")}) for k, v in enumerate(values)]
        (tile,) = tiles([], made, trusted=True)
        return f"{tile['value']}: {tile['note']}"

    assert fragile((0.3, 0.2, 0.4), (0.1, 0.0, 0.19)) == "l0: loses 30 points to noise"
    assert "l1 cannot be told apart" in fragile((0.3, 0.2, 0.4), (0.1, 0.0, 0.25))
    assert fragile((0.3, 0.2, 0.4), *[(0.25, 0.2, 0.3)] * 3).startswith("several: ")
    assert fragile((0.01, -0.02, 0.04), (0.0, 0.0, 0.0)).startswith("none: ")


def test_advice_says_format_pruning_and_dead_units() -> None:
    def layer(**values: float) -> PageLayer:
        return PageLayer("a", measures={name: LayerFigure(value) for name, value in values.items()})

    assert advice(layer(bits=32)) == "keep" and advice(layer(bits=4)) == "4 bits" and advice(layer()) == ""
    assert advice(layer(bits=8, prunable=0.6, dead=12)) == "8 bits, prune 60 %, drop 12 dead units"
    assert advice(layer(prunable=0.1, dead=1)) == "drop 1 dead unit"
    frame = decision_table(collect_layers([evil_baseline()]), trusted=True)["frame"]
    assert frame.filter(pl.col("layer") == EVIL)["advice"].item() == "int8 per channel, drop 3 dead units"


def _network(rng: random.Random, count: int) -> list[PageLayer]:
    names = [f"l{k}" for k in range(count)]
    inputs = [
        tuple({rng.choice(names[max(0, k - 6) : k]) for _ in range(rng.choice([1, 1, 1, 2, 4]))}) if k else ()
        for k in range(count)
    ]
    return [PageLayer(name, "conv", before) for name, before in zip(names, inputs, strict=True)]


@pytest.mark.parametrize("count", [1, 2, 40, 300])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_any_network_are_in_order_visible_and_apart(count: int, seed: int) -> None:
    rng = random.Random(seed)
    layers = _network(rng, count)
    sizes = [rng.choice([0.0, 1.0, 10.0, 1e6]) for _ in layers]
    lanes = assign_lanes(layers)
    places = place_blocks(layers, lanes, sizes)
    numbers = {layer.name: k for k, layer in enumerate(layers)}
    for k, layer in enumerate(layers):
        assert places.right[k] - places.left[k] >= LEAST - 0.11
        assert all(places.right[numbers[name]] < places.left[k] for name in layer.inputs)
    for lane in set(lanes):
        row = [k for k in range(count) if lanes[k] == lane]
        assert all(places.right[a] + GAP <= places.left[b] + 0.11 for a, b in itertools.pairwise(row))
    assert places.width == max(places.right) and (count > 40 or places.width <= WIDTH + 1)


def test_sizes_of_a_chain_are_to_scale_and_branches_have_lanes() -> None:
    chain = [PageLayer("a"), PageLayer("b", inputs=("a",)), PageLayer("c", inputs=("b",))]
    assert assign_lanes(chain) == [0, 0, 0]
    places = place_blocks(chain, [0, 0, 0], [0.0, 100.0, 300.0])
    widths = np.subtract(places.right, places.left) - LEAST
    np.testing.assert_allclose(widths[1:] / widths[2], [1 / 3, 1], atol=1e-3)
    assert not places.lines and places.width == WIDTH
    branched = [
        PageLayer("s"),
        PageLayer("x", inputs=("s",)),
        PageLayer("y", inputs=("s",)),
        PageLayer("j", inputs=("x", "y")),
    ]
    assert assign_lanes(branched) == [0, 0, 1, 0]
    towers = [PageLayer("p"), PageLayer("q"), PageLayer("j", inputs=("p", "q"))]
    assert assign_lanes(towers)[:2] == [0, 1]


def test_rows_of_a_layer_are_found_by_layer_node_and_unit() -> None:
    nodes = pl.DataFrame({"node": ["r1", "r2"], "layer": ["conv1", "fc"], "x": [1, 2]})
    units = pl.DataFrame({"unit": ["r1:0:3:3", "r1:10", "r2:0"], "y": [1.0, 2.0, 3.0]})
    channels = pl.DataFrame({"node": ["r1", "r1", "r2"], "channel": [0, 1, 0], "z": [5, 6, 7]})
    result = Result("noise", tables={"nodes": nodes, "units": units, "channels": channels})
    rows = LayerRows([result], [PageLayer("conv1"), PageLayer("fc")])
    assert {t["name"]: t["total"] for t in rows.of_layer("conv1")} == {"nodes": 1, "units": 2, "channels": 2}
    found = rows.of_unit("conv1", "r1", 0)
    assert [(t["name"], t["rows"]) for t in found] == [("units", [["1"]]), ("channels", [["5"]])]
    assert rows.of_layer("other") == []


def _atlas(units: int, top: int = 9) -> Atlas:
    """Two nodes of as many units; of the first all stimuli are of one class, of the second a third."""
    rows = [(node, channel) for node in ("a", "b") for channel in range(units)]
    frame = pl.DataFrame(rows, schema=["node", "channel"], orient="row").with_columns(
        pl.col("node").alias("layer"),
        pl.lit("cat").alias("class"),
        pl.Series("activation", np.linspace(1.234567, 98.7654, len(rows))),
        pl.Series("share", [1.0 if node == "a" else 1 / 3 for node, _ in rows]),
        pl.lit(0.123456).alias("selectivity"),
    )
    stimuli = frame.select("node", "channel").join(
        pl.DataFrame({"rank": range(1, top + 1), "value": np.linspace(9.87654, 1.23456, top)}), how="cross"
    )
    stimuli = stimuli.with_columns(
        image=pl.int_range(pl.len()) % 9973, **{"class": pl.format("class {}", pl.int_range(pl.len()) % 1000)}
    )
    sheet = Sheet.of(np.zeros((units * top, 2, 2, 3), np.uint8))
    return Atlas(frame, stimuli, {"a": (sheet,), "b": (sheet,)}, top, {}, "t", "r")


def test_an_atlas_of_40000_units_would_stay_under_5_mb() -> None:
    data, parts = atlas_data(_atlas(1000))
    classes = len(script_json(data["classes"]))
    assert (len(script_json(data)) - classes) * 20 + classes < 4_900_000
    assert len(parts) == 2 and len(parts[0]["stimuli"]) == 1000 and data["layers"][1]["first"] == 1


def test_the_atlas_opens_on_the_deepest_layer_with_selective_units() -> None:
    assert opening_layer(_atlas(2)) == 0
    atlas = _atlas(2)
    all_selective = replace(atlas, units=atlas.units.with_columns(share=1.0))
    assert opening_layer(all_selective) == 0, "the last are the classes themselves"
    assert opening_layer(replace(atlas, units=atlas.units.drop("share"))) == 0


def test_pictures_of_a_unit_are_cut_from_its_sheet() -> None:
    atlas = evil_atlas()
    cut = AtlasPictures(atlas)
    patches, back = cut.tiles("conv1", 7)
    assert patches.shape == (2, 4, 6, 3) and len(back) == 0
    assert patches[0, 0, 0].tolist() == [56, 0, 1] and patches[1, 0, 0].tolist() == [56, 0, 2]
    patches, back = cut.tiles(EVIL, 2)
    assert len(patches) == len(back) == 1 and patches.shape[1:] == (20, 20, 3)


def test_a_report_written_again_drops_the_pages_of_former_layers(tmp_path: Path) -> None:
    results = [evil_baseline(), Result("noise", atlases={"atlas": evil_atlas()})]
    write_report(results, tmp_path)
    assert len(list((tmp_path / "layers").iterdir())) == 4
    units = unit_pages(results)
    assert len(units) == 8 + 3 and all((tmp_path / unit.page).exists() for unit in units)
    first = (tmp_path / "index.html").stat().st_mtime_ns
    write_report(results, tmp_path)
    assert (tmp_path / "index.html").stat().st_mtime_ns == first, "what is the same is not written again"
    write_report([Result("mine", tables={"t": pl.DataFrame({"layer": ["x", "all"]})})], tmp_path)
    assert [path.name for path in (tmp_path / "layers").iterdir()] == ["x.html"]
    assert not list((tmp_path / "units").iterdir())
    assert "decisions" not in (tmp_path / "index.html").read_text().split("</style>")[1].split("<script")[0]


def test_a_unit_s_own_picture_is_on_its_page_its_layer_s_and_the_first(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    images = {"pictures": Image(pixels, "Mosaic", "Read")}
    for name in ("conv1:3", "nowhere:1"):  # a unit that is not among the most telling, and one without an atlas
        images[f"unit {name}"] = Image(pixels + 9, f"Image made to excite {name} most", "Read", zoom=8)
    results = [evil_baseline(), Result("maximize", images=images, atlases={"atlas": evil_atlas()})]
    made = pictures(results, {("maximize-atlas", "conv1", 3): "units/some.html"})
    first, *others = made["units"]
    assert (first["name"], first["page"]) == ("conv1:3", "units/some.html") and first["made"] and first["url"]
    assert others and not any(one["made"] for one in others)
    assert [(one["name"], one["page"]) for one in made["made"]] == [("nowhere:1", "maximize.html")]
    assert made["maximised"] is None
    older = [Result("maximize", images={"pictures": images["pictures"]})]
    assert pictures(older, {})["maximised"]["title"] == "Mosaic"  # a case without such pictures
    units = {unit.name: unit.page for unit in unit_pages(results)}
    assert len(units) == 8 + 1 + 3
    write_report(results, tmp_path)
    title = "Image made to excite conv1:3 most"
    for page, count in ((units["conv1:3"], 1), (units["conv1:29"], 0), ("maximize.html", 0)):
        assert (title in (tmp_path / page).read_text()) == bool(count), page
    assert any(title in path.read_text() for path in (tmp_path / "layers").iterdir())
    assert 'alt="Image made to excite conv1:3"' in (tmp_path / "index.html").read_text()


def test_findings_link_the_layers_and_units_that_they_name() -> None:
    pages = {"layer1.0": "a.html", "conv1": "b.html", "conv1:3": "c.html", "linear": "d.html"}
    linked = link_names("conv1 and layer1.0. But <b>conv1:3</b>, conv1:33, conv12 and 1 linear layer.", pages)
    assert linked == (
        '<a href="b.html">conv1</a> and <a href="a.html">layer1.0</a>. But &lt;b&gt;<a href="c.html">conv1:3</a>'
        "&lt;/b&gt;, conv1:33, conv12 and 1 linear layer."
    )


def test_the_share_that_can_be_pruned_is_that_of_the_budget_whichever_study_came_last() -> None:
    def of(study: str, share: float, text: str) -> Result:
        return Result(
            study, measures=pl.DataFrame([("a", "prunable", share, None, None, text)], MEASURE_SCHEMA, orient="row")
        )

    prescribed, compressed = of("prescribe", 0.3, "within the budget"), of("compression", 0.8, "with retraining")
    for results in ([prescribed, compressed], [compressed, prescribed]):
        (layer,) = collect_layers(results)
        assert layer.measures["prunable"].value == 0.3 and advice(layer) == "prune 30 %"
    (layer,) = collect_layers([compressed])
    assert advice(layer) == "prune 80 % with retraining"
