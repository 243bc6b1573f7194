"""The scores of a variant: from what a task says of each sample to means with their intervals."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from netopsy.samples.tasks import Task
from netopsy.samples.verdicts import Verdicts
from netopsy.samples.verdicts import judge_classes as judge
from netopsy.stats.hypothesis_tests import LEAST, paired_difference, wilson

__all__ = ["COUNTS", "count", "interval_of", "judge", "margins", "near_ties", "row", "score_range", "task_row", "terms"]

TIE = 1e-4


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """How far each verdict on outputs (n, classes) is from turning: float32 (n,); infinite where it is not known.

    Labels of one class: the label's output against the highest other. Labels of several: the highest against the next.
    """
    outputs = outputs.float()
    if outputs.shape[1] < 2:
        return torch.full((len(outputs),), torch.inf)
    if labels.ndim == 2:
        first, second = outputs.topk(2, dim=1).values.unbind(1)
        gap = first - second
    else:
        label_output = outputs.gather(1, labels[:, None])
        gap = (label_output - outputs.scatter(1, labels[:, None], -torch.inf).amax(dim=1, keepdim=True))[:, 0].abs()
    return torch.where(gap.isfinite(), gap, torch.inf)


def near_ties(outputs: Tensor, tolerance: float = TIE) -> Tensor:
    """Which rows (n,) of outputs (n, classes) hold two outputs so close that rounding may swap a verdict.

    tolerance: as a share of the row's largest absolute output.
    """
    values = outputs.float().nan_to_num().topk(min(6, outputs.shape[1]), dim=1).values
    gaps = values[:, :-1] - values[:, 1:]
    scale = outputs.abs().amax(dim=1).float()
    close = gaps[:, :1] if gaps.shape[1] < 5 else gaps[:, [0, 4]]
    return (close <= tolerance * scale[:, None]).any(dim=1) & scale.isfinite()


def row(
    *, top1: float, top5: float, agreement: float, loss: float, losses: float, gains: float, images: int
) -> dict[str, Any]:
    """The columns of one variant, from counts over `images`; loss is the sum."""
    low, high = wilson(top1, images)
    drop_low, drop_high = paired_difference(losses, gains, images)
    return {
        "top1": top1 / images,
        "top5": top5 / images,
        "top1_low": low,
        "top1_high": high,
        "agreement": agreement / images,
        "loss": loss / images,
        "images": images,
        "drop": (losses - gains) / images,
        "drop_low": drop_low,
        "drop_high": drop_high,
    }


COUNTS = (
    *("top1", "top5", "agreement", "loss", "losses", "gains"),
    *(
        "rise",
        "weight",
        "squared",
        "score_first",
        "score_second",
        "drop_first",
        "drop_second",
        "rise_first",
        "rise_second",
    ),
)
"""Sums over samples. The first are of values times weights; `squared` and what follows of squared weights: alone, times
the values, and times their squares, for the variances."""


def count(variants: Verdicts, plain: Verdicts) -> Tensor:
    """float64 (variants, COUNTS) of verdicts on variants, tensors with an axis of these in front, against the plain."""
    return torch.stack([values.sum(1) for values in terms(variants, plain)], dim=1)


def terms(variants: Verdicts, plain: Verdicts) -> list[Tensor]:
    """What `count` sums: for each of COUNTS float64 (variants, n); samples that count for nothing have 0."""
    score, before = variants.score.double(), plain.score.double()
    weight = torch.ones(score.shape[1], dtype=torch.float64) if plain.weight is None else plain.weight
    if not plain.predicted.numel():
        agreement = torch.full_like(score, torch.nan)
    else:
        same = (variants.predicted == plain.predicted) & (plain.predicted >= 0)
        agreement = same.double() if same.ndim == 2 else same.flatten(2).sum(2) / weight.clamp_min(1)
    drop = before - score
    rise = variants.loss - plain.loss
    first = [score, variants.top5.double(), agreement, variants.loss, drop.clamp_min(0), (-drop).clamp_min(0)]
    first.append(rise)
    values = [(part * weight).masked_fill(weight == 0, 0) for part in first]
    values += [weight.expand(len(score), -1), weight.square().expand(len(score), -1)]
    for part in (score, drop, rise):
        values += [(part**power * weight.square()).masked_fill(weight == 0, 0) for power in (1, 2)]
    return values


def score_range(task: Task) -> tuple[float, float]:
    """The least and the most that the score of one sample can be."""
    if task.name.startswith("custom"):
        return -math.inf, math.inf
    return {"r2": -math.inf, "cosine": -1.0}.get(task.column, 0.0), 1.0


def task_row(task: Task, sums: dict[str, float], samples: int) -> dict[str, Any]:
    """The columns of one variant, from its `COUNTS` over `samples`.

    Where a sample is right or wrong, the intervals are of counts. Else they are Student's, of a mean over samples that
    weigh as many places as they have (a ratio of sums, its variance by linearisation: Cochran, Sampling Techniques,
    3rd ed., Equation 6.13): the places of one sample are not independent, samples are.
    """
    if task.binary:
        return row(
            **{name: sums[name] for name in ("top1", "top5", "agreement", "loss", "losses", "gains")}, images=samples
        )
    weight = max(sums["weight"], 1e-300)
    score, loss, drop = sums["top1"] / weight, sums["loss"] / weight, (sums["losses"] - sums["gains"]) / weight
    low, high = interval_of(sums, "score", score, samples)
    drop_low, drop_high = interval_of(sums, "drop", drop, samples)
    least, most = score_range(task)
    if math.isfinite(drop_high - drop_low):  # else there is none, which is no interval of all that is possible
        drop_low, drop_high = max(drop_low, least - most), min(drop_high, most - least)
    columns: dict[str, Any] = {
        task.column: score,
        f"{task.column}_low": max(low, least),
        f"{task.column}_high": min(high, most) if math.isfinite(least) else high,
    }
    if task.second:
        columns[task.second] = sums["top5"] / weight
    if task.column != "agreement":
        agreement = sums["agreement"] / weight
        columns["agreement"] = agreement if agreement == agreement else None
    rise = _difference(sums, samples)
    return columns | {
        "loss": loss,
        "images": samples,
        "drop": drop,
        "drop_low": drop_low,
        "drop_high": drop_high,
        **rise,
    }


def interval_of(sums: dict[str, float], name: str, mean: float, samples: int) -> tuple[float, float]:
    """95 % interval of a weighted mean; without bounds of fewer than three samples, which tell little of others."""
    if samples < LEAST or not math.isfinite(mean):
        return -math.inf, math.inf
    second, first, squared = sums[f"{name}_second"], sums[f"{name}_first"], sums["squared"]
    around = max(0.0, second - 2 * mean * first + mean * mean * squared)
    error = math.sqrt(samples / (samples - 1) * around) / sums["weight"]
    half = float(stats.t.ppf(0.975, samples - 1)) * error
    return mean - half, mean + half


def _difference(sums: dict[str, float], samples: int) -> dict[str, Any]:
    """How much the loss rises, with its interval."""
    mean = sums["rise"] / max(sums["weight"], 1e-300)
    low, high = interval_of(sums, "rise", mean, samples)
    return {"rise": mean, "rise_low": low, "rise_high": high}
