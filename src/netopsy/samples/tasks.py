"""What right means: of a batch of outputs, a score and a loss for each sample.

A task gives values by sample, so that intervals, sweeps and budgets are the same for all. Its score is 1 where all is
right: the share of places (tokens, pixels) whose highest output is the right one, 1 - (error / spread)^2 of a number,
or how much of the unedited network's output is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from netopsy.errors import NetworkError, SamplesError, nearest
from netopsy.network.network import Network
from netopsy.samples.labels import MaskedRecords, Masking
from netopsy.samples.samples import Batch, Samples
from netopsy.samples.verdicts import (
    IGNORED,
    Verdicts,
    judge_agreement,
    judge_by,
    judge_classes,
    judge_numbers,
    judge_pixels,
    judge_places,
    judge_vectors,
)
from netopsy.wording import listing, plural

Judge = Callable[[Tensor, Tensor, Tensor | None], Verdicts]
"""Verdicts on outputs (n, ...) for targets (n, ...), both on one device, and the batch's mask (n, length) or None."""


def labels_of(batch: Batch, reference: Tensor | None) -> Tensor:
    """The labels as they are."""
    return batch.labels


def outputs_before(batch: Batch, reference: Tensor | None) -> Tensor:
    """What the unedited network gives."""
    assert reference is not None
    return reference


def as_they_are(network: Network, samples: Samples) -> Samples:
    """Samples that a network is scored on without further ado."""
    return samples


