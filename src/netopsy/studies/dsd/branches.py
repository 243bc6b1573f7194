"""The two ways from one start, dense-sparse-dense and conventional, and their scores in one pass over the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
from torch import Tensor

from netopsy.deep_compression.compress import apply_masks, masks_at
from netopsy.engine.sweep.edits import replacement
from netopsy.engine.sweep.sweep import sweep_edits
from netopsy.engine.train.fit import fit
from netopsy.engine.train.recipe import Recipe
from netopsy.network.network import Network, fresh
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import find_task


def scores(network: Network, samples: Samples, others: Sequence[Network]) -> dict[str, dict[str, Any]]:
    """By digest, the scores of `others`, each `network` with other weights; `top1` is the score of any task."""
    distinct = {other.digest: other for other in others}
    edits = [({"digest": digest}, replacement(network, other.tensors)) for digest, other in distinct.items()]
    column = find_task(network, samples).column
    rows = sweep_edits(network, samples, edits).iter_rows(named=True)
    return {row["digest"]: {name.replace(column, "top1"): value for name, value in row.items()} for row in rows}


def ends_over_samples(steps: Sequence[Snapshot], samples: Samples) -> dict[str, list[tuple[float, float]]]:
    """The 95 % interval over samples of what each difference gains, for each seed, on the same samples (paired)."""
    ends: dict[str, list[tuple[float, float]]] = {f"{a} - {b}": [] for a, b in DIFFERENCES}
    for seed in dict.fromkeys(step.seed for step in steps):
        of_seed = {(step.branch, step.name): step.network for step in steps if step.seed == seed}
        last = {START: of_seed[DSD, DENSE], BASELINE: of_seed[BASELINE, END], DSD: of_seed[DSD, DENSE_AGAIN]}
        for a, b in DIFFERENCES:
            edits: list[tuple[dict[str, Any], Any]] = [({}, replacement(last[b], last[a].tensors))]
            row = sweep_edits(last[b], samples, edits).row(0, named=True)
            ends[f"{a} - {b}"].append((-row["drop_high"], -row["drop_low"]))
    return ends


DSD, BASELINE, START = "dsd", "baseline", "start"
DIFFERENCES = ((DSD, BASELINE), (DSD, START), (BASELINE, START))
DENSE, PRUNED, SPARSE, RESTORED, DENSE_AGAIN = "dense", "pruned", "sparse", "restored", "dense again"
FURTHER, END = "further", "end"
LAST = (DENSE_AGAIN, END)
"""Where each way ends."""


@dataclass(frozen=True)
class Snapshot:
    """A network on one of the two ways: after so many epochs; masks: of the weights that it has, where pruned."""

    seed: int
    branch: str
    name: str
    epochs: int
    network: Network
    masks: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Phases:
    """The trainings of one seed. tables: the history of each, in order."""

    train: Samples
    samples: Samples
    recipe: Recipe
    epochs: tuple[int, ...]
    last_learning_rate: float
    draw: bool
    tables: list[pl.DataFrame] = field(default_factory=list)

    def begin(self, network: Network) -> Network:
        """The dense network that both ways start from: the given one, or a fresh one trained."""
        if not self.draw:
            return network
        return self._fit(fresh(network, self.recipe.seed), "both", DENSE, self.epochs[0], 0, self.recipe.learning_rate)

    def dense_sparse_dense(self, begin: Network, densities: Mapping[str, float]) -> list[Snapshot]:
        """The five steps from the dense network `begin`; densities: the share of its weights that a layer keeps."""
        masks = masks_at(begin, densities)
        done, rate = self._before(), self.recipe.learning_rate
        pruned = apply_masks(begin, masks)
        sparse = self._fit(pruned, DSD, SPARSE, self.epochs[1], done, rate, masks)
        after = done + self.epochs[1]
        dense = self._fit(sparse, DSD, DENSE_AGAIN, self.epochs[2], after, rate * self.last_learning_rate)
        return [
            self._step(DSD, DENSE, done, begin),
            self._step(DSD, PRUNED, done, pruned, masks),
            self._step(DSD, SPARSE, after, sparse, masks),
            self._step(DSD, RESTORED, after, sparse),
            self._step(DSD, DENSE_AGAIN, after + self.epochs[2], dense),
        ]

    def baseline(self, begin: Network, single: bool) -> list[Snapshot]:
        """The same start, trained without masks for as many epochs."""
        done, rate, more = self._before(), self.recipe.learning_rate, sum(self.epochs[1:])
        steps = [self._step(BASELINE, DENSE, done, begin)]
        if single:
            last = self._fit(begin, BASELINE, FURTHER, more, done, rate)
        else:
            middle = self._fit(begin, BASELINE, FURTHER, self.epochs[1], done, rate)
            steps.append(self._step(BASELINE, FURTHER, done + self.epochs[1], middle))
            after = done + self.epochs[1]
            last = self._fit(middle, BASELINE, END, self.epochs[2], after, rate * self.last_learning_rate)
        return [*steps, self._step(BASELINE, END, done + more, last)]

    def _before(self) -> int:
        return self.epochs[0] if self.draw else 0

    def _step(
        self, branch: str, name: str, epochs: int, network: Network, masks: Mapping[str, Tensor] | None = None
    ) -> Snapshot:
        return Snapshot(self.recipe.seed, branch, name, epochs, network, masks or {})

    def _fit(
        self,
        network: Network,
        branch: str,
        phase: str,
        epochs: int,
        epochs_before: int,
        rate: float,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Network:
        """`network` trained for a phase; a phase's batches depend on the seed and on the epochs before it alone."""
        recipe = replace(self.recipe, epochs=epochs, learning_rate=rate, seed=1000 * self.recipe.seed + epochs_before)
        label = f"seed {self.recipe.seed}, {branch}, {phase}"
        history = fit(network, self.train, recipe, validation=self.samples, masks=masks, label=label)
        rows = history.table.select(
            pl.lit(self.recipe.seed).alias("seed"),
            pl.lit(branch).alias("branch"),
            pl.lit(phase).alias("phase"),
            pl.col("epoch") + epochs_before,
            pl.exclude("epoch", "seed", "branch", "phase"),
        )
        self.tables.append(rows)
        return history.network
