"""The study `sparsity`: against the plain module, on networks whose dead and always-on units are known."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Result, Samples, load_network, load_samples, sparsity
from netopsy.errors import SettingsError
from netopsy.network.activations import activations, rectifies
from netopsy.samples.images import ArrayImages
from networks import Tokens, module_outputs, noise_images, sequential, shipped, trained_resnet20
from patients import patient

SIZE = 8


@pytest.fixture(scope="module")
def samples() -> Samples:
    return noise_images(70, SIZE, 5)


def planted() -> Network:
    """Of six filters, 1 and 4 are dead and 2 is always on."""
    conv = nn.Conv2d(3, 6, 3)
    with torch.no_grad():
        conv.bias[:] = torch.tensor([0.0, -100.0, 100.0, 0.0, -100.0, 0.1])
    return sequential(conv, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU6())


def images(network: Network, samples: Samples) -> Tensor:
    (batch,) = samples.batches(network.preprocessing, len(samples))
    return batch.images


def test_shares_are_those_of_the_plain_module(samples: Samples) -> None:
    net = planted()
    result = sparsity(net, samples)
    value = images(net, samples)
    with torch.no_grad():
        for row, (conv, rectifier) in zip(result.tables["layers"].head(2).to_dicts(), [(0, 1), (2, 3)], strict=True):
            body = net.module[0]
            assert isinstance(body, nn.Sequential)
            value = body[rectifier](body[conv](value))
            units = result.tables["units"].filter(pl.col("node") == row["node"])
            assert row["sparsity"] == pytest.approx((value == 0).double().mean().item(), abs=1e-12)
            expected = (value == 0).double().mean((0, 2, 3)).tolist()
            assert units["sparsity"].to_list() == pytest.approx(expected, abs=1e-12)
            assert units["mean"].to_list() == pytest.approx(value.double().mean((0, 2, 3)).tolist(), rel=1e-5)
            assert units["max"].to_list() == pytest.approx(value.amax((0, 2, 3)).tolist())
            assert row["shape"] == "x".join(map(str, value.shape[1:])) and row["units"] == value.shape[1]


def test_planted_dead_and_always_on_units_are_named(samples: Samples) -> None:
    result = sparsity(planted(), samples)
    first = result.tables["layers"].row(0, named=True)
    assert (first["dead"], first["always_on"], first["operator"], first["layer"]) == (2, 1, "relu", "0.0")
    table = result.tables["extreme_units"].filter(pl.col("node") == first["node"])
    assert table.select("kind", "channel").rows() == [("dead", 1), ("always on", 2), ("dead", 4)]
    text = " ".join(result.findings)
    assert "0.1 (2: channels 1, 4)" in text and "on all of 70 images" in text and "more images may" in text
    assert "0.1 (1: channel 2)" in text


def test_channels_much_larger_than_the_median_one_are_named(samples: Samples) -> None:
    conv = nn.Conv2d(3, 12, 3)
    with torch.no_grad():
        conv.weight[5] *= 300
        conv.weight[9] *= -1e4
    net = sequential(conv, nn.Tanhshrink(), nn.Conv2d(12, 4, 3), nn.ReLU())
    result = sparsity(net, samples)
    with torch.no_grad():
        body = net.module[0]
        assert isinstance(body, nn.Sequential)
        largest = body[1](body[0](images(net, samples))).abs().amax((0, 2, 3)).double().numpy()
    median = np.median(largest)
    expected = [c for c in np.argsort(-largest) if largest[c] > 20 * median]
    table = result.tables["outliers"]
    assert table["channel"].to_list() == expected and set(expected) == {5, 9}
    assert table["largest"].to_list() == pytest.approx(largest[expected].tolist())
    assert table["over_median"].to_list() == pytest.approx((largest[expected] / median).tolist())
    assert table["layers"].unique().to_list() == [net.layers[1].name]
    (sentence,) = (text for text in result.findings if "median channel" in text)
    assert sentence.startswith("2 channels in 1 input of layers reach over 20 times") and ":9 (" in sentence
    plain = sparsity(planted(), samples)
    assert plain.tables["outliers"].is_empty() and not any("median channel" in text for text in plain.findings)


def test_outlying_channels_of_texts_are_those_of_their_real_tokens() -> None:
    pytest.importorskip("transformers")
    network, texts = patient("causal")
    planted = copy.deepcopy(network.module)
    with torch.no_grad():
        planted.model.layers[1].input_layernorm.weight[3] *= 500
        planted.model.embed_tokens.weight[0] = 1e4  # the padding, which no text holds
    net = load_network(planted, example=network.signature)
    seen: list[Tensor] = []
    hook = planted.model.layers[1].self_attn.q_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        for row in range(len(texts)):
            (batch,) = texts.batches(net.preprocessing, 1, order=[row])
            length = int(batch.mask.sum())
            planted(**{name: value[:, :length] for name, value in batch.inputs.items()})
    hook.remove()
    largest = torch.cat([value.flatten(0, 1) for value in seen]).abs().amax(0).double().numpy()
    rows = sparsity(net, texts).tables["outliers"].filter(pl.col("layers").str.contains("layers.1.self_attn.q_proj"))
    assert rows["channel"].to_list() == np.flatnonzero(largest > 20 * np.median(largest)).tolist() == [3]
    assert rows["largest"][0] == pytest.approx(largest[3], rel=1e-4)
    assert rows["median"][0] == pytest.approx(np.median(largest), rel=1e-4)


def test_the_output_counts_as_softmax_and_has_no_zeros(samples: Samples) -> None:
    row = sparsity(planted(), samples).tables["layers"].row(-1, named=True)
    assert (row["operator"], row["sparsity"], row["units"], row["dead"]) == ("softmax of the output", 0.0, 5, 0)


def test_a_network_that_ends_in_a_softmax_is_not_given_another(samples: Samples) -> None:
    net = sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    net = Network("ends", nn.Sequential(net.module, nn.Softmax(1)), net.preprocessing)
    assert sparsity(net, samples).tables["layers"]["operator"].to_list() == ["relu", "softmax"]


@pytest.mark.parametrize("smooth", [nn.GELU(), nn.SiLU(), nn.ELU(), nn.LeakyReLU(), nn.Sigmoid(), nn.Tanh()])
def test_smooth_activations_are_said_never_to_be_zero(smooth: nn.Module, samples: Samples) -> None:
    net = sequential(nn.Conv2d(3, 4, 3), smooth)
    result = sparsity(net, samples)
    row = result.tables["layers"].row(0, named=True)
    assert not row["rectifies"] and row["sparsity"] < 1e-3
    assert any("never exactly zero" in f and "threshold" in f for f in result.findings)
    assert result.tables["extreme_units"].filter(pl.col("kind") == "always on").is_empty()


def test_a_threshold_counts_small_values(samples: Samples) -> None:
    net = sequential(nn.Conv2d(3, 4, 3), nn.GELU())
    with torch.no_grad():
        value = net.module[0](images(net, samples))  # type: ignore[index]
    result = sparsity(net, samples, threshold=0.1)
    assert result.tables["layers"]["sparsity"][0] == pytest.approx((value.abs() <= 0.1).double().mean().item())
    assert result.settings == {"threshold": 0.1}
    assert any("at most 0.1 in magnitude" in f for f in result.findings)


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_a_threshold_out_of_range_is_refused(threshold: float, samples: Samples) -> None:
    with pytest.raises(SettingsError, match="threshold"):
        sparsity(planted(), samples, threshold=threshold)


def test_a_network_without_activations_gets_a_finding(samples: Samples) -> None:
    result = sparsity(sequential(nn.Conv2d(3, 4, 3)), samples)
    assert "applies no activation function" in result.findings[0]
    assert result.tables["layers"].height == 1 and result.tables["units"].is_empty()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.ReLU6(), True),
        (nn.Hardswish(), True),
        (nn.Hardsigmoid(), True),
        (nn.Threshold(0.1, 0.0), True),
        (nn.Hardtanh(), False),
        (nn.Hardtanh(0.0, 2.0), True),
        (nn.Softplus(), False),
    ],
)
def test_rectifiers_are_told_from_smooth_functions(module: nn.Module, expected: bool) -> None:
    (node,) = activations(sequential(nn.Conv2d(3, 4, 3), module)).values()
    assert rectifies(node) is expected


def test_units_of_a_token_network_are_on_the_last_axis(samples: Samples) -> None:
    net = Network("tokens", Tokens(nn.ReLU()), Preprocessing(size=(SIZE, SIZE)))
    (node,) = activations(net).values()
    assert node.channel_axis == -1 and node.layer == "inner"
    result = sparsity(net, samples)
    row = result.tables["layers"].row(0, named=True)
    assert row["units"] == 11 and row["shape"] == "4x11"


def test_late_layers_that_are_sparser_are_said_to_be(samples: Samples) -> None:
    convs = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)]
    with torch.no_grad():
        convs[0].bias.fill_(5.0)  # type: ignore[union-attr]
        convs[2].weight.mul_(1e-3)
        convs[2].bias[:] = torch.tensor([-9.0] * 7 + [1.0])  # type: ignore[index]
    result = sparsity(sequential(*(m for conv in convs for m in (conv, nn.ReLU()))), samples)
    assert result.tables["layers"]["sparsity"][2] == 0.875
    assert any(f.startswith("Zeros rise with depth, from ") and "87.5 % (the last)" in f for f in result.findings)
    assert any("zero in more than 80 % of their values: 0.5 (87.5 %)" in f for f in result.findings)


@pytest.mark.parametrize("depth", [2, 30])
def test_every_figure_draws_and_says_how_to_read_it(depth: int, samples: Samples) -> None:
    import vl_convert

    body = [m for _ in range(depth) for m in (nn.Conv2d(3, 3, 1), nn.ReLU())]
    result = sparsity(sequential(*body), samples)
    assert set(result.figures) == {"sparsity", "units"} and isinstance(result, Result)
    for figure in result.figures.values():
        assert figure.reading and vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")
    assert result.figures["sparsity"].source == "Lorieul et al., Figure 4"


@pytest.mark.real
def test_a_real_network_agrees_with_hooks_on_its_rectifiers(shared: Path) -> None:
    """The public CIFAR ResNet-20, with activations taken by hooks."""
    net = trained_resnet20(shared)
    generator = np.random.default_rng(0)
    data = Samples(
        "noise", ArrayImages(generator.integers(0, 256, (64, 32, 32, 3), np.uint8)), np.zeros(64, np.int64), ("a",)
    )
    layers = sparsity(net, data).tables["layers"]
    rectifiers = [m for m in net.module.modules() if isinstance(m, nn.ReLU)]
    shares = [(value == 0).double().mean().item() for value in module_outputs(net, data, *rectifiers)]
    # a pre-activation within rounding of zero may fall on either side in another batch size
    assert layers["sparsity"].to_list()[:-1] == pytest.approx(shares, abs=1e-5)


def test_the_shipped_network_has_thirteen_sparse_activations() -> None:
    result = sparsity(shipped("a"), load_samples("digits").subset(40))
    layers = result.tables["layers"]
    assert layers.height == 14 and layers["layer"].n_unique() == 14
    assert layers["sparsity"].head(13).is_between(0.3, 0.9).all()
