"""`noise`, `rounding`, `codebook` and `filter_codebook` against naive loops; number formats against slow twins."""

from __future__ import annotations

from typing import Any

import kmeans1d as oracle
import numpy as np
import polars as pl
import pytest
import torch
from reference_studies import integers, naive_top1
from torch import Tensor, nn

import netopsy
from netopsy import Network, Preprocessing, Samples
from netopsy.engine.sweep.sweep import Scope
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.studies.filter_codebook import clusters_for
from netopsy.studies.noise import draw_noise
from netopsy.studies.rounding import number_format, round_decimals
from netopsy.studies.sweep_report import fragile, verdict
from networks import shipped

LAYERS = ("block2.conv1", "fc")
FEW: dict[str, dict[str, Any]] = {
    "noise": {"strengths": (0.3, 0.8), "repeats": 2},
    "rounding": {"decimals": (0, 1), "formats": ("bf16", "int3_channel"), "layer_formats": ("int3_channel",)},
    "codebook": {"sizes": (2, 4)},
    "filter_codebook": {"shares": (0.25, 0.75)},
}


@pytest.fixture(scope="module")
def digits() -> Network:
    return shipped("a")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return netopsy.load_samples("digits", count=120)


def scores(name: str, network: Network, samples: Samples, **more: Any) -> pl.DataFrame:
    return getattr(netopsy, name)(network, samples, **FEW[name], **more).tables["scores"]


def weights_of(network: Network, name: str, row: dict[str, Any]) -> dict[str, Tensor]:
    """The edit of one row, from the paper's words."""
    layers = network.layers if row["layer"] == "all" else (network.layer(row["layer"]),)
    tensors = network.tensors
    if name == "noise":
        scope = Scope(row["layer"], tuple(layers))
        unit = draw_noise(tensors, scope, True, 0, row["repeat"])
        return {key: tensors[key] + row["strength"] * value for key, value in unit.items()}
    if name == "rounding":
        names = [n for layer in layers for n in (layer.weight, layer.bias) if n]
        return {n: torch.round(tensors[n] * 10 ** row["decimals"]) / 10 ** row["decimals"] for n in names}
    edited = {}
    for layer in layers:
        values = tensors[layer.weight].detach().numpy().ravel()
        clusters, centroids = oracle.cluster(values.astype(float), min(row["k"], len(np.unique(values))))
        edited[layer.weight] = torch.tensor(np.array(centroids, np.float32)[clusters]).reshape(layer.weight_shape)
    return edited


@pytest.mark.parametrize("name", ["noise", "rounding", "codebook"])
def test_scores_are_those_of_the_naive_loop(name: str, digits: Network, samples: Samples) -> None:
    table = scores(name, digits, samples, layers=LAYERS)
    chosen = Network("part", digits.module, digits.preprocessing)
    chosen.layers = digits.select(LAYERS)
    compared = 0
    for row in table.iter_rows(named=True):
        if row["layer"] == "all" and not row["drop"] and row[table.columns[1]] in (None, 0.0):
            continue
        assert abs(row["top1"] - naive_top1(digits, samples, weights_of(chosen, name, row))) < 1e-9, row
        compared += 1
    assert compared >= 6


def test_filter_clusters_replace_filters_by_centroids(digits: Network, samples: Samples) -> None:
    result = netopsy.filter_codebook(digits, samples, shares=(0.25, 1.0), layers=("block2.conv1",))
    layer = digits.layer("block2.conv1")
    clusters = result.tables["clusters"].filter(pl.col("weighting") == "none")
    row = clusters.row(0, named=True)
    assert row["k"] == clusters_for(layer, 0.25) == max(2, round(0.25 * layer.weight_shape[0]))
    whole = clusters.row(1, named=True)
    assert whole["k"] == layer.weight_shape[0] and whole["distortion"] == pytest.approx(0, abs=1e-12)
    same = result.tables["scores"].filter(pl.col("share") == 1.0)
    assert (same["drop"] == 0).all() and (same["agreement"] == 1).all()


@pytest.mark.parametrize("name", list(FEW))
def test_tables_repeat_and_the_network_is_left_alone(name: str, digits: Network, samples: Samples) -> None:
    before = {key: value.clone() for key, value in digits.tensors.items()}
    first, second = (scores(name, digits, samples, layers=LAYERS) for _ in range(2))
    assert first.equals(second, null_equal=True)
    assert all(before[key].equal(value) for key, value in digits.tensors.items())
    assert {"top1", "top5", "top1_low", "top1_high", "agreement", "loss", "images"} <= set(first.columns)
    unedited = first.row(0, named=True)
    assert unedited["agreement"] == 1 and unedited["drop"] == 0


