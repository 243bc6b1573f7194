"""Units by name, and the nodes whose values are what the layers say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from netopsy import Network, Preprocessing
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.units import Unit, channel_axis, channels, find_unit, unit_nodes


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


@pytest.mark.parametrize("unit", ["act", "act:x", ("act",), ("act", 1.5, "b"), 7])
def test_what_is_no_unit(net: Network, unit: object) -> None:
    with pytest.raises(SettingsError, match="give node:channel"):
        find_unit(net, unit)  # type: ignore[arg-type]


def test_channels_lie_on_axis_one_of_maps_and_last_in_tokens(net: Network) -> None:
    assert [channel_axis(net.nodes[n]) for n in ("act", "act_1", "gelu", "head")] == [1, 1, -1, -1]
    assert [channels(net.nodes[n]) for n in ("stem", "gelu", "head")] == [6, 5, 4]


def test_unit_nodes_are_activations_and_layers_that_none_follows(net: Network) -> None:
    assert list(unit_nodes(net)) == ["act", "again", "act_1", "gelu", "head"]
