"""What would raise the score: other preprocessings, tried on a few images, and other numbers for the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int64
from scipy.stats import binomtest, wilcoxon
from torch import Tensor

from netopsy.engine.interpreter import Plan, plan
from netopsy.engine.observe.observe import default_batch_size
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.result import Alert, Level
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import Task
from netopsy.stats.matching import find_relabelling
from netopsy.studies.baseline.preprocessings import Alternative, alternatives, apply, first_norm_mismatches
from netopsy.tallies.answers import AnswersResult
from netopsy.tallies.sparsity import RangeResult
from netopsy.wording import listing, plural

MOST, FEWEST, MACS = 200, 40, 4e10  # images that are tried, fewer of a network that takes long
AGAIN, DOUBTFUL = 2.5, 0.2  # as many times more, where the best of them is as likely by chance
FIRST = 16  # of those answered wrong, as many are tried first, and then as many of the others
FINALISTS = 3  # alternatives that are tried on all images
LEVEL = 1e-3  # of each test, over all alternatives together: a false alarm in a thousand reports
UNLIKE, ALIKE = 0.12, 4.0  # nats from which the first batch norm's inputs are not those of training, and how many
# times nearer another preprocessing must be
ENOUGH = 20  # images, for that


@dataclass(frozen=True)
class PreprocessingTrial:
    """What an alternative does on `images`: score as it is and with it; p: of the gain, over all alternatives (Holm).

    options: what to do for it.
    """

    name: str
    options: str
    images: int
    before: float
    after: float
    p: float


def show_plain(network: Network, samples: Samples, times: float = 1.0) -> tuple[Tensor, Tensor] | None:
    """Pixels 0..255 of at most `MOST` images, and their labels; None where the network takes no plain pictures.

    times: of so many images.
    """
    given = network.preprocessing
    if not isinstance(given, Preprocessing) or given.depth not in (1, 3):
        return None
    if samples.kind != "image" or len(network.signature.inputs) != 1:
        return None
    count = int(np.clip(MACS / max(1, sum(layer.macs for layer in network.layers)), FEWEST, MOST))
    chosen = samples.subset(min(len(samples), int(times * count)))
    plain = replace(
        given,
        mean=(0.0,) * given.depth,
        std=(1.0,) * given.depth,
        scale=1.0,
        channels="L" if given.depth == 1 else "RGB",
    )
    batches = list(chosen.batches(plain, 64))
    labels = [b.labels for b in batches] if chosen.labelled else [torch.zeros(0)]
    return torch.cat([b.images for b in batches]), torch.cat(labels)


@torch.inference_mode()
def try_preprocessings(network: Network, samples: Samples, task: Task) -> list[PreprocessingTrial]:
    """Every alternative on at most `MOST` of the images, the most convincing first; none where it makes no sense.

    Of a gain, p is of the exact sign test (McNemar) where an image is right or wrong, else of Wilcoxon's signed ranks,
    times the number of alternatives less those that gain more surely (Holm, 1979). Those that promise nothing on a few
    images, wrong ones and right ones, are not asked further: their p is 1. Where the best may still be chance, all are
    looked at again on more images. Those that the first batch norm rules out are not tried.
    """
    given, shown = network.preprocessing, show_plain(network, samples)
    if task.reference or shown is None or not isinstance(given, Preprocessing):
        return []
    pixels, labels = shown
    judge = _Judge(network, task, plan(network, (network.output,), folded=True), labels)
    now = judge.scores(apply(Alternative("as it is", given), pixels))
    every = alternatives(given, pixels)
    unlike = _unlike_at_once(network, given, pixels, every)
    hopes = [0.0 if k in unlike else judge.hope(alternative, pixels, now) for k, alternative in enumerate(every)]
    finalists = sorted((k for k, hope in enumerate(hopes) if hope > 0), key=lambda k: -hopes[k])[:FINALISTS]
    trials = _try_all(judge, given, pixels, every, finalists, now)
    more = show_plain(network, samples, AGAIN)
    if not trials or not LEVEL < trials[0].p < DOUBTFUL or more is None or len(more[0]) <= len(pixels):
        return trials
    judge = replace(judge, labels=more[1])
    now = judge.scores(apply(Alternative("as it is", given), more[0]))
    again = _try_all(judge, given, more[0], every, finalists, now)
    return [replace(trial, p=min(1.0, 2 * trial.p)) for trial in again]  # looked at twice


def _unlike_at_once(network: Network, given: Preprocessing, pixels: Tensor, every: list[Alternative]) -> set[int]:
    """Alternatives that the first batch norm rules out, where what is given fits it: that takes one layer to see."""
    _, found = first_norm_mismatches(network, pixels, [Alternative("as it is", given), *every])
    if not found or found[0].divergence > UNLIKE:
        return set()
    far = max(UNLIKE, ALIKE * found[0].divergence)
    return {k for k, mismatch in enumerate(found[1:]) if mismatch.divergence > far}


def _try_all(
    judge: _Judge,
    given: Preprocessing,
    pixels: Tensor,
    every: list[Alternative],
    finalists: list[int],
    now: Float64[np.ndarray, " n"],
) -> list[PreprocessingTrial]:
    """The finalists on all images; the p of the others is 1."""
    trials = []
    for k, alternative in enumerate(every):
        p, after = 1.0, float("nan")
        if k in finalists:
            then = judge.scores(apply(alternative, pixels))
            p, after = _paired(now, then, judge.task.binary), float(then.mean())
        trials.append(
            PreprocessingTrial(alternative.name, alternative.options(given), len(now), float(now.mean()), after, p)
        )
    return _holm(trials)


def _holm(trials: list[PreprocessingTrial]) -> list[PreprocessingTrial]:
    """The trials by their p, each corrected for all."""
    ranked = sorted(trials, key=lambda trial: (trial.p, -np.nan_to_num(trial.after)))
    least, corrected = 0.0, []
    for rank, trial in enumerate(ranked):
        least = max(least, min(1.0, trial.p * (len(ranked) - rank)))
        corrected.append(replace(trial, p=least))
    return corrected


def _paired(before: Float64[np.ndarray, " n"], after: Float64[np.ndarray, " n"], binary: bool) -> float:
    """The p of a gain, one-sided, on the same images."""
    gains = after - before
    if not np.isfinite(gains).all():
        gains = np.sign(np.nan_to_num(gains))
    gains = gains[gains != 0]
    if not len(gains):
        return 1.0
    if binary:
        return float(binomtest(int((gains > 0).sum()), len(gains), alternative="greater").pvalue)
    return float(wilcoxon(gains, alternative="greater").pvalue)


@dataclass(frozen=True)
class _Judge:
    """Scores inputs as the task does. walk: gives the network's output. labels: of all images that are tried."""

    network: Network
    task: Task
    walk: Plan
    labels: Tensor

    def scores(self, inputs: Tensor, rows: Tensor | None = None) -> Float64[np.ndarray, " n"]:
        """The score of each input, the one of `rows` among the images, or all."""
        labels = self.labels if rows is None else self.labels[rows]
        return np.concatenate(list(self._parts(inputs, labels)))

    def hope(self, chosen: Alternative, pixels: Tensor, now: Float64[np.ndarray, " n"]) -> float:
        """How much an alternative seems to gain, by the images scored worst and the others, `FIRST` of each; the others
        are not asked where it mends nothing.
        """
        wrong = now < (1.0 if self.task.binary else np.median(now))
        gain = 0.0
        for group in (np.flatnonzero(wrong), np.flatnonzero(~wrong)):
            rows = torch.from_numpy(group[:: max(1, len(group) // FIRST)][:FIRST])
            if len(rows):
                change = self.scores(apply(chosen, pixels[rows]), rows) - now[rows.numpy()]
                gain += float(np.nan_to_num(change).clip(-1, 1).mean()) * len(group)
            if gain <= 0:
                return gain
        return gain

    def _parts(self, inputs: Tensor, labels: Tensor) -> Iterator[Float64[np.ndarray, " n"]]:
        name, device, size = self.network.signature.names[0], self.network.device, default_batch_size(self.network)
        for images, targets in zip(inputs.split(size), labels.split(size), strict=True):
            given = {name: images.to(device)}
            outputs = self.walk.run(given, batch=len(images))[self.network.output]
            yield self.task.judge(outputs.float(), targets.to(device), None).score.double().cpu().numpy()


@dataclass(frozen=True)
class Evidence:
    """What the checks may ask.

    task: what right means, None where the samples cannot be scored. tables: of the study `baseline`.
    answers: of a classifier. ranges: of the units behind each activation function, by node. digests: of each sample,
    see `Digests`. train: the images that the network was trained on, if they are given.
    """

    network: Network
    samples: Samples | None
    task: Task | None
    tables: Mapping[str, pl.DataFrame]
    answers: AnswersResult | None
    ranges: Mapping[str, RangeResult]
    digests: Int64[np.ndarray, "samples 3"] | None = None
    train: Samples | None = None

    @property
    def images(self) -> int:
        """How many samples there are."""
        return 0 if self.samples is None else len(self.samples)

    @property
    def noun(self) -> str:
        """What a sample is called."""
        return "sample" if self.samples is None else self.samples.noun

    @property
    def score(self) -> dict[str, Any] | None:
        """The score with its interval, as `score`, `score_low` and `score_high`; None where there is none."""
        return self.tables["score"].row(0, named=True) if "score" in self.tables else None

    @property
    def labels(self) -> Int64[np.ndarray, " n"] | None:
        """The class of each sample; None where samples have none, or several."""
        labels = self.samples.labels if self.samples is not None and self.samples.labelled else None
        return labels if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu" else None

    @cached_property
    def trials(self) -> list[PreprocessingTrial]:
        """Other preprocessings, the most convincing first."""
        if self.samples is None or self.task is None:
            return []
        return try_preprocessings(self.network, self.samples, self.task)

    @cached_property
    def unlike_training(self) -> list[Alert]:
        """See `unlike_training`."""
        return unlike_training(self)

    @cached_property
    def weights(self) -> dict[str, tuple[Layer, Tensor]]:
        """Each layer with its weights, float (units, weights of each); not those of embeddings."""
        tensors = self.network.tensors
        return {
            layer.name: (layer, tensors[layer.weight].detach().cpu().float().movedim(layer.output_axis, 0).flatten(1))
            for layer in self.network.layers
            if layer.kind != "embedding"
        }

    def named(self, number: int) -> str:
        """What a class is called."""
        classes = () if self.samples is None else self.samples.classes
        return f"'{classes[number]}'" if number < len(classes) else f"class {number}"


def wrong_preprocessing(evidence: Evidence) -> list[Alert]:
    """Another preprocessing with which the network is right more often, or sees what it saw in training."""
    if not evidence.trials or evidence.trials[0].p > LEVEL or evidence.score is None:
        return evidence.unlike_training
    best = max((t for t in evidence.trials if t.p <= LEVEL), key=lambda trial: trial.after)
    level: Level = "error" if best.after - best.before >= 0.1 else "warning"
    message = (
        f"The preprocessing looks wrong: with {best.name} {evidence.score['unit']} is {share_text(best.after)} "
        f"in place of {share_text(best.before)} on {plural(best.images, evidence.noun)}."
    )
    figures = {"before": best.before, "after": best.after, "p": best.p, "images": best.images}
    return [Alert("preprocessing-wrong", level, message, f"Try it: {best.options}.", "", figures)]


def unlike_training(evidence: Evidence) -> list[Alert]:
    """A first batch norm that sees other inputs than in training, and a preprocessing with which it would not.

    None where the network is right less often with that one.
    """
    network, samples, given = evidence.network, evidence.samples, evidence.network.preprocessing
    shown = None if samples is None else show_plain(network, samples)
    if shown is None or not isinstance(given, Preprocessing) or len(shown[0]) < ENOUGH:
        return []
    pixels, labels = shown
    ways = [Alternative("as it is", given), *alternatives(given, pixels)]
    layer, found = first_norm_mismatches(network, pixels, ways)
    if not found or not found[0].divergence > UNLIKE:
        return []
    best = min(range(1, len(ways)), key=lambda k: found[k].divergence)
    if not found[best].divergence * ALIKE < found[0].divergence:
        return []
    if evidence.task is not None and not evidence.task.reference:
        judge = _Judge(network, evidence.task, plan(network, (network.output,), folded=True), labels)
        now, then = (judge.scores(apply(way, pixels)) for way in (ways[0], ways[best]))
        if _paired(then, now, evidence.task.binary) <= 0.05:
            return []
    message = (
        f"The preprocessing looks wrong, though no score shows it: the first batch norm gets {found[0].words} that it "
        f"knows from training; with {ways[best].name} it gets {found[best].words}."
    )
    figures = {"before": found[0].divergence, "after": found[best].divergence, "images": len(pixels)}
    return [Alert("preprocessing-wrong", "warning", message, f"Try it: {ways[best].options(given)}.", layer, figures)]


def share_text(score: float) -> str:
    return f"{100 * score:.1f} %"


def relabelled(evidence: Evidence) -> list[Alert]:
    """Labels that are off by a number, or classes that are exchanged."""
    answers = evidence.answers
    found = None if answers is None else find_relabelling(answers.confusion)
    if found is None:
        return []
    more = f"{share_text(found.after)} in place of {share_text(found.before)} would be right"
    pairs = [(a, b) for a, b in found.answers.items() if a != b]
    figures = {"answers": {str(a): b for a, b in pairs}, "shift": found.shift, "p": found.p}
    figures |= {"before": found.before, "after": found.after}
    if found.shift:
        one = next(a for a, _ in pairs)
        message = (
            f"The labels look shifted by {abs(found.shift)}: {evidence.named(one)} is answered as "
            f"{evidence.named(found.answers[one])} and so on; {more}."
        )
        advice = f"Add {found.shift} to the labels, or give the class names in the network's order."
        return [Alert("labels-shifted", "error", message, advice, "", figures)]
    swapped = [(a, b) for a, b in pairs if found.answers.get(b) == a and a < b]
    if len(pairs) == 2 * len(swapped):
        names = [f"{evidence.named(a)} and {evidence.named(b)}" for a, b in swapped]
        message = f"Classes look swapped: {listing(names, 3)}; {more}."
    else:
        names = [f"{evidence.named(a)} is answered as {evidence.named(b)}" for a, b in pairs]
        message = f"The labels of {len(pairs)} classes look permuted: {listing(names, 3)}; {more}."
    advice = "Number the classes as the network does: give their names in its order (in Python classes=...)."
    return [Alert("labels-permuted", "error", message, advice, "", figures)]


def foreign_labels(evidence: Evidence) -> list[Alert]:
    """Labels beyond the network's outputs."""
    labels, classes = evidence.labels, evidence.network.classes
    if labels is None or not len(labels) or evidence.task is not None or int(labels.max()) < classes:
        return []
    low, high = int(labels.min()), int(labels.max())
    message = f"The labels go up to {high:,} and the network has {classes:,} outputs, from 0: there is no score."
    figures = {"low": low, "high": high, "outputs": classes}
    if high == classes:
        advice = "They look shifted by one: subtract 1 from the labels." if low else "Choose samples of its classes."
        return [Alert("labels-shifted" if low else "foreign-labels", "error", message, advice, "", figures)]
    advice = "Choose samples of the classes that the network learned, unless only its features are of interest."
    return [Alert("foreign-labels", "note", message, advice, "", figures)]