def test_another_seed_gives_another_noise(digits: Network, samples: Samples) -> None:
    tables = [scores("noise", digits, samples, layers=("fc",), seed=seed) for seed in (0, 1)]
    assert not tables[0].equals(tables[1])


def test_noise_has_the_layers_own_spread(digits: Network) -> None:
    layer = digits.layer("block4.conv2")
    unit = draw_noise(digits.tensors, Scope(layer.name, (layer,)), True, 0, 0)
    spread = torch.cat([digits.tensors[name].flatten() for name in unit]).std(correction=0)
    assert abs(unit[layer.weight].std() / spread - 1) < 0.02 and abs(unit[layer.weight].mean()) < 0.02 * spread


def test_adaptive_scores_say_how_many_images_they_used(digits: Network, samples: Samples) -> None:
    table = scores("noise", digits, samples, layers=("fc",), precision=20.0)
    assert table["images"].max() <= len(samples) and (table["drop_low"] <= table["drop_high"]).all()


def test_edits_that_change_nothing_are_flagged_not_scored_quietly(samples: Samples) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
    module[1].weight.data.fill_(0.5)
    module[1].bias.data.fill_(0.5)
    network = Network("flat", module, Preprocessing(size=(32, 32), mean=(0.0,), std=(1.0,), channels="L"))
    result = netopsy.rounding(network, samples, decimals=(1,), formats=("bf16",), one_layer_at_a_time=False)
    assert result.tables["scores"]["changed"].to_list() == [True, False]
    assert any("No weight changes" in finding for finding in result.findings)
    constant = netopsy.noise(network, samples, strengths=(0.1,), repeats=1)
    assert not constant.tables["scores"].filter(pl.col("strength") > 0)["changed"].any()


def test_a_network_without_layers_is_told(samples: Samples) -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]

    network = Network("bare", Bare(), Preprocessing(size=(32, 32), mean=(0.0,), std=(1.0,), channels="L"))
    for name in FEW:
        assert "no" in getattr(netopsy, name)(network, samples).findings[0]


