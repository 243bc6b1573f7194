"""Export a module to a graph of ATen operators and give every operation a name.

The graph is functional: no operator writes to its input, so every node's value may be kept, compared or replaced.
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from netopsy.errors import NetworkError
from netopsy.network.canonical import join_without_empties, name_activations, operator_name, shape_for
from netopsy.network.capture import capture
from netopsy.network.signature import Signature

aten = torch.ops.aten


def export_graph(module: nn.Module, signature: Signature) -> fx.GraphModule:
    """The forward pass of `module` in eval mode as a graph of ATen operators with a dynamic batch.

    Every call of an operation is a node; `node.meta["name"]` holds the name made by `name_nodes`. `graph.meta` holds
    the names of what it returns (`outputs`) and of the constants that an activation function is known by (`settled`).
    Where samples differ in length, `node.meta["length_axes"]` holds the axes that are longer for longer ones, and
    `node.meta["sequences"]` of each of them the sequence that it goes along.
    """
    graph = _export(module, signature)
    for sequence in signature.lengths:
        _mark_lengths(graph, module, signature, sequence)
    return graph


def _export(module: nn.Module, signature: Signature) -> fx.GraphModule:
    graph = capture(module, signature)
    _canonical_parameters(graph, module)
    _restore_batch_norm(graph)
    _keep_recurrence_differentiable(graph)
    join_without_empties(graph)
    graph.meta["settled"] = name_activations(graph)
    graph.meta["outputs"] = _output_names(graph)
    _drop_checks(graph)
    _check_sizes(graph, module)
    name_nodes(graph, signature.names)
    graph.recompile()
    return graph


def _mark_lengths(graph: fx.GraphModule, module: nn.Module, signature: Signature, sequence: str) -> None:
    """Write down which axes of each value grow with the length of a sequence, from an export for a shorter one.

    A node that a shorter sample does not have has no such axes.
    """
    longest = signature.lengths[sequence]
    for length in dict.fromkeys((longest // 2, longest - 1)):
        if length < 1:
            continue
        try:
            shorter = _export(module, signature.with_length(length, sequence))
        except NetworkError:  # a network of windows or strides may not take this one
            continue
        shapes = {node.meta["name"]: shape_for(node.meta.get("val"), 1) for node in shorter.graph.nodes}
        for node in graph.graph.nodes:
            shape, other = shape_for(node.meta.get("val"), 1), shapes.get(node.meta["name"], ())
            if len(shape) == len(other):
                known = dict(zip(node.meta.get("length_axes", ()), node.meta.get("sequences", ()), strict=True))
                known |= {i: sequence for i, (size, less) in enumerate(zip(shape, other, strict=True)) if size > less}
                node.meta["length_axes"] = tuple(sorted(known))
                node.meta["sequences"] = tuple(known[axis] for axis in sorted(known))
        return


def name_nodes(graph: fx.GraphModule, inputs: Sequence[str] = ("input",)) -> None:
    """Name nodes by module path, and the inputs as they are called.

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
    counts: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            node.meta["name"] = inputs[0] if len(inputs) == 1 else str(node.target)
        elif node.op == "call_function":
            path, kind = module_path(node), operator_name(node)
            plain = path and path not in (*containers, *inputs) and kinds[path] == {kind}
            base = path if plain else ".".join(filter(None, (path, kind)))
            if not is_tensor(node):
                base = f"{base}:symbol"
            node.meta["name"] = base if not counts[base] else f"{base}_{counts[base]}"
            counts[base] += 1
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


def _keep_recurrence_differentiable(graph: fx.GraphModule) -> None:
    """Run recurrent operators as in training, but without dropout: the same values, and cuDNN gives their gradient."""
    for node in graph.graph.nodes:
        schema: Any = getattr(node.target, "_schema", None)
        if node.op == "call_function" and operator_name(node) in {"lstm", "gru", "rnn_tanh", "rnn_relu"}:
            settings = {"dropout": 0.0, "train": True}
            names = [entry.name for entry in schema.arguments]
            node.args = tuple(settings.get(name, value) for name, value in zip(names, node.args, strict=False))


def _drop_checks(graph: fx.GraphModule) -> None:
    """Remove shape guards and assertions, which constrain the batch and compute nothing."""
    for node in reversed(list(graph.graph.nodes)):
        check = node.op == "call_module" or any(
            word in str(node.target) for word in ("_assert", "sym_constrain", "_check", "assert_tensor_metadata")
        )
        if (check or node.op in ("get_attr", "call_function")) and not node.users and node.op != "output":
            graph.graph.erase_node(node)


def _check_sizes(graph: fx.GraphModule, module: nn.Module) -> None:
    """Refuse a tensor whose size hangs on what the image holds."""
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        sizes = [getattr(getattr(size, "node", None), "expr", None) for size in value.shape] if is_tensor(node) else []
        if any(free_unbacked_symbols(size) for size in sizes if size is not None):
            raise NetworkError(
                f"{type(module).__name__} cannot be exported to a graph: the size of the result of "
                f"'{operator_name(node)}' depends on the values of the image. Write it so that every size is known, "
                "for instance with torch.where in place of an index by a mask."
            )


def _output_names(graph: fx.GraphModule) -> tuple[str, ...]:
    """What the module returns, flat: `logits`, `aux.0`, or its number where there is no key; empty for one tensor."""
    node = next(iter(reversed(graph.graph.nodes)))
    count = len(node.args[0]) if isinstance(node.args[0], list | tuple) else 1
    spec = getattr(graph, "_out_spec", None)
    if spec is None or spec.num_leaves != count:
        return tuple(map(str, range(count)))
    return tuple(name_outputs(pytree.tree_unflatten(list(range(count)), spec)))


def name_outputs(returned: Any) -> dict[str, Any]:
    """What a module returned, flat, by its keys and numbers: `logits`, `aux.0`; a lone value has an empty name."""
    leaves, _ = pytree.tree_flatten_with_path(returned)
    return {".".join(str(_key(entry)) for entry in path): value for path, value in leaves}


def find_output(names: Iterable[str], known: Collection[str], wanted: str | int | None) -> str | None:
    """Of the outputs called `names` the `wanted` one, by its name or number; None where it is not among the `known`.

    Where none is wanted: the one called `logits`, else the first that is known.
    """
    if wanted is None:
        return next((name for name in known if name.rpartition(".")[2] == "logits"), next(iter(known), None))
    if isinstance(wanted, str) and wanted in known:
        return wanted
    number = int(wanted) if str(wanted).isdecimal() else -1
    return next((name for i, name in enumerate(names) if i == number and name in known), None)


def _key(entry: Any) -> Any:
    """A step into a tuple, a dictionary or a dataclass."""
    return next((getattr(entry, name) for name in ("key", "idx", "name") if hasattr(entry, name)), entry)


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
