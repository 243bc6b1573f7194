"""Vectors as codes of a few bytes: product quantization and OPQ, trained by faiss, and binary codes.

Binary codes are the signs of principal directions, as they are or rotated (ITQ). Transform coding gives bits to the
principal directions where they take away the most error. All these transforms need numpy only.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.errors import MissingExtra, SettingsError
from netopsy.stats.kmeans1d.kmeans1d import kmeans1d
from netopsy.transform.coders import Coder, ProductCoder, Scalars, Signs
from netopsy.transform.fit.training import Quantizer, TrainingSet, as_numpy
from netopsy.transform.steps import Step

FEW_PRODUCTS = 1 << 28
"""Products an iteration up to which one thread is faster."""


@dataclass(frozen=True)
class ProductQuantizer(Quantizer):
    """`parts` equal stretches of the dimensions, each at the nearest of its 2^width centroids (Jegou et al. 2011)."""

    method: ClassVar[str] = "PQ"
    parts: int
    width: int = 8

    @property
    def bits(self) -> int:
        return self.parts * self.width

    @property
    def label(self) -> str:
        return f"PQ {self.parts} x {self.width} bits"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        x = as_numpy(train.x)
        size = -(-x.shape[1] // self.parts)
        parts = -(-x.shape[1] // size)  # fewer, where the last ones would be empty
        padded = np.pad(x, ((0, 0), (0, parts * size - x.shape[1])))
        return (ProductCoder(x.shape[1], codebooks(train_pq(padded, parts, self.width, seed))),)


@dataclass(frozen=True)
class OptimizedProductQuantizer(Quantizer):
    """Product quantization of `size` principal directions under a rotation learned with it (OPQ, Ge et al. 2013)."""

    method: ClassVar[str] = "OPQ"
    parts: int
    size: int
    width: int = 8

    @property
    def bits(self) -> int:
        return self.parts * self.width

    @property
    def label(self) -> str:
        return f"OPQ {self.parts} x {self.width} bits of PCA {self.size}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        parts = min(self.parts, train.coordinates.shape[1])
        size = min(self.size, train.coordinates.shape[1]) // parts * parts
        rotation, quantizer = train_opq(as_numpy(train.coordinates[:, :size]), parts, self.width, seed)
        step = train.directions(size, mix=torch.from_numpy(rotation), name="rotated principal directions")
        return step, ProductCoder(size, codebooks(quantizer))


def train_pq(x: np.ndarray, parts: int, width: int, seed: int) -> Any:
    """A faiss.ProductQuantizer trained on x, (n, parts s) float32. The same seed gives the same centroids."""
    faiss = _faiss()
    quantizer = _quantizer(faiss, x, parts, width, seed)
    with _threads(faiss, x.size << width):
        quantizer.train(x)
    return quantizer


def train_opq(x: np.ndarray, parts: int, width: int, seed: int) -> tuple[np.ndarray, Any]:
    """The rotation, (d, d) so that x rotation is quantized, and the faiss.ProductQuantizer trained behind it."""
    faiss = _faiss()
    matrix = faiss.OPQMatrix(x.shape[1], parts)
    inner = _quantizer(faiss, x, parts, width, seed)
    matrix.pq = inner
    matrix.niter = 20
    with _threads(faiss, x.size << width):
        matrix.train(x)
    rotation = faiss.vector_to_array(matrix.A).reshape(x.shape[1], x.shape[1]).T.copy()
    return rotation, train_pq(np.ascontiguousarray(x @ rotation), parts, width, seed)


def codebooks(quantizer: Any) -> np.ndarray:
    """The centroids of a trained faiss.ProductQuantizer, (parts, 2^width, s) float32."""
    values = _faiss().vector_to_array(quantizer.centroids)
    return np.array(values.reshape(quantizer.M, quantizer.ksub, quantizer.dsub), np.float32)


def _quantizer(faiss: Any, x: np.ndarray, parts: int, width: int, seed: int) -> Any:
    if len(x) < 1 << width:
        raise SettingsError(
            f"product quantization with {width} bits has {1 << width} centroids, and there are {len(x)} training "
            "vectors; give more vectors, or fewer bits a part."
        )
    quantizer = faiss.ProductQuantizer(x.shape[1], parts, width)
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1  # below 39 it warns, on standard error
    return quantizer


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("Product quantization", "embeddings") from error
    return faiss


@contextmanager
def _threads(faiss: Any, work: int) -> Iterator[None]:
    """One thread where the distances of an iteration, `work` products, are few: threads would wait for each other."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before if work > FEW_PRODUCTS else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)  # which may be torch's own number too, where both share one OpenMP


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
