"""What is climbed for a unit: its node, its place, its part of the image, moved a little at random at each step.

A picture must please the unit however it is held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from netopsy.engine.backproject.tree import Tree, Trunk
from netopsy.errors import SettingsError
from netopsy.network.activations import operand
from netopsy.network.network import Network
from netopsy.network.units import Unit, UnitLike, find_unit, flat_place, middle, places, unit_field
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
    value_node, axis = operand(network, node).name, node.channel_axis
    trunk = trunks.setdefault(value_node, Trunk(network, value_node))
    if objective == "channel" and places(node):
        if unit.place is not None:
            raise SettingsError(
                f"unit '{unit}' names a place, and the objective 'channel' is the mean over all places: "
                f"give '{unit.node}:{unit.channel}', or the objective 'unit'."
            )
        return Target(unit, value_node, axis, trunk.tree(), unit_field(network, unit), False)
    placed = Unit(unit.node, unit.channel, middle(node) if unit.place is None else unit.place)
    return Target(placed, value_node, axis, trunk.tree(placed.place), unit_field(network, placed), unit.place is None)


JITTER = 0.05  # share of the side
SCALE = 0.1
ANGLE = math.radians(10)


def draw_moves(steps: int, strength: float, generator: torch.Generator) -> Float[Tensor, "steps 4"]:
    """Uniform random moves: down and right (shares of the sides), log scale, angle (radians).

    strength: 1 gives up to 5 % of jitter, 10 % of scale and 10 degrees either way; 0 none.
    Source: "Transformation Robustness" in Olah, Mordvintsev, Schubert, "Feature Visualization", 2017.
    """
    reach = strength * torch.tensor([JITTER, JITTER, math.log1p(SCALE), ANGLE])
    return (2 * torch.rand(steps, 4, generator=generator) - 1) * reach


def move(
    images: Float[Tensor, "n channel height width"], motions: Float[Tensor, "n 4"]
) -> Float[Tensor, "n channel height width"]:
    """Each image shifted, scaled and turned about its centre by its own motion, bilinear; mirrored at the edges.

    A motion (0.1, 0, 0, 0) moves the content down by a tenth of the height; a log scale above 0 enlarges it; an angle
    above 0 turns it anticlockwise.
    """
    height, width = images.shape[2:]
    down, right, log_scale, angle = motions.unbind(1)
    shrink = torch.exp(-log_scale)
    cos, sin = angle.cos() * shrink, angle.sin() * shrink
    # where each pixel of the result comes from: x' = R(x - shift) / scale, in units of half a side
    ratio = height / width
    row_x = torch.stack([cos, -sin * ratio], 1)
    row_y = torch.stack([sin / ratio, cos], 1)
    shift = torch.stack([2 * right, 2 * down], 1)
    linear = torch.stack([row_x, row_y], 1)
    theta = torch.cat([linear, -(linear @ shift[:, :, None])], 2)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
