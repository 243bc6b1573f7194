"""Prune and retrain in rounds, share and move the tables: the trained stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from netopsy.codec.shared import SharedTensor
from netopsy.deep_compression.measure import measured
from netopsy.deep_compression.stages import masked, masks_at
from netopsy.engine.train import fit
from netopsy.engine.train.recipe import Recipe
from netopsy.network.network import Network
from netopsy.samples.samples import Samples


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
            network, length = masked(network, masks), epochs[min(number, len(epochs)) - 1]
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
        start = measured(network, shared)
        if not epochs:
            return start, dict(shared), []
        recipe = replace(self.recipe, epochs=epochs, rate=rate, seed=self.recipe.seed + 1000)
        history = fit(start, self.images, recipe, shared=shared, teacher=self.teacher, label="share")
        return history.network, history.shared, [history.table.select(pl.lit("share").alias("fit"), pl.all())]
