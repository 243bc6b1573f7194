"""The activation functions of a network, what they do to small values, and what else in it is not linear.

A function that is spelled out in parts is one operator here: `netopsy.network.canonical` has put it into the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netopsy.network.network import Network
from netopsy.network.node import Node

_RECTIFIERS = {"relu", "relu6", "hardswish", "hardsigmoid", "threshold"}
_SMOOTH = {"gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "prelu", "softplus", "softsign"}
_SATURATING = {"sigmoid", "log_sigmoid", "tanh"}
_MIXING = {"softmax", "log_softmax", "glu"}  # a value depends on others than its own operand
_CLAMPS = {"hardtanh", "clamp", "clamp_min"}
ELEMENTWISE = _RECTIFIERS | _SMOOTH | _SATURATING | _CLAMPS

# Operators that are affine in one operand, in one of two, or in all.
_WEIGHTS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}
_PRODUCTS = {"addmm", "matmul", "mm", "bmm", "mul"}
_SUMS = {"add", "sub", "rsub", "cat", "stack"}
_SPLITS = {"split", "split_with_sizes", "chunk", "unbind"}
SAME = frozenset({"dropout", "feature_dropout", "clone", "contiguous", "alias", "detach", "to", "lift_fresh_copy"})
_LINEAR = {
    *("view", "reshape", "unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze", "squeeze"),
    *("expand", "repeat", "slice", "select", "index_select", "narrow", "roll", "flip", "movedim", "pixel_shuffle"),
    *("mean", "sum", "neg", "pad", "constant_pad_nd", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d"),
    *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest2d", "upsample_bilinear2d"),
}
# Affine too in the one operand that depends on the input, wherever it stands among the arguments.
_MOVING = {
    *("upsample_bicubic2d", "upsample_nearest1d", "upsample_nearest3d", "upsample_linear1d", "upsample_trilinear3d"),
    *("einsum", "cumsum", "im2col", "col2im", "unfold", "unfold_copy", "pixel_unshuffle", "channel_shuffle", "tril"),
    *("triu", "index", "gather", "take_along_dim", "masked_fill", "where", "to_copy", "expand_as", "repeat_interleave"),
    *("tensor_split", "hsplit", "vsplit", "dsplit", "swapaxes", "swapdims", "moveaxis", "reflection_pad1d", "diff"),
    *("reflection_pad2d", "replication_pad1d", "replication_pad2d", "type_as", "view_as", "reshape_as", "baddbmm"),
    *("grid_sampler", "grid_sampler_2d", "avg_pool2d", "rot90", "diagonal", "trace", "tile", "positive"),
}
_MADE = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "empty_like", "new_empty"}
_SWITCHES = {"max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"}
_SWITCHES |= {"adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d"}


def activations(network: Network, *, mixing: bool = True) -> dict[str, Node]:
    """The nodes that apply an activation function, by name, in order of execution.

    mixing: with softmax and gated linear units, whose values are not functions of one operand value each.
    """
    functions = ELEMENTWISE | _MIXING if mixing else ELEMENTWISE
    return {name: node for name, node in network.nodes.items() if node.operator.rstrip("_") in functions}


def operand(network: Network, node: Node, *, mixing: bool = True) -> Node:
    """The node in front of the activation function that `node` applies; `node` itself where it applies none.

    mixing: go back over a softmax too, to the class scores. A function of the input itself stays, as does one that
    changes the shape.
    """
    functions = ELEMENTWISE | _MIXING if mixing else ELEMENTWISE
    while node.operator.rstrip("_") in functions:
        before = node.args[0] if node.args else None
        if not isinstance(before, Node) or before.op == "placeholder" or before.name not in network.nodes:
            break
        if before.full_shape != node.full_shape:
            break
        node = before
    return node


def rectifies(node: Node) -> bool:
    """Whether the node's function sends a whole interval to exactly zero."""
    kind = node.operator
    if kind in _CLAMPS:
        low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min_val", node.kwargs.get("min"))
        return isinstance(low, int | float) and low == 0
    return kind in _RECTIFIERS


def is_affine(node: Node) -> bool:
    """Whether the node's value is an affine function of the values that depend on the input."""
    if node.op != "call_function":
        return False
    kind = _kind(node)
    read = [a for a in _flat(node.args) if a.from_input]
    if kind == "batch_norm":
        return not node.args[5] and read == [node.args[0]]
    if kind in _WEIGHTS or kind == "div":
        return read == [node.args[0]]
    if kind in _PRODUCTS:
        return len(read) == 1
    if kind == "getitem":
        return _kind(node.args[0]) in _SPLITS and is_affine(node.args[0])
    return kind in _SUMS or (kind in _LINEAR | _SPLITS | SAME and len(read) == 1)


def nonlinearities(nodes: Iterable[Node]) -> dict[str, str]:
    """What is neither affine nor an activation function, nor max-pooling with its switches: operator by name of node.

    Products of two values, norms over the values themselves, attention, and functions that are not known. Of what an
    operator with several results gives, the operator is named, not each result.
    """
    found = {}
    for node in nodes:
        kind = _kind(node)
        read = [a for a in _flat((*node.args, *node.kwargs.values())) if a.from_input]
        real = node.is_floating_point or bool(node.parts)
        moves = kind in _MOVING and len(read) == 1 and (kind != "where" or read != [node.args[0]])
        passes = kind in _SWITCHES | _MADE | ELEMENTWISE or kind == "getitem" or moves or is_affine(node)
        if node.op == "call_function" and real and read and not passes:
            found[node.name] = kind
    return found


def _kind(node: Node) -> str:
    return node.operator.rstrip("_")


def _flat(args: Sequence[object]) -> list[Node]:
    """Every node among the arguments, as often as it stands there, but for sizes."""
    found: list[Node] = []
    for value in args:
        if isinstance(value, Node):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _flat(value)
    return found
