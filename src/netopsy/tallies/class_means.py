"""The mean activation of each channel on the images of each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from netopsy.engine.observe.tally import Tally, sample_blocks


@dataclass(frozen=True)
class ClassMeansResult:
    """mean: over the images and places of each class, NaN for a class without images. images: of each class."""

    mean: Float64[Tensor, "channel classes"]
    images: Int64[Tensor, " classes"]

    @property
    def selectivity(self) -> Float64[Tensor, " channel"]:
        """(a - b) / (a + b), a the mean of a channel's best class, b the mean over its others (Morcos et al. 2018).

        0 answers to all classes alike, 1 to one class only. NaN where a class mean is negative, where all are zero, and
        with fewer than two classes: the index is for activations that are never negative.
        """
        mean = self.mean[:, self.images > 0]
        if mean.shape[1] < 2 or not len(mean):
            return torch.full((len(mean),), torch.nan, dtype=torch.float64)
        best = mean.amax(1)
        others = (mean.sum(1) - best) / (mean.shape[1] - 1)
        index = (best - others) / (best + others)
        return torch.where((mean < 0).any(1), torch.nan, index)


class ClassMeans(Tally):
    """The mean activation of each channel by class, over images and places.

    labels: int64 (samples,), the class of every sample. classes: their number. axis: where the channels are.
    update: (batch, channel, *space). result: `ClassMeansResult`. State: 8 bytes a channel and class. NaN stands at
    places that are padding.
    """

    by_sample = True

    def __init__(self, labels: NDArray, classes: int, axis: int = 1) -> None:
        self.labels, self.classes, self.axis = labels, classes, axis  # an array: the labels are no state
        self.sums: Tensor | None = None  # float64 (classes, channel)
        self.images: Tensor | None = None  # int64 (classes,)

    def __deepcopy__(self, memo: object) -> ClassMeans:
        twin = ClassMeans(self.labels, self.classes, self.axis)  # many tallies share one array of labels
        if self.sums is not None and self.images is not None:
            twin.sums, twin.images = self.sums.clone(), self.images.clone()
        return twin

    def update(self, values: Tensor, indices: Tensor) -> None:
        first = 0
        for x in sample_blocks(values, self.axis):
            means = (x.flatten(2).nanmean(2) if x.ndim > 2 else x).double()
            which = torch.from_numpy(self.labels[indices[first : first + len(x)].cpu().numpy()]).to(x.device)
            first += len(x)
            hot = torch.nn.functional.one_hot(which, self.classes)
            sums, images = hot.double().T @ means, hot.sum(0)
            self.sums = sums if self.sums is None else self.sums.add_(sums)
            self.images = images if self.images is None else self.images.add_(images)

    def merge(self, other: ClassMeans) -> None:
        if other.sums is not None and other.images is not None:
            self.sums = other.sums.clone() if self.sums is None else self.sums + other.sums
            self.images = other.images.clone() if self.images is None else self.images + other.images

    def result(self) -> ClassMeansResult:
        if self.sums is None or self.images is None:
            return ClassMeansResult(torch.zeros(0, self.classes).double(), torch.zeros(self.classes).long())
        images = self.images.cpu()
        return ClassMeansResult(self.sums.cpu().T / images, images)
