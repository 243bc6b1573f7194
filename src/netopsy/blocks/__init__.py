"""Blocks: stretches of a network with one input and one output, which one layer may stand in for."""

from netopsy.blocks.block import Block
from netopsy.blocks.find import default_blocks, find_blocks, list_blocks
from netopsy.blocks.layer import new_layer
from netopsy.blocks.named import find_block
from netopsy.blocks.section import layer_path, section

__all__ = [
    "Block",
    "default_blocks",
    "find_block",
    "find_blocks",
    "layer_path",
    "list_blocks",
    "new_layer",
    "section",
]
