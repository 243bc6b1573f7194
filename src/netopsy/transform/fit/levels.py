"""Scalar quantization: of the dimensions as they are, of the first ones, of principal directions, of whitened ones.

And the bits that it erases, takes and saves (Carvalho et al.).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.transform.coders import Coder, Floats, Levels
from netopsy.transform.fit.training import Quantizer, TrainingSet, as_numpy, fit_ranges
from netopsy.transform.steps import Step, Take


def erase_bits(x: Float32[Tensor, "*shape"], removed: int) -> Float32[Tensor, "*shape"]:
    """The numbers with the rightmost `removed` bits (0..32) of their float32 pattern set to zero (Q-B).

    1 to 23 bits go from the mantissa, 24 to 31 from the exponent as well, 32 take the sign too and leave 0.
    The authors erase from 64-bit numbers. For values of 2^-63 to 2, r bits there are exactly r - 29 bits here, for r
    from 29 to 58; fewer change nothing, for a float32 has only zeros in these places. From 59 on, values below 2 are 0
    here, and one and the same tiny number there.
    """
    if not 0 <= removed <= 32:
        raise SettingsError(f"{removed} bits to erase; a 32-bit number has 0 to 32.")
    mask = -(1 << removed) if removed < 32 else 0
    return (x.float().contiguous().view(torch.int32) & mask).view(torch.float32)


def bits_per_vector(p: int, h: int) -> int:
    """Bits of p dimensions with h levels each, p ceil(log2 h): every dimension is a number of whole bits."""
    return p * level_bits(h)


def level_bits(h: int) -> int:
    """Bits that tell h levels apart, ceil(log2 h); 0 for a single one."""
    if h < 1:
        raise SettingsError(f"{h} levels; give at least 1.")
    return (h - 1).bit_length()


def compression(bits: int, n: int, word: int = 32) -> float:
    """Share of n words of `word` bits that `bits` save, 0..1; below 0 where they take more.

    409 dimensions of 27 levels of 4096 32-bit numbers: 1 - 409 x 5 / (4096 x 32) = 98.44 %.
    """
    if n < 1 or word < 1 or not math.isfinite(bits):
        raise SettingsError(f"{bits} bits of {n} words of {word} bits; give at least one word of at least one bit.")
    return 1 - bits / (word * n)


def levels(x: Tensor, h: int) -> Levels:
    """The code of h levels a dimension, over the range of each (Q-2)."""
    ranges = fit_ranges(x, per_dimension=True)
    return Levels(x.shape[1], as_numpy(ranges.low), as_numpy(ranges.high), h)


@dataclass(frozen=True)
class Truncation(Quantizer):
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
class LevelQuantizer(Quantizer):
    """`size` dimensions with h levels each."""

    size: int
    h: int

    @property
    def bits(self) -> int:
        return bits_per_vector(self.size, self.h)


@dataclass(frozen=True)
class Bins(LevelQuantizer):
    """All `size` dimensions with h levels each (Q-2)."""

    method: ClassVar[str] = "Q-2"

    @property
    def label(self) -> str:
        return f"all {self.size} dimensions x {_width(self.h)}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        return (levels(train.x, self.h),)


@dataclass(frozen=True)
class Directions(LevelQuantizer):
    """The first `size` principal directions with h levels each (Carvalho et al., FC: DR-2 and Q-2)."""

    method: ClassVar[str] = "PCA x Q-2"

    @property
    def label(self) -> str:
        return f"PCA {self.size} x {_width(self.h)}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        z = train.coordinates[:, : self.size]
        return train.directions(z.shape[1]), levels(z, self.h)


@dataclass(frozen=True)
class Whitened(LevelQuantizer):
    """The first `size` principal directions, centred and of equal variance 1 / size, with h levels each.

    Vectors so have a mean squared length of 1 (over n - 1 of n). Directions without variance are left out.
    """

    method: ClassVar[str] = "whitening x Q-2"

    @property
    def label(self) -> str:
        return f"whitened PCA {self.size} x {_width(self.h)}"

    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        variances = train.pca.variances[: self.size]
        variances = variances[variances > 0] if bool((variances > 0).any()) else variances.new_ones(1)
        scale = (variances * len(variances)).rsqrt()
        z = train.coordinates[:, : len(scale)]
        step = train.directions(len(scale), centred=True, mix=scale.diag(), name="whitened directions")
        return step, levels((z - z.mean(0)) * scale.to(z), self.h)


def _width(h: int) -> str:
    width = level_bits(h)
    return f"{width} bit{'s' * (width != 1)}" + ("" if h == 1 << width else f" ({h} levels)")
