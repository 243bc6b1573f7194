"""What right means: of a batch of outputs, a score and a loss for each sample.

A task gives values by sample, so that intervals, sweeps and budgets are the same for all. Its score is 1 where all is
right: the share of places (tokens, pixels) whose highest output is the right one, 1 - (error / spread)^2 of a number,
or how much of the unedited network's output is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from netopsy.errors import NetworkError, SamplesError, nearest
from netopsy.network.network import Network
from netopsy.samples.samples import Batch, Samples
from netopsy.wording import plural

IGNORED = -100
"""A label that does not count, as in `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True)
class Verdicts:
    """What a task says of each of n samples.

    score: (n,), bool where a sample is right or wrong, else float64. top5: as `score`, for the five highest outputs.
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


Judge = Callable[[Tensor, Tensor, Tensor | None], Verdicts]
"""Verdicts on outputs (n, ...) for targets (n, ...), both on one device, and the batch's mask (n, length) or None."""


def labels_of(batch: Batch, reference: Tensor | None) -> Tensor:
    """The labels as they are."""
    return batch.labels


def outputs_before(batch: Batch, reference: Tensor | None) -> Tensor:
    """What the unedited network gives."""
    assert reference is not None
    return reference


def no_places(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One prediction a sample, or none."""
    return ()


@dataclass(frozen=True)
class Task:
    """What right means on given samples.

    name: in tables and on the command line. judge: see `Judge`. fits: raises where the network's outputs cannot be held
    against the samples. targets: what the outputs of a batch are held against, from the batch and, where `reference`
    says so, from the outputs of the unedited network. places: of outputs of a sample's shape, the shape of what is
    predicted for it. column: what the score is called in tables; unit: in sentences.
    binary: whether a sample is right or wrong, and nothing between. needs_labels: whether the samples must have some.
    learns: what a training lowers the loss of: classes of samples or of `places`, numbers, outputs of a teacher, or
        what the labels suggest. axis: of the outputs, where the classes of places stand.
    """

    name: str
    judge: Judge
    fits: Callable[[Network, Samples], None]
    targets: Callable[[Batch, Tensor | None], Tensor] = labels_of
    places: Callable[[tuple[int, ...]], tuple[int, ...]] = no_places
    column: str = "top1"
    unit: str = "top-1 accuracy"
    binary: bool = False
    reference: bool = False
    needs_labels: bool = True
    learns: Literal["classes", "places", "numbers", "outputs", "labels"] = "labels"
    axis: int = -1

    def __str__(self) -> str:
        return self.name


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


def following_tokens(batch: Batch, reference: Tensor | None) -> Tensor:
    """For each token the one after it, `IGNORED` behind the last."""
    tokens = next(values for values in batch.inputs.values() if not values.is_floating_point()).long()
    following = torch.full_like(tokens, IGNORED)
    following[:, :-1] = tokens[:, 1:]
    if batch.mask is not None:
        following[:, :-1] = following[:, :-1].masked_fill(~batch.mask[:, 1:].to(tokens.device), IGNORED)
    return following


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


def _fits_classes(network: Network, samples: Samples) -> None:
    _check_rank(network, 2, "classification", "(batch, classes)")
    samples.check(network.classes)


def _fits_tokens(network: Network, samples: Samples) -> None:
    _check_rank(network, 3, "next token", "(batch, tokens, vocabulary)")
    if token_input(network) is None:
        raise SamplesError(f"{network.name} takes no tokens, so it cannot be scored on the next one; give a task.")


def _fits_places(network: Network, samples: Samples) -> None:
    _check_rank(network, 3, "tagging", "(batch, places, classes)")
    _check_places(network, samples, -1)


def _fits_pixels(network: Network, samples: Samples) -> None:
    if len(network.nodes[network.output].full_shape) < 3:
        raise NetworkError(_wrong_outputs(network, "segmentation", "(batch, classes, height, width)"))
    _check_places(network, samples, 1)


def _fits_numbers(network: Network, samples: Samples) -> None:
    outputs, values = network.nodes[network.output].shape, samples.labels.reshape(len(samples), -1).shape[1]
    if math.prod(outputs) != values:
        raise SamplesError(
            f"{samples.name} has {plural(values, 'number')} a sample and {network.name} gives {math.prod(outputs)}; "
            "give a network with one output a number."
        )


def _fits_any(network: Network, samples: Samples) -> None:
    if len(network.nodes[network.output].full_shape) < 2:
        raise NetworkError(_wrong_outputs(network, "agreement", "(batch, ...)"))


def _first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1]


def _before_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1]


def _behind_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:]


CLASSIFICATION = Task("classification", judge_classes, _fits_classes, binary=True, learns="classes")
_TOKENS = {"unit": "top-1 accuracy of tokens", "needs_labels": False, "learns": "places"}
NEXT_TOKEN = Task("next token", judge_places, _fits_tokens, following_tokens, _first, **_TOKENS)  # type: ignore[arg-type]
TAGGING = Task(
    "tagging", judge_places, _fits_places, places=_before_last, unit="top-1 accuracy of places", learns="places"
)
SEGMENTATION = Task(
    "segmentation",
    partial(judge_places, axis=1),
    _fits_pixels,
    places=_behind_first,
    unit="pixel accuracy",
    learns="places",
    axis=1,
)
REGRESSION = Task("regression", judge_numbers, _fits_numbers, column="r2", unit="R²", learns="numbers")
AGREEMENT = Task(
    "agreement",
    judge_agreement,
    _fits_any,
    outputs_before,
    column="agreement",
    unit="agreement with the unedited network",
    reference=True,
    needs_labels=False,
    learns="outputs",
)
EMBEDDING = Task(
    "embedding",
    judge_vectors,
    _fits_any,
    outputs_before,
    column="cosine",
    unit="cosine with the unedited network's output",
    reference=True,
    needs_labels=False,
    learns="outputs",
)
TASKS = {
    task.name: task for task in (CLASSIFICATION, NEXT_TOKEN, TAGGING, SEGMENTATION, REGRESSION, AGREEMENT, EMBEDDING)
}


def find_task(network: Network, samples: Samples) -> Task:
    """What right means for the network on these samples: what they say, else what labels and outputs suggest.

    Errors: SamplesError for a task that there is not, that needs labels, or that does not fit; NetworkError where the
    outputs do not fit it.
    """
    task = samples.task
    if isinstance(task, str):
        if task not in TASKS:
            raise SamplesError(f"no task '{task}'; nearest: {nearest(task, list(TASKS))}; all: {', '.join(TASKS)}.")
        task = TASKS[task]
    elif callable(task):
        name = f"custom {getattr(task, '__qualname__', task)}"
        judge = partial(judge_by, function=task)
        task = Task(name, judge, _fits_any, column="score", unit="score", needs_labels=False)
    chosen: Task = task or suggest_task(network, samples)
    if chosen.needs_labels and not samples.labelled:
        raise SamplesError(
            f"the task '{chosen.name}' needs labels and {samples.name} has none; give labels, or task='agreement'."
        )
    chosen.fits(network, samples)
    if chosen is REGRESSION:
        values = torch.from_numpy(samples.labels).double().reshape(len(samples), -1)
        spread = tuple(values.std(0, correction=0).clamp_min(1e-12).tolist())
        return replace(chosen, judge=partial(judge_numbers, spread=spread))
    return chosen


def suggest_task(network: Network, samples: Samples) -> Task:
    """What labels and outputs suggest, whatever the samples say."""
    shape = network.nodes[network.output].full_shape
    if samples.labelled:
        labels = samples.labels
        if labels.dtype.kind == "f" and not (samples.multilabel and samples.classes):
            return REGRESSION
        if labels.ndim == 1 or samples.multilabel:
            return CLASSIFICATION
        return TAGGING if labels.ndim == 2 and len(shape) == 3 else SEGMENTATION
    named = network.output_name.rpartition(".")[2]
    if token_input(network) is not None and len(shape) == 3 and named == "logits":
        return NEXT_TOKEN
    return EMBEDDING if named and named != "logits" else AGREEMENT


def token_input(network: Network) -> str | None:
    """The name of the input that takes tokens, if there is one."""
    kinds = zip(network.signature.names, network.signature.inputs, strict=True)
    return next((name for name, entry in kinds if entry.kind == "tokens"), None)


def _check_rank(network: Network, rank: int, task: str, form: str) -> None:
    if len(network.nodes[network.output].full_shape) != rank:
        raise NetworkError(_wrong_outputs(network, task, form))


def _check_places(network: Network, samples: Samples, axis: int) -> None:
    """Raise SamplesError where labels by place are of another shape, or of other classes, than the outputs."""
    shape = list(network.nodes[network.output].full_shape)
    classes = shape.pop(axis)
    labels = samples.labels
    if labels.shape[1:] != tuple(shape[1:]):
        raise SamplesError(
            f"the labels of {samples.name} are {labels.shape[1:]} a sample and the outputs of {network.name} "
            f"{tuple(shape[1:])}; give labels of the outputs' size."
        )
    counted = labels[labels != IGNORED]
    if counted.size and not 0 <= counted.min() <= counted.max() < classes:
        raise SamplesError(
            f"{samples.name} has labels {counted.min()} to {counted.max()} and the network {classes} classes a place; "
            f"mark places that do not count by {IGNORED}."
        )


def _wrong_outputs(network: Network, task: str, form: str) -> str:
    shape = ", ".join(map(str, network.nodes[network.output].shape))
    what = "one score a class" if task == "classification" else f"what the task '{task}' needs"
    return (
        f"{network.name} does not give {what}: its output is (batch, {shape}) and must be {form}; choose another "
        f"output with output=, or a task ({', '.join(TASKS)})."
    )
