"""The theoretical receptive field of every node whose units say something."""

from __future__ import annotations

from typing import Any

import polars as pl

from netopsy.network.graph import operator_name
from netopsy.network.network import Network
from netopsy.network.units import channels, unit_nodes, weight_layer
from netopsy.network.windows.field import receptive_field

_SCHEMA: dict[str, Any] = {
    "node": pl.String,
    "layer": pl.String,
    "operator": pl.String,
    "channels": pl.Int64,
    "rows": pl.Int64,
    "columns": pl.Int64,
    "height": pl.Float64,
    "width": pl.Float64,
    "stride_y": pl.Float64,
    "stride_x": pl.Float64,
    "start_y": pl.Float64,
    "start_x": pl.Float64,
    "covers": pl.Float64,
    "exact": pl.Boolean,
    "because": pl.String,
}


def fields(network: Network) -> pl.DataFrame:
    """One row a node, in order of execution: pixels, not cut to the image; see `netopsy.network.windows.field.Field`.

    covers: the share of the image's area that the unit in the middle sees.
    """
    height, width = (1, 1, *network.preprocessing.input_shape)[-2:]
    rows = []
    for name, node in unit_nodes(network).items():
        found = receptive_field(network, name)
        top, left, bottom, right = found.at(found.grid[0] // 2, found.grid[1] // 2)
        rows.append(
            {
                "node": name,
                "layer": weight_layer(network, node),
                "operator": operator_name(node),
                "channels": channels(node),
                "rows": found.grid[0],
                "columns": found.grid[1],
                "height": found.size[0],
                "width": found.size[1],
                "stride_y": found.stride[0],
                "stride_x": found.stride[1],
                "start_y": found.start[0],
                "start_x": found.start[1],
                "covers": (bottom - top) * (right - left) / (height * width),
                "exact": found.exact,
                "because": found.because,
            }
        )
    return pl.DataFrame(rows, schema=_SCHEMA)
