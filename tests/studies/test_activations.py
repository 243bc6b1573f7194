"""The study `activations`: against the plain module, and networks whose patterns are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, activations, load_samples
from netopsy.errors import NetopsyError, SettingsError, UnknownLayer
from netopsy.network.activations import activations as activation_nodes
from netopsy.samples.images import ArrayImages
from networks import module_outputs, sequential, shipped, trained_resnet20

SIZE, COUNT = 8, 50


def learned(net: Network, index: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution."""
    module = net.module.get_submodule(f"0.{index}")
    assert isinstance(module, nn.Conv2d) and module.bias is not None
    return module.weight, module.bias


def relus() -> Network:
    torch.manual_seed(1)
    return sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 26, 3, padding=1), nn.ReLU())


@pytest.fixture(scope="module")
def samples() -> Samples:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
    pixels[9] = pixels[4]
    pixels[30:33] = pixels[20]
    return Samples("noise", ArrayImages(pixels), generator.integers(0, 5, COUNT), tuple("abcde"))


def values(net: Network, samples: Samples) -> list[Tensor]:
    """Outputs of all ReLU modules, by hooks."""
    kinds = (nn.ReLU, nn.GELU, nn.LeakyReLU)
    return module_outputs(net, samples, *(m for m in net.module.modules() if isinstance(m, kinds)))


def test_counts_are_those_of_the_plain_module(samples: Samples) -> None:
    net = relus()
    tables = activations(net, samples).tables
    assert tables["layers"].height == 2
    for row, value in zip(tables["layers"].iter_rows(named=True), values(net, samples), strict=True):
        on = value > 0
        anywhere = on.flatten(2).any(2)
        assert (row["channels"], row["places"]) == (value.shape[1], value[0, 0].numel())
        assert row["channels_active"] == pytest.approx(anywhere.sum(1).double().mean().item())
        assert row["share"] == pytest.approx(on.double().mean().item())
        assert row["at_a_place"] == pytest.approx(on.sum(1).double().mean().item())
        assert row["never_active"] == (~anywhere).all(0).sum() and row["on_every_image"] == anywhere.all(0).sum()
        channels = tables["channels"].filter(pl.col("node") == row["node"])
        assert channels["images_share"].to_list() == pytest.approx(anywhere.double().mean(0).tolist())


