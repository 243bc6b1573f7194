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
from netopsy.stats.matching import bipartite_matching
from netopsy.studies.correspondence.comoments.cross_moments import cross_moments
from netopsy.studies.correspondence.correspondence import Correspondence
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
    assert result.images["pairs"].pixels.ndim == 3
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
    assert "Pairs of units and what excites them" in (tmp_path / "case" / "correspondence.html").read_text()
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
