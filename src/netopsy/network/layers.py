"""The weight-bearing layers of a graph, and the filters of a convolution, whichever way its weight is laid out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from netopsy.network.macs import CONVOLUTIONS, PRODUCTS, node_macs
from netopsy.network.node import Node

_KINDS = {
    **CONVOLUTIONS,
    **dict.fromkeys(("linear", "addmm", "baddbmm", "matmul", "mm", "bmm", "einsum"), "linear"),
}
_SUMS = ("addmm", "baddbmm")  # with a summand in the first place


@dataclass(frozen=True)
class Layer:
    """A convolution or linear map with a learned weight.

    name: the weight's path without its ending `.weight`.
    kind: `conv`, `conv_transpose` or `linear`.
    nodes: the graph nodes that apply it, in order of execution (several where a module is called several times).
    weight, bias: names of the parameters; bias is None where there is none.
    weight_shape: convolution (filters, depth per group, *kernel); linear (outputs, inputs).
    output_shape: of the first call for one sample, without the batch's axis where it has one.
    parameters: elements of weight and bias.
    macs: multiply-accumulates for one input, over all calls (bias not counted).
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    weight: str
    bias: str | None
    weight_shape: tuple[int, ...]
    groups: int
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


def find_layers(nodes: Iterable[Node], tensors: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """The layers of a program in order of execution; one entry for each weight, however often it is applied."""
    calls: dict[str, list[Node]] = {}
    for node in nodes:
        if node.weight is not None:
            calls.setdefault(node.weight, []).append(node)
    return tuple(_layer(weight, nodes, tensors) for weight, nodes in calls.items())


def layer_name(weight: str) -> str:
    """`layer1.0.conv1.weight` -> `layer1.0.conv1`; `attn.in_proj_weight` -> `attn.in_proj`."""
    for ending in (".weight", "_weight"):
        if weight.endswith(ending):
            return weight.removesuffix(ending)
    return weight


def learned_weight(node: Node, tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the learned weight that `node` applies to a value that depends on the input; None where there is none."""
    if node.op != "call_function" or node.operator not in _KINDS or not node.from_input or not node.is_tensor:
        return None
    operand, named = weight_argument(node), node.argument("weight") is not None
    return _parameter(operand, tensors) or (_parameter(operand, tensors, True) if named else None)


def _layer(weight: str, nodes: list[Node], tensors: Mapping[str, Tensor]) -> Layer:
    first, shape = nodes[0], tuple(tensors[weight].shape)
    bias = _parameter(first.argument("self" if first.operator in _SUMS else "bias"), tensors)
    groups = first.argument("groups")
    return Layer(
        name=layer_name(weight),
        kind="conv_transpose" if first.argument("transposed") else _KINDS[first.operator],
        nodes=tuple(node.name for node in nodes),
        weight=weight,
        bias=bias if bias != weight else None,
        weight_shape=shape,
        groups=1 if groups is None else int(groups),
        output_shape=first.shape,
        parameters=math.prod(shape) + (tensors[bias].numel() if bias and bias != weight else 0),
        macs=sum(node_macs(node) for node in nodes),
    )


def weight_argument(node: Node) -> Node | None:
    """The operand that is learned: `weight` where the operator names it, else the largest one free of the input."""
    named = node.argument("weight")
    if isinstance(named, Node):
        return named
    summand = node.argument("self") if node.operator in _SUMS else None
    fixed = [x for x in node.inputs if not x.from_input and x is not summand and x.is_tensor]
    return max(fixed, key=lambda x: math.prod(x.full_shape), default=None)


def _parameter(node: Any, tensors: Mapping[str, Tensor], products: bool = False) -> str | None:
    """The largest parameter that `node` is computed from, through reshapes, scalings or standardisation.

    A value that depends on the input (a weight that is predicted) is no parameter, nor is a product of several
    parameters, unless `products`.
    """
    seen, stack, found = set(), [node] if isinstance(node, Node) and not node.from_input else [], []
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op == "get_attr" and isinstance(tensors.get(current.target), nn.Parameter):
            found.append(current.target)
        if products or current.operator not in PRODUCTS:
            stack.extend(current.inputs)
    return max(found, key=lambda name: tensors[name].numel(), default=None)


CONVOLUTION_KINDS = ("conv", "conv_transpose")


def filter_shape(layer: Layer) -> tuple[int, ...]:
    """(filters, depth per group, *kernel): one filter an output channel."""
    first, second, *kernel = layer.weight_shape
    if layer.kind == "conv_transpose":
        return (second * layer.groups, first // layer.groups, *kernel)
    return (first, second, *kernel)


def filters_of(layer: Layer, weight: Tensor) -> Tensor:
    """`weight` of a convolution as (filters, depth per group, *kernel); a view where the layout allows."""
    if layer.kind != "conv_transpose":
        return weight
    groups, (inputs, outputs, *kernel) = layer.groups, weight.shape
    parted = weight.reshape(groups, inputs // groups, outputs, *kernel)
    return parted.transpose(1, 2).reshape(groups * outputs, inputs // groups, *kernel)


def weight_of(layer: Layer, filters: Tensor) -> Tensor:
    """The weight whose filters, (filters, depth per group, *kernel), are `filters`; undoes `filters_of`."""
    if layer.kind != "conv_transpose":
        return filters
    groups, (outputs, depth, *kernel) = layer.groups, filters.shape
    parted = filters.reshape(groups, outputs // groups, depth, *kernel)
    return parted.transpose(1, 2).reshape(groups * depth, outputs // groups, *kernel)
