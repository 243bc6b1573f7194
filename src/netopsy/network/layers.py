"""The weight-bearing layers of a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from netopsy.network.graph import data_nodes, is_tensor, operator_name, shape_of
from netopsy.network.macs import CONVOLUTIONS, PRODUCTS, argument, node_macs

_KINDS = {
    **CONVOLUTIONS,
    **dict.fromkeys(("linear", "addmm", "baddbmm", "matmul", "mm", "bmm", "einsum"), "linear"),
}


@dataclass(frozen=True)
class Layer:
    """A convolution or linear map with a learned weight.

    name: the weight's path without its ending `.weight`.
    kind: `conv`, `conv_transpose` or `linear`.
    nodes: the graph nodes that apply it, in order of execution (several where a module is called several times).
    weight, bias: names of the parameters; bias is None where there is none.
    weight_shape: convolution (filters, depth per group, *kernel); linear (outputs, inputs).
    output_shape: of the first call, without the batch.
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


def find_layers(graph: fx.GraphModule, tensors: dict[str, torch.Tensor]) -> tuple[Layer, ...]:
    """The layers of `graph` in order of execution; one entry for each weight, however often it is applied."""
    data = data_nodes(graph)
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or operator_name(node) not in _KINDS or node not in data or not is_tensor(node):
            continue
        operand = _weight_argument(node, data)
        named = argument(node, "weight") is not None
        weight = _parameter(operand, data, tensors) or (_parameter(operand, data, tensors, True) if named else None)
        if weight is not None:
            calls.setdefault(weight, []).append(node)
    return tuple(_layer(weight, nodes, data, tensors) for weight, nodes in calls.items())


def _layer(weight: str, nodes: list[fx.Node], data: set[fx.Node], tensors: dict[str, torch.Tensor]) -> Layer:
    first, shape = nodes[0], tuple(tensors[weight].shape)
    kind = _KINDS[operator_name(first)]
    bias_node = argument(first, "self" if operator_name(first) in ("addmm", "baddbmm") else "bias")
    bias = _parameter(bias_node, data, tensors)
    groups = argument(first, "groups")
    return Layer(
        name=_strip(weight),
        kind="conv_transpose" if argument(first, "transposed") else kind,
        nodes=tuple(node.meta["name"] for node in nodes),
        weight=weight,
        bias=bias if bias != weight else None,
        weight_shape=shape,
        groups=1 if groups is None else int(groups),
        output_shape=shape_of(first)[1:],
        parameters=math.prod(shape) + (tensors[bias].numel() if bias and bias != weight else 0),
        macs=sum(node_macs(node) for node in nodes),
    )


def _weight_argument(node: fx.Node, data: set[fx.Node]) -> fx.Node | None:
    """The operand that is learned: `weight` where the operator names it, else the largest one free of the input."""
    named = argument(node, "weight")
    if isinstance(named, fx.Node):
        return named
    summand = argument(node, "self") if operator_name(node) in ("addmm", "baddbmm") else None
    fixed = [x for x in node.all_input_nodes if x not in data and x is not summand and is_tensor(x)]
    return max(fixed, key=lambda x: math.prod(shape_of(x)), default=None)


def _parameter(node: Any, data: set[fx.Node], tensors: dict[str, torch.Tensor], products: bool = False) -> str | None:
    """The largest parameter that `node` is computed from, through reshapes, scalings or standardisation.

    A value that depends on the input (a weight that is predicted) is no parameter, nor is a product of several
    parameters, unless `products`.
    """
    seen, stack, found = set(), [node] if isinstance(node, fx.Node) and node not in data else [], []
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op == "get_attr" and isinstance(tensors.get(str(current.target)), torch.nn.Parameter):
            found.append(str(current.target))
        if products or operator_name(current) not in PRODUCTS:
            stack.extend(current.all_input_nodes)
    return max(found, key=lambda name: tensors[name].numel(), default=None)


def _strip(weight: str) -> str:
    """`layer1.0.conv1.weight` -> `layer1.0.conv1`; `attn.in_proj_weight` -> `attn.in_proj`."""
    for ending in (".weight", "_weight"):
        if weight.endswith(ending):
            return weight.removesuffix(ending)
    return weight
