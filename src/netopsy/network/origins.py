"""Names of the nodes of a module that was itself made from a graph: those that they have there."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from netopsy.network.graph import is_tensor, module_path, operator_name

ORIGINS = "origins"
_SAME = {"reshape": "view", "unsafe_view": "view"}

Origin = tuple[str, str, tuple[str, ...]]  # name, operator, paths of the modules around it


def origin(node: fx.Node) -> Origin:
    """What a node is called, what it does and where it lies."""
    stack = node.meta.get("nn_module_stack") or {}
    return node.meta["name"], _kind(node), tuple(path for path, _ in stack.values())


def restore_names(graph: fx.GraphModule, module: nn.Module) -> None:
    """Give the nodes of `graph`, the export of `module`, the names and modules that `module.meta` keeps for them.

    Nodes inside new modules keep the names that the export gives, below the path of the new module. Where the export
    does not follow the kept list node by node, nothing is changed.
    """
    kept: dict[str, Any] | None = getattr(module, "meta", {}).get(ORIGINS)
    if not kept:
        return
    nodes = [n for n in graph.graph.nodes if n.op == "call_function" and is_tensor(n)]
    new = {n: path for n in nodes for path in kept["new"] if f"{module_path(n)}.".startswith(f"{path}.")}
    old = [n for n in nodes if n not in new]
    if [_kind(n) for n in old] != [kind for _, kind, _ in kept["nodes"]]:
        return
    for node, (name, _, paths) in zip(old, kept["nodes"], strict=True):
        node.meta["name"] = name
        node.meta["nn_module_stack"] = {path: (path, None) for path in paths}
    for node, path in new.items():
        around = [p for p in kept["new"][path][2] if not p or f"{path}.".startswith(f"{p}.")]
        own = [p for p, _ in (node.meta.get("nn_module_stack") or {}).values() if p]
        node.meta["nn_module_stack"] = {p: (p, None) for p in dict.fromkeys([*around, *own])}


def _kind(node: fx.Node) -> str:
    name = operator_name(node).rstrip("_")
    return _SAME.get(name, name)
