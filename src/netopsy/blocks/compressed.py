"""The compressed network as a network of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from netopsy.blocks.block import Block
from netopsy.blocks.section import section
from netopsy.network.network import Network


def compressed_network(network: Network, replaced: Sequence[tuple[Block, nn.Module]]) -> Network:
    """`network` with blocks replaced by the given modules; all other weights are the network's own, not copies."""
    names = ", ".join(block.name for block, _ in replaced)
    module = section(network, replaced=replaced)
    provenance = {**network.provenance, "compressed": [block.name for block, _ in replaced]}
    return Network(f"{network.name} with {names} as one layer", module, network.preprocessing, provenance)
