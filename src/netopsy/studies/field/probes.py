"""Which units' fields are measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netopsy.network.activations import activations
from netopsy.network.field import receptive_field
from netopsy.network.graph import shape_of
from netopsy.network.network import Network
from netopsy.network.units import channel_axis, channels, find_unit, unit_nodes, weight_layer

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Probe:
    """Units of one node at one place.

    shown: the node as the user knows it. node: where the gradient starts; in front of an activation, so that a silent
    unit counts as well as an active one. channel: one channel, or None for any. place: see `Unit`.
    channels: how many the node has. layer: the weight layer in front.
    """

    shown: str
    node: str
    channel: int | None
    place: tuple[int, ...]
    channels: int
    layer: str


def chosen(network: Network, text: str) -> Probe:
    """The probe of a unit; a unit without a place is taken in the middle of its map."""
    unit = find_unit(network, text)
    place = middle(network, unit.node) if unit.place is None else unit.place
    return _probe(network, unit.node, unit.channel, place)


def spread(network: Network, count: int) -> list[Probe]:
    """The middle units of `count` nodes spread over the depth, the first and the last among them."""
    names = list(unit_nodes(network))
    picked = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int))
    return [_probe(network, names[index], None, middle(network, names[index])) for index in picked]


def middle(network: Network, name: str) -> tuple[int, ...]:
    """The place in the middle of the node's maps; () where it has none."""
    return tuple(size // 2 for size in places(network, name))


def places(network: Network, name: str) -> list[int]:
    """Sizes of the axes that hold the node's places."""
    node = network.nodes[name]
    shape = list(shape_of(node)[1:])
    axis = channel_axis(node)
    shape.pop(axis - 1 if axis > 0 else axis)
    return shape


def field_box(network: Network, probe: Probe) -> tuple[Box, bool]:
    """(top, left, bottom, right) of the probe's theoretical field, cut to the image, and whether that took any off."""
    field = receptive_field(network, probe.node)
    if len(probe.place) == 2 and tuple(places(network, probe.node)) == field.grid:
        box = field.at(*probe.place)
        return box, box != field.at(*probe.place, cut=False)
    return field.reach, True


def _probe(network: Network, name: str, channel: int | None, place: tuple[int, ...]) -> Probe:
    node = network.nodes[name]
    before = node.all_input_nodes[0] if name in activations(network, mixing=False) else node
    operand = before.meta.get("name", name)
    start = operand if operand in network.nodes and shape_of(before) == shape_of(node) else name
    return Probe(name, start, channel, place, channels(node), weight_layer(network, node))