@pytest.mark.parametrize("name", ["int8_tensor", "int4_channel", "int2_tensor"])
def test_integers_are_those_of_the_slow_loop(name: str) -> None:
    weight = torch.randn(5, 3, 2, 2)
    weight[1] = 0
    kind = number_format(name)
    want = integers(weight.numpy(), kind.bits, name.endswith("channel"))
    assert np.allclose(kind.apply(weight).numpy(), want, rtol=1e-6, atol=0)
    assert len(kind.apply(weight[:1]).unique()) <= 2**kind.bits - 1


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp8_e4m3", "fp8_e5m2"])
def test_floats_are_the_nearest_numbers_of_the_format(name: str) -> None:
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes.get(name) or {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[name]
    values = torch.randn(2000) * 0.1
    stored = number_format(name).apply(values)
    assert stored.to(dtype).float().equal(stored)
    if name.startswith("fp8"):
        every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
        every = every[every.isfinite()]
        nearest = (values[:, None] - every).abs().amin(1)
        assert torch.allclose((values - stored).abs(), nearest, atol=1e-9)


def test_decimals_are_rounded_as_the_acceptance_of_the_paper_reads() -> None:
    values = torch.randn(1000)
    assert round_decimals(values, 2).equal((values * 10**2).round() / 10**2)


def drops(*rows: tuple[int, float, float, float], images: int = 10_000) -> pl.DataFrame:
    """Scores of all layers by K: (K, drop, drop_low, drop_high)."""
    frame = pl.DataFrame(rows, schema=["k", "drop", "drop_low", "drop_high"], orient="row")
    return frame.with_columns(images=pl.lit(images))


def codebook_verdict(rows: pl.DataFrame) -> list[str]:
    return verdict(rows, lambda row: f"K = {row['k']}", "smallest codebook")


def test_verdicts_name_the_harshest_setting_and_say_when_there_is_none() -> None:
    rows = drops((64, 0.0, -0.0001, 0.0001), (16, 0.004, 0.0035, 0.0045), (4, 0.3, 0.29, 0.31))
    sentences = codebook_verdict(rows)
    (sentence,) = sentences
    assert sentence == (
        "K = 16 is the smallest codebook that costs less than 0.5 points of top-1 accuracy: 0.40 points (95 % interval "
        "0.35 to 0.45) on 10,000 images."
    )
    assert sentence.weight == pytest.approx(0.005 / 0.0005)
    (none,) = codebook_verdict(rows[2:])
    assert none.startswith(
        "Every setting tried costs top-1 accuracy; the least is K = 4: 30.0 points (95 % interval 29.0"
    )
    assert none.weight == pytest.approx(0.3 / 0.01)


def test_a_threshold_is_told_only_where_the_images_can_tell() -> None:
    at_limit = drops((64, 0.0, -0.0001, 0.0001), (16, 0.004, 0.003, 3 * 0.005 / 3))  # 0.5 is not less than 0.5 points
    half, one = codebook_verdict(at_limit)
    assert half.startswith("K = 64 is the smallest codebook that costs less than 0.5 points")
    assert one.startswith("K = 16 is the smallest codebook that costs less than 1 point of")
    few = drops((64, 0.0, -0.004, 0.004), (16, 0.006, -0.003, 0.012), (4, 0.3, 0.2, 0.4), images=500)
    (told,) = codebook_verdict(few)
    assert told.startswith("K = 64 is the smallest codebook that costs less than 0.5 points") and told.weight > 1
    (untold,) = codebook_verdict(few[1:])
    assert untold == (
        "K = 16 is the smallest codebook without a measurable loss of top-1 accuracy: 0.60 points (95 % interval -0.30 "
        "to 1.20) on 500 images."
    )
    assert untold.weight < 1, "no threshold below what the images can show, and nothing for the first page"
    (hurt,) = codebook_verdict(drops((16, 0.006, 0.0005, 0.0115), (4, 0.3, 0.2, 0.4), images=1))
    assert hurt.startswith("Every setting tried costs top-1 accuracy; the least is K = 16: 0.60 points")


def test_a_verdict_names_a_milder_setting_that_loses_more() -> None:
    rows = drops((64, 0.02, 0.015, 0.025), (16, 0.0, -0.0004, 0.0004))
    assert codebook_verdict(rows)[0].endswith(
        "0.00 points (95 % interval -0.04 to 0.04) on 10,000 images, though the milder K = 64 costs 2.00 points."
    )


def test_only_layers_with_a_measurable_loss_are_called_fragile() -> None:
    layers = pl.Series("layer", ["a", "b", "c"])
    rows = drops((4, 0.001, -0.01, 0.012), (4, 0.5, 0.4, 0.6), (4, 0.1, 0.05, 0.15)).insert_column(0, layers)
    (sentence,) = fragile(rows, lambda row: f"K = {row['k']}")
    assert sentence.startswith("b is the most fragile layer: edited alone it costs 50.0 points of top-1 accuracy")
    assert sentence.endswith("1 of 3 layers lose nothing measurable.") and sentence.weight == pytest.approx(5)
    (none,) = fragile(rows.with_columns(drop_low=pl.lit(-0.01)), lambda row: "K = 4", "rounded")
    assert none.startswith("No layer rounded alone loses measurably: of 3 the most is 50.0 points") and none.weight < 1


def test_layers_that_the_images_cannot_rank_are_named_together() -> None:
    layers = pl.Series("layer", ["a", "b", "c"])
    rows = drops((4, 0.11, 0.08, 0.14), (4, 0.12, 0.09, 0.15), (4, 0.02, 0.01, 0.03)).insert_column(0, layers)
    (sentence,) = fragile(rows, lambda row: f"K = {row['k']}")
    assert sentence.startswith(
        "b and a are the most fragile layers, and 10,000 images cannot rank them: edited alone b"
    )


@pytest.mark.parametrize("name", list(FEW))
def test_the_unedited_network_loses_nothing_for_certain(name: str, digits: Network, samples: Samples) -> None:
    scores = getattr(netopsy, name)(digits, samples, **FEW[name], one_layer_at_a_time=False).tables["scores"]
    unedited = scores.row(0, named=True)
    assert (unedited["drop"], unedited["drop_low"], unedited["drop_high"]) == (0, 0, 0)
    edited = scores[1:].filter("changed")
    assert edited.height and (edited["drop_low"] < edited["drop_high"]).all()
    assert unedited["top1_low"] < unedited["top1"] < unedited["top1_high"] or unedited["top1"] == 1


def test_thresholds_hold_on_other_images(digits: Network) -> None:
    """A setting that is said to lose less than 1 point on few images does so on all of them."""
    few, every = netopsy.load_samples("digits", count=60), netopsy.load_samples("digits", split="test")
    settings = {"decimals": (0, 1, 2, 3), "formats": (), "layer_formats": (), "one_layer_at_a_time": False}
    sentence = netopsy.rounding(digits, few, **settings).findings[0]
    assert "without a measurable loss" in sentence and "less than" not in sentence and sentence.weight < 1
    on_all = netopsy.rounding(digits, every, **settings)
    for row in on_all.tables["scores"].filter(pl.col("decimals").is_not_null()).iter_rows(named=True):
        for points in (0.5, 1):
            claim = f"Rounding to {row['decimals']} decimal"
            if any(f.startswith(claim) and f"less than {points:g} point" in f for f in on_all.findings):
                assert row["drop_high"] < points / 100


@pytest.mark.parametrize("name", list(FEW))
def test_figures_show_all_layers_together_and_one_at_a_time(name: str, digits: Network, samples: Samples) -> None:
    layers = ("block2.conv1", "block3.conv1")
    result = getattr(netopsy, name)(digits, samples, **FEW[name], layers=layers)
    kinds = ("decimals", "formats") if name == "rounding" else ("",)
    pairs = [(kind or "all", f"{kind}_layers" if kind else "layers") for kind in kinds]
    assert [*result.figures] == [figure for pair in pairs for figure in pair]
    for together, alone in pairs:
        assert "unedited" in str(result.figures[together].spec)
        assert all(layer in str(result.figures[alone].spec) for layer in layers)
    only = getattr(netopsy, name)(digits, samples, **FEW[name], layers=layers, one_layer_at_a_time=False)
    assert [*only.figures] == [together for together, _ in pairs]


def test_decimals_alone_need_no_number_format(digits: Network, samples: Samples) -> None:
    result = netopsy.rounding(digits, samples, decimals=(1,), formats=(), layer_formats=(), layers=("fc",))
    assert result.tables["formats"].is_empty() and [*result.figures] == ["decimals", "decimals_layers"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("noise", {"strengths": ()}),
        ("noise", {"strengths": (float("nan"),)}),
        ("noise", {"repeats": 0}),
        ("rounding", {"decimals": (-1,)}),
        ("rounding", {"formats": ("int99",)}),
        ("codebook", {"sizes": (0,)}),
        ("codebook", {"start": "nosuch"}),
        ("filter_codebook", {"shares": (1.5,)}),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], digits: Network, samples: Samples) -> None:
    with pytest.raises(SettingsError):
        getattr(netopsy, name)(digits, samples, **settings)


