"""The part of a network in which a shift of the weights acts linearly.

Up to the first nonlinear operation after an edited layer, a value under the weights `w + s * d` is `base + s * delta`:
`base` belongs to the unedited network and `delta` is the same for every strength `s`. One convolution, `conv(d, x)`,
then serves all strengths, and so do the batch norm and the addition of a shortcut that follow it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from netopsy.engine.interpreter import affected_nodes
from netopsy.network.graph import aten
from netopsy.network.network import Network
from netopsy.network.node import Node

_SOURCES = {"conv1d", "conv2d", "conv3d", "linear"}
_PASSING = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.mean.dim,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
}


@dataclass(frozen=True)
class Linear:
    """steps: the nodes of the linear part in order. inputs: names of the unedited values that it reads.

    exits: names of its nodes that are read outside it, or are the network's output.
    """

    network: Network
    steps: tuple[Node, ...]
    inputs: tuple[str, ...]
    exits: tuple[str, ...]

    def deltas(self, inputs: Mapping[str, Tensor], direction: Mapping[str, Tensor], *, batch: int) -> dict[str, Tensor]:
        """Change of each exit per unit of scale. inputs: values by node name; direction: by parameter."""
        tensors = self.network.tensors
        values: dict[Node, Tensor] = {}
        for node in self.steps:
            if node.args[0] not in values and node.operator in _SOURCES:
                values[node] = _source(node, inputs[_name(node.args[0])], direction, tensors)
            elif node.operator == "batch_norm":
                values[node] = _scale_by_norm(values[node.args[0]], node, tensors)
            elif node.target is aten.add.Tensor:
                values[node] = next(values[x] for x in node.inputs if x in values)
            else:
                args, kwargs = node.filled({x: values.get(x, batch) for x in node.inputs})
                target: Any = aten.reshape.default if node.operator in ("view", "unsafe_view") else node.target
                values[node] = target(*args, **kwargs)
        return {_name(node): values[node] for node in self.steps if _name(node) in self.exits}


def linear_part(network: Network, tensors: Collection[str]) -> Linear | None:
    """The linear part behind the parameters `tensors`, or None where they act in another way than as weight or bias."""
    changed = affected_nodes(network, tensors)
    steps: list[Node] = []
    for node in network.program.nodes:
        if node not in changed or node.op != "call_function":
            continue
        edited = [x for x in node.inputs if x.op == "get_attr" and x in changed]
        if edited:
            weights = list(node.args[1:3]) if node.operator in _SOURCES else []
            fits = weights and all(x in weights for x in edited)
            plain = all(x is None or x.op == "get_attr" for x in weights) and not node.kwargs
            if not fits or not plain or node.args[0] in changed or not node.args[0].from_input:
                return None
            steps.append(node)
        elif _passes(node, set(steps), changed):
            steps.append(node)
    inside = set(steps)
    exits = [n for n in steps if any(user not in inside for user in n.users)]
    inputs = dict.fromkeys(_name(n.args[0]) for n in steps if n.args[0] not in inside and n.operator in _SOURCES)
    return Linear(network, tuple(steps), tuple(inputs), tuple(_name(n) for n in exits)) if steps else None


def _passes(node: Node, inside: set[Node], changed: set[Node]) -> bool:
    """Whether the node is linear in the one changed value that it reads, and that value is in the linear part."""
    moved = [x for x in node.inputs if x in changed]
    if len(moved) != 1 or moved[0] not in inside:
        return False
    if node.target is aten.add.Tensor:
        same = node.same_shape(moved[0])
        operands = [x for x in node.args[:2] if isinstance(x, Node)]
        return same and len(set(operands)) == len(operands) and "alpha" not in node.kwargs
    if node.operator == "batch_norm":
        return not node.args[5] and node.args[0] is moved[0]
    return (
        node.target in _PASSING
        and node.args[0] is moved[0]
        and all(x is moved[0] or x.is_batch_size for x in node.inputs)
    )


def _source(node: Node, x: Tensor, direction: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    """The edited layer itself: its operator with the direction in place of weight and bias."""
    weight, bias = str(node.args[1].target), node.args[2] if len(node.args) > 2 else None
    if weight not in direction:
        direction = {weight: torch.zeros_like(tensors[weight]), **direction}
    shift = direction.get(str(bias.target)) if isinstance(bias, Node) else None
    return node.target(x, direction[weight], shift, *node.args[3:])


def _scale_by_norm(delta: Tensor, node: Node, tensors: Mapping[str, Tensor]) -> Tensor:
    """A batch norm without its offset: gamma / sqrt(variance + eps) times the change."""
    gamma, variance = (None if p is None else tensors[str(p.target)] for p in (node.args[1], node.args[4]))
    assert variance is not None
    factor = (variance + float(node.args[7])).rsqrt()
    factor = factor if gamma is None else factor * gamma
    return delta * factor.reshape(1, -1, *[1] * (delta.ndim - 2))


def _name(node: Any) -> str:
    return node.name
