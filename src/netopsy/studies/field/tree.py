"""The activation tree of a unit on one image (Palmieri et al., Figure 3): who is in its field, active, and helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from netopsy.engine.backproject.backproject import check_inputs, resolve_place, start_at
from netopsy.engine.backproject.reverse import needed_nodes, reverse
from netopsy.engine.backproject.rules import reach
from netopsy.engine.backproject.tree import Trunk
from netopsy.engine.interpreter import plan
from netopsy.errors import NetworkError
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import Unit, UnitLike, activation_nodes, last_map, place_at, unit_field
from netopsy.network.windows.field import Box


@dataclass(frozen=True)
class Contribution:
    """One activation node in the tree of a unit, on the places that the unit depends on (Palmieri et al., Figure 3).

    box: (top, left, bottom, right) of these places, half open; None for a node without places.
    in_tree: connected to the unit by weights that are not zero, whatever the image.
    active: above zero on the image. contributing: active and, by a path of active units and through the switches of
    max-pooling, connected to the unit. Each (channel, height, width) on the box, or of the node's own shape.
    """

    node: str
    box: tuple[int, int, int, int] | None
    in_tree: Bool[Tensor, "*shape"]
    active: Bool[Tensor, "*shape"]
    contributing: Bool[Tensor, "*shape"]


def contributing(
    network: Network, image: Float[Tensor, "channel height width"] | Mapping[str, Tensor], unit: UnitLike
) -> tuple[Unit, list[Contribution]]:
    """The unit with its place, and the activations in its tree in order of execution, its own node (if one) last.

    image: preprocessed; (1, channel, height, width) will do, or the network's inputs by name.
    unit: as `backproject` takes it.
    An activation with a derivative but no mask (GELU, SiLU, ...) lets a path through where the derivative is not zero.
    """
    inputs = {name: values[:1] for name, values in check_inputs(network, image).items()}
    with torch.no_grad():
        unit_at_place = resolve_place(network, inputs, unit)
        trunk = Trunk(network, unit_at_place.node)
        tree = trunk.tree(unit_at_place.place)
        names = {node for node in activations(network, mixing=False).values() if node in trunk.windows}
        values = tree.forward(tree.cut(inputs), needed_nodes(tree, reach()) | names)
        start, _ = start_at([tree], [unit_at_place], values[trunk.target], "one")
        flows = {}
        for masks in (True, False):
            rule = reach(masks)
            flow: dict[Node, Tensor] = {}
            reverse(
                tree, values, trunk.constants(1, trunk.weights(rule.weights(network))), start, rule, flow.__setitem__
            )
            flows[masks] = flow
    rows = []
    for node in trunk.data:
        if node in names and node in flows[False]:
            on = values[node][0] > 0
            reached = flows[True][node][0] != 0 if node in flows[True] else torch.zeros_like(on)
            rows.append(Contribution(node.name, tree.box(node), flows[False][node][0] != 0, on, on & reached))
    return unit_at_place, rows


_SCHEMA: dict[str, Any] = {
    "node": pl.String,
    "top": pl.Int64,
    "left": pl.Int64,
    "bottom": pl.Int64,
    "right": pl.Int64,
    "units": pl.Int64,
    "in_tree": pl.Int64,
    "active": pl.Int64,
    "contributing": pl.Int64,
    "active_share": pl.Float64,
    "contributing_share": pl.Float64,
    "of_active": pl.Float64,
}


@dataclass(frozen=True)
class TreeLevel:
    """One activation in the tree, over all its places: int64 (height, width), numbers of its `channels` at each place.

    A node without places is (1, 1). cells: for such a node bool (3, neuron), in the tree, active and contributing.
    units: of the node. box: the places that the unit depends on, half open.
    """

    node: str
    units: int
    channels: int
    box: Box | None
    in_tree: Tensor
    active: Tensor
    contributing: Tensor
    cells: Tensor | None


@dataclass(frozen=True)
class ActivationTree:
    """The unit with its place, its value, its field (top, left, bottom, right) in the image, and its tree's levels."""

    unit: Unit | None
    value: float
    field: Box
    rows: list[TreeLevel]


def grow_tree(network: Network, image: Tensor | Mapping[str, Tensor], unit: Unit | None) -> ActivationTree:
    """The tree of `unit`, or of the strongest unit of the last activation that has places.

    image: (1, channel, height, width), preprocessed, or the network's inputs by name.
    """
    chosen = strongest_unit(network, image) if unit is None else unit
    if chosen is None:
        return ActivationTree(None, 0.0, (0, 0, 0, 0), [])
    try:
        unit_at_place, rows = contributing(network, image, chosen)
    except NetworkError:
        if unit is not None:
            raise
        return ActivationTree(chosen, 0.0, (0, 0, 0, 0), [])
    value = _values(network, image, unit_at_place.node)
    at = (unit_at_place.channel, *(unit_at_place.place or ()))
    return ActivationTree(
        unit_at_place, float(value[at]), unit_field(network, unit_at_place), [_level(network, row) for row in rows]
    )


def strongest_unit(network: Network, image: Tensor | Mapping[str, Tensor]) -> Unit | None:
    """The strongest unit on the image of the last activation that has places (else the last one, or the last layer)."""
    name = last_map(activation_nodes(network))
    if name is None:
        return None
    value = _values(network, image, name).nan_to_num(-torch.inf)
    channel, *place = place_at(int(value.argmax()), value.shape)
    return Unit(name, channel, tuple(place))


def _values(network: Network, image: Tensor | Mapping[str, Tensor], name: str) -> Tensor:
    """(channel, *place) of one image."""
    with torch.no_grad():
        value = plan(network, [name]).run(check_inputs(network, image), batch=1)[name]
    return value.movedim(network.nodes[name].channel_axis, 1)[0]


def tree_table(grown: ActivationTree) -> pl.DataFrame:
    """One row an activation: its units, and how many of them are in the tree, active there, and contribute."""
    rows = []
    for level in grown.rows:
        tree, active, helpers = (int(m.sum()) for m in (level.in_tree, level.active, level.contributing))
        shares = (active / max(1, tree), helpers / max(1, tree), helpers / active if active else None)
        rows.append([level.node, *(level.box or (None,) * 4), level.units, tree, active, helpers, *shares])
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _level(network: Network, row: Contribution) -> TreeLevel:
    """Counts over the channels at each place of the whole node. Active counts units in the tree only."""
    node = network.nodes[row.node]
    masks = torch.stack([row.in_tree, row.in_tree & row.active, row.in_tree & row.contributing]).cpu()
    shape = node.full_shape[1:]
    axis = node.channel_axis
    masks = masks.movedim(axis if axis > 0 else -1, 1)  # (3, channel, *place)
    count = masks.shape[1]
    cells = masks.reshape(3, count) if torch.Size(shape).numel() == count else None
    flat = masks.reshape(3, count, *(masks.shape[2:] if masks.ndim == 4 else (1, -1))).sum(1)
    box = row.box if len(shape) == 3 and axis == 1 else None
    if box is not None:
        top, left, bottom, right = box
        full = torch.zeros(3, *shape[1:], dtype=flat.dtype)
        full[:, top:bottom, left:right] = flat
        flat = full
    return TreeLevel(row.node, torch.Size(shape).numel(), count, box, flat[0], flat[1], flat[2], cells)
