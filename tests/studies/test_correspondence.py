"""The study `correspondence`: identities, definitions, controls and mistakes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, load_network, load_samples
from netopsy.cli import main
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.result import Result
from netopsy.stats.matching import bipartite_matching, semi_matching
from netopsy.studies.correspondence.comoments.cross_moments import cross_moments
from netopsy.studies.correspondence.correspondence import Correspondence
from netopsy.studies.correspondence.figures import colours
from netopsy.studies.correspondence.regression import lasso_path
from netopsy.studies.correspondence.shown import filters_on_image
from netopsy.studies.study import perform


class Small(nn.Module):
    """Two convolutions with rectifiers, a pooling between them, and a linear layer."""

    def __init__(self, width: int = 6, dead: bool = False) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(1, width, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(width, 8, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(8, 10)
        if dead:
            with torch.no_grad():
                self.conv1.weight[2], self.conv1.bias[2] = 0, -1

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(F.max_pool2d(self.relu1(self.conv1(x)), 2)))
        return self.fc(x.mean((2, 3)))


def small_network(seed: int, module: nn.Module | None = None, **kinds: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = module or Small(**kinds)  # type: ignore[arg-type]
        return Network(f"small-{seed}", module, Preprocessing(size=(8, 8), mean=(0.3,), std=(0.3,), channels="L"))


def permuted(network: Network, order: list[int]) -> Network:
    """The same network with the channels of its first convolution in another order."""
    copied = Small()
    copied.load_state_dict(network.module.state_dict())
    with torch.no_grad():
        copied.conv1.weight[:], copied.conv1.bias[:] = copied.conv1.weight[order], copied.conv1.bias[order]
        copied.conv2.weight[:] = copied.conv2.weight[:, order]
    return small_network(9, copied)


@cache
def digits() -> Samples:
    return load_samples("digits", count=80)


@cache
def plain() -> Result:
    return perform(Correspondence(other=small_network(1), images=60), small_network(0), digits())


def row(result: Result, layer: str, of: str = "networks") -> dict[str, object]:
    return result.tables["layers"].filter((pl.col("layer_a") == layer) & (pl.col("of") == of)).row(0, named=True)


def test_a_network_corresponds_to_itself_and_to_a_permuted_copy() -> None:
    order = [3, 0, 5, 1, 4, 2]
    one = small_network(0)
    for other, partner in ((one, list(range(6))), (permuted(one, order), np.argsort(order).tolist())):
        result = perform(Correspondence(other=other, untrained=False, top=0, images=20), one, digits())
        units = result.tables["units"].filter(pl.col("layer_a") == "relu1")
        live = units.filter(~pl.col("dead"))
        assert live["partner"].to_list() == live["best_partner"].to_list()
        assert live["partner"].to_list() == [partner[k] for k in live["channel"].to_list()]
        for layer in ("relu1", "relu2", "fc"):
            values = row(result, layer)
            assert values["bipartite"] == pytest.approx(1, abs=1e-6) and values["same_partner"] == 1
            assert values["least_squares"] == pytest.approx(0, abs=1e-5)
            for index in ("cka", "svcca", "pwcca", "procrustes"):
                assert values[index] == pytest.approx(1, abs=1e-4)
            assert row(result, layer, "shuffled")["cka"] < 0.9  # type: ignore[operator]


def test_the_tables_hold_what_the_pair_gives() -> None:
    result = plain()
    pair = cross_moments(small_network(0), small_network(1), digits(), [("relu2", "relu2")])["relu2", "relu2"]
    units = result.tables["units"].filter(pl.col("layer_a") == "relu2")
    matching = bipartite_matching(pair.correlation)
    np.testing.assert_allclose(units["best_correlation"].to_numpy(), pair.correlation.max(1), atol=1e-6)
    assert units["partner"].to_list() == matching.partner.tolist()
    within = pair.correlation_aa - 2 * np.eye(8)
    np.testing.assert_allclose(units["within"].to_numpy(), within.max(1), atol=1e-6)
    chosen = result.tables["chosen"].filter(pl.col("layer_a") == "relu2")
    assert (
        chosen["choices"].sum() == 8
        and chosen["choices"].to_list() == np.bincount(pair.correlation.argmax(1), minlength=8).tolist()
    )
    assert row(result, "relu2")["semi"] == pytest.approx(pair.correlation.max(1).mean(), abs=1e-6)
    table = result.tables["regression"].filter((pl.col("layer_a") == "relu2") & (pl.col("of") == "networks"))
    assert table["decay"].to_list() == [None, -4.0, -3.0, -2.8, -2.6, -2.0]
    assert table["error"].is_sorted() and (table["gap"] < 1e-7).all()


def test_every_layer_has_its_controls() -> None:
    result = plain()
    for layer in ("relu1", "relu2", "fc"):
        kinds = result.tables["layers"].filter(pl.col("layer_a") == layer)["of"].to_list()
        assert kinds == ["networks", "shuffled", "untrained"]
        assert row(result, layer, "shuffled")["least_squares"] > row(result, layer)["least_squares"]  # type: ignore[operator]
    assert result.tables["map"].height == 9
    assert set(result.figures) == {"matching", "likeness", "units", "regression", "map", "map untrained"}
    assert set(result.images) == {"matrices relu1", "filters", "pairs", "pairs best partner"}
    assert all(image.pixels.ndim == 3 for image in result.images.values())
    assert result.settings["other"]["name"] == "small-1"


def test_dead_units_are_named_and_take_no_part() -> None:
    result = perform(Correspondence(other=small_network(1), top=0, images=20), small_network(0, dead=True), digits())
    dead = result.tables["units"].filter((pl.col("layer_a") == "relu1") & (pl.col("channel") == 2)).row(0, named=True)
    assert dead["dead"] and dead["partner"] is None and dead["best_correlation"] is None
    assert any("take no part, of the first network: relu1 1" in finding for finding in result.findings)
    assert not result.tables["layers"].select(pl.col(pl.Float64).is_nan().any()).row(0).count(True)


def test_widths_may_differ_and_layers_be_named() -> None:
    result = perform(
        Correspondence(
            other=small_network(1, width=9), layers=("relu1", "relu1:relu2"), untrained=False, top=0, images=20
        ),
        small_network(0),
        digits(),
    )
    layers = result.tables["layers"].filter(pl.col("of") == "networks")
    assert layers.select("layer_a", "layer_b", "units_a", "units_b").rows() == [
        ("relu1", "relu1", 6, 9),
        ("relu1", "relu2", 6, 8),
    ]
    assert any("relu1 (8x8) and relu2 (4x4) on 4x4" in finding for finding in result.findings)
    assert "map" not in result.tables


def test_the_same_seed_gives_the_same_tables() -> None:
    again = perform(Correspondence(other=small_network(1), images=60), small_network(0), digits())
    for name, table in plain().tables.items():
        assert table.equals(again.tables[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ("conv9",)}, "conv9"),
        ({"layers": ("relu1:relu2:fc",)}, "give A:B"),
        ({"share": 0.0}, "share"),
        ({"decays": (9.0,)}, "decays 9.0 must be a number from -20 to 6"),
        ({"bins": 1000}, "bins"),
    ],
)
def test_mistakes_are_said(settings: dict[str, object], message: str) -> None:
    with pytest.raises((SettingsError, UnknownLayer), match=message):
        perform(Correspondence(other=small_network(1), **settings), small_network(0), digits())  # type: ignore[arg-type]


def test_it_needs_a_second_network_and_two_images() -> None:
    with pytest.raises(SettingsError, match="other"):
        perform(Correspondence(), small_network(0), digits())
    with pytest.raises(SettingsError, match="at least 2"):
        perform(Correspondence(other=small_network(1)), small_network(0), digits().select(np.array([0]), "one"))


def test_command_line_and_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "correspondence netopsy:digits-a netopsy:digits-b --samples digits --count 30 --layers block5.relu3,fc"
    main([*words.split(), "--no-untrained", "--top", "4", "--images", "20", "--out", str(tmp_path / "case")])
    assert "Matched one to one" in capsys.readouterr().out
    assert (
        "Units with their one-to-one partner, and what excites them"
        in (tmp_path / "case" / "correspondence.html").read_text()
    )
    main([*words.replace("block5.relu3,", "").split(), "--no-untrained", "--top", "0", "--images", "20", "--json"])
    tables = json.loads(capsys.readouterr().out)
    assert tables


@pytest.mark.real
def test_two_trainings_of_one_network_share_more_than_chance(shared: Path, tmp_path: Path) -> None:
    weights = shared / "data" / "networks"
    nets = [
        load_network(
            "netopsy:resnet20_projection", weights=str(weights / f"cifar10-resnet20-projection-run{k}.safetensors")
        )
        for k in (0, 1)
    ]
    rng = np.random.default_rng(0)
    smooth = F.interpolate(torch.from_numpy(rng.uniform(0, 255, (24, 3, 4, 4))), size=32, mode="bilinear")
    np.savez(tmp_path / "x.npz", x=smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8), y=np.arange(24) % 10)
    samples = load_samples(str(tmp_path / "x.npz"))
    result = perform(Correspondence(other=nets[1], top=0, images=10, layers=("conv1",)), nets[0], samples)
    trained, chance = (row(result, "conv1", of)["bipartite"] for of in ("networks", "shuffled"))
    assert trained > chance + 0.1  # type: ignore[operator]


def test_other_architectures_are_compared_by_the_most_alike_layers() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 3)
            self.relu_one, self.relu_two, self.relu_three = nn.ReLU(), nn.ReLU(), nn.ReLU()
            self.out = nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu_three(self.three(self.relu_two(self.two(self.relu_one(self.one(x))))))
            return self.out(x.mean((2, 3)))

    other = small_network(5, Deep())
    result = perform(Correspondence(other=other, untrained=False, top=0, images=20), small_network(0), digits())
    table = result.tables["map"].filter(~pl.col("layer_b").str.starts_with("out"))
    chosen = dict(result.tables["layers"].filter(pl.col("of") == "networks").select("layer_a", "layer_b").rows())
    for layer in ("relu1", "relu2"):
        best = table.filter(pl.col("layer_a") == layer).sort("cka").row(-1, named=True)
        assert chosen[layer] == best["layer_b"]
    assert chosen["fc"] == "out"


def test_a_best_partner_is_no_worse_than_a_one_to_one_partner_of_the_same_unit() -> None:
    draw = np.random.default_rng(0)
    for p, q in ((5, 5), (9, 4), (4, 9), (1, 3), (30, 20)):
        correlation = draw.uniform(-1, 1, (p, q))
        dead_a, dead_b = draw.random(p) < 0.2, draw.random(q) < 0.2
        free, bound = (match(correlation, dead_a, dead_b) for match in (semi_matching, bipartite_matching))
        same = free.correlation[bound.matched]
        assert (same >= bound.correlation[bound.matched]).all()
        assert set(bound.matched) <= set(free.matched) and len(bound.matched) == min((~dead_a).sum(), (~dead_b).sum())
        if (~dead_a).sum() <= (~dead_b).sum():  # then the one-to-one matching has every unit that has any partner
            assert set(bound.matched) == set(free.matched)


def test_other_widths_and_dead_units_are_compared_over_the_same_units_and_stand_last_in_the_matrices() -> None:
    network, other = small_network(0, dead=True), small_network(1, width=4)
    settings = {"untrained": False, "top": 0, "images": 20, "matrices": ("relu2", "relu1*")}
    result = perform(Correspondence(other=other, **settings), network, digits().select(np.arange(30), "few"))  # type: ignore[arg-type]
    layer, units = row(result, "relu1"), result.tables["units"].filter(pl.col("layer_a") == "relu1")
    matched = units.filter(pl.col("partner").is_not_null())
    assert matched.height == layer["units_b"] - layer["dead_b"] < units.filter(~pl.col("dead")).height == 5  # type: ignore[operator]
    assert layer["semi_matched"] == pytest.approx(matched["best_correlation"].mean())
    assert layer["bipartite"] == pytest.approx(matched["correlation"].mean())
    assert layer["semi_matched"] >= layer["bipartite"]  # type: ignore[operator]
    assert layer["semi_matched"] != layer["semi"]  # which is over all five units of A
    assert any(f.startswith("With the best partner, which several may share, the same units") for f in result.findings)
    assert set(result.artifacts) == {"correlations-relu1.npz", "correlations-relu2.npz"}
    assert [name for name in result.images if name.startswith("matrices")] == ["matrices relu2", "matrices relu1"]
    kept = np.load(result.artifacts["correlations-relu1.npz"])
    assert kept["between"].shape == kept["permuted"].shape == (6, 4) and (kept["between"][2] == 0).all()
    assert kept["order_a"].tolist()[: matched.height] == matched["channel"].to_list()
    assert kept["order_b"].tolist()[: matched.height] == matched["partner"].to_list()
    with pytest.raises(UnknownLayer, match=r"matrices names 'relu9'.*nearest: relu"):
        perform(Correspondence(other=other, matrices=("relu9",), top=0, images=20), network, digits())


def test_matrices_are_arrays_with_partners_on_the_diagonal() -> None:
    result = plain()
    pair = cross_moments(small_network(0), small_network(1), digits(), [("relu1", "relu1")])["relu1", "relu1"]
    assert list(result.artifacts) == ["correlations-relu1.npz"]
    kept = np.load(result.artifacts["correlations-relu1.npz"])  # no pickle
    np.testing.assert_allclose(kept["between"], pair.correlation, atol=1e-9)
    np.testing.assert_allclose(kept["within_a"], pair.correlation_aa, atol=1e-9)
    np.testing.assert_allclose(kept["within_b"], pair.correlation_bb, atol=1e-9)
    matching = bipartite_matching(pair.correlation)
    assert (kept["partner"] == matching.partner).all() and sorted(kept["order_b"]) == list(range(6))
    np.testing.assert_allclose(np.diag(kept["permuted"]), matching.correlation[kept["order_a"]], atol=1e-9)
    table = result.tables["correlations"]
    assert table.height == 36 and table["partner"].sum() == 6 == table["best_partner"].sum()
    np.testing.assert_allclose(table["correlation"].to_numpy().reshape(6, 6), kept["between"])
    assert (table.filter("partner")["correlation"] <= table.filter("best_partner")["correlation"].max()).all()  # type: ignore[operator]


def test_colours_of_a_correlation_run_from_blue_over_white_to_brown() -> None:
    low, middle, high, half = colours(np.array([[-1.0, 0.0, 1.0, 0.5]]))[0].tolist()
    assert middle == [255, 255, 255] and low[2] > low[0] and high[0] > high[2]
    assert all(abs(2 * x - m - h) <= 1 for x, m, h in zip(half, middle, high, strict=True))


def test_filters_of_matched_units_are_the_weights_of_the_layer_that_sees_the_image() -> None:
    network = small_network(0)
    weight = filters_on_image(network, "relu1")
    assert weight is not None and torch.equal(weight, network.module.conv1.weight.detach())  # type: ignore[union-attr]
    assert filters_on_image(network, "relu2") is None and filters_on_image(network, "fc") is None
    assert "filters" in plain().images

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(64, 5), nn.Linear(5, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.hidden(x.flatten(1))))

    flat = small_network(3, Flat())
    pixels = filters_on_image(flat, "relu")
    assert pixels is not None and pixels.shape == (5, 1, 8, 8)
    assert torch.equal(pixels.flatten(1), flat.module.hidden.weight.detach())  # type: ignore[union-attr]


def test_half_of_the_squared_error_stands_under_its_own_name() -> None:
    table = plain().tables["regression"]
    assert (table["half_error"] * 2 - table["error"]).abs().max() < 1e-12  # type: ignore[operator]
    nothing = lasso_path(
        cross_moments(small_network(0), small_network(1), digits(), [("relu1", "relu1")])["relu1", "relu1"], [50.0]
    )
    assert nothing.mean_used[0] == 0 and nothing.mean_error[0] == pytest.approx(1)  # half of it: the authors' 0.5