def test_spreads_and_histograms_are_those_of_numpy(samples: Samples) -> None:
    net = relus()
    tables = activations(net, samples).tables
    nodes = tables["layers"]["node"]
    for node, value in zip(nodes, values(net, samples), strict=True):
        on = (value > 0).flatten(2).numpy()
        of = {
            "channels on an image": on.any(2).mean(1),
            "channels at a place": on.mean(1).ravel(),
            "values on an image": on.mean((1, 2)),
        }
        for measure, shares in of.items():
            (row,) = tables["activity"].filter(pl.col("node") == node, pl.col("measure") == measure).to_dicts()
            assert row["mean"] == pytest.approx(shares.mean()) and row["sd"] == pytest.approx(shares.std())
            rough = 1e-3 if measure == "values on an image" else 1e-9
            for name, share in [("q05", 0.05), ("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("q95", 0.95)]:
                expected = np.quantile(shares, share, method="inverted_cdf")
                assert expected - rough <= row[name] <= expected + 1e-9
            bins = tables["histograms"].filter(pl.col("node") == node, pl.col("measure") == measure)
            if bins.height:
                edges = [*bins["left"], bins["right"][-1]]
                numbers = np.rint(shares * on.shape[1])
                np.testing.assert_array_equal(bins["count"], np.histogram(numbers, edges)[0])


def test_linear_regions_are_the_distinct_masks_of_the_plain_module(samples: Samples) -> None:
    """The second layer has few units that ever answer, so that many images share its pattern."""
    net = relus()
    with torch.no_grad():
        learned(net, 3)[1][3:] = -50.0
        learned(net, 3)[1][:3] = -0.6
    table = activations(net, samples).tables["patterns"]
    together: list[bytes] = [b""] * COUNT
    for row, value in zip(table.iter_rows(named=True), values(net, samples), strict=True):
        masks = [(v > 0).numpy().tobytes() for v in value]
        together = [a + b for a, b in zip(together, masks, strict=True)]
        for key, patterns in [("", masks), ("cumulative_", together)]:
            assert row[f"{key}patterns"] == len(set(patterns))
            assert row[f"{key}unique_share"] == sum(patterns.count(m) == 1 for m in patterns) / COUNT
        places = [c.tobytes() for v in value for c in np.ascontiguousarray((v > 0).flatten(1).T.numpy())]
        assert row["places_drawn"] == len(places) and row["place_patterns"] == len(set(places))
        assert row["commonest_place_share"] == pytest.approx(max(map(places.count, set(places))) / len(places))
    assert table["patterns"][1] < table["cumulative_patterns"][1] == COUNT - 4


def test_images_of_one_region_see_the_same_affine_map(samples: Samples) -> None:
    """Montufar et al., Section 2: within a region the network is linear; without pooling the ReLUs decide alone."""
    torch.manual_seed(2)
    net = sequential(nn.Conv2d(3, 4, 8), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU())
    table = activations(net, samples).tables["patterns"]
    (batch,) = samples.batches(net.preprocessing, COUNT)
    slopes = torch.func.vmap(torch.func.jacrev(lambda x: net.module.get_submodule("0")(x[None])[0]))(batch.images)
    assert table["cumulative_patterns"][1] >= len(slopes.detach().flatten(1).round(decimals=5).unique(dim=0)) > 2


def test_the_typical_image_is_the_one_that_has_the_median_counts(samples: Samples) -> None:
    net = relus()
    result = activations(net, samples)
    (image,) = result.tables["image_layers"]["image"].unique()
    distance = np.zeros(COUNT)
    for value in values(net, samples):
        on = (value > 0).flatten(2)
        for shares in (on.any(2).double().mean(1), on.double().mean((1, 2))):
            numbers = shares.numpy()
            spread = numbers.std() or 1
            distance += np.abs(numbers - np.sort(numbers)[(COUNT - 1) // 2]) / spread
    assert distance[image] == pytest.approx(distance.min())
    assert f"image {image}, the one nearest to the medians" in result.figures["places"].title


def test_the_counts_of_an_image_are_its_own(samples: Samples) -> None:
    net = relus()
    tables = activations(net, samples, images=(7, 3)).tables
    assert tables["image_layers"]["image"].unique(maintain_order=True).to_list() == [7, 3]
    for row in tables["image_layers"].iter_rows(named=True):
        index = tables["layers"]["node"].to_list().index(row["node"])
        value = values(net, samples)[index][row["image"]]
        on = value > 0
        assert row["channels_active"] == on.flatten(1).any(1).sum() and row["share"] == pytest.approx(on.float().mean())
        assert row["mean_if_active"] == pytest.approx(value[on].mean().item(), rel=1e-5)
        rows = (pl.col("image") == row["image"]) & (pl.col("node") == row["node"])
        places, sizes = tables["image_places"].filter(rows), tables["image_values"].filter(rows)
        assert places["count"].sum() == value[0].numel() and sizes["count"].sum() == on.sum()
        numbers = on.sum(0).flatten().numpy()
        np.testing.assert_array_equal(places["count"], np.histogram(numbers, [*places["left"], places["right"][-1]])[0])
        assert sizes["right"][-1] == pytest.approx(value.max().item())


def test_maps_show_the_channels_asked_for(samples: Samples) -> None:
    net = relus()
    names = list(activation_nodes(net))
    picture = activations(net, samples, images=(3,), maps=(f"{names[0]}:2", f"{names[0]}:4")).images["maps"].pixels
    maps = values(net, samples)[0][3]
    for column, channel in enumerate((2, 4)):
        # tiles of 84 pixels, 4 apart, after the picture (180 wide, 12 apart) and below a caption of 19 pixels
        left = 192 + 4 + column * 88
        tile = picture[23 : 23 + 84, left : left + 84, 0]
        expected = (maps[channel] / maps[channel].max() * 255).round().to(torch.uint8).numpy()
        np.testing.assert_array_equal(tile[7::14, 7::14], expected)


@pytest.mark.parametrize("order", ["active", "first"])
def test_maps_are_of_the_most_active_channels_or_the_first(order: str, samples: Samples) -> None:
    net = relus()
    image = activations(net, samples, images=(3, 4), shown=3, order=order).images
    assert set(image) == {"maps_3", "maps_4"} and image["maps_3"].pixels.shape[2] == 3
    means = values(net, samples)[0][3].mean((1, 2))
    best = means.argsort(descending=True)[0] if order == "active" else 0
    tile = image["maps_3"].pixels[23 : 23 + 84, 196 : 196 + 84, 0]
    expected = values(net, samples)[0][3, best]
    np.testing.assert_array_equal(tile[7::14, 7::14], (expected / expected.max() * 255).round().to(torch.uint8))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"threshold": float("nan")}, SettingsError, "threshold"),
        ({"shown": 0}, SettingsError, "1 to 64"),
        ({"order": "loudest"}, SettingsError, "active, first"),
        ({"places": 0}, SettingsError, "at least 1"),
        ({"images": (COUNT,)}, SettingsError, "give 0 to 49"),
        ({"images": tuple(range(17))}, SettingsError, "at most 16"),
        ({"maps": ("nosuch",)}, UnknownLayer, "nearest"),
        ({"maps": ("0.1:6",)}, UnknownLayer, "0 to 5"),
        ({"maps": ("2",)}, SettingsError, "no maps to show"),
    ],
)
def test_mistakes_are_explained(
    settings: dict[str, object], error: type[NetopsyError], words: str, samples: Samples
) -> None:
    with pytest.raises(error, match=words):
        activations(relus(), samples, **settings)


