"""Which nodes of two networks are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.node import Node

Pairing = Literal["matching", "all"]
_NORMS = {"batch_norm", "group_norm", "instance_norm", "layer_norm"}
_ON_THE_WAY = _NORMS | {"add", "dropout", "feature_dropout", "clone", "contiguous", "alias", "to"}


def layers_of(network: Network) -> list[str]:
    """Names of the nodes that are compared by default, in order of execution.

    For each weight-bearing layer the activation function behind it, before any pooling or local response norm (Li et
    al., Section 2), over norms and sums of a residual block; else the layer itself, with the norm behind it.
    """
    chosen = {name for layer in network.layers for name in [_behind(network, layer.nodes[0])] if name}
    return [name for name in network.nodes if name in chosen]


def pairs_of(
    network_a: Network,
    network_b: Network,
    layers: Sequence[tuple[str, str]] | None = None,
    pairs: Pairing = "matching",
) -> list[tuple[str, str]]:
    """Node names of the pairs to compare.

    layers: (layer of a, layer of b); a weight-bearing layer's name gives its own output. None: by `pairs`, of the
    layers that `layers_of` names: `all`, or `matching` ones, which are those of equal names where half of them are
    equal, those of equal position where both networks have as many, and else all.
    """
    if pairs not in ("matching", "all"):
        raise SettingsError(f"pairs {pairs!r} is unknown; give matching or all.")
    if layers is not None:
        checked = []
        for pair in layers:
            if isinstance(pair, str) or len(pair) != 2:
                raise SettingsError(
                    f"layers holds {pair!r}; give pairs (layer of a, layer of b), for instance ('conv1', 'conv1')."
                )
            checked.append((_check(network_a, pair[0]), _check(network_b, pair[1])))
        if not checked:
            raise SettingsError("layers is empty; give at least one (layer of a, layer of b), or nothing for all.")
        return list(dict.fromkeys(checked))
    ours, theirs = layers_of(network_a), layers_of(network_b)
    for network, names in ((network_a, ours), (network_b, theirs)):
        if not names:
            raise SettingsError(f"{network.name} has no layer with units of one image each; name nodes in layers.")
    common = [name for name in ours if name in set(theirs)]
    if pairs == "matching" and 2 * len(common) > max(len(ours), len(theirs)):
        return [(name, name) for name in common]
    if pairs == "matching" and len(ours) == len(theirs):
        return list(zip(ours, theirs, strict=True))
    return [(a, b) for a in ours for b in theirs]


def _behind(network: Network, name: str) -> str | None:
    """The activation behind the node `name`, else the last norm directly behind it, or itself."""
    functions_by_name, start = activations(network, mixing=False), network.nodes[name]
    order = {node: position for position, node in enumerate(network.nodes.values())}
    reached, stack = {start}, [start]
    while stack:
        for user in stack.pop().users:
            kind = user.operator.rstrip("_")
            if user in order and user not in reached and (user.name in functions_by_name or kind in _ON_THE_WAY):
                reached.add(user)
                if user.name not in functions_by_name:
                    stack.append(user)
    functions = sorted((node for node in reached if node.name in functions_by_name), key=order.__getitem__)
    if functions and treatable(functions[0]):
        return functions[0].name
    while len(start.users) == 1 and (follower := start.users[0]).operator in _NORMS:
        start = follower
    return start.name if treatable(start) else None


def treatable(node: Node) -> bool:
    """Whether the node has units: real numbers, one image a row, at least one axis more."""
    return node.is_floating_point and node.per_sample and len(node.shape) > 0


def _check(network: Network, name: str) -> str:
    node = network.node(name)
    if not treatable(node):
        raise UnknownLayer(
            f"node '{name}' of {network.name} has no units of one image each (shape {node.full_shape} for one image); "
            "choose the node before or behind it."
        )
    return node.name
