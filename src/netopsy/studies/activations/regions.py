"""How many activation patterns, and so linear regions of the input space, the samples meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor

from netopsy.tallies.patterns import PatternsResult, mix

_SCHEMA: dict[str, Any] = {
    "node": pl.String,
    "images": pl.Int64,
    "patterns": pl.Int64,
    "unique_share": pl.Float64,
    "cumulative_patterns": pl.Int64,
    "cumulative_unique_share": pl.Float64,
    "places_drawn": pl.Int64,
    "place_patterns": pl.Int64,
    "place_unique_share": pl.Float64,
    "commonest_place_share": pl.Float64,
}


def table(hashes: Mapping[str, PatternsResult]) -> pl.DataFrame:
    """One row a node, in order of execution.

    patterns: distinct patterns among the images; unique_share: of images whose pattern no other image has.
    cumulative_*: the same for the patterns of this node and all before it together: the linear region of the network
    up to here. place_*: for the channels' patterns at the places drawn; commonest: the share of the most frequent one.
    """
    rows = []
    region: Tensor | None = None
    for name, found in hashes.items():
        region = mix(found.images if region is None else region + found.images)
        patterns, unique, _ = distinct(found.images)
        together, alone, _ = distinct(region)
        row = [name, len(found.images), patterns, unique, together, alone]
        places = distinct(found.places) if len(found.places) else (None, None, None)
        rows.append([*row, len(found.places), *places])
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def distinct(hashes: Tensor) -> tuple[int, float, float]:
    """Number of distinct hashes, share of hashes that occur once, share of the most frequent one."""
    counts = torch.unique(hashes, return_counts=True)[1]
    total = max(1, len(hashes))
    return len(counts), float((counts == 1).sum()) / total, float(counts.max()) / total if len(counts) else 0.0
