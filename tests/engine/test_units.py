"""Units by name, and the nodes whose values are what the layers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy import Network, Preprocessing, load_network, maximize
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.units import (
    Unit,
    activation_nodes,
    channels,
    find_unit,
    flat_place,
    hidden_nodes,
    last_map,
    middle,
    place_at,
    places,
    unit_field,
    unit_nodes,
)
from netopsy.network.windows.field import receptive_field


class Block(nn.Module):
    """A convolution, a residual sum, tokens, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.again, self.token, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm(self.stem(x)))
        h = self.act(h + self.again(h))
        tokens = torch.nn.functional.gelu(self.token(h.flatten(2).transpose(1, 2)))
        return self.head(tokens.mean(1))


@pytest.fixture(scope="module")
def net() -> Network:
    return Network("test", Block(), Preprocessing(size=(8, 10)))


def test_units_are_found_however_they_are_written(net: Network) -> None:
    expected = Unit("act", 2, (3, 4))
    for way in (("act", 2, 3, 4), "act:2:3:4", expected, ["act", "2", "3", "4"]):
        assert find_unit(net, way) == expected  # type: ignore[arg-type]
    assert str(expected) == "act:2:3:4" and find_unit(net, "act:2") == Unit("act", 2, None)
    assert find_unit(net, ("head", 3)) == Unit("head", 3, ()) and find_unit(net, "gelu:4:19") == Unit("gelu", 4, (19,))


@pytest.mark.parametrize(
    "unit, message",
    [
        ("act:6", "no unit 6 in node 'act' of test; give 0 to 5"),
        ("act:0:4:0", "no place 4, 0 in node 'act' of test; its places are 4 x 5"),
        ("act:0:1", "its places are 4 x 5"),
        ("head:0:1", r"a neuron is \(node, neuron\)"),
        ("gelu:0:20", "its places are 20"),
        ("atc:0", "no node 'atc' in test; nearest: act"),
    ],
)
def test_units_that_are_not_there(net: Network, unit: str, message: str) -> None:
    with pytest.raises(UnknownLayer, match=message):
        find_unit(net, unit)


@pytest.mark.parametrize("unit", ["act", "act:x", ("act",), ("act", 1.5, "b"), ("act", 1.5), 7])
def test_what_is_no_unit(net: Network, unit: object) -> None:
    with pytest.raises(SettingsError, match="give node:channel"):
        find_unit(net, unit)  # type: ignore[arg-type]


def test_channels_lie_on_axis_one_of_maps_and_last_in_tokens(net: Network) -> None:
    assert [net.nodes[n].channel_axis for n in ("act", "act_1", "gelu", "head")] == [1, 1, -1, -1]
    assert [channels(net.nodes[n]) for n in ("stem", "gelu", "head")] == [6, 5, 4]


def test_unit_nodes_are_activations_and_layers_that_none_follows(net: Network) -> None:
    assert list(unit_nodes(net)) == ["act", "again", "act_1", "gelu", "head"]


def test_places_are_the_axes_beside_batch_and_channels(net: Network) -> None:
    assert [places(net.nodes[n]) for n in ("act", "gelu", "head")] == [(4, 5), (20,), ()]
    assert [middle(net.nodes[n]) for n in ("act", "gelu", "head")] == [(2, 2), (10,), ()]


@pytest.mark.parametrize("grid", [(4, 5), (20,), (2, 3, 4), ()])
def test_flat_places_are_numpy_s(grid: tuple[int, ...]) -> None:
    for index in range(int(np.prod(grid, dtype=int))):
        place = place_at(index, grid)
        assert place == tuple(np.unravel_index(index, grid)) and flat_place(place, grid) == index


def test_the_field_of_a_unit_is_that_of_its_place(net: Network) -> None:
    field = receptive_field(net, "act")
    assert unit_field(net, find_unit(net, "act:2:3:4")) == field.at(3, 4)
    assert unit_field(net, find_unit(net, "act:2:0:0"), cut=False) == field.at(0, 0, cut=False)
    assert unit_field(net, find_unit(net, "gelu:0:19")) == field.at(3, 4), "a token of a map keeps its field"
    assert unit_field(net, find_unit(net, "act:2")) == unit_field(net, find_unit(net, "head:1")) == field.reach


def test_hidden_nodes_lie_between_the_first_and_the_last_layer(net: Network) -> None:
    assert list(hidden_nodes(net)) == ["act", "again", "act_1", "gelu"]
    single = Network("one", nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)), Preprocessing(size=(4, 4)))
    assert not hidden_nodes(single) and list(unit_nodes(single)) == ["0", "2"]


def test_the_last_map_is_the_last_node_with_places_else_the_last(net: Network) -> None:
    nodes = unit_nodes(net)
    assert last_map(nodes) == last_map(hidden_nodes(net)) == last_map(activation_nodes(net)) == "gelu"
    assert last_map({name: nodes[name] for name in ("act", "again")}) == "again"
    assert last_map({"head": nodes["head"]}) == "head" and last_map({}) is None


def test_averaged_class_maps_are_no_hidden_map_and_units_without_activation_count_where_there_is_none() -> None:
    maps = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten())
    squeezed = Network("maps", maps, Preprocessing(size=(8, 8)))
    assert last_map(hidden_nodes(squeezed)) == "1" and last_map(activation_nodes(squeezed)) == "3"
    linear = Network(
        "linear", nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(216, 4)), Preprocessing((8, 8))
    )
    assert last_map(activation_nodes(linear)) == last_map(hidden_nodes(linear)) == "0"


def test_one_number_an_image_is_no_unit() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(48, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.relu(self.head(x.flatten(1))[:, 0])] * 2, 1)

    assert list(unit_nodes(Network("single", Single(), Preprocessing(size=(4, 4))))) == ["head"]


class DenseHead(nn.Module):
    """As a detector's: a map of several boxes a place becomes one row a box."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.convolution(x)
        return maps.view(-1, 2, 4, *maps.shape[2:]).permute(0, 3, 4, 1, 2).reshape(len(x), -1, 4)


def test_a_view_of_fewer_axes_has_its_units_last() -> None:
    network = load_network(DenseHead(), size=6)
    output = network.nodes[network.output]
    assert output.full_shape == (1, 72, 4) and output.channel_axis == -1 and channels(output) == 4
    assert maximize(network, units=(f"{output.name}:3:5",), way="plain", steps=1, runs=1).tables["runs"].height
