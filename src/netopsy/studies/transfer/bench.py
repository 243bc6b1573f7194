"""The features of one node on the bench: normalised, with their labels, ready to be stressed, fitted and scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from netopsy.errors import SamplesError
from netopsy.features.features import Features, blocks_of
from netopsy.stats.average_precision import accuracy, mean_average_precision
from netopsy.stats.svm.fit import fit_svm
from netopsy.stats.svm.model import Svm, signs
from netopsy.transform.chain import Transform
from netopsy.transform.fit.training import unit

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
    renormalise: whether rows get unit length again after a stress.
    """

    node: str
    features: Features
    measure: str
    c: float
    loss: str
    tolerance: float
    renormalise: bool
    device: torch.device

    @cached_property
    def train(self) -> Float32[Tensor, "n p"]:
        """The training rows, of unit length."""
        return self._rows(self.features.x_train, "training")

    @cached_property
    def test(self) -> Float32[Tensor, "m p"]:
        """The test rows, of unit length."""
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
            rows[first : first + len(values)] = unit(values)
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

    def after(self, x: Float32[Tensor, "n q"]) -> Float32[Tensor, "n q"]:
        """Stressed rows as the classifier gets them."""
        return unit(x) if self.renormalise else x

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
