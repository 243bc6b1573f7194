"""The field-of-view tree of a unit: the nodes that it depends on, each cut to the places that it depends on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from netopsy.engine.backproject.operators import Convolution, Operator, factors, operator_of, parameters_of
from netopsy.engine.backproject.receptive import KernelWindow, ReadRange, Spans, is_spatial, links, spans, windows
from netopsy.engine.interpreter import ANY_LAYOUT
from netopsy.network.graph import aten
from netopsy.network.macs import node_macs
from netopsy.network.network import Network
from netopsy.network.node import Node

SHAPED = {"view", "reshape", "unsafe_view", "expand"}  # operators whose second argument is the shape to give


class Trunk:
    """The part of a network's graph that one node depends on.

    order: all its nodes in order of execution, the target last. data: those that depend on the inputs, these included.
    source: where the flow back ends, see `source_of`.
    windows: for each data node how it reads its operands' places; None where it needs them all.
    operators: for each data node its windowed operator, or None. parameters: the weight and bias of those that have.
    """

    def __init__(self, network: Network, target: str) -> None:
        self.network, self.target = network, network.node(target)
        needed: set[Node] = set()
        stack = [self.target]
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack.extend([] if node.is_batch_size else node.inputs)
        self.order = [node for node in network.program.nodes if node in needed]
        self.data = [node for node in self.order if node.from_input]
        self.source = source_of(network, self.data)
        self.windows: dict[Node, tuple[KernelWindow, KernelWindow] | None] = {node: windows(node) for node in self.data}
        self.operators: dict[Node, Operator | None] = {
            node: operator_of(node) if self.windows[node] is not None else None for node in self.data
        }
        self.parameters = {node: parameters_of(node) for node, operator in self.operators.items() if operator}
        self._links = [links(self.data, self.windows, axis) for axis in (0, 1)]
        self._spans: tuple[dict[tuple[int, int] | None, Spans], ...] = ({}, {})
        self.maps = is_spatial(self.target) and len(self.target.full_shape) == 4 and self.target.channel_axis == 1

    def tree(self, place: tuple[int, ...] | None = None) -> Tree:
        """The tree of the units at `place` (y, x) of a map in (batch, channel, y, x); of all units where it is None."""
        if place is None or not self.maps:
            return Tree(self, self._along(0), self._along(1))
        return Tree(self, *(self._along(axis, (at, at + 1)) for axis, at in enumerate(place)))

    def _along(self, axis: int, places: tuple[int, int] | None = None) -> Spans:
        if places not in self._spans[axis]:
            self._spans[axis][places] = spans(self._links[axis], places)
        return self._spans[axis][places]

    @cached_property
    def macs(self) -> dict[Node, int]:
        """Multiply-accumulates of each data node on the whole image."""
        return {node: node_macs(node) for node in self.data}

    @cached_property
    def plain(self) -> dict[Node, Tensor]:
        """The network's parameters and buffers by their nodes, as they lie in memory."""
        return self._tensors({})

    @cached_property
    def own_weights(self) -> dict[Node, Tensor]:
        """`weights()` of the network itself; stale once these change."""
        return self.weights()

    def weights(self, overrides: Mapping[str, Tensor] | None = None) -> dict[Node, Tensor]:
        """Parameters and buffers by their nodes, kernels in the layout that convolutions are fastest in.

        overrides: to use instead of the network's own, by name. For the flow back, a convolution's own node holds its
        kernel times the scale of the batch norm that follows.
        """
        values = {
            node: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for node, value in self._tensors(overrides or {}).items()
        }
        for convolution, norm in self.folded.items():
            kernel, scale = values[convolution.args[1]], norm_scale(norm, values)
            values[convolution] = kernel * scale.reshape(-1, 1, 1, 1)
        return values

    def _tensors(self, overrides: Mapping[str, Tensor]) -> dict[Node, Tensor]:
        tensors = {**self.network.program.constants, **self.network.tensors, **overrides}
        return {node: tensors[node.target].detach() for node in self.order if node.op == "get_attr"}

    @cached_property
    def folded(self) -> dict[Node, Node]:
        """Convolution -> the batch norm behind it, where nothing else reads the convolution."""
        norms = {}
        for norm in self.data:
            source: Any = norm.args[0] if norm.args else None
            if norm.target is aten.batch_norm.default and isinstance(self.operators.get(source), Convolution):
                learned = [source.args[1], *(a for a in norm.args[1:5] if a is not None)]
                if len(source.users) == 1 and all(isinstance(a, Node) and a.op == "get_attr" for a in learned):
                    norms[source] = norm
        return norms

    def constants(self, batch: int, weights: Mapping[Node, Tensor]) -> dict[Node, Any]:
        """Values of all nodes that do not depend on the input: `weights`, sizes, and what is made from them."""
        values: dict[Node, Any] = dict(weights)
        for node in self.order:
            if node in values or node in self.windows:
                continue
            values[node] = batch if node.is_batch_size else call(node, values)
        return values


def source_of(network: Network, data: Sequence[Node]) -> Node:
    """The node among `data` at which the flow back from a unit ends: what can be said to be a sample's content.

    The first input of real numbers; of tokens, which have no derivative, what the embedding gives for them; else the
    first input.
    """
    given = [node for node in data if node.op == "placeholder"]
    kinds = dict(zip(network.signature.names, network.signature.inputs, strict=True))
    real = next((node for node in given if node.is_floating_point), None)
    if real is not None:
        return real
    reached = {node for node in given if kinds[node.name].kind not in ("mask", "segments")}
    for node in data:
        if node not in reached and reached.intersection(node.inputs):
            if node.is_floating_point:
                return node
            reached.add(node)
    return data[0]


