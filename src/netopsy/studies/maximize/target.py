"""What is climbed for a unit: its node, its place, its part of the image, moved a little at random at each step.

A picture must please the unit however it is held. Where no units are named: which are maximised, and how strongly the
samples drive them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from netopsy.engine.backproject.tree import Tree, Trunk
from netopsy.engine.observe.counting import Tallies
from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.activations import operand
from netopsy.network.network import Network
from netopsy.network.units import (
    Unit,
    UnitLike,
    channels,
    find_unit,
    flat_place,
    hidden_nodes,
    last_map,
    middle,
    places,
    unit_field,
    unit_nodes,
)
from netopsy.network.windows.field import Box
from netopsy.samples.tasks import token_input
from netopsy.stats.describe import spread_indices
from netopsy.studies.maximize.parametrisation import ColourCovariance
from netopsy.tallies.top_images import DEEP, STIMULI, TopImages, TopImagesResult, telling_units

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


_CHANNELS, _OUTPUTS = 3, 2
_WORDS = 2, 1  # of a network that takes tokens, each of whose units is searched for far longer
_COLOURS, _DEEP = "colours", "deep "
_UNITS, _FEW_UNITS = 8, 2  # selective units of deep layers, and of a network that takes long
_DEAR, _DEAR_TEXT = 3 * 10**9, 2 * 10**8
"""Multiply-accumulates of an image, or of a text, from which on one unit of each node must do."""

Way = Literal["plain", "fourier"]


@dataclass
class SampleStatistics:
    """What one pass over the samples measures.

    strongest: the strongest image of each channel, by the node where values are taken (anywhere in the map), and by
    node and place. deep: the strongest images of the last hidden nodes, to choose units by. covariance: of the input's
    channels. All empty without samples.
    """

    strongest: dict[str, TopImagesResult] = field(default_factory=dict)
    deep: dict[str, TopImagesResult] = field(default_factory=dict)
    covariance: Tensor | None = None

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> SampleStatistics:
        """What the `tallies` counted."""
        deep = {key.removeprefix(_DEEP): value for key, value in results.items() if key.startswith(_DEEP)}
        rest = {key: value for key, value in results.items() if key != _COLOURS and not key.startswith(_DEEP)}
        return cls(rest, deep, results.get(_COLOURS))


def candidate_nodes(network: Network) -> dict[str, int]:
    """Nodes to choose units from, and how many of each: the last hidden map, and the outputs.

    Of a single layer the last map that is not the output itself. One unit of each where the network is large.
    """
    words, dear = token_input(network) is not None, _is_dear(network)
    hidden_units, outputs = (1, 1) if dear else _WORDS if words else (_CHANNELS, _OUTPUTS)
    nodes = hidden_nodes(network) or unit_nodes(network)
    nodes.pop(network.output, None)
    hidden = last_map(nodes)
    chosen = {} if hidden is None else {hidden: hidden_units}
    try:
        find_unit(network, (network.output, 0))
    except UnknownLayer:
        return chosen
    return chosen | {network.output: outputs}


def _is_dear(network: Network) -> bool:
    dear = _DEAR if token_input(network) is None else _DEAR_TEXT
    return sum(layer.macs for layer in network.layers) > dear


_WORK = 6 * 10**10  # multiply-accumulates that all swaps may take by default: under half a minute of one core
_MOST, _LEAST = (24, 60), (4, 8)  # default steps of swapping and of climbing the embedding


def token_steps(network: Network, runs: int, tried: int) -> tuple[int, int]:
    """By default, how many texts may be run for swaps of tokens, and the steps of climbing their embedding, in one of
    `runs` in all: the fewer, the larger the network.

    tried: texts that are run in a step of swapping that helps.
    """
    macs = max(1, runs * sum(layer.macs for layer in network.layers))
    wanted = _WORK / (macs * tried), _WORK / (4 * macs)  # a step of the climb goes forth and back
    swaps, climbs = (min(max(s, least), most) for s, least, most in zip(wanted, _LEAST, _MOST, strict=True))
    return int(swaps * tried), int(climbs)


def tallies(
    network: Network,
    units: list[str],
    nodes: list[str],
    objective: Objective,
    *,
    colours: bool = False,
    choose: bool = False,
) -> Tallies:
    """The strongest values of all channels at `units` and `nodes`, and the covariance of the `colours`.

    choose: what selective units are chosen by, too.
    """
    chosen: dict[str, tuple[str, Tally]] = {}
    for target in find_targets(network, units or [(name, 0) for name in nodes], objective):
        if objective == "unit":
            chosen[target.node] = (target.node, TopImages(1, target.axis))
        place = flat_index(target)
        if place is not None or objective == "channel":
            chosen[_here(target)] = (target.node, TopImages(1, target.axis, place=place, mean=place is None))
    for name, node in list(hidden_nodes(network).items())[-DEEP:] if choose else ():
        if node.per_sample and node.shape and name != network.output:
            chosen[_DEEP + name] = name, TopImages(STIMULI, node.channel_axis)
    if colours:
        chosen[_COLOURS] = ("input", ColourCovariance())
    return chosen


def flat_index(target: Target) -> int | None:
    """Row-major index of the target's place; None where it has none, or is a neuron."""
    if not target.unit.place:
        return None
    return flat_place(target.unit.place, places(target.tree.trunk.target))


def _here(target: Target) -> str:
    return f"{target.node} at {flat_index(target)}"


def choose_units(
    network: Network, counts: dict[str, int], statistics: SampleStatistics, labels: NDArray[np.integer] | None = None
) -> list[str]:
    """Selective units of deep layers where they were looked for, see `telling_units`; and units of each node.

    Of a node those that the samples drive hardest, each by another image as far as there are others; without samples
    evenly spread ones. labels: the class of each sample.
    """
    telling = telling_units(statistics.deep, labels, _UNITS)[: _FEW_UNITS if _is_dear(network) else _UNITS]
    chosen = [f"{name}:{channel}" for name, channel in telling]
    for name, count in counts.items():
        if telling and name != network.output:
            continue
        number = channels(network.nodes[name])
        strongest = statistics.strongest.get(operand(network, network.nodes[name]).name)
        picks = spread_indices(number, count)
        if strongest is not None and len(strongest.values) == number:
            order = strongest.values[:, 0].argsort(descending=True, stable=True).tolist()
            first: dict[int, int] = {}
            for channel in order:
                first.setdefault(int(strongest.images[channel, 0]), channel)
            picks = (list(first.values()) + [channel for channel in order if channel not in first.values()])[:count]
        chosen += [f"{name}:{channel}" for channel in sorted(picks)]
    return chosen


@dataclass(frozen=True)
class Best:
    """What the samples do to one target.

    value: the strongest of its channel anywhere in a map (of the mean, where that is climbed), in `image` at the flat
    `place` (-1 for none). here: the strongest at the target's own place.
    """

    value: float
    image: int
    place: int
    here: float


def strongest_of(target: Target, statistics: SampleStatistics) -> Best | None:
    """The samples' strongest values for the target; None without samples, or where none is a finite number."""
    at_place = statistics.strongest.get(_here(target))
    best = statistics.strongest.get(target.node, at_place)
    if best is None or not len(best.values):
        return None
    channel = target.unit.channel
    value, image = float(best.values[channel, 0]), int(best.images[channel, 0])
    if image < 0 or not math.isfinite(value):
        return None
    return Best(
        value, image, int(best.places[channel, 0]), value if at_place is None else float(at_place.values[channel, 0])
    )
