"""Export a module to a graph of ATen operators and give every operation a name.

The graph is functional: no operator writes to its input, so every node's value may be kept, compared or replaced.
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor, fx, nn

from netopsy.network.capture import capture

aten = torch.ops.aten


def export_graph(module: nn.Module, input_shape: tuple[int, ...]) -> fx.GraphModule:
    """The forward pass of `module` in eval mode as a graph of ATen operators with a dynamic batch.

    input_shape: one input without its batch, as (channels, height, width).
    Every call of an operation is a node; `node.meta["name"]` holds the name made by `name_nodes`.
    """
    graph = capture(module, input_shape)
    _restore_batch_norm(graph)
    _drop_checks(graph)
    _canonical_parameters(graph, module)
    name_nodes(graph)
    graph.recompile()
    return graph


def name_nodes(graph: fx.GraphModule) -> None:
    """Name nodes by module path.

    A module with submodules, or with several kinds of operation, adds the operator; a repeated name adds a count.
    """
    kinds = defaultdict(set)
    containers: set[str] = set()
    operations = [node for node in graph.graph.nodes if node.op == "call_function" and is_tensor(node)]
    for node in operations:
        path = module_path(node)
        containers.update(path[:i] for i, letter in enumerate(path) if letter == ".")
        if node.target is not operator.getitem:
            kinds[path].add(operator_name(node))
    taken: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            node.meta["name"] = "input"
        elif node.op == "call_function":
            path, kind = module_path(node), operator_name(node)
            plain = path and path not in containers and kinds[path] == {kind}
            base = path if plain else ".".join(filter(None, (path, kind)))
            if not is_tensor(node):
                base = f"{base}:symbol"
            node.meta["name"] = base if not taken[base] else f"{base}_{taken[base]}"
            taken[base] += 1
        elif node.op == "get_attr":
            node.meta["name"] = f"parameter:{node.target}"
        else:
            node.meta["name"] = node.op


def module_paths(node: fx.Node) -> tuple[str, ...]:
    """Paths of the modules that hold `node`, outermost first; the root's is empty."""
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(path for path, _ in stack.values())


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that holds `node`; empty at the root."""
    return (module_paths(node) or ("",))[-1]


def operator_name(node: fx.Node) -> str:
    """`conv2d` for `aten.conv2d.default`, `getitem` for the Python built-in."""
    target: Any = node.target
    name = (
        target._schema.name.split("::")[-1] if hasattr(target, "_schema") else getattr(target, "__name__", str(target))
    )
    return name.lstrip("_")


def is_tensor(node: fx.Node) -> bool:
    """Whether the node's value is one tensor (and not a size, a list or a tuple)."""
    return isinstance(node.meta.get("val"), Tensor)


def _restore_batch_norm(graph: fx.GraphModule) -> None:
    """Undo the one decomposition that functionalisation brings: batch norm becomes one node with one value again."""
    for node in list(graph.graph.nodes):
        if node.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        first = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
        if len(first) != len(node.users):
            continue
        x, weight, bias, mean, variance, momentum, eps = node.args
        with graph.graph.inserting_before(node):
            new = graph.graph.call_function(
                aten.batch_norm.default, (x, weight, bias, mean, variance, False, momentum, eps, True)
            )
        new.meta = {**node.meta, "val": node.meta["val"][0]}
        for user in first:
            user.replace_all_uses_with(new)
            graph.graph.erase_node(user)
        graph.graph.erase_node(node)


def _drop_checks(graph: fx.GraphModule) -> None:
    """Remove shape guards and assertions, which constrain the batch and compute nothing."""
    for node in reversed(list(graph.graph.nodes)):
        check = node.op == "call_module" or any(
            word in str(node.target) for word in ("_assert", "sym_constrain", "_check", "assert_tensor_metadata")
        )
        if (check or node.op in ("get_attr", "call_function")) and not node.users and node.op != "output":
            graph.graph.erase_node(node)


def _canonical_parameters(graph: fx.GraphModule, module: nn.Module) -> None:
    """Name each parameter as `module.named_parameters()` does, also where two names share one tensor."""
    first: dict[int, str] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        canonical = first.setdefault(id(tensor), name)
        for node in graph.graph.nodes:
            if node.op == "get_attr" and node.target == name != canonical:
                node.target = canonical
