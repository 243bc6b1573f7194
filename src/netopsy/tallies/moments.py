"""Mean, variance, skewness, kurtosis and range; histograms, whatever the range; and means by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from netopsy.engine.observe.tally import Tally, sample_blocks
from netopsy.errors import SettingsError

_ROW = 4096  # values that one float32 running sum of squares may take before rounding shows


@dataclass(frozen=True)
class MomentsResult:
    """Per channel, float64; population moments (divided by the count).

    skewness and excess kurtosis are NaN where the variance is zero; None unless four moments were asked for.
    """

    count: int
    mean: Float64[Tensor, " channel"]
    variance: Float64[Tensor, " channel"]
    min: Float64[Tensor, " channel"]
    max: Float64[Tensor, " channel"]
    skewness: Float64[Tensor, " channel"] | None = None
    kurtosis: Float64[Tensor, " channel"] | None = None


class Moments(Tally):
    """The first two or four moments and the range of each channel.

    order: 2 for mean and variance, 4 for skewness and kurtosis too. axis: where the channels are.
    update: (batch, channel, *space). result: `MomentsResult`.

    Power sums about a shift are taken in float32 within a block of samples and added up in float64. Where a block's
    mean is far from the shift, compared with its spread, the sums so far are closed into central moments, which merge
    exactly, and the block's mean becomes the shift. Source: Chan, Golub, LeVeque, "Algorithms for computing the sample
    variance", 1983; orders 3 and 4: Pebay, SAND2008-6212, Equations 2.1 and 2.2.
    """

    def __init__(self, order: int = 2, axis: int = 1) -> None:
        if order not in (2, 4):
            raise SettingsError(f"order {order} must be 2 (mean, variance) or 4 (skewness and kurtosis too).")
        self.order, self.axis = order, axis
        self.closed_count = self.open_count = 0
        self.closed: Tensor | None = None  # mean, then sums of powers 2.. of deviations; float64 (order, channel)
        self.open: Tensor | None = None  # sums of powers 1.. of deviations from the shift; float64 (order, channel)
        self.shift: Tensor | None = None  # float32 (channel,); None is zero
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def update(self, values: Tensor, indices: Tensor) -> None:
        for x in sample_blocks(values, self.axis):
            count = x.numel() // x.shape[1]
            if not count:
                continue
            every = [d for d in range(x.ndim) if d != 1]
            low, high = x.amin(every), x.amax(every)
            self.low = low if self.low is None else torch.minimum(self.low, low)
            self.high = high if self.high is None else torch.maximum(self.high, high)
            sums = self._sums(x)
            if self._ill(sums, count):
                self._close()
                offset = (sums[0] / count).to(x.dtype)
                self.shift = offset if self.shift is None else self.shift + offset
                sums = self._sums(x)
            self.open = sums if self.open is None else self.open.add_(sums)
            self.open_count += count

    def merge(self, other: Moments) -> None:
        self._close()
        count, central = other.closed_count, other.closed
        if other.open is not None:
            fresh = _central(other.open, other.open_count, other.shift)
            count, central = _merge(count, central, other.open_count, fresh)
        if central is None or other.low is None or other.high is None:
            return
        self.closed_count, self.closed = _merge(self.closed_count, self.closed, count, central)
        self.low = other.low if self.low is None else torch.minimum(self.low, other.low)
        self.high = other.high if self.high is None else torch.maximum(self.high, other.high)

    def result(self) -> MomentsResult:
        self._close()
        if self.closed is None or self.low is None or self.high is None:
            nothing = torch.zeros(0, dtype=torch.float64)
            return MomentsResult(0, nothing, nothing, nothing, nothing)
        n, central = self.closed_count, self.closed.cpu()
        variance = central[1] / n
        skewness = kurtosis = None
        if self.order == 4:
            skewness = central[2] / n / variance**1.5
            kurtosis = central[3] / n / variance**2 - 3
        low, high = self.low.double().cpu(), self.high.double().cpu()
        return MomentsResult(n, central[0], variance, low, high, skewness, kurtosis)

    def _sums(self, x: Tensor) -> Tensor:
        """Sums of the powers 1 to `order` of the deviations from the shift, float64 (order, channel)."""
        y = x if self.shift is None else x - self.shift.view(-1, *[1] * (x.ndim - 2))
        if x.ndim == 2 or x.numel() < 4096:
            powers = [y.double()]
            while len(powers) < self.order:
                powers.append(powers[-1] * powers[0])
            return torch.stack([p.sum([d for d in range(x.ndim) if d != 1]) for p in powers])
        space = list(range(2, x.ndim))
        if self.order == 2:
            return torch.stack([_total(y.sum(space)), _squares(y)])
        square = y * y
        second, fourth = square.sum(space), _squares(square)
        third = square.mul_(y).sum(space)
        return torch.stack([_total(y.sum(space)), _total(second), _total(third), fourth])

    def _ill(self, sums: Tensor, count: int) -> bool:
        """Whether a channel's mean deviation outweighs its spread (3 standard deviations, or 2 for four moments)."""
        share = 0.9 if self.order == 2 else 0.8
        return bool((sums[0].square() > sums[1] * (share * count)).any())

    def _close(self) -> None:
        """Turn the open sums into central moments and merge them into the closed ones."""
        if self.open is not None:
            central = _central(self.open, self.open_count, self.shift)
            self.closed_count, self.closed = _merge(self.closed_count, self.closed, self.open_count, central)
        self.open, self.open_count = None, 0


