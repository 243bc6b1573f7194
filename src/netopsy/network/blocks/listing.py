"""The table of a network's blocks."""

from __future__ import annotations

import polars as pl

from netopsy.network.blocks.find import default_blocks, find_blocks
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
    "parent": pl.String,
    "default": pl.Boolean,
    "obstacle": pl.String,
}


def list_blocks(network: Network) -> pl.DataFrame:
    """The blocks of `network` in order of execution, an outer one before an inner one, one row each."""
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
            "parent": block.parent,
            "default": block.name in chosen,
            "obstacle": block.obstacle,
        }
        for block in find_blocks(network)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)
