"""The training set that quantizers are fitted on, with what several share computed once; and what a quantizer is.

Features have length 1 before any stress (the authors' code of Carvalho et al.). Scalar quantization to the centres of
equal bins (Section 2.2): Q-1 has one dictionary for all dimensions, Q-2 one for each: h bins of width
st = (max - min) / h over the range of the training set, H = {min + st / 2 + st i | 0 <= i < h}. A value goes to the
nearest centre, so that what lies outside the training range goes to the first or last one. Halfway between two centres
it goes to the lower one, as the first minimum does in a list of distances.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.stats.pca import PCA, fit_pca
from netopsy.transform.chain import Transform
from netopsy.transform.coders import LARGEST_H, Coder
from netopsy.transform.steps import Project, Step, UnitLength

NORM_ROWS = 1 << 20
"""Values that are held in float64 at once."""


def unit(x: Float32[Tensor, "n p"]) -> Float32[Tensor, "n p"]:
    """Each row divided by its Euclidean length, in float64 and rounded once; rows of zeros stay zero."""
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    rows = max(1, NORM_ROWS // max(x.shape[1], 1))
    for part, into in zip(x.split(rows), out.split(rows), strict=True):
        wide = part.to(torch.float64, copy=True)
        lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        into.copy_(wide.div_(torch.where(lengths > 0, lengths, 1.0)))
    return out


QUANTIZE_ROWS = 1 << 17
"""Values that the steps of a quantization work on at once, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class Ranges:
    """Least and greatest value in the training set. low, high: float32, (p,) for Q-2 or (1,) for Q-1."""

    low: Float32[Tensor, " d"]
    high: Float32[Tensor, " d"]


@dataclass(frozen=True)
class BinGrid:
    """The numbers of h equal bins, float32, (d,): bin k = 1..h is ceil((x - low) inverse), its centre first + k step.

    `first` lies half a bin below `low`. A dimension without extent has step and inverse 0: its only centre is `low`.
    """

    low: Float32[Tensor, " d"]
    inverse: Float32[Tensor, " d"]
    step: Float32[Tensor, " d"]
    first: Float32[Tensor, " d"]


def fit_ranges(x_train: Float32[Tensor, "n p"], per_dimension: bool) -> Ranges:
    """The range of all values of the training set (Q-1), or of each of its dimensions (Q-2)."""
    if x_train.numel() == 0:
        raise SettingsError(f"ranges of {tuple(x_train.shape)} values; give at least one vector of one dimension.")
    if per_dimension:
        return Ranges(x_train.amin(0), x_train.amax(0))
    low, high = torch.aminmax(x_train)
    return Ranges(low.reshape(1), high.reshape(1))


def bin_grid(ranges: Ranges, h: int) -> BinGrid:
    """The bins of `h` levels (1..65536), computed in float64 and rounded once."""
    if isinstance(h, bool) or not isinstance(h, int) or not 1 <= h <= LARGEST_H:
        raise SettingsError(f"{h} levels; give a whole number from 1 to {LARGEST_H}.")
    low, high = ranges.low.double(), ranges.high.double()
    step = (high - low) / h
    inverse = (1 / step).float()
    inverse = torch.where(torch.isfinite(inverse), inverse, torch.zeros_like(inverse))
    return BinGrid(low.float(), inverse, step.float(), (low - step / 2).float())


