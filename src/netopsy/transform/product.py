"""Product quantization (Jegou, Douze & Schmid 2011): each part of a vector at the nearest of its own centroids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from netopsy.errors import TransformError
from netopsy.transform.coders import UINT8, Coder, pack, unpack
from netopsy.transform.steps import FLOAT32, numbers, positive


@dataclass(frozen=True, eq=False)
class ProductCoder(Coder):
    """m codebooks of k = 2^b centroids of s values: m b bits. codebooks: float32, (m, k, s), m s >= inputs.

    Behind its last value a vector is filled up with zeros; they are taken off again when it comes back.
    """

    kind: ClassVar[str] = "product"
    inputs: int
    codebooks: FLOAT32

    def __post_init__(self) -> None:
        positive(self, inputs=self.inputs)
        numbers(self, codebooks=(self.codebooks, 3))
        m, k, s = self.codebooks.shape
        if k & (k - 1) or k > 1 << 16 or not m * s - s < self.inputs <= m * s:
            raise TransformError(
                f"{m} codebooks of {k} centroids of {s} values do not fit {self.inputs} dimensions; give 2^b "
                "centroids, 65536 at most, and as many codebooks as the dimensions fill."
            )

    @property
    def width(self) -> int:
        """Bits a codebook."""
        return (self.codebooks.shape[1] - 1).bit_length()

    @property
    def bits(self) -> int:  # type: ignore[override]
        return self.codebooks.shape[0] * self.width

    @cached_property
    def _halves(self) -> tuple[Any, Any]:
        """Centroids in float64, and half their squared lengths."""
        wide = self.codebooks.astype(np.float64)
        return wide, (wide**2).sum(2) / 2

    def encode(self, x: FLOAT32) -> UINT8:
        m, _, s = self.codebooks.shape
        wide, halves = self._halves
        codes = np.empty((len(x), m), np.uint8 if self.width <= 8 else np.uint16)
        for i in range(m):
            part = x[:, i * s : (i + 1) * s].astype(np.float64)
            # the nearest has the least |c|^2 / 2 - x c; the filled-up zeros add nothing to x c
            codes[:, i] = (halves[i] - part @ wide[i, :, : part.shape[1]].T).argmin(1)
        return pack(codes, self.width)

    def decode(self, data: UINT8) -> FLOAT32:
        m, _, s = self.codebooks.shape
        codes = unpack(data, m, self.width)
        return self.codebooks[np.arange(m), codes].reshape(len(data), m * s)[:, : self.inputs]

    def describe(self) -> str:
        m, k, _ = self.codebooks.shape
        return f"{m} codes of {k} centroids ({self.width} bit{'s' * (self.width != 1)})"
