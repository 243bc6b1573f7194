"""Binary codes: the signs of principal directions, as they are or rotated (ITQ), and transform coding.

Transform coding gives bits to the principal directions where they take away the most error.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.stats.kmeans1d.kmeans1d import kmeans1d
from netopsy.transform.coders import Coder, Scalars, Signs
from netopsy.transform.fit.training import Quantizer, TrainingSet, as_numpy
from netopsy.transform.steps import Step

ITERATIONS = 50


@dataclass(frozen=True)
class Binary(Quantizer):
    """One bit for each of the first `size` principal directions."""

    size: int

    @property
    def bits(self) -> int:
        return self.size


@dataclass(frozen=True)
class SignBits(Binary):
    """The signs of centred principal directions (PCA hashing)."""

    method: ClassVar[str] = "PCA signs"

    @property
    def label(self) -> str:
        return f"signs of PCA {self.size}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        step = train.directions(self.size, centred=True)
        return step, Signs(step.outputs)


@dataclass(frozen=True)
class Itq(Binary):
    """The signs of centred principal directions, rotated to lie near signs (ITQ).

    Gong & Lazebnik, "Iterative quantization: a Procrustean approach to learning binary codes", CVPR 2011.
    """

    method: ClassVar[str] = "ITQ"

    @property
    def label(self) -> str:
        return f"ITQ {self.size}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        z = train.coordinates[:, : self.size]
        rotation = procrustes(z - z.mean(0), seed=seed)
        step = train.directions(z.shape[1], centred=True, mix=rotation, name="rotated principal directions")
        return step, Signs(step.outputs)


def procrustes(z: Float[Tensor, "n c"], *, seed: int, iterations: int = ITERATIONS) -> Float[Tensor, "c c"]:
    """The rotation R that brings z R near its signs B, least |B - z R|, from a random one (Gong & Lazebnik, 3.2).

    In turn, B = sign(z R), and R = U V^T of the singular value decomposition U S V^T of z^T B. Neither can make the
    error greater.
    """
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(z.shape[1], z.shape[1], generator=generator, dtype=torch.float64))[0].to(z)
    for _ in range(iterations):
        b = torch.where(z @ rotation > 0, 1.0, -1.0).to(z)
        u, _, vt = torch.linalg.svd(z.T @ b)
        rotation = u @ vt
    return rotation


NORMAL_ERROR = (1.0, 0.3634, 0.1175, 0.03454, 0.009497, 0.002499, 0.0006442, 0.0001635, 0.00004119)
"""Mean squared error of the best 1, 2, 4 ... 256 levels for a normal variable of variance 1 (Max 1960)."""
DIRECT = 5


@dataclass(frozen=True)
class TransformCoding(Quantizer):
    """Principal directions with 0 to 8 bits each, `size` in all, and the best centroids for so many (k-means).

    Brandt, "Transform coding for fast approximate nearest neighbor search in high dimensions", CVPR 2010.
    """

    method: ClassVar[str] = "transform coding"
    size: int

    @property
    def bits(self) -> int:
        return self.size

    @property
    def label(self) -> str:
        return f"PCA, {self.size} bits by variance"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        widths = allot(train.pca.variances.cpu().numpy(), self.size)
        widths = widths[widths > 0] if widths.any() else np.ones(1, np.int64)
        z = as_numpy(train.coordinates[:, : len(widths)])
        centroids = [scalar_centroids(z[:, j], int(width)) for j, width in enumerate(widths)]
        return train.directions(len(widths)), Scalars(widths.astype(np.uint8), np.concatenate(centroids))


def allot(variances: np.ndarray, bits: int) -> np.ndarray:
    """Bits of each direction, (r,), at most 8: one after the other to where it takes away the most error.

    variances: descending. The errors are those of normal variables; they fall ever more slowly with the bits, so that
    no other allotment has a smaller sum. Directions without variance get none.
    """
    widths = np.zeros(len(variances), np.int64)
    gains = [(-float(v) * (NORMAL_ERROR[0] - NORMAL_ERROR[1]), j) for j, v in enumerate(variances) if v > 0]
    heapq.heapify(gains)
    for _ in range(bits):
        if not gains:
            break
        _, j = gains[0]
        widths[j] += 1
        if (width := int(widths[j])) == len(NORMAL_ERROR) - 1:
            heapq.heappop(gains)
        else:
            gain = float(variances[j]) * (NORMAL_ERROR[width] - NORMAL_ERROR[width + 1])
            heapq.heapreplace(gains, (-gain, j))
    return widths


def scalar_centroids(values: np.ndarray, width: int) -> np.ndarray:
    """2^width centroids of numbers, ascending, float32.

    Up to 32 are those of least error. For more, each of the 32 cells is split equally: the cells already lie as
    densely as the best ones would (Panter & Dite 1951), and a dimension takes milliseconds instead of a second.
    """
    k = 1 << min(width, DIRECT)
    centroids = kmeans1d(values, k).centroids.astype(np.float64)
    # fewer distinct values than centroids: the last one again
    centroids = np.pad(centroids, (0, k - len(centroids)), mode="edge")
    if width > DIRECT:
        borders = np.concatenate([[values.min()], (centroids[1:] + centroids[:-1]) / 2, [values.max()]])
        pieces = 1 << (width - DIRECT)
        places = (np.arange(pieces) + 0.5) / pieces
        centroids = (borders[:-1, None] + np.diff(borders)[:, None] * places).ravel()
    return np.sort(centroids.astype(np.float32))
