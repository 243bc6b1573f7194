"""Scalar quantization: of the dimensions as they are, of the first ones, of principal directions, of whitened ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netopsy.engine.stress.bits import bits_per_vector, level_bits
from netopsy.engine.stress.quantization import fit_ranges
from netopsy.engine.stress.recipes.recipe import Recipe
from netopsy.engine.stress.training import TrainingSet, as_numpy, training_set
from netopsy.transform import Floats, Levels, Take, Transform


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

    def fit(self, x_train: Tensor | TrainingSet, *, seed: int = 0) -> Transform:
        train = training_set(x_train)
        dimensions = train.x.shape[1]
        size = min(self.size, dimensions)
        code = levels(train.x[:, :size], 256) if self.word == 8 else Floats(size, self.word)
        return train.chain(Take(dimensions, size), code)


@dataclass(frozen=True)
class Bins(Recipe):
    """All `dimensions` with h levels each (Q-2)."""

    method: ClassVar[str] = "Q-2"
    dimensions: int
    h: int

    @property
    def bits(self) -> int:
        return bits_per_vector(self.dimensions, self.h)

    @property
    def label(self) -> str:
        return f"all {self.dimensions} dimensions x {_width(self.h)}"

    def fit(self, x_train: Tensor | TrainingSet, *, seed: int = 0) -> Transform:
        train = training_set(x_train)
        return train.chain(levels(train.x, self.h))


@dataclass(frozen=True)
class Directions(Recipe):
    """The first `size` principal directions with h levels each (Carvalho et al., FC: DR-2 and Q-2)."""

    method: ClassVar[str] = "PCA x Q-2"
    size: int
    h: int

    @property
    def bits(self) -> int:
        return bits_per_vector(self.size, self.h)

    @property
    def label(self) -> str:
        return f"PCA {self.size} x {_width(self.h)}"

    def fit(self, x_train: Tensor | TrainingSet, *, seed: int = 0) -> Transform:
        train = training_set(x_train)
        z = train.coordinates[:, : self.size]
        return train.chain(train.directions(z.shape[1]), levels(z, self.h))


@dataclass(frozen=True)
class Whitened(Recipe):
    """The first `size` principal directions, centred and of equal variance 1 / size, with h levels each.

    Vectors so have a mean squared length of 1 (over n - 1 of n). Directions without variance are left out.
    """

    method: ClassVar[str] = "whitening x Q-2"
    size: int
    h: int

    @property
    def bits(self) -> int:
        return bits_per_vector(self.size, self.h)

    @property
    def label(self) -> str:
        return f"whitened PCA {self.size} x {_width(self.h)}"

    def fit(self, x_train: Tensor | TrainingSet, *, seed: int = 0) -> Transform:
        train = training_set(x_train)
        variances = train.projection.variances[: self.size]
        variances = variances[variances > 0] if bool((variances > 0).any()) else variances.new_ones(1)
        scale = (variances * len(variances)).rsqrt()
        z = train.coordinates[:, : len(scale)]
        step = train.directions(len(scale), centred=True, mix=scale.diag(), name="whitened directions")
        return train.chain(step, levels((z - z.mean(0)) * scale.to(z), self.h))


def _width(h: int) -> str:
    width = level_bits(h)
    return f"{width} bit{'s' * (width != 1)}" + ("" if h == 1 << width else f" ({h} levels)")
