"""The scores of many edited versions of one network."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from netopsy.engine.observe.counting import LABELS
from netopsy.engine.observe.observe import observe
from netopsy.engine.observe.tally import Tally
from netopsy.engine.sweep.adaptive import Adaptive, StoppingRule
from netopsy.engine.sweep.edits import Edit, Replace, Shift, Variant, identity
from netopsy.engine.sweep.full import exact
from netopsy.engine.sweep.plan import make_plan
from netopsy.engine.sweep.rerun import Rerun
from netopsy.engine.trials.pool import current_workers
from netopsy.engine.workspace.workspace import conditions, current_workspace
from netopsy.errors import SettingsError
from netopsy.network.layers import Layer
from netopsy.network.network import Network, check_network
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import CLASSIFICATION, find_task
from netopsy.wording import plural

EXACT_SHARE = 0.5
"""Of the time until the deadline: what an exact sweep may be expected to cost."""

TRIED = 8
"""Samples that an exact sweep runs twice to tell what it will cost."""

__all__ = ["Edit", "Replace", "Shift", "Variant", "newly_wrong", "score", "sweep"]


@torch.inference_mode()
def sweep(
    network: Network,
    samples: Samples,
    variants: Sequence[Variant],
    *,
    precision: float | None = None,
    tolerance: float | None = None,
    rise: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """One row a variant, in the order given: its settings, then its scores (shares run from 0 to 1).

    precision: None scores every variant on all samples; a number of points (0.5 is a share of 0.005 of the score) stops
    a variant once the 95 % interval of its drop is +- that or narrower.
    tolerance: a drop, in points, that is to be decided on where time is short. Inside `workspace(minutes=...)`, with
    no precision, where an exact sweep takes too long, all variants are first scored on a few samples; one then sees
    more until its interval lies on one side of the tolerance, or the samples can say little more, or the time is over.
    Without a deadline all samples are used. rise: the same of the loss in nats, decided on as well.
    Over several `workers` each scores parts of the samples; with `precision`, or a deadline, all runs in this process,
    as each round of samples is drawn by the outcomes of the one before.
    batch_size: images times variants that run at once; None chooses by the size of the activations.
    seed: of the order in which samples are drawn where not all are used.

    Columns: top1, top5; top1_low, top1_high: 95 % Wilson interval; agreement: share of images with the prediction of
    the unedited network; loss: mean cross-entropy; images: how many were used; drop: top1 of the unedited network less
    top1, on the same images; drop_low, drop_high: its 95 % interval. Without `precision` that is the interval of Bonett
    and Price for the drop on other images of the same kind; with it, it is the interval for the drop on all of
    `samples`, valid whenever the variant stopped. The drop of the unedited network itself is 0 on any
    images, and its interval 0 to 0. See `score.py` for labels of several classes and for outputs that are not finite.
    Errors: EditError for a variant that changes no weight or names an unknown parameter; SettingsError.
    """
    check_network(network)
    if precision is not None and not 0 < precision <= 100:
        raise SettingsError(f"precision {precision} must be more than 0 and at most 100 points; 0.5 is usual.")
    for name, value in (("tolerance", tolerance), ("rise", rise)):
        if value is not None and not 0 < value < math.inf:
            raise SettingsError(f"{name} {value} must be more than 0; 0.5 is usual for points.")
    if batch_size is not None and batch_size < 1:
        raise SettingsError(f"batch size {batch_size} must be at least 1.")
    if not variants:
        return pl.DataFrame()
    task = find_task(network, samples)
    samples = task.prepare(network, samples)
    plan = make_plan(network, variants, batch_size)
    rerun = Rerun(plan, settle=task.binary)
    spec = {
        **conditions(network, samples),
        "variants": [identity(variant) for variant in variants],
        "precision": precision,
        "seed": seed,
        "block": [plan.block, batch_size],
        "task": str(task),
    }
    place = current_workspace()
    if precision is not None:
        rule = StoppingRule(precision=precision / 100)
    elif tolerance is not None and (place.repeat or not _fits(rerun, samples)):
        rule = StoppingRule(tolerance=tolerance / 100, rise=rise)
    else:
        return _table(variants, exact(samples, rerun, place.checkpoint("sweep", spec), spec, task))
    checkpoint = place.checkpoint("sweep", {**spec, "rule": vars(rule)})
    schedule = place.repeat.pop(0) if place.repeat else None
    return _table(variants, Adaptive(samples, rerun, checkpoint, task, rule, seed, place.deadline, schedule).run())


def _fits(rerun: Rerun, samples: Samples) -> bool:
    """Whether there is time for an exact sweep; tells those who watch what it will cost."""
    place, variants = current_workspace(), len(rerun.plan.members)
    if variants < 2 or (place.progress is None and place.deadline is None):
        return True
    (batch,) = samples.batches(rerun.network.preprocessing, TRIED, order=range(min(TRIED, len(samples))))
    inputs, times = batch.to(rerun.network.device), []
    for _ in range(2):  # the first run also makes ready what later ones use
        started = time.monotonic()
        rerun.plain(inputs)
        times.append(time.monotonic() - started)
    cost = min(times) / len(batch.indices) * len(samples) * rerun.plan.passes / current_workers().width
    place.announce(f"{plural(variants, 'variant')} on {plural(len(samples), samples.noun)}", cost)
    return place.deadline is None or cost < EXACT_SHARE * (place.deadline - time.monotonic())


def _table(variants: Sequence[Variant], scores: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([{**variant.settings, **score} for variant, score in zip(variants, scores, strict=True)])


def score(network: Network, samples: Samples) -> pl.DataFrame:
    """One row: the scores of the unedited network, in the columns of `sweep`."""
    return sweep(network, samples, [Variant({}, None)])


@dataclass(frozen=True)
class Scope:
    """The layers that one edit covers: `all` together, or one under its own name."""

    name: str
    layers: tuple[Layer, ...]

    def tensors(self, biases: bool = False) -> tuple[str, ...]:
        """Names of the weights, and of the biases too if wanted."""
        names = [layer.weight for layer in self.layers]
        return tuple(names + [layer.bias for layer in self.layers if biases and layer.bias is not None])


def scopes(layers: Sequence[Layer], one_layer_at_a_time: bool) -> list[Scope]:
    """All layers together, then, if wanted, each alone; one layer is not listed twice."""
    together = [Scope("all", tuple(layers))] if layers else []
    return together + [Scope(layer.name, (layer,)) for layer in layers if one_layer_at_a_time]


def changes(network: Network, edit: Edit) -> bool:
    """Whether `edit` gives any weight another value."""
    tensors = network.tensors
    if not isinstance(edit, Replace):
        return edit.scale != 0 and any(bool(d.any()) for d in edit.direction(tensors).values())
    return any(not torch.equal(value, tensors[name]) for name, value in edit.function(tensors).items())


def sweep_edits(
    network: Network, samples: Samples, edits: Sequence[tuple[dict[str, Any], Edit | None]], **options: Any
) -> pl.DataFrame:
    """`sweep`, with a column `changed`; an edit that changes no weight takes the unedited network's scores.

    edits: (settings, edit) pairs; no edit is the unedited network itself. options: of `sweep`.
    """
    variants = [
        Variant(settings, edit if edit is not None and changes(network, edit) else None) for settings, edit in edits
    ]
    changed = [variant.edit is not None or edit is None for variant, (_, edit) in zip(variants, edits, strict=True)]
    scores = sweep(network, samples, variants, **options)
    return scores.with_columns(changed=pl.Series(changed, dtype=pl.Boolean)) if scores.height else scores


class _NewlyWrong(Tally):
    """Samples that one network gets right and another wrong, the surest of the wrong answers first.

    k: how many are kept. update: outputs (batch, classes) of both, and labels int64 (batch,). result: float64 (k, 4):
    the probability of the wrong answer, the sample, its label, the answer.
    """

    by_sample = True

    def __init__(self, k: int) -> None:
        self.k = k
        self.rows = torch.zeros(0, 4, dtype=torch.float64)

    def update(self, values: tuple[Tensor, Tensor, Tensor], indices: Tensor) -> None:
        before, after, labels = (value.cpu() for value in values)
        chance, answer = after.double().nan_to_num().softmax(1).max(1)
        lost = (before.nan_to_num().argmax(1) == labels) & (answer != labels)
        self._keep(torch.stack([chance, indices.cpu().double(), labels.double(), answer.double()], 1)[lost])

    def _keep(self, rows: Tensor) -> None:
        rows = torch.cat([self.rows.cpu(), rows])
        self.rows = rows[torch.from_numpy(np.lexsort((rows[:, 1].numpy(), -rows[:, 0].numpy()))[: self.k])]

    def merge(self, other: _NewlyWrong) -> None:
        self._keep(other.rows.cpu())

    def result(self) -> Tensor:
        return self.rows


def newly_wrong(
    network: Network, samples: Samples, tensors: Mapping[str, Tensor], order: ArrayLike | None = None, most: int = 36
) -> pl.DataFrame | None:
    """What the network gets right, and wrong with other values of parameters: the surest mistakes, a row a sample.

    tensors: the new values by name. order: positions of the samples to ask about, all by default.
    Columns: `image`, `class`, `before` and `after` (the predictions), `confidence` in the latter. None where a sample
    has not one class.
    """
    if find_task(network, samples) is not CLASSIFICATION or samples.labels.ndim != 1:
        return None
    own = network.tensors
    edited = network.with_tensors({name: value for name, value in tensors.items() if name in own})
    watched = (network.output, (edited, edited.output), LABELS)
    tallies = {"newly wrong": (watched, _NewlyWrong(most))}
    rows = observe(network, samples, tallies, order=order, label="newly wrong")["newly wrong"]
    names = dict(enumerate(samples.classes))
    return pl.DataFrame(
        [
            (int(image), *(names.get(int(k), str(int(k))) for k in (label, label, answer)), chance)
            for chance, image, label, answer in rows.tolist()
        ],
        schema={
            "image": pl.Int64, "class": pl.String, "before": pl.String, "after": pl.String, "confidence": pl.Float64
        },
        orient="row",
    )  # fmt: skip
