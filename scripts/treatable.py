"""Which studies can treat a network, from facts of its graph."""

from __future__ import annotations

from collections import Counter

from netopsy.blocks.find import default_blocks
from netopsy.errors import NetopsyError
from netopsy.network.network import Network
from netopsy.network.node import Node

# Activations that give exact zeros over a whole range of inputs, and those that give none (but at a point).
RECTIFIERS = {"relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "threshold", "hardshrink", "softshrink", "clamp"}
RECTIFIERS |= {"clamp_min"}
SMOOTH = {"gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "prelu", "sigmoid", "tanh", "softplus"}
_RANDOM = {"rand", "randn", "randint", "randperm", "bernoulli", "rand_like", "randn_like", "multinomial", "normal"}

_PRUNED = {"prescribe", "compression", "dsd"}
_WEIGHTS = {"parameters", "distributions", "noise", "rounding", "codebook", "transfer", "correspondence", *_PRUNED}
_FILTERS = {"filters", "filter_codebook"}
_BLOCKS = {"triage"}
_SCORES = {"noise", "rounding", "codebook", "filter_codebook", *_PRUNED, *_BLOCKS}


def obstacles(network: Network, study: str) -> str | None:
    """Why the study called `study` cannot treat `network`, as one sentence; None where it can.

    A network whose forward pass cannot be exported stands in the way of every study.
    """
    try:
        return _obstacle(network, study.replace("-", "_"))
    except NetopsyError as error:
        return str(error)


def zero_activations(network: Network) -> tuple[str, ...]:
    """Names of the nodes whose operator gives exact zeros over a range of inputs, in order of execution."""
    return tuple(name for name, node in network.nodes.items() if node.op == "call_function" and _gives_zeros(node))


def _obstacle(network: Network, study: str) -> str | None:
    if study in _WEIGHTS and not network.layers:
        return "It has no convolution or linear layer with a weight."
    if study in _FILTERS and not network.select(kind="conv"):
        return "It has no convolution."
    if study in _BLOCKS and not any(block.obstacle is None for block in default_blocks(network)):
        return "It has no block of two or more layers that one layer can stand in for."
    if study == "sparsity" and not zero_activations(network):
        counts = Counter(
            node.operator for node in network.program.nodes if node.from_input and node.op == "call_function"
        )
        smooth = [f"{counts[name]} {name}" for name in sorted(SMOOTH, key=lambda name: -counts[name]) if counts[name]]
        return f"No activation gives exact zeros: it has {', '.join(smooth) or 'no activation'}."
    if study in _SCORES:
        shape = network.nodes[network.output].full_shape
        if len(shape) != 2:
            return f"Its output has the shape (batch, {', '.join(map(str, shape[1:]))}), not one score a class."
    if study in _SCORES or study == "sparsity":
        random_nodes = [n.name for n in network.program.nodes if n.operator in _RANDOM]
        if random_nodes:
            return f"Its forward pass draws random numbers ({random_nodes[0]})."
    return None


def _gives_zeros(node: Node) -> bool:
    name = node.operator
    if name in ("hardtanh", "clamp", "clamp_min"):
        # only a lower bound of zero clips to zero
        low = node.argument("min_val" if name == "hardtanh" else "min")
        return low is not None and not hasattr(low, "op") and float(low) == 0.0
    return name in RECTIFIERS
