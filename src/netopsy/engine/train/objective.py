"""What a training minimises, how its outcome is counted, and learning rates in closed form.

A rate follows from the step, and for a plateau from the losses so far: there is nothing to keep or resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from netopsy.engine.train.recipe import Recipe

Loss = Literal["labels", "mse", "sse"]


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


def squared_error(outputs: Tensor, targets: Tensor, kind: Loss) -> Float[Tensor, ""]:
    """The squared differences, summed over the batch: of each image their mean (`mse`) or their sum (`sse`).

    outputs, targets: (batch, *any shape). The mean over images of `sse` is Nowak & Corso, "Deep Net Triage", Eq 3 as
    printed, a squared norm; `mse` is that over the number of values.
    """
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
