"""The weight-bearing layers of a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from netopsy.network.graph import data_nodes, is_tensor, operator_name, shape_of

_KINDS = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "convolution": "conv",
    "conv_transpose1d": "conv_transpose",
    "conv_transpose2d": "conv_transpose",
    "conv_transpose3d": "conv_transpose",
    "linear": "linear",
    "addmm": "linear",
    "matmul": "linear",
    "mm": "linear",
    "bmm": "linear",
    "einsum": "linear",
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
        weight = _parameter(_weight_argument(node, data), tensors)
        if weight is not None:
            calls.setdefault(weight, []).append(node)
    return tuple(_layer(weight, nodes, data, tensors) for weight, nodes in calls.items())


def _layer(weight: str, nodes: list[fx.Node], data: set[fx.Node], tensors: dict[str, torch.Tensor]) -> Layer:
    first, shape = nodes[0], tuple(tensors[weight].shape)
    schema = _arguments(first)
    bias_node = schema.get("bias") if operator_name(first) != "addmm" else schema.get("self")
    bias = _parameter(bias_node, tensors) if isinstance(bias_node, fx.Node) and bias_node not in data else None
    return Layer(
        name=_strip(weight),
        kind=_KINDS[operator_name(first)],
        nodes=tuple(node.meta["name"] for node in nodes),
        weight=weight,
        bias=bias,
        weight_shape=shape,
        groups=int(schema.get("groups", 1)),
        output_shape=shape_of(first)[1:],
        parameters=math.prod(shape) + (tensors[bias].numel() if bias else 0),
        macs=sum(_macs(node, data) for node in nodes),
    )


def _macs(node: fx.Node, data: set[fx.Node]) -> int:
    """Multiply-accumulates of one call for a batch of one."""
    kind = operator_name(node)
    weight = shape_of(_weight_argument(node, data))
    output = math.prod(shape_of(node))
    if kind.startswith("conv_transpose"):
        return math.prod(shape_of(node.all_input_nodes[0])) * math.prod(weight[1:])
    if kind.startswith("conv"):
        return output * math.prod(weight[1:])
    if kind == "linear":
        return output * weight[-1]
    if kind == "einsum":
        # every index of the formula is summed or kept once: the product of all distinct sizes
        operands = node.args[1]
        terms = str(node.args[0]).replace(" ", "").split("->")[0].split(",")
        assert isinstance(operands, list | tuple)
        sizes = {i: n for term, x in zip(terms, operands, strict=True) for i, n in zip(term, shape_of(x), strict=False)}  # type: ignore[arg-type]
        return math.prod(sizes.values())
    inner = shape_of(next(x for x in node.all_input_nodes if x in data))[-1]
    return output * inner


def _weight_argument(node: fx.Node, data: set[fx.Node]) -> Any:
    """The operand that is learned: `weight` where the operator names it, else the one free of the input."""
    named = _arguments(node).get("weight")
    if isinstance(named, fx.Node):
        return named
    fixed = [x for x in node.all_input_nodes if x not in data and is_tensor(x)]
    return max(fixed, key=lambda x: math.prod(shape_of(x)), default=None)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The node's arguments by the names of the operator's schema."""
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    values: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if operator_name(node) == "convolution" or "groups" in names:
        values.setdefault("groups", 1)
    return values


def _parameter(node: Any, tensors: dict[str, torch.Tensor]) -> str | None:
    """The largest parameter that `node` is computed from, through reshapes, scalings or standardisation."""
    seen, stack, found = set(), [node] if isinstance(node, fx.Node) else [], []
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op == "get_attr" and isinstance(tensors.get(str(current.target)), torch.nn.Parameter):
            found.append(str(current.target))
        stack.extend(current.all_input_nodes)
    return max(found, key=lambda name: tensors[name].numel(), default=None)


def _strip(weight: str) -> str:
    """`layer1.0.conv1.weight` -> `layer1.0.conv1`; `attn.in_proj_weight` -> `attn.in_proj`."""
    for ending in (".weight", "_weight"):
        if weight.endswith(ending):
            return weight.removesuffix(ending)
    return weight
