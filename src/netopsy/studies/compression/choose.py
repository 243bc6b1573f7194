"""How many weights each layer keeps: as given, beyond a threshold, or as little as an accuracy budget allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from torch import Tensor

from netopsy.deep_compression.assign import per_layer
from netopsy.deep_compression.stages import densities_of, listed, masks_beyond
from netopsy.engine.sweep.edits import Replace
from netopsy.engine.sweep.scopes import sweep_edits
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

DENSITIES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
IMAGES = 2000
"""Training images that the sensitivity is measured on; choosing needs no more, and sees no test image."""

Change = tuple[dict[str, Any], Replace | None]


def given(network: Network, density: tuple[str, ...], threshold: tuple[str, ...]) -> dict[str, float] | None:
    """The share of weights that each layer keeps, from whichever of the two is given; None where neither is."""
    if density:
        return densities_of(network.layers, density)
    if not threshold:
        return None
    masks = masks_beyond(network, per_layer(network.layers, listed(threshold), "threshold"))
    layers = {layer.weight: layer.name for layer in network.layers}
    return {layers[name]: float(mask.double().mean()) for name, mask in masks.items()}


def sensitivity(network: Network, images: Samples, seed: int) -> pl.DataFrame:
    """Scores with one layer pruned at a time, by layer and density, on at most IMAGES of `images`; no retraining."""
    part = images.subset(min(IMAGES, len(images)), seed)
    edits: list[Change] = [({"layer": "all", "density": 1.0}, None)]
    for layer in network.layers:
        sizes = network.tensors[layer.weight].detach().abs().reshape(-1).sort(descending=True).values
        least = {density: float(sizes[max(1, round(density * len(sizes))) - 1]) for density in DENSITIES}
        edits += [({"layer": layer.name, "density": d}, _prune(layer, d, least[d])) for d in DENSITIES]
    return sweep_edits(network, part, edits)


def within(scores: pl.DataFrame, budget: float) -> dict[str, float]:
    """By layer the lowest density down to which no density tried loses more than `budget` points."""
    found: dict[str, float] = {}
    for (name,), rows in scores.filter(pl.col("layer") != "all").group_by("layer", maintain_order=True):
        found[str(name)] = 1.0
        for density, drop in rows.sort("density", descending=True).select("density", "drop").iter_rows():
            if 100 * drop > budget + 1e-9:
                break
            found[str(name)] = density
    return found


def _prune(layer: Layer, density: float, least: float) -> Replace:
    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight = tensors[layer.weight]
        return {layer.weight: weight * (weight.abs() >= least)}

    return Replace((layer.weight,), edit, f"density {density}")
