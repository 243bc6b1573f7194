"""What is right about a batch of outputs: a score and a loss for each sample.

A score is 1 where all is right: the share of places (tokens, pixels) whose highest output is the right one,
1 - (error / spread)^2 of a number, or how much of the unedited network's output is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netopsy.errors import SamplesError

IGNORED = -100
"""A label that does not count, as in `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True)
class Verdicts:
    """What a task says of each of n samples.

    score: (n,), bool where a sample is right or wrong, else float64. top5: as `score`, for the five highest outputs;
        of pixels, the mean intersection over union of the classes in the sample.
    loss: float64 (n,), infinite where an output is not finite.
    predicted: int64 (n, *places), -1 where an output is not finite or the place does not count; empty where a task
        predicts no class.
    weight: float64 (n,), over how many places each sample's values are means; None: one each.
    """

    score: Tensor
    top5: Tensor
    loss: Tensor
    predicted: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    weight: Tensor | None = None

    @property
    def top1(self) -> Tensor:
        """The score, where a sample is right or wrong."""
        return self.score

    def cpu(self) -> Verdicts:
        """The same in the processor's memory."""
        weight = None if self.weight is None else self.weight.cpu()
        return Verdicts(self.score.cpu(), self.top5.cpu(), self.loss.cpu(), self.predicted.cpu(), weight)


def judge_classes(outputs: Tensor, labels: Tensor, mask: Tensor | None = None) -> Verdicts:
    """Verdicts on outputs (n, classes) for labels int64 (n,) or 0/1 float (n, classes).

    The score: the highest output is the label's, or one of the labels'; top5: one of the five highest is. loss:
    cross-entropy; of several labels the binary one, averaged over the classes. Of equal outputs the first counts as
    the highest; an output that is not finite is wrong and has an infinite loss.
    """
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
    return Verdicts(correct[:, 0] & finite, correct.any(dim=1) & finite, loss, predicted)


_ROOM = 2**22  # outputs that are judged at once


def judge_places(outputs: Tensor, labels: Tensor, mask: Tensor | None = None, *, axis: int = -1) -> Verdicts:
    """As `judge_classes` for each place of a sample; means over the places whose label is not `IGNORED`.

    outputs: (n, *places, classes), or with the classes along another `axis`; labels: int64 (n, *places).
    """
    outputs = outputs.movedim(axis, -1)
    n, places = len(outputs), outputs.shape[1:-1]
    counted = (labels != IGNORED).reshape(n, -1)
    flat, flat_labels, total = outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1), counted.numel()
    score, top5, loss = (torch.zeros(total, dtype=torch.float64, device=flat.device) for _ in range(3))
    predicted = torch.full((total,), -1, device=flat.device)
    for part in counted.reshape(-1).nonzero()[:, 0].split(max(1, _ROOM // outputs.shape[-1])):
        verdicts = judge_classes(flat[part], flat_labels[part])
        score[part], top5[part], loss[part] = verdicts.score.double(), verdicts.top5.double(), verdicts.loss
        predicted[part] = verdicts.predicted
    weight = counted.sum(1).double()
    means = [values.reshape(n, -1).sum(1) / weight.clamp_min(1) for values in (score, top5, loss)]
    return Verdicts(means[0], means[1], means[2], predicted.reshape(n, *places), weight)


def judge_pixels(outputs: Tensor, labels: Tensor, mask: Tensor | None = None) -> Verdicts:
    """As `judge_places`, with the classes along the first axis; and the mean intersection over union in each sample.

    outputs: (n, classes, *space); labels: int64 (n, *space). The mean is over the classes that are there, in the label
    or in the prediction (Jaccard's index, Everingham et al., IJCV 2010, by image).
    """
    verdicts = judge_places(outputs, labels, mask, axis=1)
    n, classes = outputs.shape[:2]
    counted = (labels != IGNORED) & (verdicts.predicted >= 0)
    both = (labels.clamp_min(0) * classes + verdicts.predicted.clamp_min(0)).reshape(n, -1)
    cells = torch.zeros(n, classes * classes, dtype=torch.float64, device=outputs.device)
    cells = cells.scatter_add_(1, both, counted.reshape(n, -1).double()).reshape(n, classes, classes)
    common = cells.diagonal(dim1=1, dim2=2)
    union = cells.sum(1) + cells.sum(2) - common
    there = union > 0
    iou = (common / union.clamp_min(1)).sum(1) / there.sum(1).clamp_min(1)
    return replace(verdicts, top5=iou)


def judge_numbers(
    outputs: Tensor, labels: Tensor, mask: Tensor | None = None, *, spread: tuple[float, ...] = (1.0,)
) -> Verdicts:
    """Numbers: the score of a sample is 1 - (error / spread)^2, whose mean is R² over the samples; loss: |error|.

    outputs, labels: (n,) or (n, values). spread: standard deviations of the labels, over the samples that are scored.
    """
    error = (outputs.reshape(len(outputs), -1) - labels.reshape(len(outputs), -1)).double()
    finite = error.isfinite().all(1)
    score = 1 - (error / torch.tensor(spread, dtype=torch.float64, device=error.device)).square().mean(1)
    score = torch.where(finite, score, -torch.inf)
    return Verdicts(score, score, torch.where(finite, error.abs().mean(1), torch.inf))


def judge_agreement(outputs: Tensor, before: Tensor, mask: Tensor | None = None) -> Verdicts:
    """Whether the highest output is the one that was the highest `before`, at each place; loss: nats of divergence.

    outputs, before: (n, *places, classes). Places of padding do not count.
    """
    n, places = len(outputs), outputs.shape[1:-1]
    counted = torch.ones((n, *places), dtype=torch.bool, device=outputs.device)
    if mask is not None and places and places[0] == mask.shape[1]:
        counted &= mask.to(outputs.device).reshape(n, -1, *[1] * (len(places) - 1))
    counted = counted.reshape(-1)
    flat, flat_before = outputs.reshape(-1, outputs.shape[-1]), before.reshape(-1, outputs.shape[-1])
    same, apart = (torch.zeros(len(counted), dtype=torch.float64, device=outputs.device) for _ in range(2))
    for part in counted.nonzero()[:, 0].split(max(1, _ROOM // outputs.shape[-1])):
        now, then = flat[part].float(), flat_before[part].float()
        finite = now.isfinite().all(-1) & then.isfinite().all(-1)
        same[part] = ((now.nan_to_num().argmax(-1) == then.nan_to_num().argmax(-1)) & finite).double()
        p, q = then.log_softmax(-1), now.log_softmax(-1)
        nats = (p.exp() * (p - q)).sum(-1).double().clamp_min(0)
        apart[part] = torch.where(finite & nats.isfinite(), nats, torch.inf)
    weight = counted.reshape(n, -1).sum(1).double()
    score, loss = (values.reshape(n, -1).sum(1) / weight.clamp_min(1) for values in (same, apart))
    return Verdicts(score, score, loss, weight=weight)


def judge_vectors(outputs: Tensor, before: Tensor, mask: Tensor | None = None) -> Verdicts:
    """The cosine of each sample's output (n, ...) with what it was `before`, without padding; loss: 1 - cosine."""
    now, then = outputs.double(), before.double()
    if mask is not None and now.ndim > 2 and now.shape[1] == mask.shape[1]:
        real = mask.to(now.device).reshape(*mask.shape, *[1] * (now.ndim - 2))
        now, then = now * real, then * real
    finite = now.flatten(1).isfinite().all(1)
    score = F.cosine_similarity(now.flatten(1).nan_to_num(), then.flatten(1), dim=1)
    same = (now == then).flatten(1).all(1)
    score = torch.where(same, 1.0, torch.where(finite, score, -1.0))
    return Verdicts(score, score, torch.where(finite, 1 - score, torch.inf))


def judge_by(
    outputs: Tensor, targets: Tensor, mask: Tensor | None = None, *, function: Callable[[Tensor, Tensor], Any]
) -> Verdicts:
    """A function of the user's: (outputs, targets) -> a score for each sample, (n,); higher is better."""
    score = torch.as_tensor(function(outputs, targets)).double().to(outputs.device)
    if score.shape != (len(outputs),):
        raise SamplesError(
            f"the task's function gives scores of shape {tuple(score.shape)} for {len(outputs)} samples; it must give "
            "one number a sample."
        )
    return Verdicts(score, score, -score)
