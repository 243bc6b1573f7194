"""What a training minimises, and how the outcome is counted."""

from __future__ import annotations

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
        wanted = labels * (1 - smooth) + smooth / 2
        own = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="sum") / classes
    else:
        own = F.cross_entropy(outputs, labels, reduction="sum", label_smoothing=smooth)
    if teacher is None:
        return own
    alpha, warm = recipe.alpha, recipe.temperature
    return (1 - alpha) * own + alpha * warm**2 * _distance(outputs / warm, teacher / warm, labels.ndim == 2)


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
