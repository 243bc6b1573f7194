"""Each dimension at the nearest of its own centroids, with its own number of bits (transform coding)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from netopsy.errors import TransformError
from netopsy.transform.coders import Coder
from netopsy.transform.packing import UINT8
from netopsy.transform.steps import FLOAT32, FLOAT64, numbers

WIDEST = 8


@dataclass(frozen=True, eq=False)
class Scalars(Coder):
    """widths: uint8 (inputs,), bits of each dimension, 1..8. centroids: float32, 2^width of each, ascending, in a row.

    Ties go to the lower centroid.
    """

    kind: ClassVar[str] = "scalars"
    widths: UINT8
    centroids: FLOAT32

    def __post_init__(self) -> None:
        numbers(self, centroids=(self.centroids, 1))
        w = self.widths
        if not isinstance(w, np.ndarray) or w.dtype != np.uint8 or w.ndim != 1 or not len(w):
            raise TransformError("the widths of the step 'scalars' are no uint8 array (inputs,) or empty; give one.")
        if w.min() < 1 or w.max() > WIDEST or (1 << w.astype(np.int64)).sum() != len(self.centroids):
            raise TransformError(
                f"the widths of the step 'scalars' do not fit its {len(self.centroids)} centroids; give widths of 1 to "
                f"{WIDEST} and 2^width centroids for each."
            )
        if any((part[1:] < part[:-1]).any() for part in self._parts):
            raise TransformError("the centroids of the step 'scalars' do not ascend; sort those of each dimension.")

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return len(self.widths)

    @property
    def bits(self) -> int:  # type: ignore[override]
        return int(self.widths.sum())

    @cached_property
    def _parts(self) -> list[FLOAT32]:
        """The centroids of each dimension."""
        return np.split(self.centroids, np.cumsum(1 << self.widths.astype(np.int64))[:-1])

    @cached_property
    def _borders(self) -> list[FLOAT64]:
        """Halfway points between the centroids of each dimension."""
        return [(part[1:].astype(np.float64) + part[:-1]) / 2 for part in self._parts]

    @cached_property
    def _used(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of the 8 bits of each dimension's code are kept, (inputs, 8)."""
        return np.arange(8) >= 8 - self.widths[:, None].astype(int)

    def encode(self, x: FLOAT32) -> UINT8:
        codes = np.empty(x.shape, np.uint8)
        for j, borders in enumerate(self._borders):
            codes[:, j] = np.searchsorted(borders, x[:, j], side="left")
        return np.packbits(np.unpackbits(codes[:, :, None], axis=2)[:, self._used], axis=1)

    def decode(self, data: UINT8) -> FLOAT32:
        single = np.zeros((len(data), self.inputs, 8), np.uint8)
        single[:, self._used] = np.unpackbits(data, axis=1, count=self.bits)
        codes = np.packbits(single, axis=2)[:, :, 0]
        first = np.cumsum(1 << self.widths.astype(np.int64)) - (1 << self.widths.astype(np.int64))
        return self.centroids[first + codes]

    def describe(self) -> str:
        least, most = int(self.widths.min()), int(self.widths.max())
        span = f"{most}" if least == most else f"{least} to {most}"
        return f"{span} bit{'s' * (most > 1)} a dimension"
