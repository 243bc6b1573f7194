"""Units: one value of a node, as (node, channel, y, x), (node, channel) for its strongest place, or (node, neuron)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.activations import activations
from netopsy.network.graph import batch_first, operator_name, shape_of
from netopsy.network.network import Network

_LAST_AXIS = {"linear", "addmm", "matmul", "mm", "layer_norm", "native_layer_norm"}
_AXIS_ONE = {"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose2d", "batch_norm", "group_norm"}
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
    found = network.node(node)
    name, axis, shape = found.meta["name"], channel_axis(found), list(shape_of(found)[1:])
    if not shape or not batch_first(found):
        raise UnknownLayer(
            f"node '{name}' of {network.name} has no units of one image each (shape {shape_of(found)} for one image); "
            "choose the node before or behind it."
        )
    channels = shape.pop(axis - 1 if axis > 0 else axis)
    if not 0 <= channel < channels:
        raise UnknownLayer(f"no unit {channel} in node '{name}' of {network.name}; give 0 to {channels - 1}.")
    if place is None and not shape:
        place = ()
    if place is not None and not _inside(place, shape):
        given, size = ", ".join(map(str, place)), " x ".join(map(str, shape))
        places = f"its places are {size}" if shape else "a neuron is (node, neuron)"
        raise UnknownLayer(f"no place {given} in node '{name}' of {network.name}; {places}.")
    return Unit(name, channel, place)


def _inside(place: tuple[int, ...], shape: Sequence[int]) -> bool:
    return len(place) == len(shape) and all(0 <= p < n for p, n in zip(place, shape, strict=True))


def _parts(unit: UnitLike) -> tuple[str, int, tuple[int, ...] | None]:
    if isinstance(unit, Unit):
        return unit.node, unit.channel, unit.place
    pieces: Sequence[str | int] = unit.split(":") if isinstance(unit, str) else unit
    try:
        node, channel, *place = pieces
        numbers = tuple(int(p) for p in place)
        return str(node), int(channel), numbers or None
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"unit {unit!r} is none: give node:channel, node:channel:y:x or node:neuron, for instance 'features.3:7'."
        ) from error


def channel_axis(node: fx.Node) -> int:
    """Where the units of `node` are: last behind a linear map or a layer norm, 1 behind a convolution."""
    current = node
    while current.op == "call_function":
        kind = operator_name(current)
        if kind in _LAST_AXIS:
            return -1
        if kind in _AXIS_ONE or not current.all_input_nodes:
            return 1
        current = current.all_input_nodes[0]
    return 1


def channels(node: fx.Node) -> int:
    """Number of units of `node`, a channel at all its places counted once."""
    return shape_of(node)[channel_axis(node)]


def unit_nodes(network: Network) -> dict[str, fx.Node]:
    """The nodes whose values are what the layers say: by name, in order of execution.

    Every elementwise activation, and every weight-bearing layer (with the norm behind it) that none follows directly;
    but not values that mix the batch with other axes, as inside attention.
    """
    chosen = set(activations(network, mixing=False))
    for layer in network.layers:
        for name in layer.nodes:
            node = network.nodes[name]
            while len(node.users) == 1 and operator_name(follower := next(iter(node.users))) in _NORMS:
                node = follower
            if not any(user.meta.get("name") in chosen for user in node.users):
                chosen.add(node.meta["name"])
    return {name: node for name, node in network.nodes.items() if name in chosen and batch_first(node)}


def weight_layer(network: Network, node: fx.Node) -> str:
    """Name of the last weight-bearing layer in front of `node`; empty where there is none."""
    owners = {call: layer.name for layer in network.layers for call in layer.nodes}
    order = {name: position for position, name in enumerate(network.nodes)}
    found: set[str] = set()
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        name = current.meta["name"]
        if name in owners:
            found.add(name)
        elif current not in seen:
            seen.add(current)
            stack.extend(current.all_input_nodes)
    return owners[max(found, key=order.__getitem__)] if found else ""