@pytest.mark.parametrize("name", list(FEW))
def test_unknown_layers_are_named(name: str, digits: Network, samples: Samples) -> None:
    with pytest.raises(UnknownLayer, match="nearest"):
        getattr(netopsy, name)(digits, samples, layers=("nosuch",))


def test_a_codebook_with_biases_is_the_k_means_of_all_of_a_layers_parameters(digits: Network, samples: Samples) -> None:
    def edited(name: str, k: int) -> dict[str, Tensor]:
        layer = digits.layer(name)
        parts = [digits.tensors[layer.weight].detach(), digits.tensors[layer.bias].detach()]
        clusters, centroids = oracle.cluster(torch.cat([part.flatten() for part in parts]).numpy().astype(float), k)
        shared = torch.tensor(np.array(centroids, np.float32)[clusters])
        halves = shared.split([part.numel() for part in parts])
        return {
            key: half.reshape(part.shape)
            for key, half, part in zip((layer.weight, layer.bias), halves, parts, strict=True)
        }

    result = netopsy.codebook(digits, samples, sizes=(2, 3), layers=LAYERS, biases=True)
    for row in result.tables["scores"].filter(pl.col("k").is_not_null()).iter_rows(named=True):
        names = LAYERS if row["layer"] == "all" else (row["layer"],)
        weights = {key: value for name in names for key, value in edited(name, row["k"]).items()}
        assert abs(row["top1"] - naive_top1(digits, samples, weights)) < 1e-9, row
        assert len(torch.cat([value.flatten() for value in edited("fc", row["k"]).values()]).unique()) <= row["k"]
    values = sum(digits.layer(name).parameters for name in LAYERS)
    sizes = result.tables["sizes"].filter(pl.col("k") == 3).row(0, named=True)
    assert sizes["bytes"] == pytest.approx((2 * values + 2 * 3 * 32) / 8)
    assert sizes["share_of_float32"] == pytest.approx(sizes["bytes"] / (4 * values))


def test_a_bias_of_a_tied_weight_joins_its_codebook(samples: Samples) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1024)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.flatten(1)))[:, :10]

    network = Network("tied", Tied(), Preprocessing(size=(32, 32), mean=(0.0,), std=(1.0,), channels="L"))
    table = netopsy.codebook(network, samples, sizes=(2,), biases=True, one_layer_at_a_time=False).tables["scores"]
    values = torch.cat([t.detach().flatten() for t in network.module.parameters()])
    clusters, centroids = oracle.cluster(values.numpy().astype(float), 2)
    shared = torch.tensor(np.array(centroids, np.float32)[clusters]).split(
        [t.numel() for t in network.module.parameters()]
    )
    weights = {n: s.reshape(t.shape) for (n, t), s in zip(network.module.named_parameters(), shared, strict=True)}
    assert abs(table["top1"][1] - naive_top1(network, samples, weights)) < 1e-9
