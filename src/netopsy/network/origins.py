"""Modules made from a part of a network's graph: their nodes keep the names that they have there."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from netopsy.network.canonical import operator_name
from netopsy.network.graph import is_tensor, module_path, module_paths
from netopsy.network.node import Node

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
        return _rebuild, (super().__reduce__(), dict(self.meta))


def _rebuild(reduced: tuple[Any, ...], meta: dict[str, Any]) -> Section:
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
