"""What is concluded of draws: intervals that cover what they say, and no verdict that the wider one takes back."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ttest_1samp
from torch import Tensor, nn

import netopsy
from netopsy import Network, Preprocessing
from netopsy.network.layers import filters_of, weight_of
from netopsy.samples.samples import read_images
from netopsy.stats.hypothesis_tests import mean_interval, paired_difference, weighted_interval
from netopsy.studies.draws import bounds, half_width, over_draws
from netopsy.studies.filter_codebook import SecondMoments, merge_filters, responses
from netopsy.studies.sweep_report import Measure, fragile, loss_map, perplexity_sentences, verdict
from netopsy.studies.transfer.findings import _dimensions
from netopsy.studies.triage.figures import convergence, figures
from netopsy.studies.triage.findings import above, deeper, frozen


def row(drop: float, images: float, drawn: float | None, **more: Any) -> dict[str, Any]:
    """A setting that costs `drop`, with the half-widths of its two intervals; None of too few draws."""
    ends = {"drop_draws_low": None, "drop_draws_high": None}
    if drawn is not None:
        ends = {"drop_draws_low": drop - drawn, "drop_draws_high": drop + drawn}
    columns = {"drop": drop, "drop_low": drop - images, "drop_high": drop + images, **ends, "images": 1000, "draws": 5}
    return columns | more


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    ends = dict.fromkeys(("drop_draws_low", "drop_draws_high"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=ends).with_row_index("k")


def spell(one: dict[str, Any]) -> str:
    return f"setting {one['k']}"


def test_means_over_draws_have_an_interval_over_samples_and_one_over_draws() -> None:
    drops = [0.01, 0.03, 0.02, 0.06]
    scores = pl.DataFrame(
        {"k": [1] * 4 + [2] * 2, "top1": [0.9 - d for d in (*drops, 0.5, 0.7)], "drop": [*drops, 0.5, 0.7]}
    ).with_columns(drop_low=pl.col("drop") - 0.1, drop_high=pl.col("drop") + 0.2, loss=1.0, images=50)
    first, second = over_draws(scores, ["k"], "top1").to_dicts()
    expected = ttest_1samp(drops, 0).confidence_interval(0.95)
    assert (first["drop_draws_low"], first["drop_draws_high"]) == pytest.approx((expected.low, expected.high))
    assert (first["drop_low"], first["drop_high"]) == pytest.approx((0.03 - 0.1, 0.03 + 0.2))
    assert (first["drop"], first["draws"], first["lowest"]) == pytest.approx((0.03, 4, 0.84))
    assert second["draws"] == 2 and second["drop_draws_low"] is None and bounds(second) == (-math.inf, math.inf)
    assert bounds(first) == pytest.approx((-0.07, 0.23)) and half_width(first) == pytest.approx(0.15)
    assert half_width(row(0.0, 0.1, 0.4)) == pytest.approx(0.4) and half_width({"drop_low": 0, "drop_high": 2}) == 1


@pytest.mark.parametrize(("images", "draws"), [(0.001, 0.02), (0.02, 0.001), (0.004, 0.02), (0.02, 0.02)])
def test_a_setting_is_cheap_only_where_both_intervals_lie_below(images: float, draws: float) -> None:
    (finding,) = verdict(frame(row(0.0, images, draws), row(0.5, images, draws)), spell, "smallest")
    assert "without a measurable loss" in finding and "setting 0" in finding.lower() and finding.weight < 1
    (finding, *_) = verdict(frame(row(0.0, 0.001, 0.002), row(0.0, images, draws)), spell, "smallest")
    assert "less than 0.5 points" in finding and finding.startswith("Setting 0") and finding.weight >= 1


def test_samples_that_cannot_show_a_large_loss_conclude_nothing() -> None:
    (finding,) = verdict(frame(row(0.1, 0.3, 0.01), row(0.21, 0.4, 0.01)), spell, "smallest")
    assert "cannot show a loss" in finding and "30.0 points" in finding and "without" not in finding
    assert finding.weight < 1


@pytest.mark.parametrize(("images", "draws", "sure"), [(0.01, 0.02, True), (0.01, 0.2, False), (0.2, 0.01, False)])
def test_every_setting_costs_only_where_both_intervals_lie_above_zero(images: float, draws: float, sure: bool) -> None:
    mild, harsh = row(0.1, images, draws), row(0.3, 0.01, 0.02)
    (finding,) = verdict(frame(mild, harsh), spell, "smallest")
    assert ("Every setting tried costs" in finding) == sure == (finding.weight >= 1)
    assert "over images" in finding and "over 5 draws" in finding


def test_nothing_is_concluded_of_fewer_than_three_draws() -> None:
    rows = frame(row(0.0, 0.001, None, draws=1), row(0.4, 0.01, None, draws=1))
    (finding,) = verdict(rows, spell, "smallest")
    assert finding.startswith("1 draw cannot show") and not re.search("less than|smallest|without", finding)
    layers = frame(*(row(d, 0.001, None, draws=2, layer=name) for d, name in ((0.0, "a"), (0.2, "b"))))
    (finding,) = fragile(layers, spell)
    assert finding.startswith("2 draws of each layer alone cannot rank them") and finding.weight < 1


@pytest.mark.parametrize(("draws", "most"), [(0.01, "b is the most fragile layer"), (0.2, "No layer")])
def test_a_layer_is_fragile_only_where_the_wider_interval_says_so(draws: float, most: str) -> None:
    layers = frame(row(0.0, 0.01, draws, layer="a"), row(0.1, 0.01, draws, layer="b"))
    (finding,) = fragile(layers, spell)
    assert finding.startswith(most) and (finding.weight >= 1) == (draws == 0.01)
    chart = loss_map(layers, "k", "layer", Measure(), "title", "")
    (values,) = chart.spec["datasets"].values() if "datasets" in chart.spec else (chart.spec["data"]["values"],)
    assert [point["within"] for point in values] == [True, draws != 0.01] and "images or draws" in chart.reading


@pytest.mark.parametrize(("draws", "claims"), [(0.001, True), (0.1, False), (None, False)])
def test_a_perplexity_is_kept_only_where_the_draws_agree(draws: float | None, claims: bool) -> None:
    ends = (None, None) if draws is None else (-draws, draws)
    rise = {"rise": 0.0, "rise_low": -0.001, "rise_high": 0.001, "loss": 1.0}
    rows = frame(row(0.0, 0.01, 0.01, **rise)).with_columns(
        rise_draws_low=pl.lit(ends[0], pl.Float64), rise_draws_high=pl.lit(ends[1], pl.Float64)
    )
    findings = perplexity_sentences(rows, spell, "smallest", Measure(tokens=True))
    assert any("less than 1 %" in finding for finding in findings) == claims


def test_no_interval_is_made_of_fewer_than_three_values_or_beyond_what_is_possible() -> None:
    for values in ([], [0.3], [0.1, 0.9]):
        assert mean_interval(values) == (None, None)
        assert weighted_interval(np.array(values), np.ones(len(values))) == (None, None)
    assert mean_interval([0.9, 1.0, 0.95], (0.0, 1.0))[1] == 1.0 and mean_interval([0.0, 0.1, 0.0], (0.0, 1.0))[0] == 0
    assert weighted_interval(np.array([0.0, 0.1, 0.0]), np.ones(3), (0.0, 1.0))[0] == 0
    low, high = mean_interval([3.0, 4.0, 9.0])
    assert low is not None and low < 0, "epochs, without limits"
    assert mean_interval([3.0, 4.0, 9.0], (1.0, 10.0)) == (1.0, 10.0) and high is not None and high > 10


def cells(gains: dict[str, float]) -> pl.DataFrame:
    """A compressed network a block and training: TM ends `gains` above FM."""
    rows = []
    for block, gain in gains.items():
        for training, top1 in (("FM", 0.5), ("TM", 0.5 + gain)):
            about = {"seed": 0, "block": block, "start": "RW", "training": training, "top1": top1, "best": top1}
            rows.append(about | {"drop": 0.6 - top1, "drop_low": 0.5 - top1, "drop_high": 0.7 - top1})
    return pl.DataFrame(rows).with_columns(epochs_to_99=pl.int_range(1, pl.len() + 1), matched_correlation=None)


def test_of_two_blocks_the_blocks_are_shown_and_of_three_an_interval() -> None:
    baselines = pl.DataFrame({"seed": [0], "top1": [0.6]}).with_columns(gain=pl.lit(None, pl.Float64))
    two = cells({"a": -0.1, "b": 0.3})
    (finding,) = frozen(two)
    assert "(a -10.0, b 30.0)" in finding and "interval" not in finding and finding.weight < 1
    assert "(a -20.0, b 20.0)" in above(two, baselines)[0]
    three = cells({"a": -0.1, "b": 0.3, "c": 0.9})
    assert "interval -88.4 to 100.0" in frozen(three)[0], "no gain is above 100 points"


def test_epochs_have_an_interval_of_what_was_trained_or_are_shown_block_by_block() -> None:
    history = pl.DataFrame({"training": ["TM", "FM", "baseline"], "epoch": [12, 12, 90]})
    two, six = (cells(dict.fromkeys(names, 0.1)) for names in ("ab", "abcdef"))
    few = convergence(two, history)
    assert few["low"].null_count() == few.height and few["blocks"].to_list() == [2, 2]
    many = convergence(six, history)
    assert (many["low"] >= 1).all() and (many["high"] <= 12).all() and (many["low"] < many["epochs"]).all()
    summary, baselines = pl.DataFrame({"top1": []}), pl.DataFrame({"top1": [0.5]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netopsy.studies.triage.figures._accuracy", lambda *_: None)
        tables = {"cells": two, "summary": cells({"a": 0.1}), "baselines": baselines, "history": history}
        chart = figures(tables)["epochs"]
    assert "The blocks themselves" in chart.reading and summary.is_empty()


def test_that_blocks_can_go_is_weighed_by_the_wider_interval() -> None:
    last = {"compressed": 2, "start": "RW", "training": "TM", "share": 0.3, "top1": 0.5, "drop": 0.02}
    last |= {"drop_low": 0.01, "drop_high": 0.03, "drop_images_low": 0.01, "drop_images_high": 0.03}
    (sure,) = deeper(pl.DataFrame([last]), 5.0)
    (unsure,) = deeper(pl.DataFrame([last | {"drop_low": -0.1, "drop_high": 0.14}]), 5.0)
    (single,) = deeper(pl.DataFrame([last | {"drop_low": None, "drop_high": None}], infer_schema_length=None), 5.0)
    assert "cannot be told" not in sure and "cannot be told" in unsure and "95 % interval 1.00 to 3.00" in single


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "own"), [(0.05, 0.0), (0.0, 0.05), (0.03, 0.03)])
def test_the_interval_over_samples_of_a_mean_over_draws_covers(shared: float, own: float) -> None:
    """Each of 5 draws turns some images that all draws turn, and some of its own."""
    generator, hits, n, draws, trials = np.random.default_rng(0), 0, 400, 5, 400
    for _ in range(trials):
        common = generator.random(n) < shared
        turned = common | (generator.random((draws, n)) < own)
        ends = [paired_difference(int(one.sum()), 0, n) for one in turned]
        rows = pl.DataFrame(ends, schema=["drop_low", "drop_high"], orient="row")
        rows = rows.with_columns(drop=pl.Series(turned.mean(1)), top1=0.5, images=n, k=1)
        summary = over_draws(rows, ["k"], "top1").row(0, named=True)
        low, high = summary["drop_low"], summary["drop_high"]
        hits += low <= shared + own - shared * own <= high
    assert hits / trials >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("law", ["normal", "uniform", "share"])
@pytest.mark.parametrize("draws", [3, 5, 20])
def test_the_interval_over_draws_covers_also_where_it_is_cut(law: str, draws: int) -> None:
    generator, trials = np.random.default_rng(draws), 2000
    laws = {
        "normal": (lambda: generator.normal(0.02, 0.05, draws), 0.02),
        "uniform": (lambda: generator.uniform(0, 1, draws), 0.5),
        "share": (lambda: generator.beta(2, 6, draws), 0.25),
    }
    draw, mean = laws[law]
    limits = (-1.0, 1.0) if law == "normal" else (0.0, 1.0)
    spans = [mean_interval(draw().tolist(), limits) for _ in range(trials)]
    assert sum(low <= mean <= high for low, high in spans) / trials >= 0.9  # type: ignore[operator]


class Mixed(nn.Module):
    """Convolutions of several kinds, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, stride=2, padding=1)
        self.back = nn.ConvTranspose2d(12, 10, 2, bias=False)
        self.grouped = nn.Conv2d(10, 10, 3, groups=5)
        self.last = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.grouped(self.back(self.first(x).relu()).relu()).relu().mean((2, 3)))