def _total(rows: Tensor) -> Tensor:
    """Sum over samples in float64: (batch, channel) -> (channel,)."""
    return rows.sum(0, dtype=torch.float64)


def _squares(y: Tensor) -> Tensor:
    """Sum of squares per channel; the norm reads `y` once and writes nothing."""
    wide = y[0, 0].numel() > _ROW
    norms = torch.linalg.vector_norm(y, 2, dim=-1 if wide else tuple(range(2, y.ndim))).double().square_()
    return norms.sum([d for d in range(norms.ndim) if d != 1])


def _central(sums: Tensor, n: int, shift: Tensor | None) -> Tensor:
    """Mean and sums of powers 2.. of deviations from it, from sums of powers 1.. of deviations from `shift`."""
    d = sums[0] / n
    rows = [d if shift is None else d + shift.double(), (sums[1] - n * d**2).clamp_(min=0)]
    if len(sums) == 4:
        rows.append(sums[2] - 3 * d * sums[1] + 2 * n * d**3)
        rows.append(sums[3] - 4 * d * sums[2] + 6 * d**2 * sums[1] - 3 * n * d**4)
    return torch.stack(rows)


def _merge(m: int, a: Tensor | None, n: int, b: Tensor) -> tuple[int, Tensor]:
    """Count and central moments of two parts together."""
    if a is None:
        return n, b
    total, d = m + n, b[0] - a[0]
    rows = [a[0] + d * (n / total), a[1] + b[1] + d**2 * (m * n / total)]
    if len(a) == 4:
        rows.append(a[2] + b[2] + d**3 * (m * n * (m - n) / total**2) + 3 * d * (m * b[1] - n * a[1]) / total)
        rows.append(
            a[3]
            + b[3]
            + d**4 * (m * n * (m * m - m * n + n * n) / total**3)
            + 6 * d**2 * (m * m * b[1] + n * n * a[1]) / total**2
            + 4 * d * (m * b[2] - n * a[2]) / total
        )
    return total, torch.stack(rows)


_SHIFT = 19  # drops 19 of 23 bits of a float32's fraction: 16 buckets an octave
_HALF = 2 ** (31 - _SHIFT)


@dataclass(frozen=True)
class Buckets:
    """The buckets that hold values, from the lowest up; the ones around 0 hold zeros (and subnormal numbers).

    left, right: edges; a bucket's width is at most 1/16 of its magnitude. count: values in it. stride: every
    `stride`-th value of a sample was counted. Infinities and NaN have infinite edges.
    """

    left: Float64[Tensor, " bucket"]
    right: Float64[Tensor, " bucket"]
    count: Int64[Tensor, " bucket"]
    stride: int


class Histogram(Tally):
    """Values of a whole node in buckets of floating-point width: 16 an octave, for any range, known or not.

    per_sample: about how many values of each sample are counted, evenly spaced over channels and space; None for all.
    update: (batch, ...). result: `Buckets`.
    """

    def __init__(self, per_sample: int | None = 1024) -> None:
        if per_sample is not None and per_sample < 1:
            raise SettingsError(f"per_sample {per_sample} must be at least 1, or None to count every value.")
        self.per_sample = per_sample
        self.counts: Tensor | None = None
        self.stride = 0

    def update(self, values: Tensor, indices: Tensor) -> None:
        flat = values.flatten(1) if values.ndim > 1 else values[:, None]
        if not flat.numel():
            return
        if not self.stride:
            self.stride = 1 if self.per_sample is None else _prime(flat.shape[1] // self.per_sample)
        bits = flat[:, :: self.stride].float().contiguous().view(torch.int32).view(-1)
        # an arithmetic shift keeps the sign: negative values come out below zero
        counts = torch.bincount((bits >> _SHIFT).add_(_HALF), minlength=2 * _HALF)
        self.counts = counts if self.counts is None else self.counts.add_(counts)

    def merge(self, other: Histogram) -> None:
        if other.counts is not None:
            self.counts = other.counts.clone() if self.counts is None else self.counts + other.counts
            self.stride = other.stride

    def result(self) -> Buckets:
        if self.counts is None:
            nothing = torch.zeros(0, dtype=torch.float64)
            return Buckets(nothing, nothing, nothing.long(), 1)
        counts = self.counts.cpu()
        magnitude = torch.arange(_HALF + 1, dtype=torch.int64) << _SHIFT
        edges = magnitude.to(torch.int32).view(torch.float32).double()
        edges[torch.isnan(edges) | (magnitude >= 2**31)] = torch.inf
        # codes below _HALF are negative floats, whose magnitude grows with the code
        left = torch.cat([-edges[1:].flip(0), edges[:-1]])
        right = torch.cat([-edges[:-1].flip(0), edges[1:]])
        ordered = torch.cat([counts[:_HALF].flip(0), counts[_HALF:]])
        filled = ordered > 0
        return Buckets(left[filled], right[filled], ordered[filled], self.stride)


def _prime(number: int) -> int:
    """The smallest prime of at least `number` (1 for 1 or less): a stride that falls in step with no image width."""
    number = max(number, 1)
    while number > 3 and any(number % d == 0 for d in range(2, int(number**0.5) + 1)):
        number += 1
    return number


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
