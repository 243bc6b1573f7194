"""Write an exported graph in the one vocabulary: an activation function spelled out in parts becomes its operator.

`x * (x > 0)`, `torch.where(x > 0, x, 0)`, `(x + x.abs()) / 2` and `torch.clip(x, 0)` are all `aten.relu`. They are
known by what they compute: the part of the graph between two values of one shape, which reads nothing else but
constants, is run on numbers of every size and compared. A join of tensors loses those that are empty.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten

_MOST = 16  # operators that an activation function is spelled with
_BATCH = 2  # images of the numbers that it is tried on
_NUMBERS = 512  # at least
_OCTAVES = 30  # these numbers lie between 2**-30 and 2**30 on either side of zero

# Operators that may stand in a spelling beside the pointwise ones; the first few also as its last.
_LAST = {"masked_fill", "masked_scatter", "index_put", "where", "amax", "amin", "max", "min", "getitem", "rrelu"}
_BESIDE = _LAST | {
    *("clone", "alias", "detach", "contiguous", "lift_fresh_copy", "to", "to_copy", "type_as", "dropout", "stack"),
    *("index", "masked_select", "view", "reshape", "unsafe_view", "flatten", "unflatten", "permute", "transpose"),
    *("unsqueeze", "squeeze", "expand", "expand_as", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones"),
    *("new_full", "scalar_tensor"),
}
# What one value is made from itself by, with no further setting that could make it another function.
_PLAIN = {"relu", "relu6", "gelu", "silu", "mish", "selu", "softsign", "sigmoid", "log_sigmoid", "tanh", "hardswish"}
_PLAIN |= {"hardsigmoid", "dropout", "clone", "alias", "detach", "contiguous", "to", "to_copy"}
_KNOWN = _PLAIN | {"leaky_relu", "elu", "celu", "prelu", "softplus", "threshold", "hardtanh", "clamp", "clamp_min"}


class Function(NamedTuple):
    """An activation function: its operator, and what that is called with behind the operand."""

    target: Any
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        value: Tensor = self.target(x, *self.args, **dict(self.kwargs))
        return value


_SMOOTH = (
    Function(aten.silu.default),
    Function(aten.hardswish.default),
    Function(aten.sigmoid.default),
    Function(aten.hardsigmoid.default),
    Function(aten.mish.default),
    Function(aten.softplus.default),
    Function(aten.elu.default),
    Function(aten.selu.default),
    Function(aten.tanh.default),
    Function(aten.gelu.default),
    Function(aten.gelu.default, (), (("approximate", "tanh"),)),
)


def operator_name(node: fx.Node) -> str:
    """`conv2d` for `aten.conv2d.default`, `getitem` for the Python built-in."""
    target: Any = node.target
    name = (
        target._schema.name.split("::")[-1] if hasattr(target, "_schema") else getattr(target, "__name__", str(target))
    )
    return name.lstrip("_")


def shape_for(value: Any, batch: int) -> tuple[int, ...]:
    """Shape of a tensor of the export for a batch of `batch`; () of anything else.

    `int(size)` would settle a symbolic batch for the whole graph, whoever asks first.
    """
    return tuple(_size(size, batch) for size in value.shape) if isinstance(value, Tensor) else ()


def _size(size: Any, batch: int) -> int:
    expression = getattr(getattr(size, "node", None), "expr", None)
    return int(size) if expression is None else int(expression.subs({s: batch for s in expression.free_symbols}))


def join_without_empties(graph: fx.GraphModule) -> None:
    """Leave empty tensors out of every join, and write each as `cat`; a join of one tensor is that tensor."""
    for node in list(graph.graph.nodes):
        axis = _joined_axis(node)
        if axis is None:
            continue
        parts = [part for part in node.args[0] if not _empty(part, axis)] or [node.args[0][0]]
        if {part.meta["val"].dtype for part in parts} != {node.meta["val"].dtype}:
            continue  # an empty tensor has a say in the type
        if len(parts) == 1 and shape_for(parts[0].meta["val"], 1) == shape_for(node.meta["val"], 1):
            node.replace_all_uses_with(parts[0])
        else:
            node.target, node.args, node.kwargs = aten.cat.default, (parts, axis), {}


def _joined_axis(node: fx.Node) -> int | None:
    """The axis of a join of tensors; None of any other node."""
    name = operator_name(node) if node.op == "call_function" else ""
    rank = len(node.meta["val"].shape) if isinstance(node.meta.get("val"), Tensor) else 0
    if name in ("cat", "concat", "concatenate"):
        axis: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        return axis if isinstance(axis, int) else None
    known = {"hstack": 1, "column_stack": 1, "dstack": 2}.get(name)
    return known if known is not None and rank > known else None


def _empty(part: fx.Node, axis: int) -> bool:
    """Whether a join over `axis` gets nothing from the tensor; one without further axes may be empty in any company."""
    shape = part.meta["val"].shape
    length = shape[0] if len(shape) == 1 else shape[axis]
    return isinstance(length, int) and length == 0


def name_activations(graph: fx.GraphModule) -> frozenset[str]:
    """Put the operator of every activation function that is spelled out into its place.

    Returns the names of the constants in such spellings: with other values they may be other functions.
    """
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    varying = _varying(graph)
    settled: set[str] = set()
    for end in list(graph.graph.nodes):
        if end not in varying or not _may_end(end):
            continue
        for inside, source in _stretches(end, order, varying):
            tensors = {n: _tensor(graph, n) for n in _constants(inside, varying) if n.op == "get_attr"}
            if any(isinstance(tensor, nn.Parameter) for tensor in tensors.values()):
                break
            function = _function(graph, inside, source, end)
            if function is not None:
                settled |= {str(n.target) for n in tensors}
                with graph.graph.inserting_before(end):
                    new = graph.graph.call_function(function.target, (source, *function.args), dict(function.kwargs))
                new.meta = dict(end.meta)
                order[new] = order[end]
                varying.add(new)
                end.replace_all_uses_with(new)
                break
    return frozenset(settled)


def _varying(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose values depend on what the input holds."""
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        size = node.op == "call_function" and operator_name(node) == "sym_size"
        if node.op == "placeholder" or (not size and any(x in found for x in node.all_input_nodes)):
            found.add(node)
    return found


