"""The backward flow through a tree: each operator transposed, each activation under the rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from netopsy.engine.backproject.operators import MaxPool, factors, masked_recurrence
from netopsy.engine.backproject.rules import Rule
from netopsy.engine.backproject.tree import SHAPED, Tree, call, norm_scale
from netopsy.errors import NetworkError
from netopsy.network.activations import ELEMENTWISE
from netopsy.network.graph import aten
from netopsy.network.macs import RECURRENT
from netopsy.network.node import Node

BackwardFlow = Any  # a tensor; for a node that gives a list, {index: tensor}
VisitFlow = Callable[[Node, Tensor], None]
_PASSED_ON = SHAPED - {"expand"} | {"squeeze", "unsqueeze", "clone", "contiguous", "alias", "dropout"}


def needed_nodes(tree: Tree, rule: Rule) -> set[Node]:
    """The nodes whose forward values the flow under `rule` reads."""
    nodes: set[Node] = set()
    for node in tree.trunk.data:
        kind = node.operator
        if node.op == "placeholder" or node is tree.trunk.source:
            continue
        if kind == "relu":
            nodes.add(node)
        elif not _linear(tree, node):
            nodes.update(operand for operand in node.inputs if operand in tree.trunk.windows)
    return nodes


def reverse(
    tree: Tree,
    values: Mapping[Node, Any],
    constants: Mapping[Node, Any],
    start: Tensor,
    rule: Rule,
    visit: VisitFlow | None = None,
) -> Tensor:
    """The flow at the trunk's source, on the tree's field: (batch, channel, height, width) of images.

    values: forward values of `needed_nodes` on their boxes. constants: the trunk's, with the weights the flow
    meets. start: (batch, *target). visit: shown each node's flow on its box, before the node's own operator.
    """
    flow: dict[Node, BackwardFlow] = {tree.trunk.target: start}
    source = tree.trunk.source
    for node in reversed(tree.trunk.data):
        g = None if node is source else flow.pop(node, None)
        if g is None or node.op == "placeholder":
            continue
        if visit and isinstance(g, Tensor):
            visit(node, g)
        for operand, part in _transpose(tree, node, g, values, constants, rule):
            _add(tree, flow, node, operand, part if rule.signed else _paths(part))
    result = flow.get(source)
    return result if result is not None else start.new_zeros(len(start), *tree.size(source))


def _transpose(
    tree: Tree, node: Node, g: BackwardFlow, values: Mapping[Node, Any], constants: Mapping[Node, Any], rule: Rule
) -> list[tuple[Node, BackwardFlow]]:
    """The flow to each data operand of `node`, on the part of the operand that the node reads."""
    kind = node.operator
    operand: Any = node.args[0] if node.args else None
    if kind == "getitem":
        return [(operand, {node.args[1]: g})]
    if kind in ELEMENTWISE:
        derivative = _derivative(tree, node, values, constants)
        return [(operand, rule.activation(g, derivative) if rule.treats(node) else derivative(g))]
    operator = tree.trunk.operators[node]
    if operator is not None:
        if isinstance(operator, MaxPool) and not rule.switches:
            operator = operator.everywhere()
        x = tree.operand(node, operand, values[operand]) if isinstance(operator, MaxPool) else None
        weights = (constants[node], None) if node in constants else factors(tree.trunk.parameters[node], constants)
        return [(operand, operator.backward(g, x, tree.padding(node, operand), *weights))]
    if not _linear(tree, node):
        gates = rule.gates and kind in RECURRENT
        return _by_autograd(tree, node, g if rule.signed else _uneven(g), values, constants, gates)
    if node.target is aten.batch_norm.default:
        folded = operand in tree.trunk.folded
        return [(operand, g if folded else g * norm_scale(node, constants).reshape(-1, *[1] * (g.ndim - 2)))]
    if node.target is aten.linear.default:
        return [(operand, g @ constants[node.args[1]])]
    if kind == "add":
        return [(part, g) for part in node.args]
    if kind == "cat":
        parts: Any = node.args[0]
        pieces = g.split([part.full_shape[node.argument("dim")] for part in parts], node.argument("dim"))
        return [(part, piece) for part, piece in zip(parts, pieces, strict=True) if part in tree.trunk.windows]
    return [(operand, g.reshape(-1, *_read_size(tree, node, operand)))]


def _linear(tree: Tree, node: Node) -> bool:
    """Whether the flow through `node` needs no forward values."""
    kind, operand = node.operator, cast(Node, node.args[0])
    if node.target is aten.linear.default:
        return node.args[1] not in tree.trunk.windows
    if node.target is aten.add.Tensor:
        return len(node.args) == 2 and not node.kwargs and all(_like(tree, node, part) for part in node.args)
    if kind == "cat":
        rank = len(node.full_shape)  # an empty tensor without further axes may be joined to any other
        return node.argument("dim") % rank != 0 and all(len(part.full_shape) == rank for part in node.args[0])
    if tree.trunk.operators[node] is not None:
        return node.target is not aten.max_pool2d.default
    if kind in _PASSED_ON:
        return node.per_sample and operand.per_sample  # attention may hold the batch in another axis
    return node.target is aten.batch_norm.default or kind == "getitem"


def _like(tree: Tree, node: Node, part: Any) -> bool:
    return isinstance(part, Node) and part in tree.trunk.windows and part.full_shape == node.full_shape


def _read_size(tree: Tree, node: Node, operand: Node) -> tuple[int, ...]:
    size, rows = tree.size(operand), tree.rows.reads.get((node, operand))
    return size if rows is None else (*size[:-2], rows.length, tree.columns.reads[node, operand].length)


def _derivative(
    tree: Tree, node: Node, values: Mapping[Node, Any], constants: Mapping[Node, Any]
) -> Callable[[Tensor], Tensor]:
    """g -> g ds/dx at an activation."""
    if node.operator == "relu":
        return lambda g: aten.threshold_backward(g, values[node], 0)
    return lambda g: _by_autograd(tree, node, g, values, constants)[0][1]


def _by_autograd(
    tree: Tree,
    node: Node,
    g: BackwardFlow,
    values: Mapping[Node, Any],
    constants: Mapping[Node, Any],
    gates: bool = False,
) -> list[tuple[Node, Tensor]]:
    """The derivative of any operator at its forward values; gates: of a recurrent one with its gates held."""
    local = tree.trunk.windows[node] is not None
    data = [operand for operand in dict.fromkeys(node.inputs) if operand in tree.trunk.windows]
    leaves: dict[Node, Any] = {}
    for operand in data:
        value = tree.operand(node, operand, values[operand]) if local else values[operand]
        leaves[operand] = _leaf(value)
    arguments = {**{n: constants[n] for n in node.inputs if n not in leaves}, **leaves}
    with torch.enable_grad():
        size = tree.size(node)[-2:] if local else ()
        result = masked_recurrence(node, arguments) if gates else call(node, arguments, size)
    outputs, flows = ([result], [g]) if isinstance(g, Tensor) else ([result[i] for i in g], list(g.values()))
    tensors = [leaf for value in leaves.values() for leaf in _flat(value) if leaf.requires_grad]
    if not tensors or not any(output.requires_grad for output in outputs):
        return []
    try:
        gradients = iter(torch.autograd.grad(outputs, tensors, flows, allow_unused=True, materialize_grads=True))
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise NetworkError(
            f"nothing goes back through '{node.name}': torch has no derivative of {node.operator}; "
            "choose units in front of it."
        ) from error
    gradient_parts: list[tuple[Node, Any]] = []
    for operand, value in leaves.items():
        parts = {i: next(gradients) for i, leaf in enumerate(_flat(value)) if leaf.requires_grad}
        if parts:
            gradient_parts.append((operand, parts if isinstance(value, list | tuple) else parts[0]))
    return gradient_parts


def _flat(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _leaf(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_leaf(part) for part in value]
    return value.detach().requires_grad_(value.is_floating_point())


def _paths(part: BackwardFlow) -> BackwardFlow:
    """1 where the flow is not zero: paths are told apart from none, and never cancel."""
    return {i: _paths(p) for i, p in part.items()} if isinstance(part, dict) else (part != 0).to(part.dtype)


def _uneven(flow: BackwardFlow) -> BackwardFlow:
    """Paths of random strength: a softmax or a norm answers to a flow that is even with zero."""
    if isinstance(flow, dict):
        return {i: _uneven(part) for i, part in flow.items()}
    strength = torch.rand(flow.shape, generator=torch.Generator().manual_seed(0), dtype=flow.dtype)
    return flow * (strength + 0.5).to(flow.device)


def _add(tree: Tree, flow: dict[Node, BackwardFlow], node: Node, operand: Node, part: BackwardFlow) -> None:
    """Add what came through `node` to the operand's flow."""
    if isinstance(part, dict):
        pieces = flow.setdefault(operand, {})
        for index, piece in part.items():
            pieces[index] = pieces[index] + piece if index in pieces else piece
        return
    rows, columns = tree.rows.reads.get((node, operand)), tree.columns.reads.get((node, operand))
    size, old = tree.size(operand), flow.get(operand)
    if rows is None or columns is None or part.shape[1:] == size:
        flow[operand] = part if old is None else old + part
        return
    # a flow may be shared with another node (a sum passes the same on to both terms): add to a copy
    old = part.new_zeros(len(part), *size) if old is None else old.clone()
    old[..., rows.start : rows.start + rows.length, columns.start : columns.start + columns.length] += part
    flow[operand] = old
