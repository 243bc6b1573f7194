"""What is climbed for a unit: at which node, at which place, in which part of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor, fx

from netopsy.engine.backward.tree import Tree, Trunk
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
    axis: of the channels. tree: the part of the network that the value depends on.
    box: (top, left, bottom, right) of the pixels that the value can depend on, half open: the unit's receptive field.
    centred: whether the place is the centre because none was given.
    """

    unit: Unit
    node: str
    axis: int
    tree: Tree = field(repr=False)
    box: Box
    centred: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the field in pixels."""
        top, left, bottom, right = self.box
        return bottom - top, right - left

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """What the tree takes of the image beyond the field: left, right, top, bottom."""
        top, left, bottom, right = self.tree.field
        return self.box[1] - left, right - self.box[3], self.box[0] - top, bottom - self.box[2]

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for targets that can be one batch."""
        return self.node, self.size, self.margins, self.tree.signature

    def value(self, values: Float[Tensor, "n *unit"]) -> Float[Tensor, " n"]:
        """The unit's value in each row of its node's values in the tree; the mean over all places without a place."""
        rows = values.select(self.axis, self.unit.channel).reshape(len(values), -1)
        if self.unit.place is None:
            return rows.mean(1)
        cut = rows.shape[1] == 1
        return rows[:, 0 if cut else flat_place(self.unit.place, places(self.tree.trunk.target, self.axis))]


def find_targets(network: Network, units: Sequence[UnitLike], objective: Objective = "unit") -> list[Target]:
    """The target of each unit; without a place the centre of its map.

    Raises UnknownLayer for a unit that is not there, SettingsError for a pixel, and for a place where the objective is
    the mean over all places.
    """
    trunks: dict[str, Trunk] = {}
    return [_target(network, find_unit(network, unit), objective, trunks) for unit in units]


def _target(network: Network, unit: Unit, objective: Objective, trunks: dict[str, Trunk]) -> Target:
    node = network.nodes[unit.node]
    if node.op == "placeholder":
        raise SettingsError(f"unit '{unit}' is a pixel of the input; choose one of another node.")
    taken, axis = operand(network, node).meta["name"], channel_axis(node)
    grid = places(node, axis)
    trunk = trunks.setdefault(taken, Trunk(network, taken))
    if objective == "channel" and grid:
        if unit.place is not None:
            raise SettingsError(
                f"unit '{unit}' names a place, and the objective 'channel' is the mean over all places: "
                f"give '{unit.node}:{unit.channel}', or the objective 'unit'."
            )
        return Target(unit, taken, axis, trunk.tree(), receptive_field(network, unit.node).reach, False)
    place = tuple(n // 2 for n in grid) if unit.place is None else unit.place
    placed = Unit(unit.node, unit.channel, place)
    return Target(placed, taken, axis, trunk.tree(place), field_box(network, placed, grid), unit.place is None)


def field_box(network: Network, unit: Unit, grid: list[int]) -> Box:
    """The pixels that the unit at its place can depend on; all that its node sees where places are no grid."""
    seen = receptive_field(network, unit.node)
    if not unit.place or math.prod(seen.grid) != math.prod(grid):
        return seen.reach
    return seen.at(*divmod(flat_place(unit.place, grid), seen.grid[1]))


def operand(network: Network, node: fx.Node) -> fx.Node:
    """The node in front of the activation function that `node` applies; `node` itself where it applies none."""
    while operator_name(node).rstrip("_") in _THROUGH:
        before = node.args[0] if node.args else None
        if (
            not isinstance(before, fx.Node)
            or before.meta.get("name") not in network.nodes
            or before.op == "placeholder"
        ):
            break
        if shape_of(before) != shape_of(node):
            break
        node = before
    return node


def places(node: fx.Node, axis: int) -> list[int]:
    """The sizes of the grid of places of a node whose channels are at `axis`."""
    shape = list(shape_of(node)[1:])
    shape.pop(axis - 1 if axis > 0 else axis)
    return shape


def flat_place(place: tuple[int, ...], grid: list[int]) -> int:
    """Row-major index of `place` in a grid of places."""
    index = 0
    for p, n in zip(place, grid, strict=True):
        index = index * n + p
    return index
