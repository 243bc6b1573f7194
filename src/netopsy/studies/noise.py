"""What Gaussian noise on the weights costs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import polars as pl
import torch
from torch import Tensor

from netopsy.engine.sweep.edits import Shift
from netopsy.engine.sweep.sweep import Scope, scopes
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.result import Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import HalfWidth, Length, PositiveFloat, PositiveInt, Seed, Unique
from netopsy.studies.draws import bounds, half_width, over_draws, with_bounds
from netopsy.studies.study import Allowance, Study, layer_measures
from netopsy.studies.sweep_report import (
    Measure,
    fragile,
    score_edits,
    setting_figures,
    unchanged_settings,
    verdict,
    with_left_out,
)
from netopsy.wording import percent

STRENGTHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Noise(Study):
    """Accuracy with Gaussian noise on the parameters (Lorieul et al., Section III.C, Figure 5).

    The noise on a layer has mean 0 and a standard deviation of `strength` times that of the layer's own parameters,
    weights and biases taken together. Norms are left alone. One draw serves all strengths of a repeat.

    strengths: standard deviations of the noise as shares of each layer's own.
    repeats: independent draws with all layers noisy at once; of fewer than 3 nothing is concluded.
    layer_repeats: independent draws for each layer alone, likewise.
    one_layer_at_a_time: also make one layer noisy at a time (the paper's future work).
    biases: whether biases take part.
    layers: names of the layers to edit; all by default.
    precision: None scores on all images; else stop each score at +- so many points.
    seed: of the noise.

    Tables: `scores` (a row a draw), `summary` (means over the draws, with an interval over samples and one over draws).
    """

    name: ClassVar[str] = "noise"
    group: ClassVar[Group] = "losses"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers",)

    strengths: Annotated[tuple[PositiveFloat, ...], Length(1), Unique()] = STRENGTHS
    repeats: PositiveInt = 5
    layer_repeats: PositiveInt = 3
    one_layer_at_a_time: bool = True
    biases: bool = True
    layers: tuple[str, ...] | None = None
    precision: HalfWidth | None = None
    seed: Seed = 0

    def check_on(self, network: Network) -> None:
        network.select(self.layers)

    def run(self, network: Network, samples: Samples) -> Result:
        """Score `network` under noise."""
        chosen = network.select(self.layers)
        if not chosen:
            return self.result(
                findings=[Finding(f"{network.name} has no convolution or linear layer to make noisy.", 0.0)]
            )
        edits: list[tuple[dict[str, Any], Shift | None]] = [({"layer": "all", "strength": 0.0, "repeat": 0}, None)]
        for scope in scopes(chosen, self.one_layer_at_a_time):
            for repeat in range(self.repeats if scope.name == "all" else self.layer_repeats):
                direction = partial(draw_noise, scope=scope, biases=self.biases, seed=self.seed, repeat=repeat)
                key = f"noise {self.seed} {repeat} {self.biases} {scope.name}"
                for strength in self.strengths:
                    shift = Shift(scope.tensors(self.biases), direction, strength, key)
                    edits.append(({"layer": scope.name, "strength": strength, "repeat": repeat}, shift))
        scores, measure = score_edits(network, samples, edits, precision=self.precision, seed=self.seed)
        summary = over_draws(scores, ("layer", "strength"), measure.column, share=measure.share)
        return self.result(
            tables={"scores": scores, "summary": summary},
            figures=setting_figures(
                summary,
                "strength",
                unedited=float(summary[measure.column][0]),
                titles=("Noise on all layers", "Noise on one layer at a time"),
                sources=("Lorieul et al., Figure 5", "the future work of Lorieul et al., Section III.C"),
                axis="share",
                axis_title="strength of the noise (share of each layer's standard deviation)",
                band=("lowest", "highest"),
                reading="The line is the mean over the draws, the band from the lowest to the highest.",
                measure=measure,
            ),
            measures=_measures(summary),
            findings=with_left_out(_findings(scores, summary, measure), network),
        )


def draw_noise(tensors: Mapping[str, Tensor], scope: Scope, biases: bool, seed: int, repeat: int) -> dict[str, Tensor]:
    """Noise of one standard deviation of each layer's own parameters, for the parameters of `scope`.

    A layer's draw depends on seed, repeat and its name alone, so it is the same whichever layers are noisy beside it.
    """
    return {
        name: values
        for layer in scope.layers
        for name, values in _draw_layer(tensors, layer, biases, seed, repeat).items()
    }


def _draw_layer(tensors: Mapping[str, Tensor], layer: Layer, biases: bool, seed: int, repeat: int) -> dict[str, Tensor]:
    names = Scope(layer.name, (layer,)).tensors(biases)
    spread = torch.cat([tensors[name].detach().double().flatten() for name in names]).std(correction=0)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {repeat} {layer.name}".encode()))
    noise = {}
    for name in names:
        tensor = tensors[name]
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32) * float(spread)
        noise[name] = values.to(tensor)
    return noise


def _findings(scores: pl.DataFrame, summary: pl.DataFrame, measure: Measure) -> list[Finding]:
    describe: Callable[[dict[str, Any]], str] = lambda row: f"noise of {percent(row['strength'])}"  # noqa: E731
    rows = summary.filter((pl.col("layer") == "all") & (pl.col("strength") > 0)).sort("strength")
    findings = verdict(rows, describe, "strongest noise", measure) + _fall(rows, measure)
    alone = summary.filter(pl.col("layer") != "all")
    advice = "Protect it first where weights drift or are stored coarsely."
    return findings + fragile(alone, describe, "made noisy", measure, advice) + unchanged_settings(scores, describe)


def _fall(rows: pl.DataFrame, measure: Measure) -> list[Finding]:
    """The mildest noise that costs measurably, whichever way it is drawn and on other samples."""
    hurt = with_bounds(rows).filter(pl.col("low") > 0)
    if hurt.is_empty():
        return []
    row = hurt.row(0, named=True)
    text = (
        f"The loss becomes measurable with noise of {percent(row['strength'])}: {measure.loss(row)} of {measure.unit}."
    )
    return [Finding(text, row["drop"] / half_width(row))]


_MILD = 0.1  # the strength at which layers are compared


def _measures(summary: pl.DataFrame) -> pl.DataFrame:
    """What noise of about a tenth of its spread costs each layer alone, with the wider one of its two intervals."""
    alone = summary.filter(pl.col("layer") != "all")
    if alone.is_empty():
        return layer_measures("fragility", [])
    strength = min(alone["strength"].unique().to_list(), key=lambda s: abs(s - _MILD))
    rows = []
    for row in alone.filter(pl.col("strength") == strength).iter_rows(named=True):
        low, high = bounds(row)
        known = math.isfinite(high - low)
        ends = (low, high) if known else (None, None)
        rows.append((row["layer"], row["drop"], *ends, f"noise of {percent(strength)}"))
    return layer_measures("fragility", rows)
