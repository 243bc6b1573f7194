"""Where the features come from: nodes of a network on samples that are split, a bag of words, or the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from netopsy.errors import NetworkError, SamplesError
from netopsy.features.bow.bag import bag_of_words
from netopsy.features.extract import FloatKind, default_node, extract, shared_classes, split_samples
from netopsy.features.features import Features, occurring
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.studies.transfer.chains import threads_for
from netopsy.wording import listing, plural

WORDS, FEWEST_WORDS = 1000, 16  # visual words of the baseline
IMAGES_A_WORD = 4  # training images for each of them, where their number is left open


class Untreatable(Exception):
    """Why the study has nothing to say about these samples or this network: a sentence for the findings."""


def training_and_test(
    samples: Samples, train: Samples | None, test_share: float, seed: int
) -> tuple[Samples, Samples, list[str]]:
    """Images to train on, images to test on, and a sentence for what was left out.

    Without `train` the samples are split, stratified by class; classes of a single image, which cannot be in both
    parts, are left out. Test images of classes that no training image has are left out.
    Raises Untreatable where nothing is left to learn or to test.
    """
    for part in (samples, *(() if train is None else (train,))):
        if part.labels.dtype.kind == "f" and not (part.multilabel and part.classes):
            raise Untreatable(f"{part.name} has numbers for labels, and a linear classifier needs classes.")
    sentences: list[str] = []
    if samples.labels.ndim > 1 and not samples.multilabel:  # a class for each place: nothing to stratify by
        return _parted_evenly(samples, train, seed, test_share)
    if train is None:
        samples, sentences = _without_singles(samples)
        train, samples = split_samples(samples, test_share, seed)
    trained = _counts(train) > 0
    if trained.sum() < 2:
        raise Untreatable(
            f"The training images are of {plural(int(trained.sum()), 'class', 'classes')} only: a classifier needs two."
        )
    test, missing = _keep_known_classes(samples, trained)
    if test.multilabel and not (test.labels > 0).any():
        raise Untreatable(
            f"No test image of {test.name} has a label, so there is nothing to find: give some that have."
        )
    return train, test, sentences + missing


def _parted_evenly(
    samples: Samples, train: Samples | None, seed: int, test_share: float
) -> tuple[Samples, Samples, list[str]]:
    """The parts where labels are by place: drawn without regard to classes."""
    if train is not None:
        return train, samples, []
    order = np.random.default_rng(seed).permutation(len(samples))
    cut = min(max(1, round(test_share * len(samples))), len(samples) - 1)
    return (
        samples.select(np.sort(order[cut:]), f"{samples.name}, to train on (seed {seed})"),
        samples.select(np.sort(order[:cut]), f"{samples.name}, to test on (seed {seed})"),
        [],
    )


def _counts(samples: Samples) -> np.ndarray:
    """Images of each class."""
    labels = samples.labels
    return (labels > 0).sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(samples.classes))


def _without_singles(samples: Samples) -> tuple[Samples, list[str]]:
    if samples.multilabel:
        if len(samples) < 4:
            raise Untreatable(f"{plural(len(samples), 'image')} cannot be parted into training and test images.")
        return samples, []
    counts = _counts(samples)
    alone = np.flatnonzero(counts == 1)
    if not alone.size:
        return samples, []
    rows = np.flatnonzero(counts[samples.labels] > 1)
    what = f"{plural(alone.size, 'class', 'classes')} with a single image"
    if not rows.size:
        raise Untreatable(
            f"{samples.name} has {what} each and none with more, so none can be both learned and tested: give samples "
            "with several images per class, or training images of their own (--train)."
        )
    sentence = f"{what} cannot be both learned and tested and were left out; {plural(rows.size, 'image')} stay."
    return samples.select(rows, f"{samples.name}, classes of several images"), [sentence]


def _keep_known_classes(samples: Samples, trained: np.ndarray) -> tuple[Samples, list[str]]:
    """The samples all of whose classes are among the `trained` ones."""
    labels = samples.labels
    is_trained = np.zeros(max(len(samples.classes), len(trained)), bool)
    is_trained[: len(trained)] = trained
    unknown = (labels > 0)[:, ~is_trained[: labels.shape[1]]].any(1) if labels.ndim == 2 else ~is_trained[labels]
    if not unknown.any():
        return samples, []
    if unknown.all():
        raise Untreatable("No test image is of a class that the training images have: give images of the same classes.")
    rows = np.flatnonzero(~unknown)
    names = [samples.classes[i] for i in np.flatnonzero((_counts(samples) > 0) & ~is_trained[: len(samples.classes)])]
    sentence = (
        f"{plural(int(unknown.sum()), 'test image')} of {listing(names)} were left out: no training image has "
        f"{'this class' if len(names) == 1 else 'these classes'}."
    )
    return samples.select(rows, f"{samples.name}, classes that are trained"), [sentence]


def network_features(
    network: Network, train: Samples, test: Samples, nodes: Sequence[str], pool: Any, dtype: FloatKind
) -> dict[str, Features]:
    """The features of `nodes`, or of the penultimate node where none is named.

    Raises Untreatable where the penultimate features do not exist or are no numbers; UnknownLayer and NetworkError for
    nodes that were named.
    """
    if nodes:
        return extract(network, train, test, nodes, pool=pool, dtype=dtype)
    try:
        return extract(network, train, test, [default_node(network)], pool=pool, dtype=dtype)
    except NetworkError as error:
        raise Untreatable(f"No features to transfer: {error}") from error


def bag_features(train: Samples, test: Samples, device: torch.device, **settings: Any) -> Features:
    """The bag of words of the same images. settings: of `bag_of_words`; without `words` one for four training images.

    Raises SamplesError for images that cannot be read.
    """
    most = len(train) // IMAGES_A_WORD
    words = settings.pop("words") or max(FEWEST_WORDS, min(WORDS, most))
    with threads_for((len(train) + len(test)) * train.image(0).size):
        x_train, x_test = bag_of_words(train, test, words=words, device=device, **settings)
    y_train, y_test, classes = occurring(train.labels, test.labels, shared_classes(train, test))
    return Features(f"bag of words on {test.name}", x_train, y_train, x_test, y_test, classes)


def unranked_sentences(features: Features, measure: str) -> list[str]:
    """A sentence for classes that no test vector has, which no average precision is of."""
    if measure == "accuracy":
        return []
    y = features.y_test
    counts = (y > 0).sum(0) if y.ndim == 2 else np.bincount(y, minlength=len(features.classes))
    names = [features.classes[i] for i in np.flatnonzero(counts == 0)]
    return [f"The mean average precision is without {listing(names)}, which no test image has."] if names else []


def measure_of(measure: str, features: Features) -> str:
    """The measure that `score` means: as asked, or by the labels.

    Raises SamplesError for an accuracy where a vector may have several labels, and where no test vector has a label.
    """
    if features.multilabel and not (features.y_test > 0).any():
        raise SamplesError(f"no test vector of {features.name} has a label; give some that have.")
    if measure == "auto":
        return "map" if features.multilabel else "accuracy"
    if measure == "accuracy" and features.multilabel:
        raise SamplesError(
            f"{features.name} may have several labels an image, for which accuracy is not defined: take the measure "
            "map or map11."
        )
    return measure