def test_smooth_activations_are_counted_and_left_out_of_the_patterns(samples: Samples) -> None:
    net = sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.LeakyReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
    result = activations(net, samples)
    layers = result.tables["layers"]
    shares = [(v > 0).double().mean().item() for v in values(net, samples)]
    assert layers["share"].to_list() == pytest.approx(shares, abs=1e-3)
    assert layers["patterns"].is_null().to_list() == [True, False, False]
    assert any("2 activations (gelu, leaky_relu) have no zeros" in f and "1 of them" in f for f in result.findings)


def test_a_perceptron_has_patterns_but_neither_places_nor_maps(samples: Samples) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 30), nn.ReLU(), nn.Linear(30, 5))
    net = Network("perceptron", module, Preprocessing(size=(SIZE, SIZE)))
    result = activations(net, samples)
    assert result.images == {} and set(result.figures) == {"shares", "channels", "values", "patterns"}
    (row,) = result.tables["patterns"].to_dicts()
    assert row["places_drawn"] == 0 and row["place_patterns"] is None
    (value,) = values(net, samples)
    assert row["patterns"] == len({(v > 0).numpy().tobytes() for v in value})


class Tokens(nn.Module):
    """A patch embedding and a perceptron over tokens: the units are on the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner = nn.Conv2d(3, 7, 4, 4), nn.Linear(7, 11)
        self.act, self.head = nn.ReLU(), nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.act(self.inner(tokens)).mean(1))


def test_tokens_are_places_and_their_last_axis_holds_the_features(samples: Samples) -> None:
    net = Network("tokens", Tokens(), Preprocessing(size=(SIZE, SIZE)))
    result = activations(net, samples)
    (row,) = result.tables["layers"].to_dicts()
    (value,) = values(net, samples)
    assert (row["channels"], row["places"]) == (11, 4) and result.images == {}
    assert row["channels_active"] == pytest.approx((value > 0).any(1).sum(1).double().mean().item())


def test_a_network_without_activations_gets_a_finding_and_maps(samples: Samples) -> None:
    result = activations(sequential(nn.Conv2d(3, 4, 3)), samples)
    assert "applies no elementwise activation" in result.findings[0] and list(result.images) == ["maps"]


def test_nan_and_constant_activations_are_no_trouble(samples: Samples) -> None:
    net = relus()
    with torch.no_grad():
        learned(net, 0)[1][0] = float("nan")
        learned(net, 0)[0][1:] = 0
        learned(net, 0)[1][1:] = -1
    result = activations(net, samples)
    assert result.tables["layers"]["share"].to_list() == [0, 0]
    assert result.tables["patterns"]["patterns"].to_list() == [1, 1]
    assert any("share one activation pattern" in f for f in result.findings)


def test_one_image_is_enough(samples: Samples) -> None:
    result = activations(relus(), samples.subset(1))
    assert result.tables["activity"]["sd"].head(1).to_list() == [0.0] and result.findings


@pytest.mark.parametrize("depth", [2, 30])
def test_every_figure_draws_and_says_how_to_read_it(depth: int, samples: Samples) -> None:
    import vl_convert

    body = [m for _ in range(depth) for m in (nn.Conv2d(3, 3, 1), nn.ReLU())]
    result = activations(sequential(*body), samples)
    assert set(result.figures) == {"shares", "places", "channels", "values", "patterns"}
    for figure in result.figures.values():
        assert figure.reading and vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")
    for image in result.images.values():
        assert image.reading and image.alt and image.pixels.dtype == np.uint8


def test_the_claim_of_the_paper_is_judged_both_ways(samples: Samples) -> None:
    biases = {"grows sparser with depth": (0.0, -0.1, -0.5, -0.9), "does not grow sparser": (9.0, 9.0, 9.0, 9.0)}
    for claim, levels in biases.items():
        convs = [nn.Conv2d(3 if k == 0 else 16, 16, 1) for k in range(4)]
        for conv, level in zip(convs, levels, strict=True):
            nn.init.constant_(conv.bias, level)  # type: ignore[arg-type]
        findings = activations(sequential(*(m for conv in convs for m in (conv, nn.ReLU()))), samples).findings
        assert any(claim in f and ("about half" in f) == (levels[0] == 0) for f in findings)


def test_the_network_is_left_as_it_was_and_a_seed_repeats(samples: Samples) -> None:
    net = relus()
    before = net.digest
    first, second = activations(net, samples, places=60, seed=3), activations(net, samples, places=60, seed=3)
    assert all(first.tables[name].equals(second.tables[name]) for name in first.tables)
    del net.__dict__["digest"]
    assert net.digest == before


def test_the_shipped_network_gives_every_digit_a_region_of_its_own() -> None:
    data = load_samples("digits").subset(60)
    result = activations(shipped("a"), data)
    assert result.tables["patterns"]["cumulative_patterns"].to_list() == [60] * 13
    assert result.tables["layers"]["share"].is_between(0.3, 0.7).all()


@pytest.mark.real
def test_a_real_network_agrees_with_hooks(shared: Path) -> None:
    net = trained_resnet20(shared)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (24, 32, 32, 3), np.uint8)
    data = Samples("noise", ArrayImages(pixels), np.zeros(24, np.int64), ("a",))
    layers = activations(net, data).tables["layers"]
    shares = [(v > 0).double().mean().item() for v in values(net, data)]
    # a pre-activation within rounding of zero may fall on either side in another batch size
    assert layers["share"].to_list() == pytest.approx(shares, abs=1e-5)


def test_no_setting_hides_an_option_of_the_command_line() -> None:
    """Preprocessing has `channels`, for instance; `seed` is meant to be one for all."""
    from dataclasses import fields

    from netopsy.cli.options import NETWORK_OPTIONS, SAMPLES_OPTIONS
    from netopsy.studies.table import study_class

    options = {option.name for option in (*NETWORK_OPTIONS, *SAMPLES_OPTIONS)} - {"seed"}
    for name in ("activations", "field"):
        assert not options & {setting.name for setting in fields(study_class(name))}