def _may_end(node: fx.Node) -> bool:
    """Whether a spelling may end in the node: it makes real numbers by more than a change of place."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return (_pointwise(node) and operator_name(node) not in _PLAIN) or operator_name(node) in _LAST


def _pointwise(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _stretches(
    end: fx.Node, order: dict[fx.Node, int], varying: set[fx.Node]
) -> Iterator[tuple[list[fx.Node], fx.Node]]:
    """(nodes up to `end` in order, the one varying value that they read), from the shortest such stretch on."""
    inside = {end}
    while len(inside) <= _MOST:
        outside = {x for node in inside for x in node.all_input_nodes if x in varying and x not in inside}
        if not outside:
            return
        last = max(outside, key=order.__getitem__)
        if len(outside) == 1 and _alike(last, end):
            yield sorted(inside, key=order.__getitem__), last
        allowed = last.op == "call_function" and (_pointwise(last) or operator_name(last) in _BESIDE)
        if not allowed:
            return
        inside.add(last)


def _alike(source: fx.Node, end: fx.Node) -> bool:
    one, other = source.meta.get("val"), end.meta["val"]
    if not isinstance(one, Tensor) or one.dtype != other.dtype:
        return False
    return all(shape_for(one, batch) == shape_for(other, batch) for batch in (1, 2))


def _constants(inside: Iterable[fx.Node], varying: set[fx.Node]) -> set[fx.Node]:
    """What the nodes are made from besides varying values."""
    found: set[fx.Node] = set()
    stack = [x for node in inside for x in node.all_input_nodes]
    while stack:
        node = stack.pop()
        if node not in varying and node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found


def _function(graph: fx.GraphModule, inside: list[fx.Node], source: fx.Node, end: fx.Node) -> Function | None:
    """The activation function that leads from `source` to `end`; None where there is none, or it stands there as one.

    A linear step behind a function is no part of it: then the function itself is among the nodes.
    """

    def run(probe: Tensor) -> Tensor:
        values: dict[fx.Node, Any] = {source: probe}
        for node in inside:
            _evaluate(graph, node, values)
        return values[end]

    try:
        with torch.no_grad():
            function = _compare(run, source.meta["val"])
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError):
        return None
    if function is None:
        return None
    name, parts = operator_name(end), [node for node in inside if operator_name(node) in _KNOWN]
    stands = any((n.target, n.args) == (function.target, (source, *function.args)) for n in parts)
    same = end.target == function.target or (name in _KNOWN and function in _SMOOTH)
    clips = function.target is aten.hardtanh.default and function.args[0] != 0
    return None if stands or same or (clips and parts) else function


def _evaluate(graph: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The node's value; raises a ValueError where it hangs on another input."""
    if node in values:
        return values[node]
    if node.op == "get_attr":
        value: Any = _tensor(graph, node)
    elif operator_name(node) == "sym_size":
        value = shape_for(node.args[0].meta["val"], _BATCH)[int(node.args[1])]  # type: ignore[union-attr,arg-type]
    elif node.op == "call_function":
        args = fx.node.map_arg(node.args, lambda x: _evaluate(graph, x, values))
        kwargs = fx.node.map_arg(node.kwargs, lambda x: _evaluate(graph, x, values))
        target: Any = node.target if node.target is operator.getitem else _any_layout(node.target)
        value = target(*args, **kwargs)
    else:
        raise ValueError(f"{node} is another input")
    values[node] = value
    return value


