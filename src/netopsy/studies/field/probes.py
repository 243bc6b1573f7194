"""Which units' fields are measured."""

from __future__ import annotations

from dataclasses import dataclass

from netopsy.network.activations import operand
from netopsy.network.network import Network
from netopsy.network.units import (
    Unit,
    channels,
    find_unit,
    middle,
    places,
    unit_field,
    unit_nodes,
)
from netopsy.network.windows.field import Box, receptive_field
from netopsy.stats.describe import spread


@dataclass(frozen=True)
class Probe:
    """Units of one node at one place.

    shown: the node as the user knows it. node: where the gradient starts; in front of an activation, so that a silent
    unit counts as well as an active one. channel: one channel, or None for any. place: see `Unit`.
    channels: how many the node has.
    """

    shown: str
    node: str
    channel: int | None
    place: tuple[int, ...]
    channels: int


def chosen(network: Network, text: str) -> Probe:
    """The probe of a unit; a unit without a place is taken in the middle of its map."""
    unit = find_unit(network, text)
    place = middle(network.nodes[unit.node]) if unit.place is None else unit.place
    return _probe(network, unit.node, unit.channel, place)


def over_depth(network: Network, count: int) -> list[Probe]:
    """The middle units of `count` nodes spread over the depth, the first and the last among them."""
    nodes = unit_nodes(network)
    names = list(nodes)
    return [_probe(network, names[i], None, middle(nodes[names[i]])) for i in spread(len(names), count)]


def field_box(network: Network, probe: Probe) -> tuple[Box, bool]:
    """(top, left, bottom, right) of the probe's theoretical field, cut to the image, and whether that took any off.

    A unit that sees all that its node sees is said to be cut: it would see more of a larger image.
    """
    unit = Unit(probe.node, 0, probe.place)
    box = unit_field(network, unit)
    own = probe.place and receptive_field(network, probe.node).tells_apart(places(network.nodes[probe.node]))
    return box, not own or box != unit_field(network, unit, cut=False)


def _probe(network: Network, name: str, channel: int | None, place: tuple[int, ...]) -> Probe:
    node = network.nodes[name]
    start = operand(network, node, mixing=False).meta["name"]
    return Probe(name, start, channel, place, channels(node))
