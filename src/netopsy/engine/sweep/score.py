"""What accuracy means: right or wrong, image by image, and the shares that follow.

Labels of one class: `top1` is the highest output being the label's, `top5` the label being among the five highest (of
equal outputs the first counts as the highest), `loss` the cross-entropy. Labels of several classes: `top1` is the
highest output being one of the labels, `top5` one of the labels being among the five highest, `loss` the binary
cross-entropy averaged over the classes. An output that is not finite is wrong, agrees with nothing and has an
infinite loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netopsy.stats.hypothesis_tests import paired_difference, wilson

TIE = 1e-4


@dataclass(frozen=True)
class Verdicts:
    """For each image (n,): top1 and top5 bool; loss float64; predicted int64, -1 where the output is not finite."""

    predicted: Tensor
    top1: Tensor
    top5: Tensor
    loss: Tensor


def judge(outputs: Tensor, labels: Tensor) -> Verdicts:
    """Verdicts on outputs (n, classes) for labels int64 (n,) or 0/1 float (n, classes)."""
    outputs = outputs.float()
    finite = outputs.isfinite().all(dim=1)
    predicted = torch.where(finite, outputs.nan_to_num().argmax(dim=1), -1)
    # a stable descending sort puts the first of equal outputs first, as argmax does
    order = outputs.nan_to_num().sort(dim=1, descending=True, stable=True).indices[:, :5]
    if labels.ndim == 2:
        correct = labels.gather(1, order) > 0
        loss = F.binary_cross_entropy_with_logits(outputs, labels.to(outputs), reduction="none").mean(dim=1)
    else:
        correct = order == labels[:, None]
        loss = F.cross_entropy(outputs, labels, reduction="none")
    loss = torch.where(finite & loss.isfinite(), loss.double(), torch.inf)
    return Verdicts(predicted, correct[:, 0] & finite, correct.any(dim=1) & finite, loss)


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
