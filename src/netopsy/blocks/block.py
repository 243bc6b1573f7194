"""What a block is: a region of the graph with one input and one output, and the one layer that could replace it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from netopsy.blocks.flow import Flow, bits, channels_last
from netopsy.network.macs import node_macs
from netopsy.network.network import Network
from netopsy.network.node import Node


@dataclass(frozen=True)
class Block:
    """A stretch of the graph that reads one value and gives one value.

    name: path of a module, or `FIRST:LAST` by the first and last layer inside.
    kind: `conv`: maps (channel, height, width); `tokens`: vectors at places, the features last; `linear`: one vector.
    input: node whose value the block reads. output: node whose value the block gives, before a pooling behind it.
    after: the node behind the poolings that directly follow; `output` where there are none. A pooling over the whole
        map does not count: it is the head's.
    nodes: names of the nodes inside, in order of execution. layers: names of the weight-bearing layers inside.
    parameters: learned values inside, norms and embeddings included. macs: multiply-accumulates for one input.
    input_shape, output_shape: without the batch.
    parent: name of the smallest listed block around it, or None.
    obstacle: why no one layer can stand in for it, as a sentence, or None.
    """

    name: str
    kind: Literal["conv", "tokens", "linear"]
    input: str
    output: str
    after: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]
    parameters: int
    macs: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parent: str | None = None
    obstacle: str | None = None


_POOLS = {f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)}
_FLATTENS = {"view", "reshape", "flatten", "squeeze", "unsafe_view"}


def is_pooling(node: Node) -> bool:
    """Whether the node pools over places: over a window, or over the whole map."""
    if node.operator in _POOLS:
        return True
    if node.operator in ("mean", "amax") and len(node.args) > 2 and node.args[2]:
        return len(node.full_shape) == 4 and sorted(int(a) % 4 for a in node.args[1]) == [2, 3]
    return False


def pools_window(node: Node) -> bool:
    """Whether the node pools over a window: what it gives is a map still, or was a map of that window's size."""
    return is_pooling(node) and (
        node.operator in ("max_pool2d", "avg_pool2d") or node.full_shape[2:] not in ((1, 1), (1,))
    )


def trim_poolings(flow: Flow, region: int) -> int:
    """The region without the poolings at its end, nor a flattening behind them."""
    while region:
        out = flow.outputs(region)
        if len(out) != 1:
            return region
        node = flow.nodes[out[0]]
        operand = flow.reads[out[0]]
        flattens = node.operator in _FLATTENS and len(operand) == 1 and _rank(flow, operand[0]) == 4
        if not (is_pooling(node) or (flattens and _rank(flow, out[0]) == 2)):
            return region
        region &= ~(1 << out[0])
    return region


def describe_block(network: Network, flow: Flow, name: str, region: int) -> Block | None:
    """The block that `region` is, its trailing poolings left out; None where it has not one input and one output."""
    region = trim_poolings(flow, region)
    inputs, outputs = flow.inputs(region), flow.outputs(region)
    if len(inputs) != 1 or len(outputs) != 1 or not all(flow.nodes[i].is_tensor for i in (*inputs, *outputs)):
        return None
    start, end = inputs[0], outputs[0]
    if not all(flow.name(i) in network.nodes for i in (start, end)):
        return None
    nodes = tuple(flow.name(i) for i in bits(region))
    inside = set(nodes)
    layers = tuple(layer.name for layer in network.layers if inside & set(layer.nodes))
    learned = dict(network.module.named_parameters())
    block_parameters = _sources(flow, bits(region)) & learned.keys()
    kind, obstacle = _kind(network, flow, region, layers, start, end)
    return Block(
        name=name,
        kind=kind,
        input=flow.name(start),
        output=flow.name(end),
        after=flow.name(_behind(flow, end)),
        nodes=nodes,
        layers=layers,
        parameters=sum(learned[p].numel() for p in block_parameters),
        macs=sum(node_macs(flow.nodes[i]) for i in bits(region)),
        input_shape=flow.nodes[start].full_shape[1:],
        output_shape=flow.nodes[end].full_shape[1:],
        obstacle=obstacle or _sharing_obstacle(flow, region, block_parameters),
    )


def _rank(flow: Flow, i: int) -> int:
    return len(flow.nodes[i].full_shape) if flow.nodes[i].is_tensor else -1


def _behind(flow: Flow, end: int) -> int:
    """The node behind the poolings over windows that directly follow `end`."""
    while (
        len(flow.readers[end]) == 1 and not flow.results >> end & 1 and pools_window(flow.nodes[flow.readers[end][0]])
    ):
        end = flow.readers[end][0]
    return end


def _kind(
    network: Network, flow: Flow, region: int, layers: tuple[str, ...], start: int, end: int
) -> tuple[Literal["conv", "tokens", "linear"], str | None]:
    """What the values are, and why no one layer can give the output from the input, or None."""
    before, after = flow.nodes[start], flow.nodes[end]
    x, y = before.full_shape[1:], after.full_shape[1:]
    spread = " x ".join(map(str, x)), " x ".join(map(str, y))
    within = {flow.name(i): flow.nodes[i] for i in bits(region)}
    calls = [within[n] for name in layers for n in network.layer(name).nodes if n in within]
    first, last = (channels_last(flow, i) for i in (start, end))
    kinds: dict[int, Literal["conv", "tokens", "linear"]] = {1: "linear", 2: "tokens", 3: "tokens" if last else "conv"}
    kind = kinds.get(len(y), "tokens")
    obstacle = None
    if not (flow.single(start) and flow.single(end)):
        obstacle = f"Its values ({spread[0]} in, {spread[1]} out) have another first axis than the images"
    elif len(x) != len(y) or len(y) not in kinds:
        obstacle = f"It makes values of {spread[1]} of values of {spread[0]}, and one layer keeps the number of axes"
    elif not (before.is_floating_point and after.is_floating_point):
        obstacle = "Its values are no floating-point numbers"
    elif len(y) == 2 and any(n.operator.startswith("conv") for n in calls):
        obstacle = "It convolves along one axis, which a linear map of tokens does not"
    elif len(y) == 3 and first != last:
        obstacle = f"It moves the channels to another axis ({spread[0]} in, {spread[1]} out)"
    elif kind == "tokens" and x[:-1] != y[:-1]:
        obstacle = f"It makes {spread[1]} values of {spread[0]}, and a linear map of tokens keeps their number"
    elif kind == "conv" and (y[1] > x[1] or y[2] > x[2]):
        obstacle = f"It enlarges the map, from {spread[0]} to {spread[1]}"
    return kind, None if obstacle is None else f"{obstacle}; name a stretch FIRST:LAST before or behind that."


def _sources(flow: Flow, positions: Iterable[int]) -> set[str]:
    """Names of the tensors that nodes read, also through values computed from such tensors alone."""
    names: set[str] = set()
    visited: set[Node] = set()
    stack = [p for i in positions for p in flow.nodes[i].inputs if p not in flow.index]
    while stack:
        node = stack.pop()
        if node in visited:
            continue
        visited.add(node)
        if node.op == "get_attr":
            names.add(str(node.target))
        stack.extend(p for p in node.inputs if p not in flow.index)
    return names


def _sharing_obstacle(flow: Flow, region: int, block_parameters: set[str]) -> str | None:
    outside = _sources(flow, (i for i in range(len(flow.nodes)) if not region >> i & 1))
    both = sorted(block_parameters & outside)
    return f"Its parameter {both[0]} is read outside it too; name a stretch with all its uses." if both else None
