"""The last step of a transform: real vectors to bytes and back, with codes of a few bits side by side in the bytes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from netopsy.errors import TransformError
from netopsy.transform.steps import FLOAT32, FLOAT64, numbers, positive

UINT8 = np.ndarray[Any, np.dtype[np.uint8]]
CODES = np.ndarray[Any, np.dtype[Any]]


def pack(codes: CODES, bits: int) -> UINT8:
    """Codes (n, q), unsigned, of `bits` bits each (0..16) as (n, ceil(q bits / 8)) bytes, greatest bit first.

    What is left of a row's last byte is zero.
    """
    n, q = codes.shape
    if bits == 0:
        return np.zeros((n, 0), np.uint8)
    if bits == 8:
        return codes.astype(np.uint8)
    wide = codes.astype(">u2" if bits > 8 else "u1")
    single = np.unpackbits(wide.view(np.uint8).reshape(n, q, wide.itemsize), axis=2)[:, :, -bits:]
    return np.packbits(single.reshape(n, q * bits), axis=1)


def unpack(data: UINT8, q: int, bits: int) -> CODES:
    """The codes (n, q) that `pack` put into (n, bytes): uint8 up to 8 bits, uint16 above."""
    n = len(data)
    if bits == 0:
        return np.zeros((n, q), np.uint8)
    if bits == 8:
        return data
    width = 16 if bits > 8 else 8
    single = np.zeros((n, q, width), np.uint8)
    single[:, :, width - bits :] = np.unpackbits(data, axis=1, count=q * bits).reshape(n, q, bits)
    packed = np.packbits(single, axis=2)
    return (packed.view(">u2").astype(np.uint16) if bits > 8 else packed)[:, :, 0]


LARGEST_H = 1 << 16
LARGEST = 1e38
"""Limit of a range, whose width float32 must hold too."""


class Coder(ABC):
    """Vectors of `inputs` values to `bits` bits each. A subclass is a frozen dataclass, as of `Step`."""

    kind: ClassVar[str]
    inputs: int
    bits: int

    @abstractmethod
    def encode(self, x: FLOAT32) -> UINT8:
        """(n, inputs) to (n, ceil(bits / 8))."""

    @abstractmethod
    def decode(self, data: UINT8) -> FLOAT32:
        """(n, ceil(bits / 8)) to (n, inputs)."""

    @abstractmethod
    def describe(self) -> str:
        """The code in a few words."""


@dataclass(frozen=True)
class Floats(Coder):
    """Each value as a number of 16 or 32 bits; what 16 bits cannot hold becomes their greatest number."""

    kind: ClassVar[str] = "floats"
    inputs: int
    word: int = 32

    def __post_init__(self) -> None:
        positive(self, inputs=self.inputs)
        if self.word not in (16, 32):
            raise TransformError(f"the step 'floats' has {self.word!r} bits a number; give 16 or 32.")

    @property
    def bits(self) -> int:  # type: ignore[override]
        return self.inputs * self.word

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(f"<f{self.word // 8}")

    def encode(self, x: FLOAT32) -> UINT8:
        largest = float(np.finfo(self._dtype).max)
        return np.ascontiguousarray(np.clip(x, -largest, largest).astype(self._dtype)).view(np.uint8)

    def decode(self, data: UINT8) -> FLOAT32:
        return np.ascontiguousarray(data).view(self._dtype).astype(np.float32)

    def describe(self) -> str:
        return f"{self.word}-bit numbers"


@dataclass(frozen=True, eq=False)
class Levels(Coder):
    """The nearest of h bin centres over a range (Carvalho et al., Q-1 and Q-2), in ceil(log2 h) bits a dimension.

    low, high: float32, (inputs,), a range for each dimension, or (1,), one for all. Ties go to the lower centre.
    """

    kind: ClassVar[str] = "levels"
    inputs: int
    low: FLOAT32
    high: FLOAT32
    h: int

    def __post_init__(self) -> None:
        positive(self, inputs=self.inputs, h=self.h)
        numbers(self, low=(self.low, 1), high=(self.high, 1))
        if self.h > LARGEST_H:
            raise TransformError(f"the step 'levels' has {self.h} levels; give 1 to {LARGEST_H}.")
        if self.low.shape != self.high.shape or len(self.low) not in (1, self.inputs) or (self.low > self.high).any():
            raise TransformError(
                f"the step 'levels' has {len(self.low)} low and {len(self.high)} high ends for {self.inputs} values; "
                f"give 1 or {self.inputs} of each, no low one above its high one."
            )
        if max(np.abs(self.low).max(), np.abs(self.high).max()) > LARGEST:
            raise TransformError(f"the ranges of the step 'levels' go beyond {LARGEST:g}; scale the features down.")

    @property
    def width(self) -> int:
        """Bits a dimension."""
        return (self.h - 1).bit_length()

    @property
    def bits(self) -> int:  # type: ignore[override]
        return self.inputs * self.width

    @cached_property
    def _grid(self) -> tuple[FLOAT32, FLOAT32, FLOAT32]:
        """1 / step, step, half a step below the least value: as netopsy.transform.fit.training."""
        low = self.low.astype(np.float64)
        step = (self.high.astype(np.float64) - low) / self.h
        with np.errstate(divide="ignore", over="ignore"):
            inverse = (1 / step).astype(np.float32)
        inverse[~np.isfinite(inverse)] = 0
        return inverse, step.astype(np.float32), (low - step / 2).astype(np.float32)

    def encode(self, x: FLOAT32) -> UINT8:
        with np.errstate(over="ignore", invalid="ignore"):
            bins = np.fmin(np.fmax(np.ceil((x - self.low) * self._grid[0]), 1), self.h) - 1
        return pack(bins.astype(np.uint8 if self.h <= 256 else np.uint16), self.width)

    def decode(self, data: UINT8) -> FLOAT32:
        codes = unpack(data, self.inputs, self.width)
        if codes.size and int(codes.max()) >= self.h:
            raise TransformError(
                f"a code is {codes.max()}, of {self.h} levels: these bytes are no codes of this transform; give those "
                "that it encoded."
            )
        _, step, first = self._grid
        return (codes.astype(np.float32) + 1) * step + first

    def describe(self) -> str:
        shared = " over one range" if len(self.low) < self.inputs else ""
        return f"{self.h} level{'s' * (self.h > 1)} a dimension{shared} ({self.width} bit{'s' * (self.width != 1)})"


@dataclass(frozen=True)
class Signs(Coder):
    """The sign of each value in one bit, +1 above 0; it comes back as +-1 / sqrt(inputs), a vector of length 1.

    Squared distances between such vectors are Hamming distances times 4 / inputs.
    """

    kind: ClassVar[str] = "signs"
    inputs: int

    def __post_init__(self) -> None:
        positive(self, inputs=self.inputs)

    @property
    def bits(self) -> int:  # type: ignore[override]
        return self.inputs

    def encode(self, x: FLOAT32) -> UINT8:
        return np.packbits(x > 0, axis=1)

    def decode(self, data: UINT8) -> FLOAT32:
        signs = np.unpackbits(data, axis=1, count=self.inputs).astype(np.float32)
        return (2 * signs - 1) * np.float32(1 / math.sqrt(self.inputs))

    def describe(self) -> str:
        return "signs (1 bit)"


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