def mixed() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network("mixed", Mixed().eval(), Preprocessing(size=(32, 32), mean=(0.0,), std=(1.0,), channels="L"))


@pytest.mark.parametrize("name", ["first", "back"])
def test_the_distance_of_responses_is_what_sharing_changes_in_the_layers_outputs(name: str) -> None:
    network, samples = mixed(), netopsy.load_samples("digits", count=20)
    compared = responses(network, samples, network.layers)
    assert compared.keys() == {"first.weight", "back.weight", "last.weight"}, "groups see different inputs"
    codes = torch.tensor([0, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8])[: len(compared[f"{name}.weight"])]
    layer, weight = network.layer(name), network.tensors[f"{name}.weight"].detach()
    shared = weight_of(layer, merge_filters(filters_of(layer, weight), codes))
    assert filters_of(layer, shared)[0].equal(filters_of(layer, weight)[0]), "a filter alone stays as it is"
    inputs: list[Tensor] = []
    call = getattr(network.module, name)
    with torch.no_grad():
        handle = call.register_forward_hook(lambda _, args, __: inputs.append(args[0]))
        network.module(read_images(network, samples, list(range(20))))
        handle.remove()
        function = F.conv2d if name == "first" else F.conv_transpose2d
        how = {"stride": 2, "padding": 1} if name == "first" else {}
        changed = function(inputs[0], shared, **how) - function(inputs[0], weight, **how)
    expected = changed.double().square().mean((0, 2, 3))
    vectors = compared[f"{name}.weight"]
    actual = (vectors - merge_filters(vectors, codes)).square().sum(1)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-9)
    outputs = function(inputs[0], weight, **how).double().square().mean((0, 2, 3))
    torch.testing.assert_close(vectors.square().sum(1), outputs, rtol=1e-4, atol=1e-9)


