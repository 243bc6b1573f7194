"""Prune, share, code: how small a network gets with retraining (Han et al., "Deep Compression", ICLR 2016)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import polars as pl
import torch
from torch import Tensor

from netopsy.codec.file import SUFFIX
from netopsy.codec.shared import SharedTensor
from netopsy.codec.tensor import EntropyCoder
from netopsy.deep_compression.compress import (
    BITS,
    apply_masks,
    bits_of,
    check_bits,
    densities_of,
    masks_at,
    masks_beyond,
    parse_entries,
    per_layer,
    share_layers,
)
from netopsy.deep_compression.save import OtherDtype, expand, expanded_network, save_shared, storage_table
from netopsy.engine.sweep.edits import Replace
from netopsy.engine.sweep.sweep import newly_wrong, sweep_edits
from netopsy.engine.train.fit import fit
from netopsy.engine.train.recipe import Augment, Optimizer, Precision, Recipe
from netopsy.errors import NetworkError, SettingsError
from netopsy.network.layers import Layer
from netopsy.network.network import Network, tensor_state
from netopsy.result import Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import Interval, Length, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed, Share
from netopsy.stats.hypothesis_tests import paired_difference
from netopsy.stats.kmeans1d.kmeans1d import Start
from netopsy.studies.compression.centroids import (
    centroid_figure,
    centroid_table,
    largest_layer,
    starts_finding,
    weights_of,
)
from netopsy.studies.compression.report import (
    FILE,
    PRUNED,
    RETRAINED,
    SHARED,
    code_counts,
    figures,
    findings,
    prunable,
    stage_bytes,
    stages,
    value_shifts,
)
from netopsy.studies.study import REQUIRED, Study, file_for, stem_of, whereabouts
from netopsy.studies.sweep_report import measure_of, with_left_out
from netopsy.wording import percent, plural

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


@dataclass(frozen=True)
class Compression(Study):
    """How small the network gets when it is pruned, shared and coded, and retrained in between (Han et al., 2016).

    train: images to retrain on; no choice is made on the samples.
    density: share of the weights to keep: a number, or LAYER=NUMBER with a kind (conv, linear, recurrent), a name or
        a pattern.
    threshold: in place of `density`: weights beyond so many standard deviations of their layer stay.
    budget: with neither, each layer keeps as few weights as lose at most so many points, pruned alone, on training
        images.
    rounds: how often to prune and retrain; each takes the same share of what is left.
    epochs: of retraining after each round; the last number holds for all further rounds; 0 does not retrain.
    bits: each layer's weights share 2 ** bits values (4: 16), one of them 0 where some are pruned; given as `density`
        is.
    start: how k-means looks for the shared weights: dp finds the best ones, the others begin at values spread so.
    share_epochs: epochs in which the shared weights move by the summed gradient of their weights.
    optimizer: what retrains: sgd (momentum 0.9) or adamw.
    learning_rate: learning rate after pruning; it falls to 0 in each round, along a cosine.
    share_learning_rate: learning rate of the shared weights, which falls likewise.
    weight_decay: how strongly retraining draws weights towards 0.
    batch_size: images a step.
    augment: how training images are varied: flip is left to right, crop shifts them.
    pad: pixels by which crop shifts at most, each way.
    dtype: of the retraining: float32, or bfloat16, faster where the device has it; weights stay float32.
    teacher: weight in the loss of the unpruned network's outputs; 0 for none.
    temperature: what both networks' outputs are divided by in that part of the loss; more than 1 softens them.
    other_dtype: how biases, norms and other values are held in the file.
    coder: how the file is packed: ans (smaller), or huffman as in the paper.
    seed: of the order and augmentation of retraining, of random starts, of the images that the budget is measured on.

    Tables: `stages` (scores and bytes), `layers` (as in the paper's Tables 2 to 5), `history` (the retraining),
    `codes`, `values`, `centroids` (where k-means starts and ends in the largest layer), of classifiers `newly_wrong`
    (what the file gets wrong and the network right, at most 36), and with a budget `sensitivity`.
    """

    name: ClassVar[str] = "compression"
    group: ClassVar[Group] = "size"

    train: Samples = REQUIRED
    density: tuple[str, ...] = ()
    threshold: tuple[str, ...] = ()
    budget: Annotated[float, Interval(ge=0, le=100)] = 1.0
    rounds: PositiveInt = 4
    epochs: Annotated[tuple[NonNegativeInt, ...], Length(1)] = (4,)
    bits: tuple[str, ...] = BITS
    start: Start = "dp"
    share_epochs: NonNegativeInt = 4
    optimizer: Optimizer = "adamw"
    learning_rate: PositiveFloat = 1e-3
    share_learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    batch_size: PositiveInt = 128
    augment: Augment = "none"
    pad: NonNegativeInt = 4
    dtype: Precision = "float32"
    teacher: Share = 0.5
    temperature: PositiveFloat = 1.0
    other_dtype: OtherDtype = "exact"
    coder: EntropyCoder = "ans"
    seed: Seed = 0

    def check(self) -> None:
        if len(self.epochs) > self.rounds:
            raise SettingsError(
                f"epochs {self.epochs} are more than the {self.rounds} rounds; give one a round or fewer."
            )
        if self.density and self.threshold:
            raise SettingsError("give a density or a threshold, not both: each says which weights stay.")

    def recipe(self) -> Recipe:
        """How all retraining is done; epochs and rate are each stage's own."""
        return Recipe(
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule="cosine",
            augment=self.augment,
            pad=self.pad,
            precision=self.dtype,
            alpha=self.teacher,
            temperature=self.temperature,
            seed=self.seed,
        )

    def check_on(self, network: Network) -> None:
        if network.layers:
            bits_of(network.layers, self.bits)
            chosen_densities(network, self.density, self.threshold)

    def run(self, network: Network, samples: Samples) -> Result:
        """Compress `network`, and score each stage on `samples`."""
        bits = bits_of(network.layers, self.bits) if network.layers else {}
        if not bits:
            text = f"{network.name} has no convolution or linear layer whose weights to share."
            return self.result(findings=[Finding(text, 0.0)])
        tables: dict[str, pl.DataFrame] = {}
        densities, chosen = self._densities(network, tables)
        check_bits([name for name, density in densities.items() if density < 1], bits)
        training = Training(self.train, self.recipe(), network if self.teacher else None)
        pruned, fits = training.prune(network, densities, self.rounds, self.epochs)
        first = share_layers(pruned, {}, bits, start=self.start, seed=self.seed)
        trained, shared, more = training.share(pruned, first, self.share_epochs, self.share_learning_rate)
        final = expanded_network(trained, shared, self.other_dtype)
        path, other = self._write(network, trained, shared, densities, bits)
        state = expand(path)
        _verify(final, state)
        versions: list[tuple[str, Mapping[str, Any]]] = [
            (PRUNED, pruned.tensors),
            (SHARED, expanded_network(pruned, first).tensors),
            *([(RETRAINED, trained.tensors)] if self.share_epochs else []),
            (FILE, state),
        ]
        tables["stages"] = stages(network, samples, versions, stage_bytes(network, shared, path))
        tables |= {"layers": storage_table(path), "codes": code_counts(shared), "values": value_shifts(first, shared)}
        name = largest_layer(shared)
        values = weights_of(pruned, name)
        if len(values):
            tables["centroids"] = centroid_table(values, name, first[name], shared[name], self.start, self.seed)
        if fits + more:
            tables["history"] = pl.concat([*fits, *more])
        lost = newly_wrong(network, samples, state)
        tables |= {} if lost is None else {"newly_wrong": lost}
        measure = measure_of(network, samples)
        drawn = {"centroids": centroid_figure(values, tables["centroids"])} if len(values) else {}
        left = [layer.name for layer in network.layers if layer.name not in bits]
        return self.result(
            tables=tables,
            figures=figures(tables, measure) | drawn,
            artifacts={path.name: path},
            measures=prunable(tables["layers"]),
            findings=with_left_out(
                [
                    *findings(tables, whereabouts(self.name, path), other, chosen, left, measure),
                    *(starts_finding(tables["centroids"]) if len(values) else []),
                ],
                network,
            ),
        )

    def _densities(self, network: Network, tables: dict[str, pl.DataFrame]) -> tuple[dict[str, float], str | None]:
        """The density of each layer that is pruned, and how they were found where they were not given."""
        densities = chosen_densities(network, self.density, self.threshold)
        if densities is not None:
            return densities, None
        tables["sensitivity"] = scores = sensitivity(network, self.train, self.seed)
        densities = lowest_within(scores, self.budget)
        count = min(IMAGES, len(self.train))
        finest = 100 * paired_difference(0, 0, count)[1]  # no image changed its verdict
        unsure = f" So few cannot show less than {finest:.2f} points; give more." if finest > self.budget else ""
        few, many = percent(min(densities.values())), percent(max(densities.values()))
        return densities, (
            f"Pruning keeps {few if few == many else few + ' to ' + many} of the weights per layer: the lowest density "
            f"at which a layer pruned alone loses at most {self.budget:g} {'point' if self.budget == 1 else 'points'} "
            f"on {plural(count, 'training image')}, before retraining.{unsure}"
        )

    def _write(
        self,
        network: Network,
        trained: Network,
        shared: Mapping[str, SharedTensor],
        densities: Mapping[str, float],
        bits: Mapping[str, float],
    ) -> tuple[Path, tuple[str, int]]:
        """The file, and the other coder with the bytes of its file."""
        path = file_for(self.name, f"{stem_of(network)}{SUFFIX}")
        other: EntropyCoder = "huffman" if self.coder == "ans" else "ans"
        rounded = {name: round(density, 4) for name, density in densities.items()}
        header = {"density": rounded, "bits": dict(bits), "start": self.start, "seed": self.seed}
        with tempfile.TemporaryDirectory() as folder:
            trial = save_shared(
                trained, shared, Path(folder) / f"x{SUFFIX}", other_dtype=self.other_dtype, coder=other, settings=header
            )
            size = trial.stat().st_size
        return save_shared(trained, shared, path, other_dtype=self.other_dtype, coder=self.coder, settings=header), (
            other,
            size,
        )


def _verify(final: Network, state: Mapping[str, torch.Tensor]) -> None:
    """Raise NetworkError unless the file gives the weights of `final` back bit for bit."""
    for name, tensor in tensor_state(final.module).items():
        if not torch.equal(tensor.cpu(), state[name]):
            raise NetworkError(f"the file gives other values of {name} than were stored; this is a fault of Netopsy's.")