def _tensor(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    """The parameter, buffer or constant that a node reads."""
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _any_layout(target: Any) -> Any:
    return aten.reshape.default if target in (aten.view.default, aten._unsafe_view.default) else target


def _compare(run: Callable[[Tensor], Tensor], like: Tensor) -> Function | None:
    """The activation function that `run` is, on numbers of the shape and type of `like`."""
    generator = torch.Generator().manual_seed(0)
    octaves = _OCTAVES if torch.finfo(like.dtype).max > 2.0**_OCTAVES else 14

    def wide(uniform: Tensor) -> Tensor:
        """Numbers of every size and either sign, and some zeros."""
        size = 2 * (2 * uniform).frac() - 1
        side = (uniform - 0.5).sign()
        return torch.exp2(size * octaves) * side * (size.abs() > 0.02)

    found = _values(run, wide, like, generator)
    piecewise = None if found is None else _piecewise(*found)
    if found is None or piecewise is not None or like.dtype not in (torch.float32, torch.float64):
        return piecewise
    near = _values(run, lambda uniform: 24 * uniform - 12, like, generator)
    if near is None:
        return None
    x, y = near
    return next((f for f in _SMOOTH if torch.allclose(y, f(x), rtol=1e-5, atol=5e-6)), None)


def _values(
    run: Callable[[Tensor], Tensor], spread: Callable[[Tensor], Tensor], like: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """Numbers that `spread` makes of uniform ones, and what `run` makes of them, flat; None where it is no function."""
    shape = shape_for(like, _BATCH)
    pairs = []
    for _ in range(-(-_NUMBERS // max(1, torch.Size(shape).numel()))):
        x = spread(torch.rand(shape, generator=generator, dtype=torch.float64)).to(like.device, like.dtype)
        y = run(x)
        if y.shape != x.shape or y.dtype != x.dtype or y.isnan().any():
            return None
        pairs.append((x.flatten(), y.flatten()))
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def _piecewise(x: Tensor, y: Tensor) -> Function | None:
    """A rectifier, a leaky one, or a clip to two finite bounds."""
    on = x > 0
    if on.all() or not on.any():
        return None
    low, high = y.min().item(), y.max().item()
    if torch.equal(y.masked_fill(on, 0), torch.zeros_like(y)) and _close(y[on], x[on]):
        return Function(aten.relu.default)
    if x.min() < low < high < x.max() and torch.equal(y, x.clamp(low, high)):
        return Function(aten.relu6.default) if (low, high) == (0, 6) else Function(aten.hardtanh.default, (low, high))
    off = x < 0
    slope = float((y[off] / x[off]).double().median())
    slope = next((s for s in (float(f"{slope:.6g}"), slope) if _close(y[off], s * x[off])), -1.0)
    if 0 < slope != 1 and _close(y[on], x[on]) and not y[x == 0].any():
        return Function(aten.leaky_relu.default, (slope,))
    return None


def _close(y: Tensor, x: Tensor) -> bool:
    """Equal but for rounding."""
    return torch.allclose(y, x, rtol=8 * torch.finfo(x.dtype).eps, atol=0)
