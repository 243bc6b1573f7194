"""The program of a network: its exported graph, read once into records that nobody can change.

A module that is made from a part of it keeps the names of its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from netopsy.network.canonical import operator_name, shape_for
from netopsy.network.graph import is_tensor, module_path, module_paths
from netopsy.network.layers import layer_name, learned_maps
from netopsy.network.macs import RECURRENT
from netopsy.network.node import Node

_CHANNELS_LAST = {"linear", "bilinear", "addmm", "matmul", "linalg_matmul", "mm", "inner", "tensordot", *RECURRENT}
_CHANNELS_LAST |= {"layer_norm", "native_layer_norm", "embedding"}
_CHANNELS_SECOND = {"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose2d", "batch_norm", "group_norm"}


@dataclass(frozen=True, eq=False)
class Program:
    """What a network computes, node by node, whatever its weights.

    nodes: all of them in order of execution: parameters, sizes and lists too, and the output last.
    constants: tensors that are neither parameters nor buffers, by the name that their `get_attr` has for target.
    returns: what the network returns, by its key or number, in order; a value that is no tensor of the graph is None.
    settled: buffers whose values an activation function was known by: with others this is another program.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    returns: Mapping[str, Node | None] = field(default_factory=dict)
    settled: frozenset[str] = frozenset()

    @property
    def output(self) -> Node:
        """The node that stands for what the network returns."""
        return self.nodes[-1]

    def __reduce__(self) -> Any:
        """As a flat list: nodes refer to nodes, hundreds deep, and torch's operators cannot be pickled."""
        position = {node: _Position(i) for i, node in enumerate(self.nodes)}
        returns = {name: None if node is None else position[node] for name, node in self.returns.items()}
        return _unpack, ([_pack(node, position) for node in self.nodes], dict(self.constants), returns, self.settled)


def read_program(graph: fx.GraphModule, tensors: Mapping[str, Tensor]) -> Program:
    """The records of an exported `graph`, whose metadata is read here alone and stays as it is.

    tensors: the network's parameters and buffers by name.
    """
    records: dict[fx.Node, Node] = {}
    calls: dict[Node, int] = {}  # the last weight-bearing call at or before each node, by its position
    layers: dict[int, str] = {}
    for position, source in enumerate(graph.graph.nodes):
        plain = _transcribe(source, records)
        weights = tuple(learned.weight for learned in learned_maps(plain, tensors))
        last = max((calls[x] for x in plain.inputs if x in calls), default=None)
        if weights:
            last, layers[position] = position, layer_name(weights[-1])
        node = replace(
            plain,
            channel_axis=_off_length(plain, _channel_axis(plain)),
            weights=weights,
            layer="" if last is None else layers[last],
        )
        records[source] = node
        if last is not None:
            calls[node] = last
    names = {node.target for node in records.values() if node.op == "get_attr"} - tensors.keys()
    constants = {name: _constant(graph, name) for name in sorted(names)}
    given: Any = next(reversed(records)).args[0]
    values = list(given) if isinstance(given, list | tuple) else [given]
    returns = {name: records.get(value) for name, value in zip(graph.meta["outputs"], values, strict=True)}
    return Program(
        _with_users(records.values()),
        MappingProxyType(constants),
        MappingProxyType(returns),
        graph.meta["settled"] & tensors.keys(),
    )


def _transcribe(source: fx.Node, records: Mapping[fx.Node, Node]) -> Node:
    """What the graph itself says of a node; those that it reads are `records`."""
    value = source.meta.get("val")
    shape, larger = shape_for(value, 1), shape_for(value, 2)
    growth = tuple(b - a for a, b in zip(shape, larger, strict=True))
    grown = [axis for axis, more in enumerate(growth) if more]
    inputs = tuple(records[x] for x in source.all_input_nodes)
    record: Any = records.__getitem__
    args: Any = fx.node.map_arg(source.args, record)
    kwargs: Any = fx.node.map_arg(source.kwargs, record)
    operator = operator_name(source) if source.op == "call_function" else source.op
    return Node(
        name=source.meta["name"],
        op=source.op,
        operator=operator,
        target=source.target,
        args=args,
        kwargs=kwargs,
        inputs=inputs,
        modules=module_paths(source),
        full_shape=shape,
        parts=tuple(shape_for(part, 1) for part in value) if isinstance(value, list | tuple) else (),
        dtype=value.dtype if isinstance(value, Tensor) else None,
        growth=growth,
        batch_axis=grown[0] if len(grown) == 1 and larger[grown[0]] == 2 else None,
        length_axes=source.meta.get("length_axes", ()),
        sequences=source.meta.get("sequences", ()),
        from_input=source.op == "placeholder" or (operator != "sym_size" and any(x.from_input for x in inputs)),
    )


def _channel_axis(node: Node) -> int:
    """The axis of a node's units, from that of the operand that it makes them from."""
    if node.op != "call_function" or not node.inputs or node.operator in _CHANNELS_SECOND:
        return 1
    if node.operator in _CHANNELS_LAST:
        return -1
    axis, rank = next((x for x in node.inputs if x.from_input), node.inputs[0]).channel_axis, len(node.full_shape)
    if node.operator not in ("permute", "transpose"):
        return axis if -rank <= axis < rank or rank < 2 else -1  # a view of fewer axes
    order = _order(node)
    axis = order.index(axis % len(order))
    return -1 if axis == len(order) - 1 > 1 else axis


