"""What a training minimises, how its outcome is counted, and learning rates in closed form.

A rate follows from the step, and for a plateau from the losses so far: there is nothing to keep or resume.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from netopsy.engine.train.data import TrainingBatch
from netopsy.engine.train.recipe import Recipe
from netopsy.samples.tasks import Task
from netopsy.samples.verdicts import IGNORED, judge_agreement, judge_vectors

Loss = Literal["labels", "mse", "sse"]


class Measured(NamedTuple):
    """Sums over a batch: of the loss over samples or places, how many these are; of the score, and over how many."""

    loss: Tensor
    weight: Tensor
    score: Tensor
    scored: Tensor

    def totals(self) -> Tensor:
        """Float64 (4,), without gradients."""
        return torch.stack([part.detach().double() for part in self])


class Penalty(Protocol):
    """What is asked of the weights besides: a minus log prior, for instance (`netopsy.Priors.regulariser`).

    Called with all parameters by name it gives a number, in nats over the whole training set: over the number of
    samples it is added to the mean loss. digest: of all that it depends on, to name the checkpoint. It holds plain data
    and can be sent to another process.
    """

    @property
    def digest(self) -> str: ...

    def __call__(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, ""]: ...


def targets_of(step: TrainingBatch, task: Task) -> Tensor:
    """What the outputs are held against; where a teacher alone says it, the labels as they are."""
    return step.labels if task.reference else task.targets(step, None)  # type: ignore[arg-type]


def weight_of(step: TrainingBatch, targets: Tensor, learned: Task) -> Tensor:
    """How many samples, or places that count, float64."""
    counted: Tensor | int = len(step.labels)
    if learned.learns == "places":
        counted = (targets != IGNORED).sum()
    elif learned.judge is judge_agreement and step.mask is not None:
        counted = step.mask.sum()
    return torch.as_tensor(counted, dtype=torch.float64, device=targets.device)


def measure(
    outputs: Tensor, step: TrainingBatch, task: Task, learned: Task, recipe: Recipe, teacher: Tensor | None = None
) -> Measured:
    """The loss of what is `learned`, and the score of the `task`: another where that is a function of the user's.

    Learned are classes of samples by cross-entropy; of places too, over those that count; numbers by the error of each
    sample; the outputs of a teacher alone by T^2 KL at each place, or an embedding by the squared error.
    """
    targets = targets_of(step, learned)
    weight = weight_of(step, targets, learned)
    if learned.learns == "classes":
        loss, score = loss_sum(outputs, targets, recipe, teacher), hits(outputs, targets)
    elif learned.learns == "places":
        rows = _rows(outputs, learned.axis)
        which = (targets != IGNORED).reshape(-1).nonzero()[:, 0]
        taught = None if teacher is None else _rows(teacher, learned.axis)[which]
        picked, labels = rows[which], targets.reshape(-1)[which]
        loss, score = loss_sum(picked, labels, recipe, taught), hits(picked, labels)
    elif learned.learns == "numbers":
        loss, score = _number_loss(outputs, targets, recipe, teacher), None
    else:
        assert teacher is not None
        loss, score = _follow(outputs, teacher, step.mask, learned, recipe), None
        targets = teacher
    if score is None or task is not learned:
        with torch.no_grad():
            against = targets if task is learned else targets_of(step, task)
            verdicts = task.judge(outputs.detach(), against, step.mask)
        each = torch.ones_like(verdicts.score, dtype=torch.float64) if verdicts.weight is None else verdicts.weight
        return Measured(loss, weight, (verdicts.score * each).sum(), each.sum())
    return Measured(loss, weight, score, weight)


def _rows(outputs: Tensor, axis: int) -> Float[Tensor, "places classes"]:
    moved = outputs.movedim(axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def _number_loss(outputs: Tensor, labels: Tensor, recipe: Recipe, teacher: Tensor | None) -> Float[Tensor, ""]:
    """The error of each sample, averaged over its numbers and summed over the batch."""
    values = outputs.reshape(len(outputs), -1).float()
    error = F.mse_loss if recipe.regression_loss == "mse" else F.huber_loss
    loss = error(values, labels.reshape(values.shape).float(), reduction="sum") / values.shape[1]
    if teacher is None:
        return loss
    taught = error(values, teacher.reshape(values.shape), reduction="sum") / values.shape[1]
    return (1 - recipe.alpha) * loss + recipe.alpha * taught


def _follow(outputs: Tensor, teacher: Tensor, mask: Tensor | None, task: Task, recipe: Recipe) -> Float[Tensor, ""]:
    """The distance to a teacher's outputs, summed over samples, or over places of classes without padding."""
    if task.judge is judge_vectors:
        return squared_error(outputs, teacher, "mse", mask)
    rows, taught = _rows(outputs, -1).float(), _rows(teacher, -1)
    if mask is not None and outputs.ndim > 2 and outputs.shape[1] == mask.shape[1]:
        which = mask.reshape(-1).nonzero()[:, 0]
        rows, taught = rows[which], taught[which]
    warm = recipe.temperature
    return warm**2 * _distance(rows / warm, taught / warm, False)


