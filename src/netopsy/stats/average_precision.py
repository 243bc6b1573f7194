"""Scores of a classifier that gives one number an image and class: accuracy, and average precision.

Tied scores are treated in one stated way throughout, and neither score depends on the order of the images.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from netopsy.errors import SettingsError

How = Literal["area", "voc2007"]
AT_ONCE = 2**24  # scores sorted at a time: some 500 MB with everything that goes with them
_RECALLS = 11  # 0, 0.1, ... 1


class MeanPrecision(NamedTuple):
    """mean: of the average precisions of `counted` classes. left_out: classes without a relevant image, not in it."""

    mean: float
    counted: int
    left_out: int


def accuracy(
    scores: Float[Tensor, "n classes"] | Float[np.ndarray, "n classes"],
    labels: Int64[Tensor, " n"] | Int64[np.ndarray, " n"],
) -> float:
    """Expected share (0..1) of images whose highest score is their own class's, ties broken by an even lot.

    An image whose highest score is shared by m classes counts 1/m if its own is among them, so that constant scores
    give exactly 1/classes, whichever class comes first. The sum is exact, rounded once.
    Errors: SettingsError for scores with NaN, or labels that do not fit them.
    """
    values = _check(scores)
    classes = _class_indices(labels, values)
    own_score = values.gather(1, classes[:, None])
    ties = (values == own_score).sum(1)
    top = (values <= own_score).all(1)
    counts = torch.bincount(ties[top], minlength=2).tolist()
    credit = sum((Fraction(count, m) for m, count in enumerate(counts) if count), Fraction())
    return float(credit / len(values))


def average_precision(
    scores: Float[Tensor, "n classes"] | Float[np.ndarray, "n classes"],
    relevant: Tensor | np.ndarray,
    how: How = "area",
) -> Float64[np.ndarray, " classes"]:
    """Average precision of each class, 0..1: how far its images come before the others by descending score.

    relevant: rows of 0 and 1 (n, classes), any type, or class indices (n,) where an image has one class.
    how: `area` sums precision times the step in recall over the distinct scores (no interpolation), as scikit-learn's
    average_precision_score does. `voc2007` takes the mean over recalls 0, 0.1, ... 1 of the highest precision at that
    recall or above (Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010).
    Images of equal score enter together, at the precision that all of them have: constant scores give the share of
    relevant images either way. Whether a recall of tp/positives reaches i/10 is decided in whole numbers.
    A class without a relevant image has no average precision: NaN.
    Errors: SettingsError for scores with NaN, other `relevant` than 0 and 1 or of another shape, an unknown `how`.
    """
    if how not in ("area", "voc2007"):
        raise SettingsError(f"average precision '{how}' is unknown; give area or voc2007.")
    values = _check(scores)
    hits = _rows(relevant, values)
    block = max(1, AT_ONCE // len(values))
    rule = _area if how == "area" else _eleven_points
    parts = [
        rule(*_sort(columns.T.contiguous(), hit_columns.T.contiguous()))
        for columns, hit_columns in zip(values.split(block, 1), hits.split(block, 1), strict=True)
    ]
    result: Float64[np.ndarray, " classes"] = torch.cat(parts).cpu().numpy()
    return result


def mean_average_precision(
    scores: Float[Tensor, "n classes"] | Float[np.ndarray, "n classes"],
    relevant: Tensor | np.ndarray,
    how: How = "area",
) -> MeanPrecision:
    """The mean of `average_precision` over the classes that have a relevant image, and how many those are.

    Where none has, the mean is NaN and `counted` 0.
    """
    precisions = average_precision(scores, relevant, how)
    defined = ~np.isnan(precisions)
    mean = float(precisions[defined].mean()) if defined.any() else float("nan")
    return MeanPrecision(mean, int(defined.sum()), int((~defined).sum()))


def as_tensor(values: Tensor | np.ndarray) -> Tensor:
    """`values` as a tensor; an array that may not be written, such as a mapped file, is copied."""
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = np.array(values)
    return torch.as_tensor(values).detach()


def _sort(scores: Tensor, hits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By descending score along the last axis: relevant images so far (int64), whether a tie ends, precision there."""
    ordered, order = scores.sort(dim=1, descending=True)
    relevant_so_far = hits.gather(1, order).cumsum(1)
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=torch.float64)
    return relevant_so_far, ends, relevant_so_far / ranks


def _area(relevant_so_far: Tensor, ends: Tensor, precision: Tensor) -> Tensor:
    """Sum over the ends of ties of (recall there - recall at the end before) x precision."""
    reached = torch.where(ends, relevant_so_far, 0).cummax(1).values
    steps = relevant_so_far.clone()
    steps[:, 1:] -= reached[:, :-1]
    return torch.where(ends, steps * precision, 0).sum(1) / relevant_so_far[:, -1]


def _eleven_points(relevant_so_far: Tensor, ends: Tensor, precision: Tensor) -> Tensor:
    """Mean of the highest precision from each of the eleven recalls on."""
    best = torch.where(ends, precision, 0).flip(1).cummax(1).values.flip(1)
    positives = relevant_so_far[:, -1:]
    tenths = torch.arange(_RECALLS, device=relevant_so_far.device)
    needed = (tenths * positives + 9) // 10  # the fewest relevant images that make a recall of i/10
    first = torch.searchsorted(relevant_so_far, needed).clamp_(max=relevant_so_far.shape[1] - 1)
    points = best.gather(1, first).mean(1)
    return torch.where(positives[:, 0] > 0, points, torch.nan)


def _check(scores: Tensor | np.ndarray) -> Tensor:
    """Scores (n, classes) in a type that sorts everywhere."""
    values = as_tensor(scores)
    if values.ndim != 2 or not values.numel():
        raise SettingsError(f"scores of shape {tuple(values.shape)} are no table; give one row an image (n, classes).")
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float() if values.is_floating_point() else values.double()
    if bool(values.isnan().any()):
        rows = int(values.isnan().any(1).sum())
        raise SettingsError(f"{rows:,} of {len(values):,} rows of scores hold NaN; leave them out, or mend the fit.")
    return values


def _class_indices(labels: Tensor | np.ndarray, scores: Tensor) -> Tensor:
    indices = as_tensor(labels).to(scores.device)
    n, classes = scores.shape
    if indices.shape != (n,) or indices.is_floating_point() or indices.dtype == torch.bool:
        raise SettingsError(
            f"labels are {indices.dtype} of shape {tuple(indices.shape)} for {n:,} rows of scores; give {n:,} class "
            "indices, or use mean average precision where an image may have several classes."
        )
    indices = indices.long()
    if not 0 <= int(indices.min()) <= int(indices.max()) < classes:
        raise SettingsError(
            f"labels run from {int(indices.min())} to {int(indices.max())} and scores have {classes} classes; "
            f"give 0 to {classes - 1}."
        )
    return indices


def _rows(relevant: Tensor | np.ndarray, scores: Tensor) -> Tensor:
    """`relevant` as int64 rows of 0 and 1."""
    rows = as_tensor(relevant).to(scores.device)
    if rows.ndim == 1:
        return torch.nn.functional.one_hot(_class_indices(rows, scores), scores.shape[1])
    if rows.shape != scores.shape or not bool(((rows == 0) | (rows == 1)).all()):
        raise SettingsError(
            f"relevance is {rows.dtype} of shape {tuple(rows.shape)} for scores of shape {tuple(scores.shape)}; "
            "give 0 and 1 in the same shape."
        )
    return rows.long()
