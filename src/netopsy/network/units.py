"""Units: one value of a node, as (node, channel, y, x), (node, channel) for its strongest place, or (node, neuron)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.windows.field import Box, receptive_field

_VIEWS = {"view", "reshape", "unsafe_view", "unflatten"}
_NORMS = {"batch_norm", "group_norm", "instance_norm"}


@dataclass(frozen=True)
class Unit:
    """One unit of a network.

    node: its node's name. channel: its index along the node's channel axis.
    place: (y, x) in a map, (token,) in a sequence, () for a neuron of a linear layer; None for the strongest place.
    """

    node: str
    channel: int
    place: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return ":".join([self.node, str(self.channel), *map(str, self.place or ())])


UnitLike = Unit | str | Sequence[str | int]


def find_unit(network: Network, unit: UnitLike) -> Unit:
    """`unit` with its node's full name, checked against the node's shape.

    unit: (node, channel, y, x), (node, channel), (node, neuron), the same as text `node:channel:y:x`, or a Unit.
    Raises UnknownLayer for a node, channel or place that the network does not have.
    """
    node, channel, place = _parts(unit)
    record = network.node(node)
    name = record.name
    if not record.per_sample or not record.shape:
        raise UnknownLayer(
            f"node '{name}' of {network.name} has no units of one image each (shape {record.full_shape} for one "
            "image); choose the node before or behind it."
        )
    number, grid = channels(record), places(record)
    if not 0 <= channel < number:
        raise UnknownLayer(f"no unit {channel} in node '{name}' of {network.name}; give 0 to {number - 1}.")
    if place is None and not grid:
        place = ()
    if place is not None and not _inside(place, grid):
        place_text, size = ", ".join(map(str, place)), " x ".join(map(str, grid))
        hint = f"its places are {size}" if grid else "a neuron is (node, neuron)"
        raise UnknownLayer(f"no place {place_text} in node '{name}' of {network.name}; {hint}.")
    return Unit(name, channel, place)


def _inside(place: tuple[int, ...], shape: Sequence[int]) -> bool:
    return len(place) == len(shape) and all(0 <= p < n for p, n in zip(place, shape, strict=True))


def _parts(unit: UnitLike) -> tuple[str, int, tuple[int, ...] | None]:
    if isinstance(unit, Unit):
        return unit.node, unit.channel, unit.place
    pieces: Sequence[str | int] = unit.split(":") if isinstance(unit, str) else unit
    try:
        node, channel, *place = pieces
        first, *rest = (_integer(number) for number in (channel, *place))
        return str(node), first, tuple(rest) or None
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"unit {unit!r} is none: give node:channel, node:channel:y:x or node:neuron, for instance 'features.3:7'."
        ) from error


def _integer(number: str | int) -> int:
    """The number itself, whatever integer type or text it comes as; ValueError for a fraction."""
    return int(number) if isinstance(number, str) else operator.index(number)


def channels(node: Node) -> int:
    """Number of units of `node`, a channel at all its places counted once."""
    return node.full_shape[node.channel_axis]


def places(node: Node) -> tuple[int, ...]:
    """The grid of places of each channel: (height, width) of a map, (tokens,) of a sequence, () of neurons."""
    shape = list(node.full_shape[1:])
    if shape:
        axis = node.channel_axis
        shape.pop(axis - 1 if axis > 0 else axis)
    return tuple(shape)


def middle(node: Node) -> tuple[int, ...]:
    """The place in the middle of the node's grid, of two the latter."""
    return tuple(size // 2 for size in places(node))


def flat_place(place: Sequence[int], grid: Sequence[int]) -> int:
    """Row-major index of `place` in a grid of places: y * width + x in a map; 0 of a neuron."""
    index = 0
    for position, size in zip(place, grid, strict=True):
        index = index * size + position
    return index


def place_at(index: int, grid: Sequence[int]) -> tuple[int, ...]:
    """The place of a row-major index: the inverse of `flat_place`."""
    place: list[int] = []
    for size in reversed(grid):
        index, position = divmod(index, size)
        place.insert(0, position)
    return tuple(place)


def unit_field(network: Network, unit: Unit, *, cut: bool = True) -> Box:
    """(top, left, bottom, right) of the pixels that the unit at its place can depend on, half open.

    All that its node sees for a unit without a place, and where the fields of the node's places cannot be told apart.
    cut: to the image; else the box may reach over its edges, where padding is.
    """
    field, grid = receptive_field(network, unit.node), places(network.nodes[unit.node])
    if not unit.place or not field.tells_apart(grid):
        return field.reach
    return field.at(*divmod(flat_place(unit.place, grid), field.grid[1]), cut=cut)


def unit_nodes(network: Network) -> dict[str, Node]:
    """The nodes whose values are what the layers say: by name, in order of execution.

    Every elementwise activation, and every weight-bearing layer (with the norm behind it) that none follows directly;
    but not values that mix the batch with other axes, as inside attention, nor single numbers.
    """
    chosen = set(activations(network, mixing=False))
    for layer in network.layers:
        for name in layer.nodes:
            node = network.nodes[name]
            while len(node.users) == 1 and _carries(node, follower := node.users[0]):
                node = follower
            if not any(user.name in chosen for user in node.users):
                chosen.add(node.name)
    return {name: node for name, node in network.nodes.items() if name in chosen and node.per_sample and node.shape}


def _carries(node: Node, follower: Node) -> bool:
    """Whether the units of a layer are those behind `follower`: a norm, or rows that become places of samples again."""
    rows = not node.per_sample and follower.per_sample and follower.operator in _VIEWS
    return follower.operator in _NORMS or (rows and node.full_shape[-1:] == follower.full_shape[-1:])


def hidden_nodes(network: Network) -> dict[str, Node]:
    """The unit nodes behind the first weight-bearing layer and in front of the last one, whose units are the classes.

    Empty where there is a single layer. The last layer may make maps that are averaged into the output later.
    """
    order = {name: i for i, name in enumerate(network.nodes)}
    last = max(network.layers, key=lambda layer: order[layer.nodes[-1]]).name if network.layers else ""
    return {name: node for name, node in unit_nodes(network).items() if node.layer not in (last, "")}


def activation_nodes(network: Network) -> dict[str, Node]:
    """The unit nodes that apply an activation function, so that their units are on or off; all of them without any."""
    functions, nodes = activations(network, mixing=False), unit_nodes(network)
    return {name: node for name, node in nodes.items() if name in functions} or nodes


def last_map(nodes: Mapping[str, Node]) -> str | None:
    """The last of `nodes` whose units have several places, else the last one: where a study looks that is told nothing.

    nodes: by name, in order of execution. None where there is none.
    """
    names = list(nodes)[::-1]
    return next((name for name in names if max(places(nodes[name]), default=1) > 1), names[0] if names else None)
