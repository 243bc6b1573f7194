"""The weight-bearing layers of a graph, and the filters of a convolution, whichever way its weight is laid out.

A layer is one learned weight. A recurrent operator applies several, at every step: each of them is a layer. A table of
embeddings is one too, whose rows are looked up and not multiplied; where the output layer multiplies with the same
table (a tied head), the two are one layer, an embedding, with the multiply-accumulates of the head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from netopsy.network.macs import (
    CONVOLUTIONS,
    FACTORS,
    PRODUCTS,
    RECURRENT,
    einsum_macs,
    einsum_terms,
    node_macs,
    recurrent_map_macs,
    recurrent_maps,
)
from netopsy.network.node import Node

_KINDS = {
    **dict.fromkeys(PRODUCTS - {"scaled_dot_product_attention"}, "linear"),
    **CONVOLUTIONS,
    **dict.fromkeys(RECURRENT, "recurrent"),
    **dict.fromkeys(("embedding", "embedding_bag", "_embedding_bag"), "embedding"),
}
_SUMS = ("addmm", "baddbmm", "addbmm", "addmv")  # with a summand in the first place


@dataclass(frozen=True)
class Layer:
    """A convolution, linear map or table of embeddings with a learned weight.

    name: the weight's path without its ending `.weight`.
    kind: `conv`, `conv_transpose`, `linear`, `recurrent` or `embedding`.
    nodes: the graph nodes that apply it, in order of execution (several where a module is called several times); of a
        recurrent operator, its hidden states.
    weight, bias: names of the parameters; bias is None where there is none.
    weight_shape: convolution (filters, depth per group, *kernel); linear (outputs, inputs); recurrent (gates * hidden,
        inputs), with the rows of each gate together; embedding (entries, values), a row an entry.
    output_axis: of the weight, that which counts the outputs: 0 but for products written the other way round (`x @ w`);
        of an embedding, that which counts the entries.
    output_shape: of the first call for one sample, without the batch's axis where it has one.
    parameters: elements of weight and bias.
    macs: multiply-accumulates for one input, over all calls and steps (bias not counted).
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    weight: str
    bias: str | None
    weight_shape: tuple[int, ...]
    output_axis: int
    groups: int
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