def norm_scale(norm: Node, values: Mapping[Node, Any]) -> Tensor:
    """gamma / sqrt(variance + eps) of a batch norm, (channel,)."""
    arguments: Any = norm.args
    gamma = None if arguments[1] is None else values[arguments[1]]
    scale: Tensor = (values[arguments[4]] + float(arguments[7])).rsqrt()
    return scale if gamma is None else scale * gamma


@dataclass(frozen=True)
class Tree:
    """A trunk cut to what the units at one place depend on. Equal `signature`s differ by shifts of the image alone."""

    trunk: Trunk
    rows: Spans
    columns: Spans

    @cached_property
    def signature(self) -> tuple[object, ...]:
        """What the trees of a batch share."""
        return self.rows.signature, self.columns.signature

    def box(self, node: Node) -> tuple[int, int, int, int] | None:
        """(top, left, bottom, right) of the node's places in the tree, half open; None for a node without places."""
        if node not in self.rows.first:
            return None
        top, left = self.rows.first[node], self.columns.first[node]
        return top, left, top + self.rows.length[node], left + self.columns.length[node]

    def size(self, node: Node) -> tuple[int, ...]:
        """Shape of the node's value in the tree, without the batch."""
        shape = node.full_shape[1:]
        return (
            shape if node not in self.rows.first else (*shape[:-2], self.rows.length[node], self.columns.length[node])
        )

    @property
    def field(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of what the units can depend on of the last two axes of the source, half open."""
        box = self.box(self.trunk.source)
        height, width = (1, 1, *self.trunk.source.shape)[-2:]
        return (0, 0, height, width) if box is None else box

    @cached_property
    def share(self) -> float:
        """Multiply-accumulates of the tree over those of the trunk on the whole image; at most 1."""
        cut = total = 0.0
        for node, macs in self.trunk.macs.items():
            part = 1.0
            if macs and node in self.rows.first:
                height, width = node.full_shape[-2:]
                part = self.rows.length[node] * self.columns.length[node] / (height * width)
            cut, total = cut + macs * part, total + macs
        return cut / total if total else 1.0

    def operand(self, node: Node, operand: Node, value: Tensor) -> Tensor:
        """What `node` reads of the operand's value in the tree, without padding."""
        rows, columns = self.rows.reads.get((node, operand)), self.columns.reads.get((node, operand))
        if rows is None or columns is None:
            return value
        if (rows.length, columns.length) == tuple(value.shape[-2:]):
            return value
        return value[..., rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]

    def padding(self, node: Node, operand: Node) -> tuple[int, int, int, int]:
        """Padding (left, right, top, bottom) around what `node` reads, as `torch.nn.functional.pad` takes it."""
        rows, columns = (spans.reads.get((node, operand), ReadRange(0, 0)) for spans in (self.rows, self.columns))
        return columns.before, columns.after, rows.before, rows.after

    def forward(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        keep: Collection[Node] | None = None,
        weights: Mapping[Node, Tensor] | None = None,
    ) -> dict[Node, Any]:
        """Values of the tree's nodes, each on its box.

        inputs: each network input by its name as `cut` gives it; a tensor is the only one. keep: the nodes to return
        besides the target; None returns every node's. weights: `Trunk.own_weights` by default; with `Trunk.plain` on
        whole images they are the module's values to the last bit. Runs under the caller's grad mode.
        """
        given = {self.trunk.data[0].name: inputs} if isinstance(inputs, Tensor) else inputs
        batch = len(next(iter(given.values())))
        values = self.trunk.constants(batch, self.trunk.own_weights if weights is None else weights)
        values |= {node: given[node.name] for node in self.trunk.data if node.op == "placeholder"}
        to_keep = set(self.trunk.order) if keep is None else {*keep, self.trunk.target}
        last = {operand: node for node in self.trunk.order for operand in node.inputs}
        for node in self.trunk.data:
            if node.op != "placeholder":
                values[node] = self._run(node, values)
            for operand in node.inputs:
                if last[operand] is node and operand not in to_keep:
                    values.pop(operand, None)
        return values

    def cut(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the tree reads of each network input, (batch, ...)."""
        parts = {}
        for node in self.trunk.data:
            if node.op == "placeholder":
                parts[node.name], box = inputs[node.name], self.box(node)
                if box is not None:
                    top, left, bottom, right = box
                    parts[node.name] = parts[node.name][..., top:bottom, left:right]
        return parts

    def _run(self, node: Node, values: Mapping[Node, Any]) -> Any:
        if self.trunk.windows[node] is None or self._is_uncut(node):
            return call(node, values)
        read = {operand: self.operand(node, operand, values[operand]) for operand in node.inputs}
        operator = self.trunk.operators[node]
        if operator is not None:
            operand: Any = node.args[0]
            return operator.forward(
                read[operand], self.padding(node, operand), *factors(self.trunk.parameters[node], read)
            )
        return call(node, read, self.size(node)[-2:])

    def _is_uncut(self, node: Node) -> bool:
        """Whether nothing is cut at the node: then its own operator runs, as in the module."""
        return all(self.size(part) == part.full_shape[1:] for part in (node, *node.inputs) if part in self.rows.first)


def call(node: Node, values: Mapping[Node, Any], size: tuple[int, ...] = ()) -> Any:
    """The node's operator on its operands' `values`; `size` takes the place of the last axes of a shape it is given."""
    args, kwargs = node.filled(values)
    operator: Any = node.target
    target: Any = ANY_LAYOUT.get(operator, operator)
    if size and node.operator in SHAPED:
        args = (args[0], [*args[1][: -len(size)], *size], *args[2:])
    return target(*args, **kwargs)
