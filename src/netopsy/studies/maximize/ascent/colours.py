"""How the colours of natural pictures hang together: a covariance from the samples, and its square root."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.engine.observe.tally import Tally


class ColourCovariance(Tally):
    """Covariance of the channels over all pixels of the first `most` images of the network's input.

    update: (batch, channel, height, width), preprocessed. result: float64 (channel, channel), population covariance in
    units of the preprocessed input; None before any image.
    """

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.images = self.count = 0
        self.sums: Tensor | None = None  # float64 (channel,)
        self.products: Tensor | None = None  # float64 (channel, channel)

    def update(self, values: Tensor, indices: Tensor) -> None:
        values = values[: self.most - self.images]
        if not len(values):
            return
        rows = values.transpose(0, 1).flatten(1).double()
        sums, products = rows.sum(1), rows @ rows.T
        self.sums = sums if self.sums is None else self.sums + sums
        self.products = products if self.products is None else self.products + products
        self.images += len(values)
        self.count += rows.shape[1]

    def merge(self, other: ColourCovariance) -> None:
        if other.sums is None or other.products is None:
            return
        self.sums = other.sums if self.sums is None else self.sums + other.sums
        self.products = other.products if self.products is None else self.products + other.products
        self.images += other.images
        self.count += other.count

    def result(self) -> Float[Tensor, "channel channel"] | None:
        if self.sums is None or self.products is None:
            return None
        mean = self.sums / self.count
        return (self.products / self.count - mean[:, None] * mean).cpu()


def root(covariance: Float[Tensor, "channel channel"]) -> Float[Tensor, "channel channel"]:
    """A with A A^T = covariance, its columns the principal colours: A maps unit-variance colours to correlated ones.

    Its inverse makes the covariance the identity. Directions without variance get a hundredth of the largest
    deviation, so that A can be inverted.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    return vectors * values.clamp(min=1e-4 * float(values.max().clamp(min=1e-12))).sqrt()


def mixing(covariance: Float[Tensor, "channel channel"] | None, channels: int) -> Float[Tensor, "channel channel"]:
    """Decorrelated colours to colours, scaled so that the widest channel has unit deviation; identity without samples.

    Source: Olah, Mordvintsev, Schubert, "Feature Visualization", 2017, "decorrelated color space"; the covariance is
    that of the samples at hand.
    """
    if covariance is None or not bool(covariance.isfinite().all()) or float(covariance.diagonal().max()) <= 0:
        return torch.eye(channels)
    a = root(covariance)
    return (a / a.norm(dim=1).max()).float()
