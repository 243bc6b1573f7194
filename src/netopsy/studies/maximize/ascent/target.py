"""What is climbed for a unit: at which node, at which place, in which part of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from netopsy.engine.backproject.tree import Tree, Trunk
from netopsy.errors import SettingsError
from netopsy.network.activations import operand
from netopsy.network.network import Network
from netopsy.network.units import Unit, UnitLike, channel_axis, find_unit, flat_place, middle, places, unit_field
from netopsy.network.windows.field import Box

Objective = Literal["unit", "channel"]


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
        return rows[:, 0 if cut else flat_place(self.unit.place, places(self.tree.trunk.target))]


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
    trunk = trunks.setdefault(taken, Trunk(network, taken))
    if objective == "channel" and places(node):
        if unit.place is not None:
            raise SettingsError(
                f"unit '{unit}' names a place, and the objective 'channel' is the mean over all places: "
                f"give '{unit.node}:{unit.channel}', or the objective 'unit'."
            )
        return Target(unit, taken, axis, trunk.tree(), unit_field(network, unit), False)
    placed = Unit(unit.node, unit.channel, middle(node) if unit.place is None else unit.place)
    return Target(placed, taken, axis, trunk.tree(placed.place), unit_field(network, placed), unit.place is None)
