"""`parameters`, `distributions` and `filters` against the paper's tables, scipy and numpy."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from reference_studies import variance_shares
from scipy import stats
from torch import nn

import netopsy
from netopsy import Network, Preprocessing
from netopsy.errors import SettingsError, UnknownLayer
from networks import shipped


@pytest.fixture(scope="module")
def digits() -> Network:
    return shipped("a")


def tiny(*modules: nn.Module, depth: int = 3, channels: str = "RGB") -> Network:
    words = Preprocessing(size=(8, 8), mean=(0.0,) * depth, std=(1.0,) * depth, channels=channels)  # type: ignore[arg-type]
    return Network("tiny", nn.Sequential(*modules), words)


def test_alexnet_has_the_papers_tables_one_and_two() -> None:
    tables = netopsy.parameters(netopsy.load_network("netopsy:alexnet")).tables
    layers = tables["layers"].filter(pl.col("kind") != "other")
    assert layers["layer"].to_list() == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    # Table I; its fc7 row leaves out the 4,096 biases that its total counts
    table_one = [34944, 307456, 885120, 663936, 442624, 37752832, 16777216 + 4096, 4097000]
    assert layers["parameters"].to_list() == table_one and layers["parameters"].sum() == 60_965_224
    shares = [0.06, 0.50, 1.45, 1.09, 0.73, 61.93, 27.52, 6.72]
    assert np.allclose(100 * layers["share"].to_numpy(), shares, atol=0.01)
    table_two = [("conv1", 96, "11x11", 3), ("conv2", 256, "5x5", 48), ("conv3", 384, "3x3", 256)]
    table_two += [("conv4", 384, "3x3", 192), ("conv5", 256, "3x3", 192)]
    assert tables["filters"].select("layer", "filters", "extent", "depth").rows() == table_two


def test_shares_add_up_and_findings_name_the_largest(digits: Network) -> None:
    result = netopsy.parameters(digits)
    assert result.tables["layers"]["parameters"].sum() == digits.parameters
    assert abs(result.tables["layers"]["share"].sum() - 1) < 1e-12
    largest = result.tables["layers"].sort("parameters").row(-1, named=True)["layer"]
    assert any(layer in result.findings[0] for layer in (largest, "block4.conv2"))


def test_moments_are_scipys(digits: Network) -> None:
    moments = netopsy.distributions(digits).tables["moments"]
    for name in ("block1.conv1", "block3.conv2", "fc"):
        values = digits.tensors[f"{name}.weight"].detach().double().numpy().ravel()
        row = moments.filter((pl.col("layer") == name) & (pl.col("part") == "weights")).row(0, named=True)
        assert row["values"] == values.size
        assert np.isclose(row["mean"], values.mean(), atol=1e-9) and np.isclose(row["std"], values.std(), rtol=1e-6)
        assert np.isclose(row["skewness"], stats.skew(values), atol=1e-5)
        assert np.isclose(row["kurtosis"], stats.kurtosis(values), atol=1e-5)


def test_the_group_of_all_convolutions_is_their_union(digits: Network) -> None:
    moments = netopsy.distributions(digits).tables["moments"]
    every = [digits.tensors[layer.weight].detach().double().flatten() for layer in digits.select(kind="conv")]
    row = moments.filter((pl.col("layer") == "all conv") & (pl.col("part") == "weights")).row(0, named=True)
    assert row["values"] == sum(map(len, every)) and np.isclose(row["std"], float(torch.cat(every).std(correction=0)))


def test_histograms_hold_every_value(digits: Network) -> None:
    tables = netopsy.distributions(digits).tables
    counts = tables["histograms"].group_by("layer", "part").agg(pl.col("count").sum())
    both = counts.join(tables["moments"], on=["layer", "part"])
    assert both.height and (both["count"] == both["values"]).all()


@pytest.mark.parametrize(
    ("law", "fit"), [(stats.norm, "normal"), (stats.laplace, "Laplace"), (stats.skewnorm(6), "skew normal")]
)
def test_the_fit_finds_the_law_and_its_distance(law: stats.rv_continuous, fit: str) -> None:
    linear = nn.Linear(200, 100)
    values = law.rvs(size=20_000, random_state=1).astype(np.float32)
    linear.weight.data = torch.from_numpy(values).reshape(100, 200)
    network = tiny(nn.Flatten(), nn.Linear(192, 200), linear)
    fits = (
        netopsy.distributions(network).tables["fits"].filter((pl.col("layer") == "2") & (pl.col("part") == "weights"))
    )
    best = fits.filter("best").row(0, named=True)
    assert best["fit"] == fit and best["ks"] < 0.02
    normal = fits.filter(pl.col("fit") == "normal").row(0, named=True)
    assert abs(normal["ks"] - stats.kstest(values, stats.norm(values.mean(), values.std()).cdf).statistic) < 1e-3


def test_constant_and_pruned_weights_are_told(digits: Network) -> None:
    network = tiny(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    network.module[0].weight.data.zero_()
    network.module[2].weight.data[:2] = 0
    result = netopsy.distributions(network)
    zeros = dict(result.tables["moments"].filter(pl.col("part") == "weights").select("layer", "zeros").rows())
    assert zeros["0"] == 1 and zeros["2"] == 0.5 and any("zero" in finding for finding in result.findings)


@pytest.mark.parametrize(
    ("behind", "words"),
    [
        ((nn.ReLU(), nn.ReLU(), None), "4 alone has no activation function behind it and is nearest to the output"),
        ((nn.ReLU(), nn.Tanh(), nn.Sigmoid()), "4 alone has sigmoid behind it and is nearest to the output"),
        ((nn.Tanh(), nn.Tanh(), nn.Tanh()), "All of them have tanh behind them, so that is not"),
        ((None, None, None), "All of them have no activation function behind them, so that is not"),
        ((nn.ReLU(), None, None), ""),
    ],
)
def test_skewness_is_laid_to_the_function_or_the_place_only_where_they_part(
    behind: tuple[nn.Module | None, ...], words: str
) -> None:
    sizes = (192, 40, 40, 3)
    layers: list[nn.Module] = [nn.Flatten()]
    for i, function in enumerate(behind):
        layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.Identity() if function is None else function]
    network = tiny(*layers)
    last = [layer for layer in layers if isinstance(layer, nn.Linear)][-1]
    last.weight.data = torch.rand_like(last.weight) ** 4
    (found,) = [text for text in netopsy.distributions(network).findings if "skewness" in text]
    sentences = found.split(". ", 1)
    assert "rises" in sentences[0] and (
        words.replace("4 ", "5 ", 1) in found if words else found.count("activation") == 0
    )


def test_variance_shares_are_numpys(digits: Network) -> None:
    table = netopsy.filters(digits).tables["variance"]
    for name in ("block1.conv2", "block4.conv1"):
        want = variance_shares(digits.tensors[f"{name}.weight"].detach().double().flatten(1).numpy())
        shares = table.filter((pl.col("layer") == name) & (pl.col("k") > 0))["variance"].to_numpy()
        assert np.allclose(shares, want, atol=1e-9)


def test_components_needed_are_the_first_that_reach_the_share(digits: Network) -> None:
    tables = netopsy.filters(digits).tables
    for row in tables["components"].iter_rows(named=True):
        curve = tables["variance"].filter(pl.col("layer") == row["layer"])
        for share in (50, 90, 99):
            reached = curve.filter(pl.col("variance") >= share / 100 - 1e-12)["k"].min()
            assert row[f"components_{share}"] == reached


def test_first_filters_are_in_colour_also_for_bgr() -> None:
    pictures = []
    for channels in ("RGB", "BGR"):
        network = tiny(nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(98, 2), channels=channels)
        weight = torch.zeros(2, 3, 2, 2)
        weight[:, 0 if channels == "RGB" else 2] = 1.0  # red
        network.module[0].weight.data = weight
        (image,) = netopsy.filters(network).images.values()
        pictures.append(image.pixels)
    assert pictures[0].shape[2] == 3 and np.array_equal(*pictures)
    (squares,) = image.arrays.values()
    assert squares.shape == (2, 2, 2, 3) and (squares[..., 0] == 255).all() and (squares[..., 1:] == 128).all()
    red = pictures[0].reshape(-1, 3).astype(int)
    assert ((red[:, 0] > red[:, 1]) & (red[:, 0] > red[:, 2])).any()


def test_networks_without_convolutions_and_unknown_layers_are_told(digits: Network) -> None:
    linear = tiny(nn.Flatten(), nn.Linear(192, 4))
    result = netopsy.filters(linear)
    assert not result.images and "convolution" in result.findings[0]
    assert netopsy.parameters(linear).tables["layers"]["parameters"].sum() == linear.parameters
    with pytest.raises(UnknownLayer, match="nearest"):
        netopsy.filters(digits, layer="nosuch")
    with pytest.raises(SettingsError):
        netopsy.filters(digits, shares=(0.0,))
    with pytest.raises(SettingsError, match="no setting"):
        netopsy.filters(digits, share=0.5)
