"""The table of a network's layers."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from netopsy.network.network import Network, check_network
from netopsy.network.windows.field import receptive_field

_SCHEMA = {
    "layer": pl.String,
    "kind": pl.String,
    "weight": pl.String,
    "groups": pl.Int64,
    "parameters": pl.Int64,
    "share": pl.Float64,
    "output": pl.String,
    "macs": pl.Int64,
    "calls": pl.Int64,
    "field": pl.String,
    "field_height": pl.Float64,
    "field_width": pl.Float64,
    "field_stride": pl.String,
    "field_exact": pl.Boolean,
    "bias": pl.Boolean,
}


def list_layers(network: Network) -> pl.DataFrame:
    """The weight-bearing layers of `network` in order of execution, one row each; a weight used twice is one row.

    layer, kind (conv, conv_transpose, linear, recurrent, embedding); weight: shape, as 64x3x7x7; groups;
    parameters: of weight and bias;
    share: of all the network's parameters, 0..1 (norms are no layers: see `other_parameters`);
    output: shape of the first call without the batch;
    macs: multiply-accumulates for one image over all calls and steps;
    field: receptive field of one output in pixels, height x width, `<=` before it where it is only a bound;
    field_stride: pixels from one output's field to the next one's.
    """
    check_network(network)
    total = max(network.parameters, 1)
    rows = []
    for layer in network.layers:
        field = receptive_field(network, layer.nodes[0])
        rows.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "weight": _text(layer.weight_shape),
                "groups": layer.groups,
                "parameters": layer.parameters,
                "share": layer.parameters / total,
                "output": _text(layer.output_shape),
                "macs": layer.macs,
                "calls": len(layer.nodes),
                "field": str(field),
                "field_height": field.size[0],
                "field_width": field.size[1],
                "field_stride": _text(f"{step:g}" for step in field.stride),
                "field_exact": field.exact,
                "bias": layer.bias is not None,
            }
        )
    return pl.DataFrame(rows, schema=_SCHEMA)


def other_parameters(network: Network) -> dict[str, int]:
    """Parameters that belong to no layer, by name: norms' scales and shifts, layer scales, tokens,
    and embeddings that are looked up by the place alone.

    Together with the table's `parameters` they make up all of the network's.
    """
    owned = {name for layer in network.layers for name in (layer.weight, layer.bias)}
    return {name: p.numel() for name, p in network.module.named_parameters() if name not in owned}


def _text(sizes: Iterable[object]) -> str:
    return "x".join(str(size) for size in sizes)
