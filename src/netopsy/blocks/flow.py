"""How data flow through a graph: which node all paths pass, and which nodes lie between two.

Sets of nodes are bit masks: bit i stands for node i in order of execution.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from torch import fx

from netopsy.network.graph import batch_first, data_nodes, is_tensor
from netopsy.network.network import Network

_kept: weakref.WeakKeyDictionary[fx.GraphModule, Flow] = weakref.WeakKeyDictionary()


class Flow:
    """The nodes whose values depend on the input, and who reads whom; parameters and sizes are left out.

    nodes: in order of execution. index: position by node. reads: positions that each node reads. live: the nodes that
    the network's output depends on. dominators: of each node, the nodes that every path from the input to it passes.
    ancestors: of each node, the nodes that it is computed from. shown: the nodes whose values the graph returns.
    """

    def __init__(self, network: Network) -> None:
        graph = network.graph
        data = data_nodes(graph)
        self.nodes = [n for n in graph.graph.nodes if n in data and n.op in ("placeholder", "call_function")]
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.reads = [tuple(self.index[p] for p in node.all_input_nodes if p in self.index) for node in self.nodes]
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
        (end,) = (n for n in graph.graph.nodes if n.op == "output")
        self.shown = mask_of(self.index[n] for n in end.all_input_nodes if n in self.index)
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
        graph = network.graph
        if graph not in _kept:
            _kept[graph] = cls(network)
        return _kept[graph]

    def position(self, network: Network, name: str) -> int:
        """Position of the node called `name`."""
        return self.index[network.nodes[name]]

    def name(self, i: int) -> str:
        """Name of node `i`."""
        return str(self.nodes[i].meta["name"])

    def spine(self) -> list[int]:
        """The values, one of each image, that every path from the input to the output passes, in order."""
        return [i for i in bits(self.dominators[self.end]) if self.single(i)]

    def single(self, i: int) -> bool:
        """Whether the value of node `i` is one tensor whose first axis is the batch."""
        return is_tensor(self.nodes[i]) and batch_first(self.nodes[i])

    def between(self, start: int, end: int) -> int:
        """The nodes that lie on a path from `start` (left out) to `end` (included)."""
        found = 0
        for i in range(start + 1, end + 1):
            if self.ancestors[i] >> start & 1 and (i == end or self.ancestors[end] >> i & 1):
                found |= 1 << i
        return found

    def inputs(self, region: int) -> list[int]:
        """The nodes outside `region` that it reads."""
        outside = {p for i in bits(region) for p in self.reads[i] if not region >> p & 1}
        return sorted(outside)

    def outputs(self, region: int) -> list[int]:
        """The nodes of `region` that are read outside it, or that the graph returns."""
        return [
            i
            for i in bits(region)
            if self.shown >> i & 1 or any(not region >> reader & 1 for reader in self.readers[i])
        ]


def bits(mask: int) -> Iterator[int]:
    """The positions of the bits that are set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def mask_of(positions: Iterator[int]) -> int:
    """The mask with these bits set."""
    found = 0
    for i in positions:
        found |= 1 << i
    return found
