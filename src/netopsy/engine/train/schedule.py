"""Learning rates in closed form: from the step, and for a plateau from the losses so far. Nothing to keep or resume."""

from __future__ import annotations

import math
from collections.abc import Sequence

from netopsy.engine.train.recipe import Recipe

_RISE, _START, _END = 0.3, 1 / 25, 1 / 25e4  # onecycle, as torch.optim.lr_scheduler.OneCycleLR has it
_THRESHOLD = 1e-4  # plateau: the least relative fall of the loss that counts, as in ReduceLROnPlateau


def rate_at(recipe: Recipe, step: int, steps: int, losses: Sequence[float] = ()) -> float:
    """The learning rate at `step` (from 0) of a training of `steps` an epoch; losses: of the epochs before."""
    total = steps * recipe.epochs
    if recipe.schedule == "onecycle":
        return recipe.rate * _onecycle(step, total)
    scale = 1.0
    if recipe.schedule == "step":
        # rounded: 0.1 * 30 is a little more than 3
        scale = recipe.factor ** sum(step >= round(share * total) for share in recipe.milestones)
    elif recipe.schedule == "cosine":
        scale = _between(1.0, recipe.final, step / total)
    elif recipe.schedule == "plateau":
        scale = plateau(losses, recipe.factor, recipe.patience, recipe.cooldown, recipe.final)
    if step < (warm := recipe.warmup * steps):
        scale *= (step + 1) / (warm + 1)
    return recipe.rate * scale


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