def quantize(x: Float32[Tensor, "n p"], ranges: Ranges, h: int) -> Float32[Tensor, "n p"]:
    """Each value at the centre of its bin, one of h (Q-1 or Q-2, as the `ranges` are)."""
    bins = bin_grid(ranges, h)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = max(1, QUANTIZE_ROWS // max(x.shape[1], 1)) if x.device.type == "cpu" else max(len(x), 1)
    for part, into in zip(x.split(rows), out.split(rows), strict=True):
        torch.sub(part, bins.low, out=into)
        into.mul_(bins.inverse).ceil_().clamp_(1, h).mul_(bins.step).add_(bins.first)
    return out


SLACK = 1e-3
"""How far from 1 the length of a normalised vector may be."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """x: the training vectors, (n, p) float32, as the code of the quantizer sees them: of unit length if `normalised`.

    normalised: whether transforms bring vectors to unit length first. source: what the vectors are, kept in transforms.
    """

    x: Float32[Tensor, "n p"]
    normalised: bool = True
    source: str = ""

    def __post_init__(self) -> None:
        n, p = self.x.shape
        if not n or not p:
            raise SettingsError(f"{n} training vectors of {p} values; give at least one of each.")
        lengths = torch.linalg.vector_norm(self.x, dim=1)
        if self.normalised and bool(((lengths - 1).abs() > SLACK).logical_and(lengths != 0).any()):
            raise SettingsError(
                f"the training vectors have lengths of {float(lengths.min()):.3g} to {float(lengths.max()):.3g}; give "
                "unit(x), or TrainingSet(x, normalised=False) for a transform that leaves lengths alone."
            )

    @cached_property
    def pca(self) -> PCA:
        """The principal directions."""
        return fit_pca(self.x)

    @cached_property
    def coordinates(self) -> Float32[Tensor, "n r"]:
        """x along the principal directions, not centred."""
        return self.pca.apply(self.x)

    def directions(
        self, size: int, *, centred: bool = False, mix: Tensor | None = None, name: str = "principal directions"
    ) -> Project:
        """The step to the first `size` directions: about the mean if `centred`, and multiplied by `mix`, (size, q)."""
        components = self.pca.components[:, :size].double()
        components = components if mix is None else components @ mix.to(components)
        offset = -(self.pca.mean @ components) if centred else components.new_zeros(components.shape[1])
        return Project(as_numpy(components), as_numpy(offset), name)


def as_numpy(values: Tensor) -> np.ndarray:
    """A float32 copy in main memory."""
    return np.array(values.detach().to(torch.float32).cpu().numpy(), order="C")


_UNITS = {"b": 1, "bit": 1, "bits": 1, "B": 8, "byte": 8, "bytes": 8}
_PREFIXES = {"": 1, "k": 1000, "K": 1000, "Ki": 1024, "M": 1000**2, "Mi": 1024**2}


def parse_size(text: str) -> int:
    """The bits of a size: "64B" (bytes), "512b" (bits), "1kB" (8000 bits), "1KiB" (8192), "64 bytes", "0.5kB".

    Raises SettingsError for anything else, and where the size is not a whole number of at least 1 bit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(k|K|Ki|M|Mi)?(b|B|bits?|bytes?)\s*", str(text))
    if not match:
        raise SettingsError(f"no size {text!r}; give bytes as 64B, 1kB or 1KiB, or bits as 512b.")
    number, prefix, unit = match.groups()
    bits = float(number) * _PREFIXES[prefix or ""] * _UNITS[unit]
    if bits < 1 or bits != int(bits):
        raise SettingsError(f"the size {text!r} is {bits:g} bits; give a whole number of at least 1 bit.")
    return int(bits)


class Quantizer(ABC):
    """method: what quantizers of different sizes share, for axes and legends. A subclass is a frozen dataclass.

    bits: that a vector takes; fewer where the training set has fewer directions than the quantizer asks for.
    """

    method: ClassVar[str]

    @property
    @abstractmethod
    def bits(self) -> int: ...

    @property
    @abstractmethod
    def label(self) -> str:
        """The quantizer in a few words."""

    @abstractmethod
    def steps(self, train: TrainingSet, seed: int) -> tuple[Step | Coder, ...]:
        """The steps and the code, fitted, behind the normalisation."""

    def fit(self, x_train: Tensor | TrainingSet, *, seed: int = 0) -> Transform:
        """Fitted on vectors of unit length, (n, p) float32. A `TrainingSet` shares its directions among quantizers."""
        train = x_train if isinstance(x_train, TrainingSet) else TrainingSet(x_train)
        front = (UnitLength(train.x.shape[1]),) if train.normalised else ()
        return Transform((*front, *self.steps(train, seed)), train.source)
