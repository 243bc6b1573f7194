"""How data flow through a graph: which node all paths pass, which nodes lie between two, which axis holds the channels.

Sets of nodes are bit masks: bit i stands for node i in order of execution.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from netopsy.network.activations import ELEMENTWISE
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.program import Program

_cache: weakref.WeakKeyDictionary[Program, Flow] = weakref.WeakKeyDictionary()


def side_inputs(network: Network) -> tuple[str, ...]:
    """Names of the inputs that only say of what kind the places of a sample are: masks and segments.

    They reach into every block of a network of tokens. Where there are no others they are the input itself.
    """
    pairs = zip(network.signature.names, network.signature.inputs, strict=True)
    names = tuple(name for name, entry in pairs if entry.kind in ("mask", "segments"))
    return names if len(names) < len(network.signature.inputs) else ()


def _from_content(network: Network) -> set[Node]:
    """The nodes whose values depend on more than sizes, parameters and side inputs."""
    sides = set(side_inputs(network))
    chosen: set[Node] = set()
    for node in network.program.nodes:
        given = node.op == "placeholder" and node.name not in sides
        if given or (node.from_input and node.op != "placeholder" and any(p in chosen for p in node.inputs)):
            chosen.add(node)
    return chosen


class Flow:
    """The nodes whose values depend on the input, and who reads whom.

    Left out are parameters, sizes, and what is made from `side_inputs` alone.

    nodes: in order of execution. index: position by node. reads: positions that each node reads. live: the nodes that
    the network's output depends on. dominators: of each node, the nodes that every path from the input to it passes.
    ancestors: of each node, the nodes that it is computed from. results: the nodes whose values the graph returns.
    """

    def __init__(self, network: Network) -> None:
        content = _from_content(network)
        self.nodes = [n for n in network.program.nodes if n in content and n.op != "output"]
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.reads = [tuple(self.index[p] for p in node.inputs if p in self.index) for node in self.nodes]
        self.readers: list[list[int]] = [[] for _ in self.nodes]
        self.ancestors: list[int] = []
        self.dominators: list[int] = []
        for i, parents in enumerate(self.reads):
            above, common = 0, -1
            for p in parents:
                self.readers[p].append(i)
                above |= self.ancestors[p] | 1 << p
                common &= self.dominators[p]
            self.ancestors.append(above)
            self.dominators.append((common if parents else 0) | 1 << i)
        self.results = mask_of(self.index[n] for n in network.program.output.inputs if n in self.index)
        self.end = self.index[network.nodes[network.output]]
        self.live = self.ancestors[self.end] | 1 << self.end
        self.postdominators = [0] * len(self.nodes)
        for i in reversed(range(len(self.nodes))):
            if self.live >> i & 1:
                common = -1
                for reader in self.readers[i]:
                    if self.live >> reader & 1:
                        common &= self.postdominators[reader]
                self.postdominators[i] = (0 if common == -1 or i == self.end else common) | 1 << i

    @classmethod
    def of(cls, network: Network) -> Flow:
        """The flow of the network's graph, worked out once."""
        if network.program not in _cache:
            _cache[network.program] = cls(network)
        return _cache[network.program]

    def position(self, network: Network, name: str) -> int:
        """Position of the node called `name`."""
        return self.index[network.nodes[name]]

    def calls(self, network: Network, layer: Layer) -> list[int]:
        """Positions of the nodes of a layer; none of one that reads side inputs alone."""
        return [self.index[network.nodes[name]] for name in layer.nodes if network.nodes[name] in self.index]

    def name(self, i: int) -> str:
        """Name of node `i`."""
        return self.nodes[i].name

    def spine(self) -> list[int]:
        """The values, one of each image, that every path from the input to the output passes, in order."""
        return [i for i in bits(self.dominators[self.end]) if self.single(i)]

    def single(self, i: int) -> bool:
        """Whether the value of node `i` is one tensor whose first axis is the batch."""
        return self.nodes[i].per_sample

    def between(self, start: int, end: int) -> int:
        """The nodes that lie on a path from `start` (left out) to `end` (included)."""
        mask = 0
        for i in range(start + 1, end + 1):
            if self.ancestors[i] >> start & 1 and (i == end or self.ancestors[end] >> i & 1):
                mask |= 1 << i
        return mask

    def inputs(self, region: int) -> list[int]:
        """The nodes outside `region` that it reads."""
        outside = {p for i in bits(region) for p in self.reads[i] if not region >> p & 1}
        return sorted(outside)

    def outputs(self, region: int) -> list[int]:
        """The nodes of `region` that are read outside it, or that the graph returns."""
        return [
            i
            for i in bits(region)
            if self.results >> i & 1 or any(not region >> reader & 1 for reader in self.readers[i])
        ]


def bits(mask: int) -> Iterator[int]:
    """The positions of the bits that are set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def mask_of(positions: Iterator[int]) -> int:
    """The mask with these bits set."""
    mask = 0
    for i in positions:
        mask |= 1 << i
    return mask


# Operators that leave the axes of a map where they are.
_KEEPING = ELEMENTWISE | {
    "add",
    "sub",
    "mul",
    "div",
    "clone",
    "roll",
    "constant_pad_nd",
    "pad",
    "slice",
    "cat",
    "dropout",
}
_VIEWS = {"view", "reshape", "unsafe_view"}  # of rows and columns as one axis, or in windows, the channels last
_SECOND = {"conv2d", "conv_transpose2d", "convolution", "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"}


def channels_last(flow: Flow, i: int) -> bool:
    """Whether the four axes of value `i` are (batch, row, column, channel), from the operators around it.

    A convolution, batch norm or pooling has its channels second, a linear map or a layer norm over one axis has them
    last; the nearest such operator, through others that leave the channels where they are, decides. None: second.
    """
    if len(flow.nodes[i].full_shape) != 4:
        return False
    visited, queue = {i}, [i]
    for here in queue:
        answer = _says(flow, here)
        for reader in flow.readers[here]:
            answer = _says(flow, reader, here) if answer is None else answer
        if answer is not None:
            return answer
        beside = [reader for reader in flow.readers[here] if _keeps(flow, reader)]
        beside += [p for p in flow.reads[here] if _keeps(flow, here)]
        new = [j for j in beside if j not in visited and len(flow.nodes[j].full_shape) > 2]
        visited.update(new)
        queue.extend(new)
    return False


def _says(flow: Flow, i: int, operand: int | None = None) -> bool | None:
    """What operator `i` says of its own value, or of `operand`, which it reads; None where it says nothing."""
    node = flow.nodes[i]
    if operand is not None and flow.reads[i][:1] != (operand,):
        return None
    name = node.operator
    if name in _SECOND:
        return False
    if name == "linear":
        return True
    if name in ("layer_norm", "native_layer_norm") and len(node.argument("normalized_shape") or ()) == 1:
        return True
    return None


def _keeps(flow: Flow, i: int) -> bool:
    """Whether the channels of the operator's value lie where those of its operand do."""
    name = flow.nodes[i].operator.rstrip("_")
    if name in _VIEWS and len(flow.reads[i]) == 1:
        before, after = flow.nodes[flow.reads[i][0]].full_shape, flow.nodes[i].full_shape
        return len(before) > 2 and len(after) > 2 and before[-1] == after[-1] and before[1] != after[1]
    return name in _KEEPING
