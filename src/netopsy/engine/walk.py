"""The one interpreter of a network's graph: which nodes to run, in which order, and when each value may go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from netopsy.network.graph import aten, data_nodes, operator_name
from netopsy.network.network import Network

Visit = Callable[[str, Tensor], None]

# Operators that return fresh memory: nobody else can hold a view of their result.
_FRESH = {"conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "batch_norm", "add", "mul", "cat", "layer_norm"}
_IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.gelu.default: aten.gelu_.default,
    aten.add.Tensor: aten.add_.Tensor,
}


@dataclass(frozen=True)
class Step:
    """One node to run; `target` is its operator (the in-place twin where nobody reads the operand again)."""

    node: fx.Node
    target: Any
    drop: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Plan:
    """An order of execution from the `given` nodes to the `targets`.

    Values are freed after their last use. A node of `watched` is shown to `visit` as soon as it is computed;
    the tensor is valid during that call only, since a later step may overwrite it.
    """

    network: Network
    steps: tuple[Step, ...]
    given: tuple[fx.Node, ...]
    targets: tuple[str, ...]
    watched: frozenset[str]

    def run(
        self,
        given: Mapping[str, Tensor],
        *,
        batch: int,
        overrides: Mapping[str, Tensor] | None = None,
        visit: Visit | None = None,
    ) -> dict[str, Tensor]:
        """Values of the targets.

        given: value by name for each given node, (batch, ...). batch: the batch size that the graph's sizes take.
        overrides: parameters or buffers to use instead of the network's own, by name.
        """
        values: dict[fx.Node, Any] = {node: given[node.meta["name"]] for node in self.given}
        tensors: Mapping[str, Tensor] = {**self.network.tensors, **(overrides or {})}
        if visit:
            for node in self.given:
                if node.meta["name"] in self.watched:
                    visit(node.meta["name"], values[node])
        results = {name: given[name] for name in self.targets if name in given}
        for step in self.steps:
            node = step.node
            if node.op == "get_attr":
                values[node] = tensors[str(node.target)] if node.target in tensors else _constant(self.network, node)
                continue
            if "sym_size" in str(node.target):
                values[node] = batch
                continue
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            target = node.target if torch.is_grad_enabled() else step.target
            value = values[node] = target(*args, **kwargs)
            name = node.meta["name"]
            if visit and name in self.watched:
                visit(name, value)
            if name in self.targets:
                results[name] = value
            for dead in step.drop:
                del values[dead]
        return results


def plan(
    network: Network,
    targets: Iterable[str],
    *,
    given: Collection[str] = ("input",),
    watched: Collection[str] = (),
) -> Plan:
    """The shortest plan that computes `targets` and `watched` nodes when the values of `given` are supplied."""
    targets, given, watched = tuple(targets), set(given), frozenset(watched)
    supplied = {network.node(name) for name in given}
    wanted = {network.node(name) for name in (*targets, *watched)}
    needed: set[fx.Node] = set()
    stack = [node for node in wanted if node not in supplied]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            # the batch size is known without the input, so a size does not pull its operand in
            parents = [] if "sym_size" in str(node.target) else node.all_input_nodes
            stack.extend(parent for parent in parents if parent not in supplied)
    order = [node for node in network.graph.graph.nodes if node in needed]
    last: dict[fx.Node, fx.Node] = {}
    for node in order:
        for parent in [] if "sym_size" in str(node.target) else node.all_input_nodes:
            last[parent] = node
    dying: dict[fx.Node, list[fx.Node]] = {}
    for parent, node in last.items():
        dying.setdefault(node, []).append(parent)
    kept = {network.node(name) for name in targets} | supplied
    steps = []
    for node in order:
        dead = dying.get(node, [])
        overwritable = bool(node.args) and node.args[0] in dead and node.args[0] not in kept
        steps.append(Step(node, _in_place(node) if overwritable else node.target, tuple(dead)))
    return Plan(network, tuple(steps), tuple(supplied), targets, watched)


def affected(network: Network, tensors: Collection[str]) -> set[fx.Node]:
    """The nodes whose value can change when the parameters or buffers called `tensors` change."""
    changed: set[fx.Node] = set()
    for node in network.graph.graph.nodes:
        named = node.op == "get_attr" and str(node.target) in tensors
        reads = "sym_size" not in str(node.target) and any(parent in changed for parent in node.all_input_nodes)
        if named or reads:
            changed.add(node)
    return changed


def boundary(network: Network, changed: Collection[fx.Node]) -> tuple[str, ...]:
    """Names of the unchanged nodes that `changed` ones read: what a re-run of the changed part must be given."""
    data = data_nodes(network.graph)
    outside: set[fx.Node] = set()
    stack = [parent for node in changed for parent in node.all_input_nodes]
    while stack:
        node = stack.pop()
        if node in data and node not in changed and node not in outside:
            outside.add(node)
            # a list of tensors is no value to keep: keep what it was made from
            if node.meta["name"] not in network.nodes:
                stack.extend(node.all_input_nodes)
    names = {node.meta["name"] for node in outside}
    return tuple(name for name in network.nodes if name in names)


def _in_place(node: fx.Node) -> Any:
    """The operator's in-place twin, where the first operand is fresh memory that no other node (or view) reads."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if source.op != "call_function" or operator_name(source) not in _FRESH or len(source.users) > 1:
        return node.target
    before, after = source.meta.get("val"), node.meta.get("val")
    same = isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype
    return _IN_PLACE.get(node.target, node.target) if same and before.shape == after.shape else node.target


def _constant(network: Network, node: fx.Node) -> Tensor:
    """A tensor that the export lifted out of the forward pass."""
    value: Any = network.graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value