def loss_sum(
    outputs: Float[Tensor, "batch classes"], labels: Tensor, recipe: Recipe, teacher: Tensor | None = None
) -> Float[Tensor, ""]:
    """The loss summed over the batch: cross-entropy, or where an image may have several labels binary cross-entropy
    averaged over the classes.

    labels: int64 (batch,), or 0 and 1 (batch, classes). teacher: its outputs (batch, classes).
    """
    classes, smooth = outputs.shape[1], recipe.label_smoothing
    if labels.ndim == 2:
        targets = labels * (1 - smooth) + smooth / 2
        label_loss = F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum") / classes
    else:
        label_loss = F.cross_entropy(outputs, labels, reduction="sum", label_smoothing=smooth)
    if teacher is None:
        return label_loss
    alpha, temperature = recipe.alpha, recipe.temperature
    return (1 - alpha) * label_loss + alpha * temperature**2 * _distance(
        outputs / temperature, teacher / temperature, labels.ndim == 2
    )


def _distance(outputs: Tensor, teacher: Tensor, multilabel: bool) -> Tensor:
    """KL(teacher || outputs), summed over the batch; of each class's yes and no, averaged, for several labels."""
    if not multilabel:
        return F.kl_div(outputs.log_softmax(1), teacher.log_softmax(1), reduction="sum", log_target=True)
    soft = teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(outputs, soft, reduction="sum")
    entropy = F.binary_cross_entropy_with_logits(teacher, soft, reduction="sum")
    return (cross - entropy) / outputs.shape[1]


def squared_error(outputs: Tensor, targets: Tensor, kind: Loss, mask: Tensor | None = None) -> Float[Tensor, ""]:
    """The squared differences, summed over the batch: of each image their mean (`mse`) or their sum (`sse`).

    outputs, targets: (batch, *any shape). The mean over images of `sse` is Nowak & Corso, "Deep Net Triage", Eq 3 as
    printed, a squared norm; `mse` is that over the number of values. mask: places (batch, length) that are no padding:
    others do not count, where the outputs have so many places on their first axis.
    """
    if mask is not None and outputs.ndim > 2 and outputs.shape[1] == mask.shape[1]:
        real = mask.reshape(*mask.shape, *[1] * (outputs.ndim - 2))
        errors = ((outputs.float() - targets) * real).square().flatten(1).sum(1)
        values = mask.sum(1).clamp_min(1) * outputs[0, 0].numel()
        return errors.sum() if kind == "sse" else (errors / values).sum()
    total = F.mse_loss(outputs.float(), targets, reduction="sum")
    return total if kind == "sse" else total / max(1, outputs[0].numel())


@torch.no_grad()
def hits(outputs: Float[Tensor, "batch classes"], labels: Tensor) -> Tensor:
    """How many of the highest outputs are (one of) the labels; an output that is not finite is wrong."""
    best = outputs.argmax(dim=1)
    right = labels.gather(1, best[:, None])[:, 0] > 0 if labels.ndim == 2 else best == labels
    return (right & outputs.isfinite().all(dim=1)).sum()


_RISE, _START, _END = 0.3, 1 / 25, 1 / 25e4  # onecycle, as torch.optim.lr_scheduler.OneCycleLR has it
_THRESHOLD = 1e-4  # plateau: the least relative fall of the loss that counts, as in ReduceLROnPlateau


def rate_at(recipe: Recipe, step: int, steps: int, losses: Sequence[float] = ()) -> float:
    """The learning rate at `step` (from 0) of a training of `steps` an epoch; losses: of the epochs before."""
    total = steps * recipe.epochs
    if recipe.schedule == "onecycle":
        return recipe.learning_rate * _onecycle(step, total)
    scale = 1.0
    if recipe.schedule == "step":
        # rounded: 0.1 * 30 is a little more than 3
        scale = recipe.factor ** sum(step >= round(share * total) for share in recipe.milestones)
    elif recipe.schedule == "cosine":
        scale = _between(1.0, recipe.final, step / total)
    elif recipe.schedule == "plateau":
        scale = plateau(losses, recipe.factor, recipe.patience, recipe.cooldown, recipe.final)
    if step < (warmup_steps := recipe.warmup * steps):
        scale *= (step + 1) / (warmup_steps + 1)
    return recipe.learning_rate * scale


def plateau(losses: Sequence[float], factor: float, patience: int, cooldown: int, final: float = 0.0) -> float:
    """What the rate is scaled by after epochs with these `losses`, with the rule of ReduceLROnPlateau.

    final: the least that it is scaled by.
    """
    scale, best, bad, resting = 1.0, math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - _THRESHOLD):
            best, bad = loss, 0
        else:
            bad += 1
        if resting > 0:
            resting, bad = resting - 1, 0
        if bad > patience:
            scale, resting, bad = max(scale * factor, min(scale, final)), cooldown, 0
    return scale


def _onecycle(step: int, total: int) -> float:
    """Smith & Topin, "Super-Convergence", 2019, with cosine flanks."""
    peak = _RISE * total - 1
    if step <= peak:
        return _between(_START, 1.0, step / peak if peak else 1.0)
    return _between(1.0, _END, (step - peak) / max(1.0, total - 1 - peak))


def _between(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
