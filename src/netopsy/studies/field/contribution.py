"""The activation tree of a unit: who lies in its field of view, who of them is active, and who helps to activate it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, fx

from netopsy.engine.backproject.backproject import checked_images, resolved, start_at
from netopsy.engine.backproject.reverse import needed, reverse
from netopsy.engine.backproject.rules import Reach
from netopsy.engine.backproject.tree import Trunk
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.units import Unit, UnitLike


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
    network: Network, image: Float[Tensor, "channel height width"], unit: UnitLike
) -> tuple[Unit, list[Contribution]]:
    """The unit with its place, and the activations in its tree in order of execution, its own node (if one) last.

    image: preprocessed; (1, channel, height, width) will do. unit: as `backproject` takes it.
    An activation with a derivative but no mask (GELU, SiLU, ...) lets a path through where the derivative is not zero.
    """
    picture = checked_images(network, image)[:1]
    with torch.no_grad():
        found = resolved(network, picture, unit)
        trunk = Trunk(network, found.node)
        tree = trunk.tree(found.place)
        top, left, bottom, right = tree.field
        names = {node for node in activations(network, mixing=False).values() if node in trunk.windows}
        values = tree.forward(picture[..., top:bottom, left:right], needed(tree, Reach()) | names)
        start, _ = start_at([tree], [found], values[trunk.target], "one")
        flows = {}
        for masks in (True, False):
            rule = Reach(masks)
            seen: dict[fx.Node, Tensor] = {}
            reverse(
                tree, values, trunk.constants(1, trunk.weights(rule.weights(network))), start, rule, seen.__setitem__
            )
            flows[masks] = seen
    rows = []
    for node in trunk.data:
        if node in names and node in flows[False]:
            on = values[node][0] > 0
            reached = flows[True][node][0] != 0 if node in flows[True] else torch.zeros_like(on)
            rows.append(Contribution(node.meta["name"], tree.box(node), flows[False][node][0] != 0, on, on & reached))
    return found, rows
