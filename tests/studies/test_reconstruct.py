"""The study `reconstruct`: its maps, what it measures on them, and what it says when a rule cannot act."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from scipy.stats import t as student
from test_findings import check_findings
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, backproject, load_samples, reconstruct
from netopsy.engine.backproject.rules import MASKED, random_weights
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.samples.images import ArrayImages
from netopsy.samples.samples import read_images
from netopsy.stats.hypothesis_tests import Estimate, reach
from netopsy.studies.reconstruct.report import correlation, edges, on_edges, strength, weigh
from netopsy.studies.reconstruct.survey import default_layer
from networks import shipped, trained_resnet20

SIZE = 24


@pytest.fixture(scope="module")
def samples() -> Samples:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (9, SIZE, SIZE, 3), np.uint8)
    return Samples("noise", ArrayImages(pixels), draw.integers(0, 5, 9), tuple("abcde"))


def network(*modules: nn.Module) -> Network:
    module = nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return Network("test", module, Preprocessing(size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.3,) * 3))


@pytest.fixture(scope="module")
def net() -> Network:
    torch.manual_seed(0)
    return network(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU())


def test_maps_and_units_are_those_of_the_engine(net: Network, samples: Samples) -> None:
    result = reconstruct(net, samples, survey=0, images=(3,), features=3, layer="4")
    arrays = np.load(result.artifacts["maps.npz"])
    (batch,) = samples.batches(net.preprocessing, 1, order=[3])
    with torch.no_grad():
        value = net.module[:5](batch.images)[0]  # type: ignore[index]
    place = np.unravel_index(int(value.amax(0).argmax()), value.shape[1:])
    top = value[:, place[0], place[1]].topk(3).indices.tolist()
    assert arrays["units"].tolist() == [f"4:{c}:{place[0]}:{place[1]}" for c in top if value[c, place[0], place[1]] > 0]
    for rule in ("deconvnet", "masked", "masked_random", "gradient"):
        (expected,) = backproject(net, batch.images, [str(arrays["units"][0])], rule)  # type: ignore[arg-type]
        y0, x0, y1, x1 = arrays["fields"][0]
        np.testing.assert_allclose(arrays[f"{rule}_0"], expected[:, y0:y1, x0:x1].numpy(), atol=1e-6)


def test_tables_hold_a_row_for_each_unit_and_rule(net: Network, samples: Samples) -> None:
    result = reconstruct(net, samples, units=("4:1", "1:2:3:4"), survey=4)
    units, columns, likeness = (result.tables[name] for name in ("units", "columns", "likeness"))
    images = units["image"].n_unique()
    assert units.height == 2 * images and columns.height == 4 * units.height and likeness.height == 6 * units.height
    for frame, measures in ((columns, ["edges", "other_edges"]), (likeness, ["correlation", "signed"])):
        values = frame.select(pl.col(measures)).to_numpy()
        assert np.nanmin(values) >= -1 and np.nanmax(values) <= 1 and np.isfinite(values).any()
    picture = result.images["reconstructions"].pixels
    assert picture.dtype == np.uint8 and picture.std() > 5
    assert any("edges" in sentence for sentence in result.findings)


def test_each_draw_has_weights_of_its_own_and_the_tables_their_mean(net: Network, samples: Samples) -> None:
    result = reconstruct(net, samples, units=("4:2:3:3", "4:2:5:1"), survey=0, images=(3, 5), draws=4, seed=7)
    images = read_images(net, samples, [3, 5])
    outlines = [edges(image) for image in images.numpy()]
    of, units = [0, 0, 1, 1], ["4:2:3:3", "4:2:5:1"] * 2
    masked = backproject(net, images, units, "masked", of=of).clamp(min=0).numpy()
    fields = np.load(result.artifacts["maps.npz"])["fields"]
    measured = np.zeros((4, 4, 3))
    for draw in range(4):
        maps = backproject(net, images, units, random_weights(MASKED, 7, draw), of=of).clamp(min=0).numpy()
        for i, (top, left, bottom, right) in enumerate(fields):
            cut, reference = maps[i, :, top:bottom, left:right], masked[i, :, top:bottom, left:right]
            measured[draw, i] = (
                on_edges(strength(cut), outlines[of[i]][top:bottom, left:right]),
                correlation(strength(cut), strength(reference)),
                correlation(cut, reference),
            )
    draws = result.tables["draws"]
    assert draws["draw"].to_list() == [0, 1, 2, 3] and set(draws["rule"]) == {"masked_random"}
    np.testing.assert_allclose(
        draws.select("edges", "likeness", "signed").to_numpy(), np.nanmean(measured, axis=1), atol=1e-5
    )
    columns = result.tables["columns"].filter(pl.col("rule") == "masked_random")
    np.testing.assert_allclose(columns["edges"].to_numpy(), np.nanmean(measured[:, :, 0], axis=0), atol=1e-5)
    likeness = result.tables["likeness"].filter((pl.col("one") == "masked") & (pl.col("other") == "masked_random"))
    np.testing.assert_allclose(likeness["correlation"].to_numpy(), np.nanmean(measured[:, :, 1], axis=0), atol=1e-5)
    assert np.nanmax(np.ptp(measured[:, :, 0], axis=0)) > 0.01, "draws differ"


def test_means_keep_the_interval_over_draws_apart_from_the_one_over_images(net: Network, samples: Samples) -> None:
    result = reconstruct(net, samples, survey=6, draws=4)
    means, columns, draws = (result.tables[name] for name in ("means", "columns", "draws"))
    for rule in columns["rule"].unique():
        (row,) = means.filter((pl.col("rule") == rule) & (pl.col("measure") == "edges")).iter_rows(named=True)
        maps = columns.filter(pl.col("rule") == rule).with_columns(pl.col("edges").fill_nan(None)).drop_nulls("edges")
        by_image = maps.group_by("image").agg(pl.col("edges").mean())["edges"].to_numpy()
        half = student.ppf(0.975, len(by_image) - 1) * by_image.std(ddof=1) / np.sqrt(len(by_image))
        assert row["mean"] == pytest.approx(maps["edges"].mean())
        assert row["images_high"] - row["mean"] == pytest.approx(half)
        assert row["spread_maps"] == pytest.approx(maps["edges"].std())
        if rule == "masked_random":
            each = draws["edges"].to_numpy()
            half = student.ppf(0.975, 3) * each.std(ddof=1) / 2
            assert row["draws_high"] - row["mean"] == pytest.approx(half) and row["draws"] == 4
        else:
            assert row["draws_low"] is None and row["draws"] is None


def test_one_draw_gives_no_verdict(net: Network, samples: Samples) -> None:
    for draws in (1, 2):
        findings = reconstruct(net, samples, survey=9, draws=draws).findings
        (verdict,) = (f for f in findings if f.startswith("Which changes the maps more"))
        assert f"Which changes the maps more cannot be told from 9 images and {draws} draw" in verdict
        assert verdict.weight < 1  # type: ignore[attr-defined]
        assert not any("even with random weights" in f or "matter" in f for f in findings)


def test_a_verdict_needs_both_intervals_on_one_side() -> None:
    def side(mean: float, images: float, draws: float) -> str:
        return weigh(Estimate(mean, images, draws), "more", "less", "alike")

    assert side(0.2, 0.1, 0.1) == "more" and side(-0.2, 0.1, 0.1) == "less"
    assert side(0.2, 0.3, 0.1) == side(0.2, 0.1, 0.3) == side(0.2, 0.1, np.inf) == side(-0.2, 0.3, 0.1) == ""
    assert side(0.01, 0.02, 0.03) == "alike" and side(0.06, 0.02, 0.03) == "more"
    assert reach([1.0, 2.0]) == np.inf and reach([1.0, 2.0, 6.0]) == pytest.approx(
        student.ppf(0.975, 2) * np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    )
    values, images = np.array([0.1, 0.3, np.nan, 0.5, 0.9]), np.array([0, 0, 1, 2, 3])
    estimate = Estimate.of(values, images, [0.4, 0.5, np.nan, 0.45])
    assert estimate is not None and estimate.mean == pytest.approx(0.45)
    assert estimate.images == pytest.approx(reach([0.2, 0.5, 0.9])) and estimate.draws == reach([0.4, 0.5, 0.45])
    assert Estimate(0.99, 0.1).span("images") == (pytest.approx(0.89), 1.0)
    assert Estimate(0.99, 0.1, 2.0).span("draws", 2.0) == (pytest.approx(-1.01), 2.0)
    assert Estimate(0.5, np.inf).span("images") == (None, None)


def test_images_traced_a_few_at_a_time_give_the_same(
    net: Network, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"survey": 9, "images": (7, 2)}
    whole = reconstruct(net, samples, **settings)
    read: list[int] = []

    def some(network: Network, samples: Samples, numbers: list[int]) -> Tensor:
        read.append(len(numbers))
        return read_images(network, samples, numbers)

    monkeypatch.setattr("netopsy.studies.reconstruct.survey.read_images", some)
    monkeypatch.setattr("netopsy.studies.reconstruct.survey._IMAGES", 2)
    parts = reconstruct(net, samples, **settings)
    assert read == [3] * 4 + [2], "two at a time, and the next one's edges"
    for name, table in whole.tables.items():
        assert_frame_equal(parts.tables[name], table, abs_tol=1e-5)
    first, second = (np.load(result.artifacts["maps.npz"]) for result in (whole, parts))
    assert set(first.files) == set(second.files) and len(first.files) == 4 + 4 * len(first["units"])
    for name in first.files:
        if first[name].dtype.kind == "f":
            np.testing.assert_allclose(second[name], first[name], atol=1e-5)
        else:
            np.testing.assert_array_equal(second[name], first[name])
    assert whole.images["reconstructions"].pixels.shape == parts.images["reconstructions"].pixels.shape


def test_edges_of_a_map_that_is_the_edges_score_high_and_of_another_image_low() -> None:
    draw = np.random.default_rng(1)
    image, other = (np.kron(draw.random((1, 8, 8)), np.ones((1, 8, 8))) for _ in range(2))
    other = np.roll(other, (4, 4), (1, 2))  # edges between those of the first
    outline = edges(image)
    region = np.exp(-((np.indices(outline.shape) - 30) ** 2).sum(0) / 500)  # a map lies in a part of the image
    length = strength((outline * region)[None])
    assert on_edges(length, outline) > 0.8 > 0.3 > on_edges(length, edges(other))
    assert np.isnan(on_edges(np.zeros((9, 9)), np.ones((9, 9))))


def test_correlation_is_numpys_with_and_without_weights() -> None:
    draw = np.random.default_rng(2)
    a, b, weight = draw.random((3, 50))
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    covariance = np.cov(a, b, aweights=weight, ddof=0)
    assert correlation(a, b, weight) == pytest.approx(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    assert np.isnan(correlation(a, np.ones(50)))


def test_a_smooth_network_leaves_out_rules_and_says_why(samples: Samples) -> None:
    smooth = network(nn.Conv2d(3, 4, 3), nn.GELU())
    result = reconstruct(smooth, samples, rules=("masked", "guided"), survey=0)
    assert result.tables["columns"]["rule"].unique().to_list() == ["guided"]
    assert any("Left out" in s and "gelu" in s for s in result.findings)
    with pytest.raises(SettingsError, match="no rule can be applied"):
        reconstruct(smooth, samples, rules=("masked",), survey=0)
    by_default = reconstruct(smooth, samples, survey=0)
    assert by_default.tables["columns"]["rule"].unique(maintain_order=True).to_list() == ["gradient", "guided"]
    sentences = by_default.findings
    (left_out,) = (finding for finding in sentences if finding.startswith("Left out"))
    assert "rules deconvnet, masked and masked_random act on activations" in left_out and "they do not know" in left_out


def test_the_default_layer_is_the_activation_behind_the_last_convolution(net: Network) -> None:
    assert default_layer(net) == "4"
    flat = Network(
        "mlp", nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.ReLU(), nn.Linear(8, 5)), Preprocessing((5, 5))
    )
    assert default_layer(flat) == "2"


def test_shipped_network_on_digits_by_default() -> None:
    result = reconstruct(shipped("a"), load_samples("digits", count=12))
    assert {"deconvnet", "masked", "masked_random", "gradient"} == set(result.tables["columns"]["rule"])
    check_findings(result)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"rules": ("masks",)}, SettingsError, "rules 'masks' is unknown; nearest: masked"),
        ({"features": 0}, SettingsError, "at least 1"),
        ({"draws": 0}, SettingsError, "draws 0 must be a whole number of at least 1"),
        ({"images": (99,)}, SettingsError, "no image 99 in noise; give 0 to 8"),
        ({"layer": "conv"}, UnknownLayer, "nearest"),
        ({"units": ("4:9",)}, UnknownLayer, "give 0 to 3"),
    ],
)
def test_mistakes_get_one_sentence(
    net: Network, samples: Samples, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        reconstruct(net, samples, **settings)


@pytest.mark.real
def test_masks_bring_out_the_edges_on_a_trained_network(shared: Path) -> None:
    net = trained_resnet20(shared)
    draw = np.random.default_rng(0)
    # blobs of colour: edges without fine texture
    coarse = draw.integers(0, 256, (12, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    samples = Samples("blobs", ArrayImages(coarse), draw.integers(0, 10, 12), tuple("abcdefghij"))
    means = reconstruct(net, samples, survey=12).tables["columns"].group_by("rule").agg(pl.col("edges").mean())
    edges = dict(means.iter_rows())
    assert edges["masked"] > edges["gradient"] and edges["masked"] > edges["masked_random"]


def test_neurons_are_traced_back_where_the_network_has_no_maps(samples: Samples) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 7), nn.ReLU(), nn.Linear(7, 5))
    net = Network("mlp", plain, Preprocessing(size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.3,) * 3))
    result = reconstruct(net, samples, survey=0, images=(3,), features=2)
    (batch,) = samples.batches(net.preprocessing, 1, order=[3])
    with torch.no_grad():
        values, chosen = plain[:3](batch.images)[0].topk(2)
    assert result.tables["units"]["unit"].to_list() == [f"2:{c}" for c in chosen.tolist()]
    assert result.tables["units"]["value"].to_list() == pytest.approx(values.tolist(), rel=1e-5)


def test_maps_of_zeros_are_named_and_have_no_correlation_to_draw(samples: Samples) -> None:
    layer = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(1.0)  # type: ignore[union-attr]
    result = reconstruct(network(layer, nn.ReLU()), samples, survey=0)
    assert result.tables["columns"]["largest"].to_list() == [0.0] * result.tables["columns"].height
    assert not result.figures
    assert any(f.startswith("The maps are all zero by deconvnet, masked") for f in result.findings)


def test_a_single_image_is_compared_with_no_other(net: Network, samples: Samples) -> None:
    result = reconstruct(net, samples.subset(1))
    assert result.tables["columns"]["other_edges"].is_nan().all()
    assert result.findings and not any("nan" in finding or "in brackets" in finding for finding in result.findings)
