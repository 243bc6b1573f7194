"""The sensitivity map: what a few candidates of each layer do to the outputs; the rest are interpolated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import Task
from netopsy.studies.prescribe.candidates import Candidate
from netopsy.studies.prescribe.compensate import Rounder
from netopsy.studies.prescribe.divergence import effects, loss_at

LEVELS = (0.003, 0.02, 0.08, 0.25, 0.6)
"""Noise-to-signal ratios at which a layer is measured, as near as its candidates come."""

Choices = Mapping[str, Sequence[Candidate]]


def sensitivity(
    network: Network,
    samples: Samples,
    layers: Sequence[Layer],
    rounders: Mapping[str, Rounder],
    choices: Choices,
    *,
    how: str,
    heat: float = 1.0,
    task: Task | None = None,
) -> pl.DataFrame:
    """A row a layer and measured candidate: layer, noise, density, entries, bits, and the columns of `effects`.

    rounders, choices: the weights and the candidates of each layer, by its name. how: plain text that tells these
    candidates from others. heat: of the outputs, see `effects`.
    """
    variants = [
        variant(layer, rounders[layer.name], one, how, {"layer": layer.name, **traits(one), "bytes": one.bytes})
        for layer in layers
        for one in spread_over_noise(choices[layer.name])
    ]
    return effects(network, samples, variants, "sensitivity", heat, task) if variants else pl.DataFrame()


def spread_over_noise(choices: Sequence[Candidate]) -> list[Candidate]:
    """The candidates to measure: those nearest to the LEVELS of noise."""
    noisy = [one for one in choices if one.noise > 0]
    if not noisy:
        return []
    picked = {min(range(len(noisy)), key=lambda i: abs(np.log(noisy[i].noise / level))) for level in LEVELS}
    return [noisy[i] for i in sorted(picked)]


def losses(choices: Choices, measured: pl.DataFrame) -> dict[str, list[float]]:
    """The expected divergence of every candidate of every layer."""
    expected = {}
    for name, candidates in choices.items():
        rows = measured.filter(pl.col("layer") == name) if measured.height else measured
        pairs = list(zip(rows["noise"], rows["divergence"], strict=True)) if rows.height else []
        expected[name] = loss_at([one.noise for one in candidates], pairs).tolist()
    return expected


def traits(one: Candidate) -> dict[str, Any]:
    """The columns that describe a candidate."""
    return {"noise": one.noise, "density": one.density, "entries": one.entries, "bits": one.bits}


def variant(layer: Layer, rounder: Rounder, one: Candidate, how: str, settings: dict[str, Any]) -> Variant:
    """The network with one layer as a candidate has it."""

    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = tensors[layer.weight]
        shared = one.share(rounder)
        assert shared is not None
        return {layer.weight: torch.from_numpy(shared.decode()).to(values)}

    return Variant(settings, Replace((layer.weight,), edit, f"prescribe {how} {layer.name} {one.noise:.9g}"))
