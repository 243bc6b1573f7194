"""What a block is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
