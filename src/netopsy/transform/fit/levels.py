"""Scalar quantization: of the dimensions as they are, of the first ones, of principal directions, of whitened ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netopsy.transform.coders import Coder, Floats, Levels
from netopsy.transform.fit.bits import bits_per_vector, level_bits
from netopsy.transform.fit.quantization import fit_ranges
from netopsy.transform.fit.quantizer import Recipe
from netopsy.transform.fit.training import TrainingSet, as_numpy
from netopsy.transform.steps import Step, Take


def levels(x: Tensor, h: int) -> Levels:
    """The code of h levels a dimension, over the range of each (Q-2)."""
    ranges = fit_ranges(x, per_dimension=True)
    return Levels(x.shape[1], as_numpy(ranges.low), as_numpy(ranges.high), h)


@dataclass(frozen=True)
class Truncation(Recipe):
    """The first `size` dimensions in `word` bits each: 32 or 16 as floating-point numbers, 8 as 256 levels (Q-2).

    What an embedding trained to be cut off (Matryoshka representations, Kusupati et al. 2022) is made for.
    """

    method: ClassVar[str] = "truncation"
    size: int
    word: int = 32

    @property
    def bits(self) -> int:
        return self.size * self.word

    @property
    def label(self) -> str:
        return f"first {self.size} dimensions, {self.word} bits"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        dimensions = train.x.shape[1]
        size = min(self.size, dimensions)
        code = levels(train.x[:, :size], 256) if self.word == 8 else Floats(size, self.word)
        return Take(dimensions, size), code


@dataclass(frozen=True)
class Quantized(Recipe):
    """`size` dimensions with h levels each."""

    size: int
    h: int

    @property
    def bits(self) -> int:
        return bits_per_vector(self.size, self.h)


@dataclass(frozen=True)
class Bins(Quantized):
    """All `size` dimensions with h levels each (Q-2)."""

    method: ClassVar[str] = "Q-2"

    @property
    def label(self) -> str:
        return f"all {self.size} dimensions x {_width(self.h)}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        return (levels(train.x, self.h),)


@dataclass(frozen=True)
class Directions(Quantized):
    """The first `size` principal directions with h levels each (Carvalho et al., FC: DR-2 and Q-2)."""

    method: ClassVar[str] = "PCA x Q-2"

    @property
    def label(self) -> str:
        return f"PCA {self.size} x {_width(self.h)}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        z = train.coordinates[:, : self.size]
        return train.directions(z.shape[1]), levels(z, self.h)


@dataclass(frozen=True)
class Whitened(Quantized):
    """The first `size` principal directions, centred and of equal variance 1 / size, with h levels each.

    Vectors so have a mean squared length of 1 (over n - 1 of n). Directions without variance are left out.
    """

    method: ClassVar[str] = "whitening x Q-2"

    @property
    def label(self) -> str:
        return f"whitened PCA {self.size} x {_width(self.h)}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        variances = train.projection.variances[: self.size]
        variances = variances[variances > 0] if bool((variances > 0).any()) else variances.new_ones(1)
        scale = (variances * len(variances)).rsqrt()
        z = train.coordinates[:, : len(scale)]
        step = train.directions(len(scale), centred=True, mix=scale.diag(), name="whitened directions")
        return step, levels((z - z.mean(0)) * scale.to(z), self.h)


def _width(h: int) -> str:
    width = level_bits(h)
    return f"{width} bit{'s' * (width != 1)}" + ("" if h == 1 << width else f" ({h} levels)")
