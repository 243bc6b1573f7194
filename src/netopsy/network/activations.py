"""The activation functions of a network: the nodes that apply one, and what they do to small values."""

from __future__ import annotations

from netopsy.network.network import Network
from netopsy.network.node import Node

_RECTIFIERS = {"relu", "relu6", "hardswish", "hardsigmoid", "threshold"}
_SMOOTH = {"gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "prelu", "softplus", "softsign"}
_SATURATING = {"sigmoid", "log_sigmoid", "tanh"}
_MIXING = {"softmax", "log_softmax", "glu"}  # a value depends on others than its own operand
_CLAMPS = {"hardtanh", "clamp", "clamp_min"}
ELEMENTWISE = _RECTIFIERS | _SMOOTH | _SATURATING | _CLAMPS


def activations(network: Network, *, mixing: bool = True) -> dict[str, Node]:
    """The nodes that apply an activation function, by name, in order of execution.

    mixing: with softmax and gated linear units, whose values are not functions of one operand value each.
    """
    known = ELEMENTWISE | _MIXING if mixing else ELEMENTWISE
    return {name: node for name, node in network.nodes.items() if node.operator.rstrip("_") in known}


def operand(network: Network, node: Node, *, mixing: bool = True) -> Node:
    """The node in front of the activation function that `node` applies; `node` itself where it applies none.

    mixing: go back over a softmax too, to the class scores. A function of the input itself stays, as does one that
    changes the shape.
    """
    known = ELEMENTWISE | _MIXING if mixing else ELEMENTWISE
    while node.operator.rstrip("_") in known:
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