def find_layers(nodes: Iterable[Node], tensors: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """The layers of a program in order of execution; one entry for each weight, however often it is applied."""
    calls: dict[str, list[tuple[Node, LearnedMap]]] = {}
    for node in nodes:
        for learned in learned_maps(node, tensors):
            calls.setdefault(learned.weight, []).append((_value(node), learned))
    return tuple(_layer(weight, nodes, tensors) for weight, nodes in calls.items())


def layer_name(weight: str) -> str:
    """`layer1.0.conv1.weight` -> `layer1.0.conv1`; `attn.in_proj_weight` -> `attn.in_proj`."""
    for ending in (".weight", "_weight"):
        if weight.endswith(ending):
            return weight.removesuffix(ending)
    return weight


@dataclass(frozen=True)
class LearnedMap:
    """A linear map with a learned weight in one call: see `Layer`."""

    weight: str
    bias: str | None
    output_axis: int
    macs: int


def learned_maps(node: Node, tensors: Mapping[str, Tensor]) -> list[LearnedMap]:
    """The learned weights that `node` applies to a value that depends on the input: several in a recurrent operator."""
    if node.op != "call_function" or node.operator not in _KINDS or not node.from_input:
        return []
    maps: list[tuple[Node | None, Any, int]]
    if node.operator in RECURRENT:
        maps = [(weight, bias, recurrent_map_macs(node, weight)) for weight, bias in recurrent_maps(node)]
    elif not node.is_tensor and _KINDS[node.operator] != "embedding":
        return []
    elif node.operator == "einsum":
        maps = _einsum_maps(node)
    else:
        maps = [(weight_argument(node), node.argument("self" if node.operator in _SUMS else "bias"), node_macs(node))]
    named = node.operator in RECURRENT or isinstance(node.argument("weight"), Node)
    found = []
    for weight, bias, macs in maps:
        name = _parameter(weight, tensors) or (_parameter(weight, tensors, True) if named else None)
        if name is not None:
            of_bias = _parameter(bias, tensors)
            found.append(LearnedMap(name, of_bias if of_bias != name else None, _output_axis(node, weight), macs))
    return found


def _value(node: Node) -> Node:
    """The node whose value is what `node` computes: of several results, the first that is read."""
    return node if node.is_tensor else next(user for user in node.users if user.is_tensor)


def _layer(weight: str, calls: list[tuple[Node, LearnedMap]], tensors: Mapping[str, Tensor]) -> Layer:
    (first, learned), shape = calls[0], tuple(tensors[weight].shape)
    operator = first.inputs[0] if first.operator == "getitem" else first
    groups = first.argument("groups")
    return Layer(
        name=layer_name(weight),
        kind="conv_transpose" if first.argument("transposed") else _KINDS[operator.operator],
        nodes=tuple(dict.fromkeys(node.name for node, _ in calls)),
        weight=weight,
        bias=learned.bias,
        weight_shape=shape,
        output_axis=learned.output_axis if learned.output_axis < len(shape) else 0,
        groups=1 if groups is None else int(groups),
        output_shape=first.shape,
        parameters=math.prod(shape) + (tensors[learned.bias].numel() if learned.bias else 0),
        macs=sum(each.macs for _, each in calls),
    )


def weight_argument(node: Node) -> Node | None:
    """The operand that is learned: `weight` where the operator names it, else the largest one free of the input."""
    named = node.argument("weight")
    if isinstance(named, Node):
        return named if not named.from_input else node.argument("input") if node.operator == "linear" else None
    summand = node.argument("self") if node.operator in _SUMS else None
    fixed = [x for x in node.inputs if not x.from_input and x is not summand and x.is_tensor]
    return max(fixed, key=lambda x: math.prod(x.full_shape), default=None)


def _einsum_maps(node: Node) -> list[tuple[Node | None, Any, int]]:
    """Each operand that is free of the input, without a bias, with the product that brings it in; the first has all
    that none of them brings in."""
    operands: Any = node.args[1]
    counts = [0, *einsum_macs(str(node.args[0]), [x.full_shape for x in operands])]
    fixed = {x: count for x, count in zip(operands, counts, strict=True) if not x.from_input}
    rest = sum(counts) - sum(fixed.values())
    return [(x, None, count + (rest if i == 0 else 0)) for i, (x, count) in enumerate(fixed.items())]


def _output_axis(node: Node, weight: Any) -> int:
    """The axis of the parameter behind `weight` that counts the outputs; 0 where no single one is seen to."""
    name, rank = node.operator, len(weight.full_shape)
    free = [0]
    if name in FACTORS and rank > 1 and name != "inner":
        second = node.args[FACTORS[name] + 1]
        free = [rank - 1 if second is weight else rank - 2]
    elif name == "tensordot":
        contracted: Any = node.args[2 if node.args[0] is weight else 3]
        free = [axis for axis in range(rank) if axis not in {int(each) % rank for each in contracted}]
    elif name == "einsum":
        operands: Any = node.args[1]
        terms, output = einsum_terms(str(node.args[0]), [len(x.full_shape) for x in operands])
        own = terms.pop(operands.index(weight))
        free = [axis for axis, index in enumerate(own) if index in output and index not in "".join(terms)]
    axis = free[0] if len(free) == 1 else 0
    while weight.inputs:
        source = weight.inputs[0]
        if weight.operator in ("t", "numpy_T"):
            axis = rank - 1 - axis
        elif weight.operator == "transpose":
            swapped = [int(each) % rank for each in weight.args[1:3]]
            axis = swapped[1 - swapped.index(axis)] if axis in swapped else axis
        elif weight.operator == "permute":
            axis = int(weight.args[1][axis]) % rank
        elif source.full_shape != weight.full_shape:
            return 0
        weight = source
    return axis


def _parameter(node: Any, tensors: Mapping[str, Tensor], products: bool = False) -> str | None:
    """The largest parameter that `node` is computed from, through reshapes, scalings or standardisation.

    A value that depends on the input (a weight that is predicted) is no parameter, nor is a product of several
    parameters, unless `products`.
    """
    visited, stack, names = set(), [node] if isinstance(node, Node) and not node.from_input else [], []
    while stack:
        current = stack.pop()
        if current in visited:
            continue
        visited.add(current)
        if current.op == "get_attr" and isinstance(tensors.get(current.target), nn.Parameter):
            names.append(current.target)
        if products or current.operator not in PRODUCTS:
            stack.extend(current.inputs)
    return max(names, key=lambda name: tensors[name].numel(), default=None)


CONVOLUTION_KINDS = ("conv", "conv_transpose")


def filter_shape(layer: Layer) -> tuple[int, ...]:
    """(filters, depth per group, *kernel): one filter an output channel."""
    first, second, *kernel = layer.weight_shape
    if layer.kind == "conv_transpose":
        return (second * layer.groups, first // layer.groups, *kernel)
    return (first, second, *kernel)


def filters_of(layer: Layer, weight: Tensor) -> Tensor:
    """`weight` of a convolution as (filters, depth per group, *kernel), of another layer with its outputs first.

    A view where the layout allows.
    """
    if layer.kind != "conv_transpose":
        return weight.movedim(layer.output_axis, 0)
    groups, (inputs, outputs, *kernel) = layer.groups, weight.shape
    parted = weight.reshape(groups, inputs // groups, outputs, *kernel)
    return parted.transpose(1, 2).reshape(groups * outputs, inputs // groups, *kernel)


def weight_of(layer: Layer, filters: Tensor) -> Tensor:
    """The weight whose filters, (filters, depth per group, *kernel), are `filters`; undoes `filters_of`."""
    if layer.kind != "conv_transpose":
        return filters.movedim(0, layer.output_axis)
    groups, (outputs, depth, *kernel) = layer.groups, filters.shape
    parted = filters.reshape(groups, outputs // groups, depth, *kernel)
    return parted.transpose(1, 2).reshape(groups * depth, outputs // groups, *kernel)
