"""Where to cut a network so that one stored value feeds all that comes behind."""

from __future__ import annotations

from netopsy.blocks.block import Block
from netopsy.blocks.flow import Flow
from netopsy.network.network import Network


def cut_before(network: Network, block: Block) -> str:
    """Name of the last node at or before the block's input that every path from the input to the output passes.

    Its value has one row an image, so that it can be stored and read back in batches.
    """
    flow = Flow.of(network)
    at = flow.position(network, block.input)
    return flow.name([i for i in flow.spine() if i <= at][-1])
