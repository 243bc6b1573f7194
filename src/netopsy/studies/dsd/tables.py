"""The tables of the study `dsd`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.stats import t as student

from netopsy.network.layers import Layer
from netopsy.studies.dsd.branches import BASELINE, DENSE, DSD, LAST, Step

BINS = 61  # odd, so that zero is the middle of a bin
_REACH = 0.9995  # of the weights at each end are shown


def steps_frame(
    steps: Sequence[Step], layers: Sequence[Layer], scored: Mapping[str, Mapping[str, Any]]
) -> pl.DataFrame:
    """A row a step; layers: of every one of the networks; scored: the scores of a network by its digest."""
    rows = []
    for step in steps:
        weights = [step.network.tensors[layer.weight] for layer in layers]
        zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        own = scored[step.network.digest]
        kept = {name: own[name] for name in ("top1", "top1_low", "top1_high", "top5", "loss", "images")}
        rows.append(
            {"seed": step.seed, "branch": step.branch, "step": step.name, "epochs": step.epochs, "zeros": zeros} | kept
        )
    return pl.DataFrame(rows)


def summary(steps: pl.DataFrame) -> pl.DataFrame:
    """Mean and spread over the seeds of where each way ends, and of what it gains.

    what: `start`, `baseline`, `dsd`, and the differences `dsd - baseline`, `dsd - start`, `baseline - start`; top1 and
    loss: means; spread: standard deviation of top1 over the seeds; low, high: 95 % interval of the mean of top1 by
    Student's t over the seeds, of a difference by the paired t.
    """
    last = steps.filter(pl.col("step").is_in(LAST)).sort("seed")
    held = {branch: last.filter(pl.col("branch") == branch) for branch in (BASELINE, DSD)}
    held["start"] = steps.filter((pl.col("branch") == DSD) & (pl.col("step") == DENSE)).sort("seed")
    top1 = {name: frame["top1"].to_numpy() for name, frame in held.items()}
    loss = {name: frame["loss"].to_numpy() for name, frame in held.items()}
    rows = [_row(name, top1[name], loss[name]) for name in ("start", BASELINE, DSD)]
    for a, b in ((DSD, BASELINE), (DSD, "start"), (BASELINE, "start")):
        rows.append(_row(f"{a} - {b}", top1[a] - top1[b], loss[a] - loss[b]))
    return pl.DataFrame(rows)


def _row(what: str, top1: np.ndarray, loss: np.ndarray) -> dict[str, Any]:
    low, high = interval(top1)
    several = len(top1) > 1
    return {
        "what": what,
        "top1": float(top1.mean()),
        "spread": float(top1.std(ddof=1)) if several else None,
        "low": low,
        "high": high,
        "loss": float(loss.mean()),
        "seeds": len(top1),
    }


def interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """(low, high) of the mean of independent values by Student's t at 95 %; None of a single value."""
    if len(values) < 2:
        return None, None
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    reach = float(student.ppf(0.975, len(values) - 1)) * error
    return mean - reach, mean + reach


def histograms(steps: Sequence[Step], layers: Sequence[Layer]) -> pl.DataFrame:
    """Counts of each layer's weights at each step, in bins of one width a layer; pruned weights do not count.

    Weights beyond the range are counted in the outermost bins.
    """
    parts = []
    for layer in layers:
        values = [_values(step, layer.weight) for step in steps]
        reach = max(float(np.quantile(np.abs(v), _REACH)) if len(v) else 0.0 for v in values) or 1.0
        edges = np.linspace(-reach, reach, BINS + 1)
        for step, own in zip(steps, values, strict=True):
            counts, _ = np.histogram(np.clip(own, -reach, reach), edges)
            parts.append(
                pl.DataFrame({"left": edges[:-1], "right": edges[1:], "count": counts}).select(
                    pl.lit(layer.name).alias("layer"), pl.lit(step.name).alias("step"), pl.all()
                )
            )
    return pl.concat(parts)


def _values(step: Step, name: str) -> np.ndarray:
    weight = step.network.tensors[name].detach().cpu()
    if name in step.masks:
        weight = weight[step.masks[name].to(torch.device("cpu"))]
    return weight.reshape(-1).double().numpy()
