"""The design: which networks are tried, each as a spec of plain data; and the run, what came of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from torch import Tensor

from netopsy.blocks.block import Block
from netopsy.engine.train.recipe import Recipe
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.stats.hypothesis_tests import cochran_q, detectable, detectable_mean, friedman, holm, permutation_p

NetworkStart = Literal["trained", "random"]
Mean = Literal["layer", "filter"]
StnLoss = Literal["mse", "sse"]
LayerStart = Literal["RW", "MW", "STN", "LSQ", "ID"]
TrainedPart = Literal["none", "FM", "TM"]
MADE = ("STN", "LSQ")
"""Starts that cost a pass or a training, and so are made once for FM and TM."""


@dataclass(frozen=True)
class Design:
    """What is varied and how each network is trained, as the settings of `Triage` say; its methods give the specs.

    baseline, after, stn: recipes of the baseline, after compression, and of the STN start; each spec has its seed.
    keep: whether the weights of the compressed networks are kept.
    """

    seeds: tuple[int, ...]
    starts: tuple[str, ...]
    training: tuple[str, ...]
    network_start: NetworkStart
    baseline: Recipe
    after: Recipe
    stn: Recipe
    stn_loss: StnLoss
    mw_mean: Mean
    matching_images: int
    pictures: int
    keep: bool = True

    @property
    def fresh(self) -> bool:
        """Whether each seed has a baseline of its own, redrawn and trained."""
        return self.network_start == "random"

    def baseline_spec(self, seed: int) -> dict[str, Any]:
        """The network before compression, scored, or trained again."""
        recipe = asdict(replace(self.baseline, seed=seed)) if self.fresh else None
        return {"what": "baseline", "seed": seed, "fresh": self.fresh, "recipe": recipe}

    def fits(self, block: Block, start: str, training: str) -> bool:
        """Whether there is such a network: a block is left out (ID) where it keeps the shape, and then not trained."""
        return start != "ID" or (block.input_shape == block.output_shape and training != "FM")

    def start_spec(self, seed: int, block: str, start: str) -> dict[str, Any]:
        """A new layer as FM and TM will find it."""
        return {"what": "start", "seed": seed, "block": block, "start": start, **self._begun(seed, start)}

    def cell_spec(self, seed: int, blocks: list[str], start: str, training: str) -> dict[str, Any]:
        """One compressed network."""
        return {
            "what": "cell",
            "seed": seed,
            "blocks": blocks,
            "start": start,
            "training": training,
            "recipe": asdict(replace(self.after, seed=seed)),
            "begun": self._begun(seed, start) if start in MADE else None,
            "mean": self.mw_mean,
            "matching_images": self.matching_images,
            "pictures": self.pictures if seed == self.seeds[0] else 0,
            "keep": self.keep,
        }

    def _begun(self, seed: int, start: str) -> dict[str, Any]:
        """How a start that is made beforehand is made."""
        return {"recipe": asdict(replace(self.stn, seed=seed)), "loss": self.stn_loss} if start == "STN" else {}


@dataclass(frozen=True)
class Trial:
    """One trial and what came of it. values: None where it failed, for the `reason`."""

    spec: dict[str, Any]
    values: dict[str, Any] | None
    tensors: Mapping[str, Tensor]
    status: str
    reason: str | None
    seconds: float | None = None

    @property
    def binary(self) -> bool:
        """Whether a sample is right or wrong, and nothing between."""
        return "right" in self.tensors

    @property
    def right(self) -> np.ndarray:
        """Which of the samples the last network gets right, bool (n,); of other tasks their scores, float64 (n,)."""
        assert self.values is not None
        if not self.binary:
            return self.tensors["score"].double().numpy()
        return np.unpackbits(self.tensors["right"].numpy(), count=self.values["images"]).astype(bool)

    @property
    def weight(self) -> np.ndarray:
        """Over how many places each sample's score is a mean, float64 (n,)."""
        return np.ones(len(self.right)) if self.binary else self.tensors["weight"].double().numpy()

    @property
    def score(self) -> float:
        """The mean over samples, each with its weight."""
        if self.binary:
            return float(self.right.mean())
        return float((self.right * self.weight).sum() / max(self.weight.sum(), 1e-300))


@dataclass
class TriageRun:
    """All that was done: the blocks, those that no one layer can stand in for, and the trials."""

    network: Network
    train: Samples
    samples: Samples
    blocks: tuple[Block, ...]
    left_out: tuple[Block, ...]
    parents: dict[int, Network] = field(default_factory=dict)
    baselines: list[Trial] = field(default_factory=list)
    controls: list[Trial] = field(default_factory=list)
    starts: list[Trial] = field(default_factory=list)
    cells: list[Trial] = field(default_factory=list)
    deeper: list[Trial] = field(default_factory=list)


