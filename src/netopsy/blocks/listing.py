"""The table of a network's blocks."""

from __future__ import annotations

import math

import polars as pl

from netopsy.blocks.block import Block
from netopsy.blocks.find import default_blocks, find_blocks
from netopsy.blocks.fit import layer_shape
from netopsy.network.network import Network

_SCHEMA = {
    "block": pl.String,
    "kind": pl.String,
    "layers": pl.Int64,
    "parameters": pl.Int64,
    "share": pl.Float64,
    "macs": pl.Int64,
    "input": pl.String,
    "output": pl.String,
    "layer": pl.String,
    "layer_parameters": pl.Int64,
    "layer_macs": pl.Int64,
    "parent": pl.String,
    "default": pl.Boolean,
    "obstacle": pl.String,
}


def list_blocks(network: Network) -> pl.DataFrame:
    """The blocks of `network` in order of execution, an outer one before an inner one, one row each.

    block: name; kind (conv, tokens, linear); layers, parameters, macs: inside, macs for one image; share: of all the
    network's parameters, 0..1; input, output: shapes without the batch; layer: the one layer that fits in its place,
    with its own layer_parameters and layer_macs; parent: the smallest listed block around it; default: whether it is
    taken where no block is named; obstacle: why no one layer fits.
    """
    total = max(network.parameters, 1)
    chosen = {block.name for block in default_blocks(network)}
    rows = [
        {
            "block": block.name,
            "kind": block.kind,
            "layers": len(block.layers),
            "parameters": block.parameters,
            "share": block.parameters / total,
            "macs": block.macs,
            "input": "x".join(map(str, block.input_shape)),
            "output": "x".join(map(str, block.output_shape)),
            **_layer(network, block),
            "parent": block.parent,
            "default": block.name in chosen,
            "obstacle": block.obstacle,
        }
        for block in find_blocks(network)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _layer(network: Network, block: Block) -> dict[str, str | int | None]:
    if block.obstacle is not None:
        return {"layer": None, "layer_parameters": None, "layer_macs": None}
    shape = layer_shape(network, block)
    places = math.prod(block.output_shape) // shape.outputs
    return {"layer": str(shape), "layer_parameters": shape.parameters, "layer_macs": places * shape.weights}