def _off_length(node: Node, axis: int) -> int:
    """The axis of the units, which is none along which samples differ in length: of attention maps, the heads."""
    rank = len(node.full_shape)
    if not node.length_axes or axis % max(rank, 1) not in node.length_axes:
        return axis
    free = [i for i in range(1, rank) if i not in node.length_axes]
    return axis if not free else -1 if free[0] == rank - 1 > 1 else free[0]


def _order(node: Node) -> list[int]:
    """Which axis of its operand each axis of a permuting node is."""
    rank = len(node.full_shape)
    if node.operator == "permute":
        return [int(axis) % rank for axis in node.args[1]]
    order = list(range(rank))
    first, second = (int(axis) for axis in node.args[1:3])
    order[first], order[second] = order[second], order[first]
    return order


def _with_users(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes, each told who reads it: the one thing that is known only when all are made."""
    every = tuple(nodes)
    users: dict[Node, list[Node]] = {node: [] for node in every}
    for node in every:
        for operand in node.inputs:
            users[operand].append(node)
    for node, readers in users.items():
        object.__setattr__(node, "users", tuple(readers))
    return every


def _constant(graph: fx.GraphModule, name: str) -> Any:
    """A tensor that the export lifted out of the forward pass."""
    value: Any = graph
    for part in name.split("."):
        value = getattr(value, part)
    return value


@dataclass(frozen=True)
class _Position:
    """Stands for a node in a program that is being sent."""

    index: int


@dataclass(frozen=True)
class _Operator:
    """Stands for one of torch's operators."""

    name: str


def _pack(node: Node, position: Mapping[Node, _Position]) -> dict[str, Any]:
    """The node's fields but its users, plain data."""

    def pack(leaf: Any) -> Any:
        if isinstance(leaf, Node):
            return position[leaf]
        return _Operator(str(leaf)) if isinstance(leaf, torch._ops.OpOverload) else leaf

    names = [entry.name for entry in fields(Node) if entry.name != "users"]
    return {name: fx.node.map_aggregate(getattr(node, name), pack) for name in names}


def _unpack(
    rows: list[dict[str, Any]],
    constants: dict[str, Tensor],
    returns: dict[str, _Position | None],
    settled: frozenset[str],
) -> Program:
    nodes: list[Node] = []

    def unpack(leaf: Any) -> Any:
        if isinstance(leaf, _Position):
            return nodes[leaf.index]
        if isinstance(leaf, _Operator):
            space, name, overload = leaf.name.split(".")
            return getattr(getattr(getattr(torch.ops, space), name), overload)
        return leaf

    for row in rows:
        nodes.append(Node(**{name: fx.node.map_aggregate(value, unpack) for name, value in row.items()}))
    given = {name: None if at is None else nodes[at.index] for name, at in returns.items()}
    return Program(_with_users(nodes), MappingProxyType(constants), MappingProxyType(given), settled)


ORIGINS = "origins"
_SAME = {"reshape": "view", "unsafe_view": "view"}

Origin = tuple[str, str, tuple[str, ...]]  # name, operator, paths of the modules around it


def origin(node: Node) -> Origin:
    """What a node is called, what it does and where it lies."""
    return node.name, _kind(node.operator), node.modules


class Section(fx.GraphModule):
    """A module made from a part of a network's program; it keeps the names of its nodes, also in another process."""

    @classmethod
    def of(cls, root: nn.Module, graph: fx.Graph, nodes: list[Origin], new: dict[str, Origin]) -> Section:
        """The module of `graph`, whose parameters and modules lie in `root`.

        nodes: origins of the tensors that it makes, in order. new: by its path, each new module's: the node that it
        stands in for.
        """
        section = cls(root, graph, "Section")
        section.meta[ORIGINS] = {"nodes": nodes, "new": new}
        return section

    def __reduce__(self) -> Any:
        return _rebuild_section, (super().__reduce__(), dict(self.meta))


def _rebuild_section(reduced: tuple[Any, ...], meta: dict[str, Any]) -> Section:
    plain = reduced[0](*reduced[1])
    section = Section(plain, plain.graph, "Section")
    section.meta = meta
    return section.train(plain.training)


def restore_names(graph: fx.GraphModule, module: nn.Module) -> None:
    """Give the nodes of `graph`, the export of `module`, the names and modules that `module.meta` keeps for them.

    Nodes inside new modules keep the names that the export gives, below the path of the new module. Where the export
    does not follow the kept list node by node, nothing is changed.
    """
    origins: dict[str, Any] | None = getattr(module, "meta", {}).get(ORIGINS)
    if not origins:
        return
    nodes = [n for n in graph.graph.nodes if n.op == "call_function" and is_tensor(n)]
    new = {n: path for n in nodes for path in origins["new"] if f"{module_path(n)}.".startswith(f"{path}.")}
    old = [n for n in nodes if n not in new]
    if [_kind(operator_name(n)) for n in old] != [kind for _, kind, _ in origins["nodes"]]:
        return
    for node, (name, _, paths) in zip(old, origins["nodes"], strict=True):
        node.meta["name"] = name
        node.meta["nn_module_stack"] = {path: (path, None) for path in paths}
    for node, path in new.items():
        around = [p for p in origins["new"][path][2] if not p or f"{path}.".startswith(f"{p}.")]
        inner = [p for p in module_paths(node) if p]
        node.meta["nn_module_stack"] = {p: (p, None) for p in dict.fromkeys([*around, *inner])}


def _kind(operator: str) -> str:
    name = operator.rstrip("_")
    return _SAME.get(name, name)
