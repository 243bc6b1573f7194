"""Product quantization and OPQ, trained by faiss; their transforms need numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from netopsy.errors import MissingExtra, SettingsError
from netopsy.transform.coders import Coder, ProductCoder
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