def trials_by_block(run: TriageRun, seed: int, start: str, training: str) -> dict[str, Trial]:
    """Each block's trial, for one seed and way; those that came through."""
    return {
        t.spec["blocks"][0]: t
        for t in run.cells
        if t.values is not None and (t.spec["seed"], t.spec["start"], t.spec["training"]) == (seed, start, training)
    }


IMAGES, SEEDS = "images (Cochran's Q)", "seeds (permutation)"
SCORES = "images (Friedman's test)"
TOGETHER = "seeds, all ways (permutation)"

_SCHEMA: dict[str, Any] = {
    "start": pl.String,
    "training": pl.String,
    "seed": pl.Int64,
    "over": pl.String,
    "blocks": pl.Int64,
    "spread": pl.Float64,
    "least_critical": pl.String,
    "most_critical": pl.String,
    "statistic": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "least_p": pl.Float64,
    "detectable": pl.Float64,
    "count": pl.Int64,
}


def criticality(run: TriageRun) -> pl.DataFrame:
    """The hypothesis that the accuracy does not depend on the block, for each start x training.

    over: `images (Cochran's Q)`, of each seed: whether these networks differ by more than which images were scored;
    `images (Friedman's test)`: the same of tasks whose score is not right or wrong;
    `seeds (permutation)`: whether the blocks differ by more than the seeds of the training do; `seeds, all ways
    (permutation)`: the same of each block's mean over all ways of training, one test, in the row `all`.
    spread: accuracy of the best block less that of the worst; statistic: Q; p_holm: p adjusted over all tests of its
    kind; least_p: the lowest that the test could have given; detectable: the difference between two blocks that it
    would find in 4 of 5 cases; count: images or seeds.
    """
    rows: list[dict[str, Any]] = []
    ways = list(dict.fromkeys((t.spec["start"], t.spec["training"]) for t in run.cells))
    seeds = list(run.parents)
    for start, training in ways:
        right_by_seed = {seed: trials_by_block(run, seed, start, training) for seed in seeds}
        for seed, right_of in right_by_seed.items():
            if len(right_of) > 1:
                stacked = np.stack([trial.right for trial in right_of.values()], 1)
                binary = all(trial.binary for trial in right_of.values())
                q, p = cochran_q(stacked) if binary else friedman(stacked)
                row = _row(
                    start, training, {name: t.score for name, t in right_of.items()}, IMAGES if binary else SCORES
                )
                rows.append(
                    row
                    | {"seed": seed, "statistic": q, "p": p, "detectable": detectable(stacked), "count": len(stacked)}
                )
        # only blocks that every seed came through can be set against each other
        blocks = [b.name for b in run.blocks if all(b.name in right_of for right_of in right_by_seed.values())]
        if len(seeds) > 1 and len(blocks) > 1:
            scores = np.array([[right_by_seed[seed][block].score for block in blocks] for seed in seeds])
            p, least = permutation_p(scores)
            row = _row(start, training, dict(zip(blocks, scores.mean(0), strict=True)), SEEDS)
            rows.append(row | {"p": p, "least_p": least, "detectable": detectable_mean(scores), "count": len(seeds)})
    rows += _together(run, seeds, ways)
    for kind in (IMAGES, SCORES, SEEDS, TOGETHER):
        own_rows = [row for row in rows if row["over"] == kind]
        for row, adjusted in zip(own_rows, holm([row["p"] for row in own_rows]), strict=True):
            row["p_holm"] = adjusted
    return pl.DataFrame(rows, schema=_SCHEMA)


def _together(run: TriageRun, seeds: list[int], ways: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The test of each block's mean accuracy over all ways; none of one seed, of one way or of one block."""
    right_by_seed = [[trials_by_block(run, seed, *way) for way in ways] for seed in seeds]
    blocks = [
        b.name for b in run.blocks if all(b.name in right_of for of_seed in right_by_seed for right_of in of_seed)
    ]
    if min(len(seeds), len(ways), len(blocks)) < 2:
        return []
    scores = np.array(
        [[np.mean([right_of[block].score for right_of in of_seed]) for block in blocks] for of_seed in right_by_seed]
    )
    p, least = permutation_p(scores)
    row = _row("all", "all", dict(zip(blocks, scores.mean(0), strict=True)), TOGETHER)
    return [row | {"p": p, "least_p": least, "detectable": detectable_mean(scores), "count": len(seeds)}]


def _row(start: str, training: str, accuracy: dict[str, float], over: str) -> dict[str, Any]:
    best, worst = max(accuracy, key=lambda b: accuracy[b]), min(accuracy, key=lambda b: accuracy[b])
    return dict.fromkeys(_SCHEMA) | {
        "start": start,
        "training": training,
        "over": over,
        "blocks": len(accuracy),
        "spread": float(accuracy[best] - accuracy[worst]),
        "least_critical": best,
        "most_critical": worst,
    }
