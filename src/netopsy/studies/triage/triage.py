"""Blocks compressed to one layer each, and what the network is worth then (Nowak & Corso, "Deep Net Triage", 2018)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import polars as pl

from netopsy.deep_compression.compress import bits_of
from netopsy.engine.train.data import takes_images
from netopsy.engine.train.recipe import Augment, Precision, Recipe, Schedule
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.result import Figure, Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import Task, find_task
from netopsy.settings import (
    Interval,
    Length,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Unique,
)
from netopsy.studies.study import REQUIRED, Allowance, Study
from netopsy.studies.triage import tables as t
from netopsy.studies.triage.combine import combine
from netopsy.studies.triage.design import (
    Design,
    LayerStart,
    Mean,
    NetworkStart,
    StnLoss,
    TrainedPart,
    TriageRun,
    criticality,
)
from netopsy.studies.triage.figures import MAPS, figures, images, pictured_maps
from netopsy.studies.triage.findings import findings
from netopsy.studies.triage.networks import Kept, KeptNetworks, keep_networks, size_findings
from netopsy.studies.triage.run import choose_blocks, run_design
from netopsy.wording import listing, of_samples


@dataclass(frozen=True)
class Triage(Study):
    """How much a network needs each of its blocks: each becomes one layer and is trained (Nowak & Corso, 2018).

    Every block in turn is compressed to one layer, which starts in several ways and is trained alone (FM) or with all
    the rest (TM), or not at all; every such network is scored, by the samples' task, against the one that was not
    compressed.

    train: samples to train on. The samples are scored after each epoch; a plateau of their loss lowers the rate.
    blocks: which, by the names that `netopsy blocks` lists, or FIRST:LAST of layers; by default the outermost ones.
    starts: of the new layer: RW random (Glorot uniform), MW mean of the block's filters (Equation 2), STN taught the
        block's output (Equation 3), LSQ the closed-form least-squares fit to it, ID no layer at all (ours): where
        a block keeps the shape, it is left out.
    training: FM trains the new layer alone, TM all layers; none scores the network as it starts.
    network_start: `trained` takes the network's weights; `random` redraws them for each seed and trains a baseline.
    baseline_epochs: of that baseline.
    epochs: after compression.
    stn_epochs: of the STN start.
    learning_rate: learning rate at the start of each training.
    stn_learning_rate: that of the STN start; by default `learning_rate`.
    stn_loss: what STN lowers: mse is the mean of the squared differences, sse their sum over an image's values, which
        is Equation 3 as printed and wants a far lower `stn_learning_rate`.
    min_learning_rate: the lowest that a plateau lowers the rate to.
    factor: what a plateau multiplies the rate by.
    patience, cooldown: of the plateau, in epochs, as ReduceLROnPlateau of Keras counts them.
    schedule: of the rate; the paper's is plateau.
    momentum: of the stochastic gradient descent.
    weight_decay: how strongly filters and matrices are drawn towards 0.
    batch_size: images a step.
    augment: how training images are varied: flip is left to right, crop shifts them by up to 4 pixels; auto: flip for
        images, none for other samples.
    mw_mean: MW over the filters of the whole block (`layer`, Equation 2), or of each filter by itself (`filter`).
    control: also train the uncompressed network for `epochs`: what TM gains by training on alone.
    deeper: compress more and more blocks at once, the least critical first, until the network fails.
    max_drop: it fails once the accuracy is this many points below the baseline.
    repeats: how often all is done, each time with the next seed.
    seed: of the first repeat: of random weights, the order of the images and their augmentation.
    dtype: of the training: float32, or bfloat16, faster where the device has it; weights stay float32.
    pictures: how many activation maps of each new layer are drawn beside its parent's; 0 for none.
    matching_images: images on which the new layer's channels are matched to the parent's.
    networks: which compressed networks are written to files that `load_network` opens: all, the best of each block, or
        none.
    bits: also write each block's best network, and the uncompressed one, with 2^bits shared weights a layer, as
        `compress` does (`8`, or `conv=8,linear=5`), and score it.
    storage: gigabytes on disk that stored activations may take; what is more is computed as it goes. Likewise the
        files of networks: where all would take more, the best of each block are written.

    Tables: `summary` (block x start x training over the seeds), `cells` (every network), `criticality` (tests of
    whether blocks differ), `baselines`, `blocks`, `deeper`, `sizes` (bytes and score of every network written), `maps`
    (likeness of each pictured map), `history` (each epoch).
    """

    name: ClassVar[str] = "triage"
    group: ClassVar[Group] = "losses"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers",)

    train: Samples = REQUIRED
    blocks: Annotated[tuple[str, ...] | None, Length(1), Unique()] = None
    starts: Annotated[tuple[LayerStart, ...], Length(1), Unique()] = ("RW", "MW", "STN")
    training: Annotated[tuple[TrainedPart, ...], Length(1), Unique()] = ("FM", "TM")
    network_start: NetworkStart = "trained"
    baseline_epochs: PositiveInt = 100
    epochs: PositiveInt = 25
    stn_epochs: PositiveInt = 12
    learning_rate: PositiveFloat = 0.001
    stn_learning_rate: PositiveFloat | None = None
    stn_loss: StnLoss = "mse"
    min_learning_rate: NonNegativeFloat = 0.00001
    factor: PositiveFloat = 0.7
    patience: NonNegativeInt = 1
    cooldown: NonNegativeInt = 3
    schedule: Schedule = "plateau"
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 0.0005
    batch_size: PositiveInt = 128
    augment: Augment | Literal["auto"] = "auto"
    mw_mean: Mean = "layer"
    control: bool = True
    deeper: bool = False
    max_drop: NonNegativeFloat = 5.0
    repeats: PositiveInt = 3
    seed: Seed = 0
    dtype: Precision = "float32"
    pictures: NonNegativeInt = 10
    matching_images: Annotated[int, Interval(ge=2)] = 256
    networks: Kept = "all"
    bits: tuple[str, ...] = ()
    storage: NonNegativeFloat = 20.0

    def check(self) -> None:
        if set(self.starts) == {"ID"} and set(self.training) == {"FM"}:
            raise SettingsError(
                "a block that is left out (ID) has no layer to train alone (FM); give training none or TM."
            )
        lowest = min(self.learning_rate, self.stn_learning_rate or self.learning_rate)
        if self.min_learning_rate > lowest:
            raise SettingsError(
                f"min_learning_rate {self.min_learning_rate:g} is above the learning rate; give at most {lowest:g}."
            )

    def recipe_for(self, seed: int, epochs: int, rate: float | None = None) -> Recipe:
        """How one training is done.

        Keras lowers the rate after `patience` epochs without improvement, and may again `cooldown` epochs after that;
        `Recipe` and torch count one epoch more in both.
        """
        rate = self.learning_rate if rate is None else rate
        return Recipe(
            epochs=epochs,
            batch_size=self.batch_size,
            optimizer="sgd",
            learning_rate=rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            factor=self.factor,
            final=self.min_learning_rate / rate if rate > 0 else 0.0,
            patience=max(0, self.patience - 1),
            cooldown=max(0, self.cooldown - 1),
            augment="flip" if self.augment == "auto" else self.augment,
            precision=self.dtype,
            seed=seed,
        )

    @property
    def design(self) -> Design:
        """What is varied, and how each network is trained."""
        return Design(
            seeds=tuple(range(self.seed, self.seed + self.repeats)),
            starts=self.starts,
            training=self.training,
            network_start=self.network_start,
            baseline=self.recipe_for(self.seed, self.baseline_epochs),
            after=self.recipe_for(self.seed, self.epochs),
            stn=self.recipe_for(self.seed, self.stn_epochs, self.stn_learning_rate),
            stn_loss=self.stn_loss,
            mw_mean=self.mw_mean,
            matching_images=self.matching_images,
            pictures=self.pictures,
            keep=self.networks != "none",
        )

    def check_on(self, network: Network) -> None:
        if self.blocks is not None:
            choose_blocks(network, self.blocks)
        if self.bits:
            bits_of(network.layers, self.bits)

    def run(self, network: Network, samples: Samples) -> Result:
        """Compress copies of `network`, train them and score them on `samples`."""
        augment = self.augment
        if augment == "auto":
            augment = "flip" if takes_images(network.preprocessing) else "none"
        run = run_design(
            replace(self, augment=augment).design,
            network,
            self.train,
            samples,
            blocks=self.blocks,
            control=self.control,
            max_drop=self.max_drop if self.deeper else None,
            storage=1e9 * self.storage,
        )
        kept = keep_networks(run, self.networks, self.bits, 1e9 * self.storage)
        parts = report(run, kept, pictures=self.pictures, max_drop=self.max_drop, stn_epochs=self.stn_epochs)
        return self.result(**parts)

    @classmethod
    def combine(cls, results: Mapping[str, Result]) -> Result:
        """One result over several image sets, by their names."""
        return combine(results)


def report(run: TriageRun, kept: KeptNetworks, *, pictures: int, max_drop: float, stn_epochs: int) -> dict[str, Any]:
    """The parts of the Result of a run."""
    if not run.blocks:
        return {"findings": [_untreatable(run)]}
    task = find_task(run.network, run.samples)
    cells = t.cells(run)
    tables = {
        "summary": t.summary(cells),
        "cells": cells,
        "criticality": criticality(run),
        "baselines": t.baselines(run),
        "blocks": t.blocks(run),
    }
    if run.deeper:
        tables["deeper"] = t.deeper(run)
    if kept.files:
        tables["sizes"] = kept.sizes
    pictured = pictured_maps(run, pictures)
    if pictured:
        tables["maps"] = pl.DataFrame([row for each in pictured for row in each.rows()], schema=MAPS)
    tables["history"] = t.history(run)
    sentences = findings(tables, [block.name for block in run.left_out], max_drop=max_drop, stn_epochs=stn_epochs)
    return {
        "tables": {
            name: frame.rename({c: c.replace("top1", task.column) for c in frame.columns})
            for name, frame in tables.items()
        },
        "figures": {name: _worded(figure, task) for name, figure in figures(tables).items()},
        "images": images(pictured),
        "artifacts": kept.files,
        "findings": [Finding(of_samples(_of_task(s, task), run.samples.noun), s.weight) for s in sentences]
        + _whole(run)
        + [Finding(of_samples(_of_task(s, task), run.samples.noun), s.weight) for s in size_findings(kept, "triage")],
    }


def _worded(figure: Figure, task: Task) -> Figure:
    """A figure of accuracies as one of the task's score."""
    if task.unit == "top-1 accuracy":
        return figure
    spec = json.loads(json.dumps(figure.spec).replace("top-1 accuracy", task.unit))
    return replace(figure, spec=spec, title=_of_task(figure.title, task), reading=_of_task(figure.reading, task))


def _of_task(sentence: str, task: Task) -> str:
    """A sentence about accuracy as one about the task's score."""
    return sentence if "accuracy" in task.unit else re.sub(r"\b(mean )?accurac(y|ies)\b", task.unit, sentence)


def _whole(run: TriageRun) -> list[Finding]:
    """Blocks that cannot be left out."""
    if not any(t.spec["start"] == "ID" for t in run.cells):
        return []
    names = [block.name for block in run.blocks if block.input_shape != block.output_shape]
    text = f"{listing(names)} cannot be left out (ID): the output has another shape than the input."
    return [Finding(text, 0.0)] if names else []


def _untreatable(run: TriageRun) -> Finding:
    text = f"{run.network.name} has no block of two or more layers that one layer could stand in for"
    if not run.left_out:
        return Finding(f"{text}: it has no stretch of layers with one input and one output.", 0.0)
    why = listing([f"{block.name} ({str(block.obstacle).rstrip('.')})" for block in run.left_out], 3)
    return Finding(f"{text}: {why}.", 0.0)
