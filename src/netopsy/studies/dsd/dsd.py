"""Dense-sparse-dense training, against a conventional training of as many epochs (Han et al., "DSD", ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import polars as pl

from netopsy.deep_compression.compress import parse_entries, per_layer
from netopsy.deep_compression.save import save_network
from netopsy.engine.train.recipe import Augment, Optimizer, Precision, Recipe
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.result import Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import find_task
from netopsy.settings import Interval, Length, NonNegativeFloat, PositiveFloat, PositiveInt, Seed
from netopsy.studies.dsd.branches import Phases, Snapshot, ends_over_samples, scores
from netopsy.studies.dsd.report import figures, findings, histograms, steps_frame, summary, with_score
from netopsy.studies.study import REQUIRED, Study, file_for, whereabouts
from netopsy.studies.sweep_report import measure_of

DsdStart = Literal["trained", "random"]
Baseline = Literal["phases", "single"]
DsdSchedule = Literal["constant", "step", "cosine", "onecycle"]  # a plateau would choose by the samples


@dataclass(frozen=True)
class Dsd(Study):
    """What dense-sparse-dense training gains over a conventional one of as many epochs (Han et al., ICLR 2017).

    Each layer is pruned by magnitude and retrained with the mask held; then the pruned weights come back as zeros and
    all are trained on at a lower rate. Each seed is done twice, with masks (dsd) and without (baseline), from the same
    start and on the same batches.

    train: samples to train on; no choice is made on the samples, which are scored after each epoch.
    start: `trained` goes on from the network's weights; `random` redraws them for each seed and trains them first.
    sparsity: share of weights pruned: a number, or LAYER=NUMBER with a kind (conv, linear, recurrent), a name or a
        pattern. The paper prunes 25 to 50 %.
    epochs: three numbers, one a phase: dense (only from a random start), sparse, dense again.
    baseline: `phases` trains in the same phases, at the same rates, without masks; `single` under one schedule from
        `learning_rate` down.
    optimizer: sgd (momentum 0.9) or adamw.
    learning_rate: learning rate of the first two phases.
    last_learning_rate: that of the last phase, as a share of `learning_rate`; a tenth in the paper.
    schedule: how the rate changes within a phase.
    weight_decay: how strongly filters and matrices are drawn towards 0.
    batch_size: samples a step.
    augment: how training images are varied: flip is left to right, crop shifts them by up to 4 pixels.
    dtype: of the training: float32, or bfloat16, faster where the device has it; weights stay float32.
    repeats: how often all is done, each time with the next seed.
    seed: of the first repeat: of random weights, the order of the samples and their augmentation.

    Tables: `summary` (mean and spread over the seeds, the gain), `steps` (scores at each step), `history` (each epoch),
    `histograms` (the weights of each layer at the five steps, of the first seed).
    """

    name: ClassVar[str] = "dsd"
    group: ClassVar[Group] = "size"

    train: Samples = REQUIRED
    start: DsdStart = "trained"
    sparsity: Annotated[tuple[str, ...], Length(1)] = ("0.3",)
    epochs: Annotated[tuple[PositiveInt, ...], Length(3, 3)] = (10, 10, 10)
    baseline: Baseline = "phases"
    optimizer: Optimizer = "sgd"
    learning_rate: PositiveFloat = 0.01
    last_learning_rate: Annotated[float, Interval(gt=0, le=1)] = 0.1
    schedule: DsdSchedule = "cosine"
    weight_decay: NonNegativeFloat = 1e-4
    batch_size: PositiveInt = 128
    augment: Augment = "none"
    dtype: Precision = "float32"
    repeats: Annotated[int, Interval(ge=1, le=100)] = 3
    seed: Seed = 0

    def recipe(self, seed: int) -> Recipe:
        """How all training of one repeat is done; epochs and rate are each phase's own."""
        return Recipe(
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            augment=self.augment,
            precision=self.dtype,
            seed=seed,
        )

    def check_on(self, network: Network) -> None:
        if network.layers:
            self._shares(network)

    def run(self, network: Network, samples: Samples) -> Result:
        """Train copies of `network` both ways and score them on `samples`."""
        if not network.layers:
            text = f"{network.name} has no convolution or linear layer whose weights to prune."
            return self.result(findings=[Finding(text, 0.0)])
        shares = self._shares(network)
        densities = {name: 1 - share for name, share in shares.items()}
        steps: list[Snapshot] = []
        history: list[pl.DataFrame] = []
        bins, path = pl.DataFrame(), Path()
        for seed in range(self.seed, self.seed + self.repeats):
            phases = Phases(
                self.train, samples, self.recipe(seed), self.epochs, self.last_learning_rate, self.start == "random"
            )
            begin = phases.begin(network)
            dsd = phases.dense_sparse_dense(begin, densities)
            steps += [*dsd, *phases.baseline(begin, self.baseline == "single")]
            history += phases.tables
            if seed == self.seed:
                bins = histograms(dsd, network.layers)
                path = save_network(dsd[-1].network, file_for(self.name, "dsd.safetensors"))
        task = find_task(network, samples)
        frame = steps_frame(steps, network.layers, scores(network, samples, [step.network for step in steps]))
        tables = {
            "summary": summary(frame, ends_over_samples(steps, samples)),
            "steps": frame,
            "history": pl.concat(history),
            "histograms": bins,
        }
        where = whereabouts(self.name, path)
        measure = measure_of(network, samples, task)
        scored = measure.samples(len(samples))
        return self.result(
            tables={name: with_score(table, task) for name, table in tables.items()},
            figures=figures(tables, network.layers, task),
            artifacts={path.name: path},
            findings=findings(tables, shares, len(network.layers), self.baseline, self.start, scored, where, measure),
        )

    def _shares(self, network: Network) -> dict[str, float]:
        shares = per_layer(network.layers, parse_entries(self.sparsity), "sparsity")
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise SettingsError(f"sparsity {share:g} for {name} must be a share from 0 to below 1; 0.3 is usual.")
        if not any(shares.values()):
            raise SettingsError("sparsity prunes no layer; give the share of weights to prune, such as 0.3.")
        return {name: share for name, share in shares.items() if share}