def test_second_moments_of_parts_are_those_of_the_whole() -> None:
    values = torch.randn(9, 4, 5)
    whole, first, second = SecondMoments(), SecondMoments(), SecondMoments()
    whole.update(values, torch.arange(9))
    first.update(values[:3], torch.arange(3))
    second.update(values[3:], torch.arange(6))
    first.merge(second)
    first.merge(SecondMoments())
    expected = torch.einsum("bip,bjp->ij", values.double(), values.double()) / 45
    torch.testing.assert_close(whole.result(), expected)
    torch.testing.assert_close(first.result(), expected)


def test_shared_filters_are_drawn_several_times_in_both_ways() -> None:
    samples = netopsy.load_samples("digits", count=30)
    settings: dict[str, Any] = {"shares": (0.5, 1.0), "layers": ("first", "grouped")}
    result = netopsy.filter_codebook(mixed(), samples, **settings)
    scores, summary, clusters = (result.tables[name] for name in ("scores", "summary", "clusters"))
    together = scores.filter((pl.col("layer") == "all") & (pl.col("share") == 0.5))
    assert together["draw"].to_list() == [0, 1, 2, 3, 4] * 2 and together["weighting"].n_unique() == 2
    alone = scores.filter(pl.col("layer") == "first", pl.col("share") == 0.5)
    assert alone["draw"].to_list() == [0, 1, 2] and alone["weighting"].unique().to_list() == ["none"]
    for one in summary.filter(pl.col("share") == 0.5).iter_rows(named=True):
        drops = scores.filter(layer=one["layer"], share=0.5, weighting=one["weighting"])["drop"].to_list()
        assert one["drop"] == pytest.approx(np.mean(drops)) and one["draws"] == len(drops)
        assert (one["drop_draws_low"], one["drop_draws_high"]) == pytest.approx(mean_interval(drops, (-1.0, 1.0)))
    assert (summary.filter(pl.col("share") == 1.0)["drop_draws_high"] == 0).all()
    first = clusters.filter(pl.col("layer") == "first", pl.col("share") == 0.5)
    plain, weighted = first.to_dicts()
    assert plain["distortion"] <= weighted["distortion"] + 1e-9 and weighted["response"] <= plain["response"] + 1e-9
    assert clusters.filter(pl.col("layer") == "grouped")["response"].null_count() == 4
    assert any("grouped" in finding and "different inputs" in finding for finding in result.findings)
    single = netopsy.filter_codebook(mixed(), samples, **settings, weighting="response", draws=1, layer_draws=1)
    assert single.tables["scores"]["weighting"].drop_nulls().unique().to_list() == ["response"]
    assert any("1 draw cannot show" in finding for finding in single.findings)


