"""What edits do to the outputs: the divergence from the unedited network's, which needs no labels, and the scores.

From these the drop that a change of predictions is expected to cost, without waiting for single images to turn. What is
expected orders the candidates; only what is counted decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize_scalar
from scipy.stats import t as student
from torch import Tensor

from netopsy.engine.observe.counting import LABELS
from netopsy.engine.observe.observe import observe
from netopsy.engine.observe.tally import Tally
from netopsy.engine.sweep.edits import Variant, identity
from netopsy.engine.sweep.plan import make_plan
from netopsy.engine.sweep.rerun import Rerun
from netopsy.engine.sweep.score import COUNTS, count, interval_of, judge, row, task_row
from netopsy.engine.workspace.workspace import conditions, current_workspace
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import (
    AGREEMENT,
    EMBEDDING,
    MASKED_TOKEN,
    NEXT_TOKEN,
    SEGMENTATION,
    TAGGING,
    Task,
    Verdicts,
    find_task,
    judge_agreement,
    judge_vectors,
)

SHARPNESS = (0.1, 1e4)
"""Between which the standard deviation of the outputs, divided by their temperature, is searched."""


def temperature(network: Network, samples: Samples) -> float:
    """The number that the outputs are divided by so that their probabilities fit the labels best.

    Outputs times any positive constant have a temperature times as high: what is computed from the outputs over their
    temperature does not change with their scale.
    Source: Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017, Section 4.2.
    """
    tally = {"outputs": ((network.output, LABELS), Outputs())}
    outputs, labels = observe(network, samples, tally, batch_size=32, folded=True, label="temperature")["outputs"]
    return fit_temperature(outputs, labels, samples.multilabel)


class Outputs(Tally):
    """The outputs and the labels of some samples, kept: (batch, classes) and (batch,) or (batch, classes)."""

    outputs: Tensor
    labels: Tensor

    def update(self, values: tuple[Tensor, Tensor], indices: Tensor) -> None:
        self._append(values[0].double().cpu(), values[1].cpu())

    def merge(self, other: Outputs) -> None:
        if hasattr(other, "outputs"):
            self._append(other.outputs, other.labels)

    def _append(self, outputs: Tensor, labels: Tensor) -> None:
        seen = hasattr(self, "outputs")
        self.outputs = torch.cat([self.outputs, outputs]) if seen else outputs.clone()
        self.labels = torch.cat([self.labels, labels]) if seen else labels.clone()

    def result(self) -> tuple[Tensor, Tensor]:
        return self.outputs, self.labels


def fit_temperature(outputs: Float[Tensor, "n classes"], labels: Tensor, multilabel: bool) -> float:
    """The temperature of the least cross-entropy, with one image more whose label is drawn at random.

    That image keeps the temperature above 0 where all labels are right, as Platt's targets do ("Probabilistic outputs
    for support vector machines", 1999). The loss is convex in the inverse temperature. Outputs that are not finite are
    left out; where an image's outputs are all equal on all images, the temperature is 1.
    """
    good = outputs.isfinite().all(1)
    outputs, labels, count = outputs[good].double(), labels[good], int(good.sum())
    if not multilabel:  # a softmax does not change with a constant that is added
        outputs = outputs - outputs.mean(1, keepdim=True)
    spread = float(outputs.square().mean().sqrt()) if count else 0.0
    if not spread > 0:
        return 1.0
    unit = outputs / spread

    def loss(log_sharpness: float) -> float:
        scaled = unit * math.exp(log_sharpness)
        if multilabel:
            target = (count * labels.double() + 0.5) / (count + 1)
            return float(F.binary_cross_entropy_with_logits(scaled, target))
        chance = scaled.log_softmax(1)
        return float(F.nll_loss(chance, labels) - chance.mean() / count)

    low, high = map(math.log, SHARPNESS)
    best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return spread / math.exp(float(best.x))


def expected_drop(
    plain: Float[Tensor, "n classes"],
    before: Int64[Tensor, " n"],
    after: Int64[Tensor, " n"],
    heat: float,
    multilabel: bool,
) -> Float[Tensor, " n"]:
    """By how much the class predicted `after` is less likely than the one predicted `before`, float64, 0 to 1.

    plain: the unedited outputs; heat: their temperature. A prediction of -1 (outputs not finite) is never right.
    """
    scaled = plain.double() / heat
    chance = torch.sigmoid(scaled) if multilabel else scaled.softmax(1)
    chance_before = chance.gather(1, before.clamp_min(0)[:, None])[:, 0] * (before >= 0)
    chance_after = chance.gather(1, after.clamp_min(0)[:, None])[:, 0] * (after >= 0)
    return (chance_before - chance_after).nan_to_num(0.0)


_COUNTS = ("divergence", "expected", "top1", "top5", "agreement", "loss", "losses", "gains")
BLOCK = 64  # images between two checkpoints


def divergence(
    plain: Float[Tensor, "n classes"], edited: Float[Tensor, "n classes"], multilabel: bool
) -> Float[Tensor, " n"]:
    """Kullback-Leibler divergence in nats of the edited outputs from the plain, float64; infinite where not finite.

    One class an image: of the softmax. Several labels: the sum over the labels, each a Bernoulli variable.
    """
    p, q = plain.double(), edited.double()
    if multilabel:
        on = torch.sigmoid(p)
        each = on * (F.logsigmoid(p) - F.logsigmoid(q)) + (1 - on) * (F.logsigmoid(-p) - F.logsigmoid(-q))
    else:
        p, q = F.log_softmax(p, 1), F.log_softmax(q, 1)
        each = p.exp() * (p - q)
    total = each.sum(1)
    return torch.where(total.isfinite(), total.clamp_min(0), torch.inf)


@torch.inference_mode()
def effects(
    network: Network,
    samples: Samples,
    variants: Sequence[Variant],
    label: str,
    heat: float = 1.0,
    task: Task | None = None,
) -> pl.DataFrame:
    """A row a variant: its settings, `divergence`, `expected`, `estimate`, `losses`, `gains`, the columns of `sweep`.

    divergence: mean over the images, in nats, of the outputs over their temperature `heat`. expected: the drop expected
    of them, see `expected_drop`; estimate: the value nearest to it in the 95 % interval of the drop counted. losses,
    gains: images right before and wrong after, and the other way round. label: of the progress. In a workspace it goes
    on from the last block of images that was done.
    A task in which a sample is not right or wrong has `graded_effects`.
    Errors: EditError for a variant that changes no weight.
    """
    task = task or find_task(network, samples)
    samples = task.prepare(network, samples)
    if not task.binary:
        return graded_effects(network, samples, variants, label, task)
    plan = make_plan(network, variants)
    rerun, block = Rerun(plan), min(BLOCK, plan.block)
    spec = {
        **conditions(network, samples),
        "variants": [identity(variant) for variant in variants],
        "block": block,
        "heat": heat,
    }
    saved = current_workspace().checkpoint("effects", spec)
    done, state = saved.load()
    totals = state.get("totals", torch.zeros(len(variants), len(_COUNTS), dtype=torch.float64))
    groups = max(1, len(plan.groups))
    for batch in samples.batches(network.preprocessing, block, start=done) if done < len(samples) else ():
        inputs, labels = batch.to(network.device), batch.labels.to(network.device)
        plain = rerun.plain(inputs).clone()
        before, sums, changed_positions = judge(plain, labels), torch.zeros_like(totals), set[int]()

        def take(
            group: int,
            outputs: dict[int, Tensor],
            plain: Tensor = plain,
            labels: Tensor = labels,
            before: Any = before,
            sums: Tensor = sums,
            changed_positions: set[int] = changed_positions,
            done: int = done,
        ) -> None:
            for position, values in outputs.items():
                after = judge(values, labels)
                agree = (after.predicted == before.predicted) & (after.predicted >= 0)
                each = (
                    divergence(plain / heat, values / heat, samples.multilabel),
                    expected_drop(plain, before.predicted, after.predicted, heat, samples.multilabel),
                    *(after.top1, after.top5, agree, after.loss, before.top1 & ~after.top1, after.top1 & ~before.top1),
                )
                sums[position] = torch.stack([value.double().sum() for value in each]).cpu()
                changed_positions.add(position)
            part = len(labels) * (group + 1) // groups
            current_workspace().report(label, done + part, len(samples))

        rerun.run(inputs, take, active=range(len(variants)))
        idle = set(range(len(variants))) - changed_positions
        if idle:
            take(groups - 1, dict.fromkeys(idle, plain))
        totals = totals + sums
        done += len(labels)
        saved.save(done, lambda totals=totals: {"totals": totals}, final=done == len(samples))  # type: ignore[misc]
    rows = []
    for variant, counts in zip(variants, totals.tolist(), strict=True):
        named = dict(zip(_COUNTS, counts, strict=True))
        away, expected = (named.pop(key) / len(samples) for key in ("divergence", "expected"))
        scores = row(**named, images=len(samples))
        if variant.edit is None:
            scores |= {"drop_low": 0.0, "drop_high": 0.0}  # the unedited network itself loses nothing on any images
        columns = {
            "divergence": away,
            "expected": expected,
            "estimate": min(max(expected, scores["drop_low"]), scores["drop_high"]),
            "losses": round(named["losses"]),
            "gains": round(named["gains"]),
        }
        rows.append({**variant.settings, **columns, **scores})
    return pl.DataFrame(rows)


def graded_effects(
    network: Network, samples: Samples, variants: Sequence[Variant], label: str, task: Task
) -> pl.DataFrame:
    """A row a variant: its settings, `divergence`, `expected`, `estimate`, and the columns of `sweep` for the task.

    divergence: mean over the samples of `apart`. expected, estimate: the drop that was measured. drop_error,
    rise_error: standard errors of the paired means over samples. In a workspace it goes on from the last block.
    """
    plan = make_plan(network, variants)
    rerun, block = Rerun(plan, settle=False), min(BLOCK, plan.block)
    spec = {**conditions(network, samples), "variants": [identity(v) for v in variants], "block": block}
    saved = current_workspace().checkpoint("effects", {**spec, "task": str(task)})
    done, state = saved.load()
    totals = state.get("totals", torch.zeros(len(variants), len(COUNTS) + 1, dtype=torch.float64))
    for batch in samples.batches(network.preprocessing, block, start=done) if done < len(samples) else ():
        inputs, mask = batch.to(network.device), batch.mask_of(network.output_sequence)
        plain = rerun.plain(inputs).clone()
        targets = task.targets(batch, plain).to(network.device)
        before, sums = task.judge(plain, targets, mask).cpu(), torch.zeros_like(totals)
        changed = set[int]()

        def take(
            group: int,
            outputs: dict[int, Tensor],
            plain: Tensor = plain,
            targets: Tensor = targets,
            mask: Tensor | None = mask,
            before: Verdicts = before,
            sums: Tensor = sums,
            changed: set[int] = changed,
        ) -> None:
            for position, values in outputs.items():
                after = task.judge(values, targets, mask).cpu()
                predicted = after.predicted[None] if after.predicted.numel() else after.predicted
                one = Verdicts(after.score[None], after.top5[None], after.loss[None], predicted)
                sums[position, :-1] = count(one, before)[0]
                sums[position, -1] = apart(task, plain, values, mask).sum().cpu()
                changed.add(position)

        rerun.run(inputs, take, active=range(len(variants)))
        take(0, dict.fromkeys(set(range(len(variants))) - changed, plain))
        totals, done = totals + sums, done + len(batch.indices)
        saved.save(done, lambda totals=totals: {"totals": totals}, final=done == len(samples))  # type: ignore[misc]
        current_workspace().report(label, done, len(samples))
    rows = []
    for variant, counts in zip(variants, totals.tolist(), strict=True):
        counted = dict(zip(COUNTS, counts[:-1], strict=True))
        scores = task_row(task, counted, len(samples))
        two_sided, errors = float(student.ppf(0.975, max(1, len(samples) - 1))), {}
        for name in ("drop", "rise"):  # from the interval before it is cut to what is possible
            low, high = interval_of(counted, name, scores[name], len(samples))
            errors[f"{name}_error"] = (high - low) / 2 / two_sided
        if variant.edit is None:
            scores |= {"drop_low": 0.0, "drop_high": 0.0}
        measured = {"divergence": counts[-1] / len(samples), "expected": scores["drop"], "estimate": scores["drop"]}
        rows.append({**variant.settings, **measured, "losses": None, "gains": None, **scores, **errors})
    return pl.DataFrame(rows, infer_schema_length=None)


def apart(task: Task, plain: Tensor, edited: Tensor, mask: Tensor | None) -> Float[Tensor, " n"]:
    """How far the edited outputs (n, ...) are from the plain ones, float64: 0 for none, infinite where not finite.

    Scores of classes: the divergence in nats, averaged over the places of a sample. Vectors: 1 less the cosine. Other
    numbers: the squared error over the variance of the plain outputs.
    """
    if task.name == EMBEDDING.name:
        return judge_vectors(edited, plain, mask).loss
    if task.name in (NEXT_TOKEN.name, MASKED_TOKEN.name, TAGGING.name, AGREEMENT.name):
        return judge_agreement(edited, plain, mask).loss
    if task.name == SEGMENTATION.name:
        return judge_agreement(edited.movedim(1, -1), plain.movedim(1, -1)).loss
    error = (edited.double() - plain.double()).flatten(1).square().mean(1)
    error = error / plain.double().var(correction=0).clamp_min(1e-300)
    return torch.where(error.isfinite(), error, torch.inf)


FLOATS = NDArray[np.float64]
_TINY = 1e-12


def loss_at(noise: Sequence[float], measured: Sequence[tuple[float, float]]) -> FLOATS:
    """The loss at each `noise`, from `measured` (noise, loss) pairs: the loss a noise, pooled and interpolated.

    To second order the loss is in proportion to the noise, the mean squared error of the weights; beyond that it grows
    faster. So the logarithm of loss over noise is taken to rise with the noise: by isotonic regression, which evens
    out the luck of single roundings, then by straight lines over the logarithm of the noise, level at both ends. No
    noise is no loss; without measurements every noise is an infinite one.
    """
    noises = np.asarray(noise, np.float64)
    if not measured:
        return np.where(noises > 0, np.inf, 0.0)
    x, y = (np.array(column, np.float64) for column in zip(*sorted(measured), strict=True))
    finite = np.isfinite(y)
    y = np.where(finite, y, max(1e3, 10 * y[finite].max(initial=0.0)))
    ratios = isotonic_regression(np.log(np.maximum(y, _TINY) / x)).x
    return noises * np.exp(np.interp(np.log(np.maximum(noises, _TINY)), np.log(x), ratios))


class Exchange:
    """What a divergence costs in accuracy: the monotone curve nearest to measured pairs of them, from (0, 0).

    Drops are differences of counts and coarse; pooled over many versions of the network they tell the mean drop at a
    divergence far better than any one of them does. Source: isotonic regression (Barlow et al., 1972).
    """

    def __init__(self, divergences: Sequence[float], drops: Sequence[float]) -> None:
        pairs = sorted((x, y) for x, y in zip(divergences, drops, strict=True) if np.isfinite(x))
        self.x = np.array([0.0, *(x for x, _ in pairs)])
        rising = isotonic_regression([y for _, y in pairs]).x if pairs else []
        self.y: FLOATS = np.maximum([0.0, *rising], 0.0)

    def drop(self, divergence: float) -> float:
        """The expected drop, a share of 0 to 1."""
        return float(np.interp(divergence, self.x, self.y))

    def divergence(self, drop: float) -> float:
        """The largest divergence whose expected drop is at most `drop`; of the last point where none exceeds it."""
        above = np.flatnonzero(self.y > drop)
        if not len(above):
            return float(self.x[-1])
        i = int(above[0])
        (x0, x1), (y0, y1) = self.x[i - 1 : i + 1], self.y[i - 1 : i + 1]
        return float(x0 + (x1 - x0) * max(0.0, drop - y0) / (y1 - y0))
