"""What is climbed for a unit: at which node, at which place, in which part of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, fx

from netopsy.errors import SettingsError
from netopsy.network.activations import ELEMENTWISE
from netopsy.network.field import receptive_field
from netopsy.network.graph import operator_name, shape_of
from netopsy.network.network import Network
from netopsy.network.units import Unit, UnitLike, channel_axis, find_unit

Objective = Literal["unit", "channel"]
Box = tuple[int, int, int, int]

_THROUGH = ELEMENTWISE | {"softmax", "log_softmax"}


@dataclass(frozen=True)
class Target:
    """The value that is climbed for one unit.

    unit: with its place; no place where the mean over the channel is climbed.
    node: where the value is taken: the operand of the unit's activation function, else the unit's own node. A rectifier
        that is off passes no gradient, its operand always does; a softmax's operand is the class score (Simonyan et
        al. 2014, Section 2).
    axis: of the channels. box: (top, left, bottom, right) of the pixels that the value can depend on, half open.
    centred: whether the place is the centre because none was given.
    """

    unit: Unit
    node: str
    axis: int
    box: Box
    centred: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the field in pixels."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def value(self, values: Float[Tensor, "n *unit"]) -> Float[Tensor, " n"]:
        """The unit's value in each row of its node's values; the mean over all places without a place."""
        rows = values.select(self.axis, self.unit.channel).reshape(len(values), -1)
        if self.unit.place is None:
            return rows.mean(1)
        shape = list(values.shape[1:])
        shape.pop(self.axis - 1 if self.axis > 0 else self.axis)
        return rows[:, flat_place(self.unit.place, shape)]


def flat_place(place: tuple[int, ...], shape: list[int]) -> int:
    """Row-major index of `place` in a grid of `shape`."""
    index = 0
    for p, n in zip(place, shape, strict=True):
        index = index * n + p
    return index


def find_target(network: Network, unit: UnitLike, objective: Objective = "unit") -> Target:
    """The target of `unit`; without a place the centre of its map. Raises UnknownLayer for a unit that is not there."""
    found = find_unit(network, unit)
    node = network.nodes[found.node]
    axis, grid = channel_axis(node), list(shape_of(node)[1:])
    if node.op == "placeholder":
        raise SettingsError(f"unit '{found}' is a pixel of the input; choose one of another node.")
    grid.pop(axis - 1 if axis > 0 else axis)
    if objective == "channel" and grid:
        if found.place is not None:
            raise SettingsError(
                f"unit '{found}' names a place, and the objective 'channel' is the mean over all places: "
                f"give '{found.node}:{found.channel}', or the objective 'unit'."
            )
        box = whole(network, found.node)
        return Target(found, operand(network, node).meta["name"], axis, box, False)
    centred = found.place is None
    place = tuple(n // 2 for n in grid) if found.place is None else found.place
    placed = Unit(found.node, found.channel, place)
    return Target(placed, operand(network, node).meta["name"], axis, field_of(network, placed, grid), centred)


def operand(network: Network, node: fx.Node) -> fx.Node:
    """The node in front of the activation function that `node` applies; `node` itself where it applies none."""
    while operator_name(node).rstrip("_") in _THROUGH:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.meta.get("name") not in network.nodes or before.op == "placeholder":
            break
        if shape_of(before) != shape_of(node):
            break
        node = before
    return node


def field_of(network: Network, unit: Unit, grid: list[int]) -> Box:
    """The pixels that the unit at its place can depend on; all that its node sees where places are no grid."""
    field = receptive_field(network, unit.node)
    if math.prod(field.grid) != math.prod(grid) or not unit.place:
        return whole(network, unit.node)
    return field.at(*divmod(flat_place(unit.place, grid), field.grid[1]))


def whole(network: Network, node: str) -> Box:
    """All pixels that the units of `node` can depend on."""
    return receptive_field(network, node).reach
