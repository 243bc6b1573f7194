"""The features of one node on the bench, ready to be stressed, fitted and scored, and where they come from.

That is nodes of a network on samples that are split, a bag of words, or the user.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from netopsy.errors import NetworkError, SamplesError
from netopsy.features.bow.bag import bag_of_words
from netopsy.features.extract import FloatKind, default_node, extract, shared_classes, split_samples
from netopsy.features.features import Features, blocks_of, occurring
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.stats.retrieval import accuracy, mean_average_precision
from netopsy.stats.svm.fit import fit_svm
from netopsy.stats.svm.model import Svm, signs
from netopsy.transform.chain import Transform
from netopsy.transform.fit.training import unit
from netopsy.wording import listing, plural

NONE = math.nan  # in a row: the column does not apply


class ScoreRow(NamedTuple):
    """One cell: what was left of the features, and how well a linear classifier does on that.

    levels, removed_bits, accuracy, map, map11: NaN where they do not apply or were not asked for.
    gap: the largest certified relative gap to the optimum over the classes. refits: 1 where the fit was solved again.
    recall_1, recall_10: share of the true nearest (ten nearest) training vectors that are still found. same_class:
    share of the test vectors whose nearest training vector is of their class. These three are for codes only.
    """

    dimensions: float
    levels: float
    removed_bits: float
    score: float
    accuracy: float
    map: float
    map11: float
    train_score: float
    gap: float
    refits: float
    recall_1: float = NONE
    recall_10: float = NONE
    same_class: float = NONE


class Scores(NamedTuple):
    """What a classifier's scores are worth; NaN where a measure was not asked for."""

    score: float
    accuracy: float
    map: float
    map11: float


@dataclass(frozen=True)
class Bench:
    """Features of one node; its tensors are made when first used, on `device`, and let go with `free`.

    node: its name. measure: accuracy, map or map11: what `score` means. c, loss, tolerance: of the solver.
    renormalise: whether rows get unit length again after a stress. normalise: whether they have it before a stress
    (`before`) or get it from the stressed values alone (`after`).
    """

    node: str
    features: Features
    measure: str
    c: float
    loss: str
    tolerance: float
    renormalise: bool
    device: torch.device
    normalise: Literal["before", "after"] = "before"

    @cached_property
    def train(self) -> Float32[Tensor, "n p"]:
        """The training rows as a stress gets them: of unit length, or as they are."""
        return self._rows(self.features.x_train, "training")

    @cached_property
    def test(self) -> Float32[Tensor, "m p"]:
        """The test rows as a stress gets them."""
        return self._rows(self.features.x_test, "test")

    @cached_property
    def targets(self) -> Float32[Tensor, "n classes"]:
        """+1 where a training row is of the class, else -1."""
        return signs(self.y_train, self.classes)

    @cached_property
    def y_train(self) -> Tensor:
        return torch.from_numpy(self.features.y_train).to(self.device)

    @cached_property
    def y_test(self) -> Tensor:
        return torch.from_numpy(self.features.y_test).to(self.device)

    def _rows(self, x: np.ndarray, part: str) -> Float32[Tensor, "n p"]:
        rows = torch.empty(x.shape, device=self.device)
        first = 0
        for block in blocks_of(x):
            values = torch.from_numpy(block.astype(np.float32)).to(self.device)
            if not bool(torch.isfinite(values).all()):
                raise SamplesError(
                    f"the {part} vectors of {self.features.name} hold NaN or infinity; mend or leave out these vectors."
                )
            rows[first : first + len(values)] = unit(values) if self.normalise == "before" else values
            first += len(values)
        return rows

    def code_vectors(self, transform: Transform) -> tuple[Float32[Tensor, "n q"], Float32[Tensor, "m q"]]:
        """Training and test vectors as they come back from their codes."""
        train, test = (transform.transform(x) for x in (self.features.x_train, self.features.x_test))
        return torch.from_numpy(train).to(self.device), torch.from_numpy(test).to(self.device)

    def free(self) -> None:
        """Let the tensors go; they are made again when they are used again."""
        for name in ("train", "test", "targets", "y_train", "y_test"):
            self.__dict__.pop(name, None)

    @property
    def dimensions(self) -> int:
        return self.features.dimensions

    @property
    def classes(self) -> int:
        return len(self.features.classes)

    @property
    def digest(self) -> str:
        return self.features.digest

    @property
    def solver(self) -> dict[str, Any]:
        """The settings of a fit."""
        return {"c": self.c, "loss": self.loss, "tolerance": self.tolerance}

    @property
    def unit_after(self) -> bool:
        """Whether stressed rows are brought to unit length."""
        return self.renormalise or self.normalise == "after"

    def after(self, x: Float32[Tensor, "n q"]) -> Float32[Tensor, "n q"]:
        """Stressed rows as the classifier gets them."""
        return unit(x) if self.unit_after else x

    def fit(
        self, train: Float32[Tensor, "n q"], test: Float32[Tensor, "m q"], start: Svm | None = None
    ) -> tuple[Svm, ScoreRow]:
        """A classifier of stressed rows (before `after`), and its row without dimensions, levels and bits."""
        train, test = self.after(train), self.after(test)
        svm = fit_svm(train, self.targets, start=start, **self.solver)
        return svm, self.row(svm, train, test)

    def row(self, svm: Svm, train: Float32[Tensor, "n q"], test: Float32[Tensor, "m q"]) -> ScoreRow:
        """The row of a fitted classifier; dimensions are the columns, levels and removed bits do not apply."""
        on_train = measure_scores(predict(svm, train), self.y_train, self.measure, only=True).score
        on_test = measure_scores(predict(svm, test), self.y_test, self.measure)
        gap, refits = float(svm.gap.max()), float(svm.refits)
        return ScoreRow(train.shape[1], NONE, NONE, *on_test, on_train, gap, refits)


def predict(svm: Svm, x: Float32[Tensor, "n q"]) -> Float32[Tensor, "n classes"]:
    """The classifier's scores; equal rows all through give exactly equal scores, whatever the product's blocks."""
    if torch.equal(x[0], x[-1]) and bool((x == x[0]).all()):
        return svm.scores(x[:1]).expand(len(x), -1)
    return svm.scores(x)


def measure_scores(scores: Float32[Tensor, "n classes"], labels: Tensor, measure: str, *, only: bool = False) -> Scores:
    """The scores' worth by `measure`; `only`: leave the other measures out.

    Accuracy is for labels of one class each. The mean average precisions are sorted for, so with labels of one class
    each they are computed where they are asked for.
    """
    several = labels.ndim == 2
    measures = {measure} if only else {measure, *(("map", "map11") if several or measure != "accuracy" else ())}
    values = {"accuracy": NONE, "map": NONE, "map11": NONE}
    if not several and ("accuracy" in measures or not only):
        values["accuracy"] = accuracy(scores, labels)
    if measures & {"map", "map11"}:
        ways: tuple[tuple[str, Literal["area", "voc2007"]], ...] = (("map", "area"), ("map11", "voc2007"))
        for name, how in ways:
            if name in measures:
                values[name] = mean_average_precision(scores, labels, how).mean
    return Scores(values[measure], **values)


SMALL = 1 << 20  # values


@contextmanager
def threads_for(values: int) -> Iterator[None]:
    """One thread for work on few values: many short operations, at each of which threads would wait for one another."""
    before = torch.get_num_threads()
    if values <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
