"""Prune and retrain in rounds, share and move the tables: the trained stages.

How many weights each layer keeps is as given, beyond a threshold, or as little as an accuracy budget allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
from torch import Tensor

from netopsy.codec.shared import SharedTensor
from netopsy.deep_compression.compress import (
    apply_masks,
    densities_of,
    masks_at,
    masks_beyond,
    parse_entries,
    per_layer,
)
from netopsy.deep_compression.save import expanded_network
from netopsy.engine.sweep.edits import Replace
from netopsy.engine.sweep.sweep import sweep_edits
from netopsy.engine.train.fit import fit
from netopsy.engine.train.recipe import Recipe
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

DENSITIES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
IMAGES = 2000
"""Training images that the sensitivity is measured on; choosing needs no more, and sees no test image."""

Change = tuple[dict[str, Any], Replace | None]


def chosen_densities(network: Network, density: tuple[str, ...], threshold: tuple[str, ...]) -> dict[str, float] | None:
    """The share of weights that each layer keeps, from whichever of the two is given; None where neither is."""
    if density:
        return densities_of(network.layers, density)
    if not threshold:
        return None
    masks = masks_beyond(network, per_layer(network.layers, parse_entries(threshold), "threshold"))
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


def lowest_within(scores: pl.DataFrame, budget: float) -> dict[str, float]:
    """By layer the lowest density down to which no density tried loses more than `budget` points."""
    lowest: dict[str, float] = {}
    for (name,), rows in scores.filter(pl.col("layer") != "all").group_by("layer", maintain_order=True):
        lowest[str(name)] = 1.0
        for density, drop in rows.sort("density", descending=True).select("density", "drop").iter_rows():
            if 100 * drop > budget + 1e-9:
                break
            lowest[str(name)] = density
    return lowest


def _prune(layer: Layer, density: float, least: float) -> Replace:
    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight = tensors[layer.weight]
        return {layer.weight: weight * (weight.abs() >= least)}

    return Replace((layer.weight,), edit, f"density {density}")


@dataclass(frozen=True)
class Training:
    """What all retraining shares: images, a recipe whose epochs and rate each stage sets, and the teacher."""

    images: Samples
    recipe: Recipe
    teacher: Network | None

    def prune(
        self, network: Network, densities: Mapping[str, float], rounds: int, epochs: tuple[int, ...]
    ) -> tuple[Network, list[pl.DataFrame]]:
        """`network` pruned to `densities` in so many rounds, each retrained with the zeros held.

        The density of round r of n is density ** (r / n): each round takes the same share of what is left.
        """
        tables = []
        for number in range(1, rounds + 1):
            now = {name: density ** (number / rounds) for name, density in densities.items() if density < 1}
            masks = masks_at(network, now)
            network, length = apply_masks(network, masks), epochs[min(number, len(epochs)) - 1]
            if length:
                history = fit(
                    network,
                    self.images,
                    replace(self.recipe, epochs=length, seed=self.recipe.seed + number),
                    masks=masks,
                    teacher=self.teacher,
                    label=f"prune, round {number} of {rounds}",
                )
                network = history.network
                tables.append(history.table.select(pl.lit(f"prune {number}").alias("fit"), pl.all()))
        return network, tables

    def share(
        self, network: Network, shared: Mapping[str, SharedTensor], epochs: int, rate: float
    ) -> tuple[Network, dict[str, SharedTensor], list[pl.DataFrame]]:
        """`network` with `shared` weights, whose tables then move by the summed gradient of their weights."""
        start = expanded_network(network, shared)
        if not epochs:
            return start, dict(shared), []
        recipe = replace(self.recipe, epochs=epochs, learning_rate=rate, seed=self.recipe.seed + 1000)
        history = fit(start, self.images, recipe, shared=shared, teacher=self.teacher, label="share")
        return history.network, history.shared, [history.table.select(pl.lit("share").alias("fit"), pl.all())]
