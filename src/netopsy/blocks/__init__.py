"""Blocks: stretches of a network with one input and one output, which one layer may stand in for."""

from netopsy.blocks.activation_cache import cache
from netopsy.blocks.block import Block
from netopsy.blocks.find import default_blocks, find_block, find_blocks, list_blocks
from netopsy.blocks.layer import mean_of_parent, new_layer
from netopsy.blocks.least_squares import least_squares
from netopsy.blocks.section import compressed_network, layer_path, section
from netopsy.blocks.training import train_module

__all__ = [
    "Block",
    "cache",
    "compressed_network",
    "default_blocks",
    "find_block",
    "find_blocks",
    "layer_path",
    "least_squares",
    "list_blocks",
    "mean_of_parent",
    "new_layer",
    "section",
    "train_module",
]
