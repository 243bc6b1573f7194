"""The design: which networks are tried, each as a spec of plain data; and the run, what came of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from netopsy.blocks.block import Block
from netopsy.engine.train.recipe import Recipe
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

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
