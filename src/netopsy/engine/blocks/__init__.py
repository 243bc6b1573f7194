"""One layer in a block's place: cut the network, put the layer in, set its weights."""

from netopsy.engine.blocks.compressed import compressed_network
from netopsy.engine.blocks.cut import cut_before
from netopsy.engine.blocks.layer import OneLayer, new_layer
from netopsy.engine.blocks.least_squares import least_squares
from netopsy.engine.blocks.mean_of_parent import mean_of_parent
from netopsy.engine.blocks.section import layer_path, section

__all__ = [
    "OneLayer",
    "compressed_network",
    "cut_before",
    "layer_path",
    "least_squares",
    "mean_of_parent",
    "new_layer",
    "section",
]
