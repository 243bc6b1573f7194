"""The study `field`: closed forms for linear chains, autograd for the rest."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from reference_field_study import box_profile, fewest_pixels, tree
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, field, load_samples
from netopsy.errors import NetopsyError, SettingsError, UnknownLayer
from netopsy.network.units import Unit
from netopsy.studies.field.connections import find_connections
from networks import noise_images, sequential, shipped, trained_resnet20

SIZE, COUNT = 16, 12


def network(*modules: nn.Module, size: int = SIZE, outputs: int = 4) -> Network:
    return sequential(*modules, outputs=outputs, size=size)


def noise(count: int = COUNT, size: int = SIZE) -> Samples:
    return noise_images(count, size, 4)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return noise()


def images(net: Network, samples: Samples) -> Tensor:
    (batch,) = samples.batches(net.preprocessing, len(samples))
    return batch.images


def learned(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias."""
    assert isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None
    return module.weight, module.bias


def pooled() -> list[nn.Module]:
    torch.manual_seed(3)
    return [
        nn.Conv2d(3, 5, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(6, 7, 3, stride=2, padding=1),
        nn.ReLU(),
    ]


@pytest.mark.parametrize(("kernel", "times"), [(3, 1), (3, 4), (5, 2)])
def test_stacked_box_filters_have_the_field_of_their_convolution(kernel: int, times: int) -> None:
    """Luo et al., Section 2.1: uniform weights, no nonlinearities; the gradient is the box convolved with itself."""
    size = 21
    convs = []
    for index in range(times):
        conv = nn.Conv2d(3 if index == 0 else 1, 1, kernel, padding=kernel // 2, bias=False)
        nn.init.constant_(conv.weight, 1.0)
        convs.append(conv)
    result = field(network(*convs, size=size), noise(3, size), units=(f"0.{times - 1}:0",), layers=0)
    (row,) = result.tables["effective"].to_dicts()
    wide = times * (kernel - 1) + 1
    profile = box_profile(kernel, times) ** 2
    energy = np.outer(profile, profile)
    place = np.arange(wide) - (wide - 1) / 2
    spread = np.sqrt((profile * place**2).sum() / profile.sum())
    assert (row["top"], row["bottom"]) == (size // 2 - wide // 2, size // 2 + wide // 2 + 1) and not row["cut"]
    assert row["side"] == wide and row["centre_y"] == pytest.approx(size // 2, abs=1e-6)
    assert row["sd_y"] == row["sd_x"] == pytest.approx(spread, rel=1e-5)
    pixels = fewest_pixels(energy, 0.95)
    # equal pixels at the edge of the area may be counted either way by rounding
    ties = int(np.isclose(energy, np.sort(energy.ravel())[-pixels], rtol=1e-5).sum())
    assert abs(row["area_share"] * wide**2 - pixels) <= ties and row["effective_side"] ** 2 == pytest.approx(
        row["area_share"] * wide**2
    )


def test_the_energy_is_the_mean_squared_gradient_of_autograd(samples: Samples) -> None:
    """In front of the unit's own ReLU, so that images on which it is silent count as well."""
    modules = pooled()
    net = network(*modules)
    x = images(net, samples).requires_grad_()
    with torch.no_grad():
        learned(modules[6])[1][2] -= nn.Sequential(*modules[:7])(x)[:, 2, 1, 1].median()
    result = field(net, samples, units=("0.7:2:1:1",), layers=0, averaged=COUNT, energy=0.8)
    value = nn.Sequential(*modules[:7])(x)[:, 2, 1, 1]
    assert (value < 0).any() and (value > 0).any()
    (gradient,) = torch.autograd.grad(value.sum(), x)
    energy = gradient.double().square().sum(1).mean(0).numpy()
    (row,) = result.tables["effective"].to_dicts()
    area = (row["bottom"] - row["top"]) * (row["right"] - row["left"])
    inside = energy[row["top"] : row["bottom"], row["left"] : row["right"]]
    assert inside.sum() == pytest.approx(energy.sum(), rel=1e-12)
    assert row["area_share"] == pytest.approx(fewest_pixels(energy, 0.8) / area)
    weights = energy / energy.sum()
    for axis, name in enumerate("yx"):
        along, place = weights.sum(1 - axis), np.arange(SIZE)
        mean = (along * place).sum()
        assert row[f"centre_{name}"] == pytest.approx(mean, rel=1e-5)
        assert row[f"sd_{name}"] == pytest.approx(np.sqrt((along * (place - mean) ** 2).sum()), rel=1e-5)


def test_every_image_of_a_spread_node_has_another_channel() -> None:
    """Channels that look at pixels of their own: with many images the energy lies on all of them."""
    conv = nn.Conv2d(3, 9, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        for channel in range(9):
            conv.weight[channel, 0, channel // 3, channel % 3] = 1
    net = network(conv)
    result = field(net, noise(120), layers=1, averaged=120, energy=0.999)
    (row,) = result.tables["effective"].to_dicts()
    assert row["channel"] is None and row["area_share"] == 1.0 and row["images"] == 120
    few = field(net, noise(120), layers=1, averaged=1)
    assert few.tables["effective"]["area_share"][0] == pytest.approx(1 / 9)


def test_theoretical_fields_grow_as_kernels_and_strides_say(samples: Samples) -> None:
    table = field(network(*pooled()), samples, layers=0).tables["fields"]
    assert table["height"].to_list() == [3.0, 8.0, 20.0, 16.0]  # the last sees the whole image
    assert table["stride_y"].to_list() == [1.0, 2.0, 8.0, 0.0]
    assert table["start_x"].to_list() == [-1.0, -1.0, -7.0, 0.0]
    assert table["rows"].to_list() == [16, 6, 2, 1] and table["exact"].all()
    assert table["covers"].to_list() == pytest.approx([9 / 256, 64 / 256, 225 / 256, 1.0])


@pytest.mark.parametrize("unit", [(7, 3, 0, 1), (7, 0, 1, 1), (4, 5, 2, 3)])
def test_the_tree_is_that_of_autograd(unit: tuple[int, int, int, int], samples: Samples) -> None:
    modules = pooled()
    with torch.no_grad():
        learned(modules[3])[0][:, 2] = 0
        learned(modules[6])[0][0, :3] = 0
        for index in (0, 3, 6):
            learned(modules[index])[1].add_(0.1)
    net = network(*modules)
    index, channel, y, x = unit
    for image in range(COUNT):
        result = field(net, samples, layers=0, tree=f"0.{index}:{channel}:{y}:{x}", image=image)
        table = result.tables["tree"]
        expected = tree(modules, images(net, samples)[image : image + 1], unit)
        for module in modules:
            module.float()
        assert table["node"].to_list() == [f"0.{k}" for k in (1, 4, 7) if k <= index]
        rows = table.select("in_tree", "active", "contributing").rows()
        if expected[-1][1]:  # else the unit is silent: no path is open
            assert rows == expected
            total = sum(n for n, _, _ in expected[:-1])
            assert any(f"of the {total:,} units in {len(rows) - 1} activation" in text for text in result.findings)
        else:
            assert [row[:2] for row in rows] == [row[:2] for row in expected]
            assert table["contributing"].sum() == 0 and any("nothing contributes" in f for f in result.findings)


def test_the_default_tree_is_that_of_the_strongest_unit_of_the_last_maps(samples: Samples) -> None:
    modules = pooled()
    net = network(*modules)
    result = field(net, samples, layers=0, image=5)
    with torch.no_grad():
        value = nn.Sequential(*modules)(images(net, samples)[5:6])[0]
    channel, y, x = (int(i) for i in np.unravel_index(int(value.argmax()), value.shape))
    assert any(f"before 0.7:{channel}:{y}:{x} contribute" in f and f.startswith("On image 5,") for f in result.findings)
    assert f"0.7:{channel}:{y}:{x} on image 5" in result.images["tree"].title


def test_the_drawing_frames_the_theoretical_field(samples: Samples) -> None:
    net = network(nn.Conv2d(3, 4, 5), nn.ReLU())
    picture = field(net, samples, units=("0.1:2:3:4",), layers=0).images["effective"].pixels
    red = (picture == np.array([230, 60, 40])).all(2)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    scale = 140 / SIZE
    assert columns[0] == round(4 * scale) and columns[-1] + 1 == round(9 * scale)
    assert rows[-1] + 1 - rows[0] == round(8 * scale) - round(3 * scale)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"energy": 1.0}, SettingsError, "above 0 and below 1"),
        ({"energy": float("nan")}, SettingsError, "above 0 and below 1"),
        ({"layers": -1}, SettingsError, "at least 0"),
        ({"averaged": 0}, SettingsError, "at least 1"),
        ({"image": COUNT}, SettingsError, "give 0 to 11"),
        ({"units": ("nosuch:3",)}, UnknownLayer, "nearest"),
        ({"units": ("0.1:99",)}, UnknownLayer, "0 to 4"),
        ({"units": ("0.1:3:99:0",)}, UnknownLayer, "no place"),
        ({"units": ("0.1",)}, SettingsError, "node:channel"),
        ({"units": ("0.1:0",) * 25}, SettingsError, "at most 24"),
        ({"tree": "0.1:x"}, SettingsError, "node:channel"),
    ],
)
def test_mistakes_are_explained(
    settings: dict[str, object], error: type[NetopsyError], words: str, samples: Samples
) -> None:
    with pytest.raises(error, match=words):
        field(network(*pooled()), samples, **settings)


def test_more_images_than_there_are_means_all(samples: Samples) -> None:
    result = field(network(*pooled()), samples, layers=2, averaged=1000)
    assert result.tables["effective"]["images"].to_list() == [COUNT] * 2


def test_a_unit_without_gradient_is_named(samples: Samples) -> None:
    modules = pooled()
    with torch.no_grad():
        learned(modules[0])[1].fill_(-99.0)
    result = field(network(*modules), samples, layers=4)
    silent = result.tables["effective"].filter(pl.col("area_share").is_null())
    assert silent.height == 3
    assert any("No finite gradient reaches" in f for f in result.findings)
    assert result.tables["tree"].select("active", "contributing").row(0) == (0, 0)


def test_nan_weights_give_no_measures_and_no_crash(samples: Samples) -> None:
    modules = pooled()
    with torch.no_grad():
        learned(modules[3])[0][0] = float("nan")
    result = field(network(*modules), samples, layers=4)
    assert result.tables["effective"]["area_share"][0] is not None
    assert any("No finite gradient" in f for f in result.findings)


class Tokens(nn.Module):
    """Patches, two layers of attention and a perceptron: units on the last axis, and a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cls = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        layers = [nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True)] * 2
        self.attention = nn.Sequential(*(copy.deepcopy(layer) for layer in layers))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.attention(tokens)[:, 0])


class Perceptron(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(3 * SIZE**2, 20), nn.ReLU(), nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 4)
        )


def test_a_transformer_is_treated(samples: Samples) -> None:
    net = Network("tokens", Tokens(), Preprocessing(size=(SIZE, SIZE)))
    result = field(net, samples, units=("head:1",), layers=4, averaged=COUNT)
    table = result.tables["effective"]
    x = images(net, samples).requires_grad_()
    (gradient,) = torch.autograd.grad(net.module(x)[:, 1].sum(), x)
    along = gradient.double().square().sum((0, 1, 3))
    assert table["centre_y"][0] == pytest.approx(float((along / along.sum() * torch.arange(SIZE)).sum()), rel=1e-5)
    assert table["area_share"].null_count() == 0
    # attention reads every token, and neither its softmax nor a norm closes a path
    first = result.tables["tree"].row(0, named=True)
    assert (first["units"], first["in_tree"]) == (17 * 16, 17 * 16) and first["contributing"] == first["active"] > 50
    assert set(result.images) == {"effective", "tree"}


def test_in_a_perceptron_all_active_neurons_contribute_by_weights_that_are_not_zero(samples: Samples) -> None:
    net = Network("perceptron", Perceptron(), Preprocessing(size=(SIZE, SIZE)))
    with torch.no_grad():
        _, first, rectifier, second, *_ = net.module.children()
        learned(second)[0][2, ::2] = 0
        learned(second)[1][2] = 9.0
        hidden = rectifier(first(images(net, samples)[:1].flatten(1)))[0]
    result = field(net, samples, tree="4:2", layers=3)
    row = result.tables["tree"].row(0, named=True)
    on = int((hidden[1::2] > 0).sum())
    assert (row["in_tree"], row["active"], row["contributing"], row["top"]) == (10, on, on, None)
    assert result.tables["effective"]["cut"].all() and "tree" in result.images


def test_a_network_without_activations_has_fields_and_no_tree(samples: Samples) -> None:
    result = field(network(nn.Conv2d(3, 4, 3)), samples)
    assert result.tables["tree"].is_empty() and list(result.images) == ["effective"]
    assert any("no unit has an activation tree" in f for f in result.findings)


def test_a_pixel_has_no_tree() -> None:
    result = field(shipped("a"), load_samples("digits", count=2), layers=0, tree="input:0:10:10")
    assert result.findings[-1] == "No tree could be followed from input:0:10:10: nothing lies before the input."


def test_every_figure_draws_and_says_how_to_read_it(samples: Samples) -> None:
    import vl_convert

    result = field(network(*pooled()), samples, units=("0.1:2",))
    assert set(result.figures) == {"fields", "effective", "area_share", "tree", "connections"}
    for figure in result.figures.values():
        assert figure.reading and vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")
    for image in result.images.values():
        assert image.reading and image.alt and image.source and image.pixels.dtype == np.uint8


def test_the_network_is_left_as_it_was_and_a_seed_repeats(samples: Samples) -> None:
    net = network(*pooled())
    before = net.digest
    first, second, third = (field(net, samples, averaged=4, seed=seed) for seed in (0, 0, 1))
    assert first.tables["effective"].equals(second.tables["effective"])
    assert not first.tables["effective"].equals(third.tables["effective"])
    del net.__dict__["digest"]
    assert net.digest == before and all(p.requires_grad and p.grad is None for p in net.module.parameters())


def test_the_shipped_network_is_quick_and_pools_away_a_part_of_what_is_active() -> None:
    result = field(shipped("a"), load_samples("digits").subset(20), layers=6, averaged=8)
    table = result.tables["tree"]
    before_pool = table.filter(pl.col("node").is_in(["block1.relu2", "block2.relu2", "block3.relu3"]))
    assert (before_pool["of_active"] < 0.6).all() and table["contributing"][0] > 1000


@pytest.mark.real
def test_the_effective_field_of_a_real_network_shrinks_with_depth(shared: Path) -> None:
    """Luo et al., Section 3: also after training the effective part is smaller in deeper layers."""
    net = trained_resnet20(shared)
    table = field(net, noise(16, 32), layers=10, averaged=16).tables["effective"].filter(~pl.col("cut"))
    assert table["area_share"][-1] < 0.5 * table["area_share"][0]


def test_connections_carry_the_weights_of_a_perceptron() -> None:
    torch.manual_seed(5)
    layers = nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU()
    net = network(nn.Flatten(), *layers, size=2)
    weights = {"0.2": layers[0], "0.4": layers[2], "2": net.module.get_submodule("2")}
    with torch.no_grad():
        for module in weights.values():
            learned(module)[1].add_(0.5)
    found = find_connections(net, torch.randn(1, 3, 2, 2), Unit("2", 1, ()), 3)
    ends = {"0.2": "input", "0.4": "0.2", "2": "0.4"}
    assert list(found.columns) == ["input", "0.2", "0.4", "2"]
    for row in found.edges.iter_rows(named=True):
        assert row["from_node"] == ends[row["to_node"]]
        to, (channel, *place) = int(row["to"].split(":")[-1]), map(int, row["from"].split(":")[1:])
        column = channel * 4 + place[0] * 2 + place[1] if place else channel
        assert row["weight"] == pytest.approx(float(learned(weights[row["to_node"]])[0].detach()[to, column]), rel=1e-5)
        assert row["contribution"] == pytest.approx(row["weight"] * row["value"]) and row["active"] == (
            row["value"] > 0
        )
    last = found.edges.filter(pl.col("to_node") == "2")
    assert last.filter("active").height <= 5 and found.shares[Unit("2", 1, ())][0] == pytest.approx(1)


def test_connections_are_the_derivatives_between_neighbouring_activations(samples: Samples) -> None:
    modules = pooled()
    net = network(*modules)
    image = images(net, samples)[:1]
    found = find_connections(net, image, Unit("0.7", 3, (1, 0)), 3)
    values = [image]
    with torch.no_grad():
        for module in modules:
            values.append(module(values[-1]))
    for node, first, last in (("0.7", 5, 7), ("0.4", 2, 4), ("0.1", 0, 1)):
        source = values[first].detach().requires_grad_()
        before = nn.Sequential(*modules[first:last])(source)[0]
        for to in found.edges.filter(pl.col("to_node") == node)["to"].unique():
            at = tuple(map(int, to.split(":")[1:]))
            (gradient,) = torch.autograd.grad(before[at], source, retain_graph=True)
            for row in found.edges.filter(pl.col("to") == to).iter_rows(named=True):
                there = tuple(map(int, row["from"].split(":")[1:]))
                assert row["weight"] == pytest.approx(float(gradient[0][there]), rel=1e-4, abs=1e-6)
                assert row["value"] == pytest.approx(float(values[first][0][there]), rel=1e-4, abs=1e-6)
    # of the unit itself the strongest contributions come first
    flow = (gradient_of(modules, values, (3, 1, 0)) * values[5][0]).abs().flatten()
    own = found.edges.filter((pl.col("to_node") == "0.7") & (pl.col("contribution") != 0))["contribution"].abs()
    assert sorted(own.to_list(), reverse=True) == pytest.approx(flow.topk(len(own)).values.tolist(), rel=1e-4)
    assert own.sum() / float(flow.sum()) == pytest.approx(found.shares[Unit("0.7", 3, (1, 0))][0], rel=1e-4)


def gradient_of(modules: list[nn.Module], values: list[Tensor], at: tuple[int, int, int]) -> Tensor:
    source = values[5].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.Sequential(*modules[5:7])(source)[0][at], source)
    return gradient[0]


def test_connections_are_drawn_and_can_be_left_out(samples: Samples) -> None:
    net = network(*pooled())
    result = field(net, samples, layers=0, tree="0.7:3:1:0")
    figure = result.figures["connections"]
    assert "0.7:3:1:0 on image 0" in figure.title and result.tables["connections"].height > 5
    assert any("carry" in f and "that contribute to 0.7:3:1:0" in f for f in result.findings)
    assert "connections" not in field(net, samples, layers=0, tree="0.7:3:1:0", connections=0).figures