def no_places(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One prediction a sample, or none."""
    return ()


@dataclass(frozen=True)
class Task:
    """What right means on given samples.

    name: in tables and on the command line. judge: see `Judge`. fits: raises where the network's outputs cannot be held
    against the samples. targets: what the outputs of a batch are held against, from the batch and, where `reference`
    says so, from the outputs of the unedited network. places: of outputs of a sample's shape, the shape of what is
    predicted for it. column: what the score is called in tables; unit: in sentences; second: what stands beside it in
    tables (`Verdicts.top5`), if anything does.
    binary: whether a sample is right or wrong, and nothing between. needs_labels: whether the samples must have some.
    prepare: what the network is shown, and labels for it, in place of the samples; see `mask_tokens`.
    learns: what a training lowers the loss of: classes of samples or of `places`, numbers, outputs of a teacher, or
        what the labels suggest. axis: of the outputs, where the classes of places stand.
    """

    name: str
    judge: Judge
    fits: Callable[[Network, Samples], None]
    targets: Callable[[Batch, Tensor | None], Tensor] = labels_of
    places: Callable[[tuple[int, ...]], tuple[int, ...]] = no_places
    column: str = "top1"
    second: str = ""
    unit: str = "top-1 accuracy"
    binary: bool = False
    reference: bool = False
    needs_labels: bool = True
    prepare: Callable[[Network, Samples], Samples] = as_they_are
    learns: Literal["classes", "places", "numbers", "outputs", "labels"] = "labels"
    axis: int = -1

    def __str__(self) -> str:
        return self.name


def following_tokens(batch: Batch, reference: Tensor | None, *, name: str = "") -> Tensor:
    """For each token the one after it, `IGNORED` behind the last. name: of their input; by default the first."""
    name = name or next(name for name, values in batch.inputs.items() if not values.is_floating_point())
    tokens = batch.inputs[name].long()
    following = torch.full_like(tokens, IGNORED)
    following[:, :-1] = tokens[:, 1:]
    if batch.mask is not None:
        following[:, :-1] = following[:, :-1].masked_fill(~batch.mask[:, 1:].to(tokens.device), IGNORED)
    return following


def _fits_classes(network: Network, samples: Samples) -> None:
    _check_rank(network, 2, "classification", "(batch, classes)")
    samples.check(network.classes)


def _fits_tokens(network: Network, samples: Samples) -> None:
    _check_rank(network, 3, "next token", "(batch, tokens, vocabulary)")
    if token_input(network) is None:
        raise SamplesError(f"{network.name} takes no tokens, so it cannot be scored on the next one; give a task.")


def _fits_masked(network: Network, samples: Samples) -> None:
    _check_rank(network, 3, "masked token", "(batch, tokens, vocabulary)")
    if token_input(network) is None:
        raise SamplesError(f"{network.name} takes no tokens, so it cannot be scored on masked ones; give another task.")
    if not has_mask_token(network):
        raise SamplesError(
            f"the tokenizer of {network.name} has no mask token, so no token can be masked; give a network with its "
            "own tokenizer (hf:FOLDER), or task='agreement'."
        )


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
            f"give a network with one output a number{_or_classes(samples)}."
        )


def _or_classes(samples: Samples) -> str:
    """What else whole numbers may be."""
    return ", or task='classification' for classes" if bool((samples.labels % 1 == 0).all()) else ""


def _fits_any(network: Network, samples: Samples) -> None:
    if len(network.nodes[network.output].full_shape) < 2:
        raise NetworkError(_wrong_outputs(network, "agreement", "(batch, ...)"))


CLASSIFICATION = Task("classification", judge_classes, _fits_classes, second="top5", binary=True, learns="classes")
NEXT_TOKEN = Task(
    "next token",
    judge_places,
    _fits_tokens,
    following_tokens,
    itemgetter(slice(0, 1)),
    unit="top-1 accuracy of tokens",
    second="top5",
    needs_labels=False,
    learns="places",
)
TAGGING = Task(
    "tagging",
    judge_places,
    _fits_places,
    places=itemgetter(slice(0, -1)),
    unit="top-1 accuracy of places",
    second="top5",
    learns="places",
)
SEGMENTATION = Task(
    "segmentation",
    judge_pixels,
    _fits_pixels,
    places=itemgetter(slice(1, None)),
    unit="pixel accuracy",
    second="iou",
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


def mask_tokens(network: Network, samples: Samples, masking: Masking | None = None) -> Samples:
    """The samples with tokens masked, labelled with the tokens that were there and `IGNORED` at all other places."""
    name, tokenizer, masking = token_input(network), network.signature.tokenizer, masking or Masking()
    if isinstance(samples.records, MaskedRecords) or name is None:
        return samples
    labels = np.full((len(samples), network.signature.length or 1), IGNORED)
    for batch in samples.batches(network.preprocessing, 256):
        (mask,) = batch.masks_along(network.nodes[name])
        every = zip(batch.inputs[name].numpy(), mask.numpy(), batch.indices.tolist(), strict=True)
        for ids, real, index in every:
            places, _ = masking.draw(ids, real, int(samples.rows[index]), tokenizer)
            labels[index, places] = ids[places]
    task = replace(MASKED_TOKEN, prepare=partial(mask_tokens, masking=masking))
    return Samples(samples.name, MaskedRecords(samples.records, name, masking), labels, (), samples.rows, task)


MASKED_TOKEN = Task(
    "masked token",
    judge_places,
    _fits_masked,
    places=itemgetter(slice(0, 1)),
    unit="top-1 accuracy of masked tokens",
    second="top5",
    needs_labels=False,
    prepare=mask_tokens,
    learns="places",
)
TASKS = {
    task.name: task
    for task in (
        CLASSIFICATION,
        NEXT_TOKEN,
        MASKED_TOKEN,
        TAGGING,
        SEGMENTATION,
        REGRESSION,
        AGREEMENT,
        EMBEDDING,
    )
}


def masked_token(share: float = 0.15, *, mixture: tuple[float, float, float] = (1.0, 0.0, 0.0), seed: int = 0) -> Task:
    """The task of restoring masked tokens, with other masks than those of `task="masked token"`; see `Masking`."""
    return replace(MASKED_TOKEN, prepare=partial(mask_tokens, masking=Masking(share, mixture, seed)))


def find_task(network: Network, samples: Samples) -> Task:
    """What right means for the network on these samples: what they say, else what labels and outputs suggest.

    Errors: SamplesError for a task that there is not, that needs labels, or that does not fit; NetworkError where the
    outputs do not fit it.
    """
    samples.records.buffers(0, network.preprocessing)  # samples of another kind than the inputs are refused as such
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
    _check_rows(network)
    chosen.fits(network, samples)
    if chosen is NEXT_TOKEN and len(network.signature.lengths) > 1:  # the decoder writes
        name = [x.name for x in network.signature.inputs if x.kind == "tokens"][-1]
        return replace(chosen, targets=partial(following_tokens, name=name))
    if chosen is REGRESSION:
        values = torch.from_numpy(samples.labels).double()
        values = values if values.ndim > 2 else values.reshape(len(samples), -1)
        # of maps, such as flow or depth, one spread a channel
        deviations = values.std((0, *range(2, values.ndim)), correction=0, keepdim=True).clamp_min(1e-12)
        spread = tuple(deviations.expand(1, *values.shape[1:]).flatten().tolist())
        return replace(chosen, judge=partial(judge_numbers, spread=spread))
    return chosen


def suggest_task(network: Network, samples: Samples) -> Task:
    """What labels and outputs suggest, whatever the samples say."""
    shape = network.nodes[network.output].full_shape
    if samples.labelled and not gives_features(network):
        labels = samples.labels
        if labels.dtype.kind == "f" and not (samples.multilabel and samples.classes):
            return REGRESSION
        if labels.ndim == 1 or samples.multilabel:
            return CLASSIFICATION
        return TAGGING if labels.ndim == 2 and len(shape) == 3 else SEGMENTATION
    named = network.output_name.rpartition(".")[2]
    if token_input(network) is not None and len(shape) == 3 and named == "logits":
        if "MaskedLM" in type(network.module).__name__:
            return MASKED_TOKEN if has_mask_token(network) else AGREEMENT
        tokens = getattr(network.signature.tokenizer, "vocabulary", 0)
        return NEXT_TOKEN if shape[-1] >= tokens else AGREEMENT  # a tagger has fewer classes than there are tokens
    return EMBEDDING if named and named != "logits" else AGREEMENT


def gives_features(network: Network) -> bool:
    """Whether the network was loaded without classes (`num_classes=0`), so that its outputs are features."""
    return dict(network.provenance.get("options", {})).get("num_classes") == 0


def has_mask_token(network: Network) -> bool:
    """Whether the network's tokenizer has a token that stands for a masked one."""
    return getattr(network.signature.tokenizer, "mask", None) is not None


def token_input(network: Network) -> str | None:
    """The name of the input that takes tokens, if there is one."""
    kinds = zip(network.signature.names, network.signature.inputs, strict=True)
    return next((name for name, entry in kinds if entry.kind == "tokens"), None)


def _check_rows(network: Network) -> None:
    """Raise NetworkError where the output holds samples against each other, as the pairs of a picture and a text."""
    output = network.nodes[network.output]
    if not output.per_sample:
        others = [key for key, node in network.program.returns.items() if node is not None and node.per_sample]
        named = f"'{network.output_name}' " if network.output_name else ""
        advice = f"choose one that does with output=: {listing(others, 3)}" if others else "no output of it does"
        raise NetworkError(
            f"the output {named}of {network.name}, of shape {output.full_shape} for one sample, has not one row a "
            f"sample, so it gives no score a sample; {advice}."
        )


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