def test_random_starts_of_codebooks_are_drawn_and_others_are_not() -> None:
    samples = netopsy.load_samples("digits", count=20)
    settings: dict[str, Any] = {"sizes": (4,), "layers": ("first",), "one_layer_at_a_time": False}
    plain = netopsy.codebook(mixed(), samples, **settings)
    assert "summary" not in plain.tables and "draw" not in plain.tables["scores"].columns
    drawn = netopsy.codebook(mixed(), samples, **settings, start="random", draws=4)
    scores, summary = drawn.tables["scores"], drawn.tables["summary"].filter(pl.col("k") == 4)
    assert scores["draw"].to_list() == [0, 0, 1, 2, 3] and drawn.tables["codebooks"]["distortion"].n_unique() > 1
    assert summary["draws"].to_list() == [4] and summary["drop"][0] == pytest.approx(scores["drop"][1:].mean())


@pytest.mark.parametrize(("low", "kept"), [(0.795, True), (0.6, False)])
def test_random_dimensions_keep_the_score_only_where_every_draw_would(low: float, kept: bool) -> None:
    minimum = pl.DataFrame(
        {"stress": ["dr1"], "loss": [0.01], "value": [50], "share": [0.5], "holds_above": [True], "node": ["n"]}
    )
    scores = pl.DataFrame(
        {"stress": ["dr1", "dr1"], "dimensions": [50, 80], "share": [0.5, 0.8], "relative": [1.0, 1.0]}
    ).with_columns(draws_low=pl.Series([low, 0.6]))
    findings = _dimensions(minimum, scores, {"dimensions": 100, "score": 0.8}, 0.01)
    assert [("50 drawn at random" in finding) for finding in findings] == [True] * kept
